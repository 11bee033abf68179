"""Streams of images and images larger than memory: order, overlap, failures, limits."""

import threading
import time

import numpy as np
import pytest

import gpuconv
from gpuconv import Pipeline, filters
from gpuconv.image_io import Image, Page, read_image, write_image
from gpuconv.memory import Budget, format_bytes, parse_bytes
from gpuconv.workers import WAITING, Stages, Stop, StoppedError, in_order

pytestmark = pytest.mark.numpy_alone
BLUR = Pipeline("gaussian_blur:sigma=1.5")


def image(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


# The stream


def test_arrays_of_any_shape_come_back_in_order():
    images = [image((9 + i, 30 - i, *([3] * (i % 2)))[: 2 + i % 2], seed=i) for i in range(12)]
    grey = [x for x in images if x.ndim == 2]
    results = {}
    done = gpuconv.stream(BLUR, grey, results, jobs=3)
    assert [o.status for o in done] == ["done"] * len(grey)
    assert list(results) == list(range(len(grey)))
    for index, x in enumerate(grey):
        np.testing.assert_array_equal(results[index], BLUR(x))


def test_dtypes_and_functions_mix_and_a_function_is_a_sink():
    images = [image((20, 30), np.uint16), lambda: image((8, 9), np.float32), image((4, 5), np.int8)]
    seen = []
    gpuconv.stream(BLUR, iter(images), lambda index, result: seen.append((index, result)))
    assert [index for index, _ in seen] == [0, 1, 2]
    assert [result.dtype for _, result in seen] == [np.uint16, np.float32, np.int8]


def test_an_error_costs_one_image():
    def broken():
        raise OSError("the disk is gone")

    results = [None] * 5
    images = [image((9, 9)), broken, np.zeros((3, 3), bool), np.zeros(3), image((7, 7))]
    told = []
    done = gpuconv.stream(BLUR, images, results, jobs=2, progress=told.append)
    assert [o.status for o in done] == ["done", "failed", "failed", "failed", "done"]
    assert done[1].reason == "the disk is gone"
    assert "bool" in done[2].reason
    assert "(..., H, W)" in done[3].reason
    assert [r is not None for r in results] == [True, False, False, False, True]
    assert told == done


def test_a_sink_that_refuses_costs_one_image():
    def sink(index, result):
        if index == 1:
            raise OSError(28, "No space left on device")

    done = gpuconv.stream(BLUR, [image((5, 5))] * 3, sink)
    assert [o.status for o in done] == ["done", "failed", "done"]
    assert "No space left" in done[1].reason


def test_colour_and_the_time_of_each_stage():
    x = image((40, 50, 3))
    results = [None]
    (done,) = gpuconv.stream("sharpen", [lambda: x], results, channel_axis=-1)
    np.testing.assert_array_equal(results[0], filters.sharpen(x, channel_axis=-1))
    assert done.pixels == 2000
    assert set(done.stages) == {"decode", "compute"}
    assert done.seconds == pytest.approx(sum(done.stages.values()))


def test_files_to_files_and_to_arrays(tmp_path):
    names = ["b.png", "a.tif", "c.npy", "bad.png"]
    for i, name in enumerate(names[:3]):
        write_image(tmp_path / name, Image((Page(image((12 + i, 9, 3), seed=i)),)))
    (tmp_path / "bad.png").write_bytes(b"nothing")
    paths = [tmp_path / name for name in names]
    done = gpuconv.stream(BLUR, paths, tmp_path / "out", jobs=2)
    assert [o.status for o in done] == ["done", "done", "done", "failed"]
    results = {}
    gpuconv.stream(BLUR, map(str, paths), results)
    assert sorted(results) == [0, 1, 2]
    for i, path in enumerate(paths[:3]):
        expected = BLUR(read_image(path).pages[0].color, channel_axis=-1)
        np.testing.assert_array_equal(results[i].pages[0].color, expected)
        found = read_image(tmp_path / "out" / path.name).pages[0].color
        np.testing.assert_array_equal(found, expected)


def test_files_never_overwrite_each_other_nor_their_inputs(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", Image((Page(image((5, 5))),)))
    paths = [tmp_path / "one" / "a.png", tmp_path / "two" / "a.png"]
    done = gpuconv.stream(BLUR, paths, tmp_path / "out")
    assert [o.status for o in done] == ["done", "failed"]
    assert "another image is called a.png" in done[1].reason
    (done,) = gpuconv.stream(BLUR, paths[:1], tmp_path / "one")
    assert "overwrite its input" in done.reason


def test_the_source_is_read_only_so_far_ahead():
    asked = 0

    def source():
        nonlocal asked
        for _ in range(30):
            asked += 1
            yield image((5, 5))

    ahead = []
    gpuconv.stream(BLUR, source(), lambda index, result: ahead.append(asked - index), jobs=3)
    assert max(ahead) <= 2 * 3 + 1


def test_images_wait_for_memory_in_their_order():
    most, now, lock = 0, 0, threading.Lock()

    def load(size):
        nonlocal most, now
        x = image((size, size))
        with lock:
            now += x.nbytes
            most = max(most, now)
        return x

    def sink(index, result):
        nonlocal now
        time.sleep(0.001)
        with lock:
            now -= result.nbytes

    sizes = [100, 10, 90, 100, 10, 10, 80] * 4
    pending = [lambda size=size: load(size) for size in sizes]
    done = gpuconv.stream(BLUR, pending, sink, jobs=6, memory_limit=60_000)
    assert [o.status for o in done] == ["done"] * len(sizes)
    assert most <= 40_000  # 3 bytes a pixel are reserved once it is known how many there are


def test_functions_are_called_side_by_side():
    meeting = threading.Barrier(2, timeout=30)

    def load():
        meeting.wait()  # breaks where the other is not called meanwhile
        return image((5, 5))

    done = gpuconv.stream(BLUR, [lambda: image((9, 9)), load, load], {}, jobs=3)
    assert [o.status for o in done] == ["done"] * 3


def test_an_image_beyond_the_limit_says_what_to_do(tmp_path):
    write_image(tmp_path / "a.png", Image((Page(image((200, 200))),)))
    (done,) = gpuconv.stream(BLUR, [tmp_path / "a.png"], {}, memory_limit=1000)
    assert done.status == "failed"
    assert "more than the limit of 1000 bytes" in done.reason.replace("1.0 KiB", "1000 bytes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sink": 3}, "sink must be a folder, a function or a container, got 3"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"jobs": 2.5}, "jobs must be an integer, got 2.5"),
        (
            {"source": "photo.png"},
            "source must be images one by one, such as a list, got 'photo.png'",
        ),
        ({"source": None}, "source must be images one by one, such as a list, got None"),
        ({"memory_limit": "1GiB"}, "memory_limit must be a number, got '1GiB'"),
        ({"memory_limit": -1}, "memory_limit must be at least 0, got -1"),
        ({"pipeline": "blur"}, "an operation must be one that"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    given = {"pipeline": BLUR, "source": [], "sink": {}} | arguments
    with pytest.raises(ValueError, match=message):
        gpuconv.stream(**given)


def test_an_interrupted_stream_ends_at_once():
    started = []

    def source():
        for i in range(1000):
            started.append(i)
            yield image((50, 50))

    def sink(index, result):
        if index == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpuconv.stream(BLUR, source(), sink, jobs=2)
    assert len(started) < 12


# One image, tile by tile


@pytest.mark.parametrize("channel_axis", [None, -1])
def test_apply_tiled_is_the_whole(channel_axis, tmp_path):
    x = image((2, 70, 60, 3) if channel_axis else (2, 70, 60))
    steps = Pipeline("gaussian_blur:sigma=2,border=wrap", "max_pool2d:kernel_size=3", "sobel")
    expected = steps(x, channel_axis=channel_axis)
    rows = []
    found = gpuconv.apply_tiled(
        steps, x, channel_axis=channel_axis, tile=7, progress=lambda *done: rows.append(done)
    )
    np.testing.assert_array_equal(found, expected)
    height = expected.shape[1]
    assert rows[-1] == (height, height)


def test_apply_tiled_reads_memory_maps_and_writes_them(tmp_path):
    x = image((90, 80), np.uint16)
    np.save(tmp_path / "x.npy", x)
    source = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.uint16, x.shape)
    assert gpuconv.apply_tiled("median_blur:size=5", source, out, tile=16) is out
    np.testing.assert_array_equal(out, filters.median_blur(x, 5))


def test_apply_tiled_of_a_network():
    weight = image((4, 3, 3, 3), np.float32, 1)
    x = image((3, 40, 50), np.float32)

    def network(maps):
        return gpuconv.conv2d_pool2d(maps, weight, padding=1, pool_size=2)

    np.testing.assert_allclose(gpuconv.apply_tiled(network, x, tile=6), network(x), rtol=1e-5)


def test_apply_tiled_writes_to_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    source = torch.arange(30 * 31).remainder(251).reshape(30, 31)
    for dtype in (torch.uint8, torch.bfloat16):
        image = source.to(dtype)
        out = torch.zeros((31, 30), dtype=dtype).T
        assert gpuconv.apply_tiled("dilate:size=5", image, out, tile=9, backend="numpy") is out
        assert torch.equal(out, filters.dilate(image, 5, backend="numpy"))


def test_apply_tiled_refuses_wrong_arguments():
    x = np.zeros((30, 32), np.uint8)
    frozen = np.zeros_like(x)
    frozen.setflags(write=False)
    for error, argument, call in (
        (ValueError, "out", {"out": np.empty((30, 32), np.int8)}),
        (ValueError, "out", {"out": x}),  # a row is read again after it is written
        (ValueError, "out", {"out": x[::-1]}),
        (ValueError, "out", {"out": frozen}),
        (TypeError, "out", {"out": 3}),
        *((ValueError, "tile", {"tile": wrong}) for wrong in (0, -1, 2.5, "3", True)),
        *((ValueError, "memory_limit", {"memory_limit": wrong}) for wrong in (-1, "1GiB", True)),
    ):
        with pytest.raises(error, match=f"^{argument} must "):
            gpuconv.apply_tiled(BLUR, x, **call)
    for wrong in (x.tolist(), None, "photo.png"):
        with pytest.raises(TypeError, match=r"^source must be an array"):
            gpuconv.apply_tiled(BLUR, wrong)


def test_apply_tiled_refuses_what_does_not_fit():
    x = image((30, 30))
    with pytest.raises(ValueError, match=r"out must have shape \(30, 30\), got \(30, 31\)"):
        gpuconv.apply_tiled(BLUR, x, np.empty((30, 31), np.uint8))
    with pytest.raises(ValueError, match="single pixel"):
        gpuconv.apply_tiled("adaptive_avg_pool2d:output_size=1", x, memory_limit=100)


# Threads and clocks


def test_in_order_gives_results_in_order_whoever_is_first():
    def work(i):
        time.sleep(0.01 if i % 3 == 0 else 0)
        return i * i

    assert list(in_order(range(20), work, jobs=4)) == [(i, i * i) for i in range(20)]


def test_in_order_stops_when_the_caller_leaves():
    stop, begun = Stop(), []

    def work(i):
        begun.append(i)
        for _ in range(1000):
            time.sleep(0.001)
            stop.check()

    results = in_order([0, *range(100)], lambda i: work(i) if i else None, jobs=2, stop=stop)
    next(results)
    results.close()
    assert len(begun) < 5


def test_a_stop_reaches_the_parts():
    whole = Stop()
    part, other = Stop(whole), Stop(whole)
    part.now()
    with pytest.raises(StoppedError):
        part.check()
    other.check()
    whole.now()
    with pytest.raises(StoppedError):
        other.check()


def test_stages_interrupt_each_other_and_waiting_is_none():
    stages = Stages()
    with stages.at("encode"):
        with stages.at(WAITING):
            time.sleep(0.01)
        with stages.at("compute"), stages.at("decode"):
            pass
    assert [s.stage for s in stages.spans] == [
        "encode",
        "encode",
        "compute",
        "decode",
        "compute",
        "encode",
    ]
    for before, after in zip(stages.spans, stages.spans[1:], strict=False):
        assert before.stop <= after.start
    assert sum(s.seconds for s in stages.spans) < 0.01


def test_threads_share_the_processors():
    from gpuconv.backends.numpy import threads

    gpuconv.set_num_threads(4)
    try:
        names = set()

        def task(i):
            time.sleep(0.002)
            names.add(threading.get_ident())

        with threads.shared(), threads.shared():
            threads.for_each(task, range(16))
        assert len(names) == 2
    finally:
        gpuconv.set_num_threads(None)


# Memory


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512MiB", 2**29),
        ("4GiB", 2**32),
        ("2.5 GB", 2_500_000_000),
        ("100", 100),
        ("3k", 3000),
        ("1.5g", 1_500_000_000),
        (".5KiB", 512),
        ("64 b", 64),
    ],
)
def test_parse_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "0", "-3MiB", "lots", "4 Gibs", "i", "5i", "1e9", "0.0GiB"])
def test_parse_bytes_refuses(text):
    with pytest.raises(ValueError, match="must be an amount of memory such as 512MiB or 4GiB, got"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (2**29, "512 MiB"),
        (int(3.4 * 2**30), "3.4 GiB"),
        (2**40 * 7, "7.0 TiB"),
    ],
)
def test_format_bytes(count, text):
    assert format_bytes(count) == text


def test_budget_lets_nobody_beyond_the_limit():
    budget, most, now, lock = Budget(10), 0, 0, threading.Lock()

    def work(need):
        nonlocal most, now
        with budget.hold(need):
            with lock:
                now += min(need, 10)
                most = max(most, now)
            time.sleep(0.001)
            with lock:
                now -= min(need, 10)

    list(in_order([3, 4, 20, 5, 1, 9, 2] * 5, work, jobs=5))
    assert most == 10
