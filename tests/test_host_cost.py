"""Launches are prepared once: what a second call finds, what is told apart, what stays its own."""

from __future__ import annotations

import math
import sys
import threading
import weakref
from collections import Counter
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import gpuconv
from bench import host_cost
from gpuconv import filters, kernels
from gpuconv.arrays import shares_memory, spec_key
from gpuconv.backends.cuda import CudaBackend, families, launch, prepared
from gpuconv.backends.cuda.cupy_launcher import HERE, CupyLauncher
from gpuconv.plan import BoxPlan
from gpuconv.plan import conv as conv_plans
from gpuconv.plan import filters as filter_plans
from gpuconv.plan import pool as pool_plans
from gpuconv.plan.remember import remembered
from tests import fake_cupy
from tests.cuda_cases import assert_same, every_call
from tests.emulator import EmulatorBackend
from tests.image_cases import COMMON, random_images


def at(offset, shape=(2, 20, 64), dtype=np.uint8, gap=0):
    """Zeros that begin `offset` bytes after a multiple of 256, rows `gap` bytes apart."""
    row = shape[-1] * np.dtype(dtype).itemsize + gap
    count = math.prod(shape[:-1]) * row
    memory = np.zeros(512 + count, np.uint8)
    start = -memory.ctypes.data % 256 + offset
    rows = memory[start : start + count].reshape(*shape[:-1], row)
    return rows[..., : row - gap].view(dtype)


class Watch:
    """A launcher over arrays that are nowhere; it notes what it is asked for."""

    def __init__(self, device=0):
        self.number = device
        self.asked = Counter()
        self.launched = []
        self.alive = self.most_alive = 0

    tensor_cores = True

    def owns(self, array):
        return True

    def adopt(self, argument, array):
        return array

    def scope(self, array):
        return nullcontext()

    def device(self, array):
        return self.number

    def empty(self, shape, dtype):
        self.asked["empty"] += 1
        array = at(0, shape, dtype).view()
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(array, self.drop)
        return array

    def drop(self):
        self.alive -= 1

    def constant(self, array):
        self.asked["constant"] += 1
        return array

    def ready(self, one, plan):
        self.asked["ready"] += 1
        return one

    def launch(self, ready, arrays, plan):
        self.asked["launch"] += 1
        given = [arrays[a.array] for a in ready.arguments if isinstance(a, launch.Place)]
        assert all(array is not None for array in given)
        self.launched.append((ready, [id(array) for array in given]))


@pytest.fixture
def asked(monkeypatch):
    """How often families were asked for launches, and images and pools were planned."""
    counts = Counter()

    def counted(name, function):
        def count(*arguments, **keywords):
            counts[name] += 1
            return function(*arguments, **keywords)

        return count

    for plan, family in families.FAMILIES.items():
        monkeypatch.setitem(families.FAMILIES, plan, counted("family", family))
    monkeypatch.setattr(filter_plans, "plan_images", counted("plan", filter_plans.plan_images))
    monkeypatch.setattr(kernels, "gaussian_taps", counted("taps", kernels.gaussian_taps))
    monkeypatch.setattr(pool_plans, "describe", counted("plan", pool_plans.describe))
    monkeypatch.setattr(pool_plans, "map_shape", counted("plan", pool_plans.map_shape))
    monkeypatch.setattr(conv_plans, "map_shape", counted("plan", conv_plans.map_shape))
    return counts


# ---------------------------------------------------------------- the second call


@pytest.mark.parametrize("name", host_cost.CALLS)
@pytest.mark.parametrize("arrays", ["numpy", "cupy"])
def test_a_second_call_plans_nothing_and_prepares_nothing(name, arrays, asked):
    shape, dtype, call = host_cost.CALLS[name]
    watch = Watch()
    first, second = at(0, shape, dtype), at(0, shape, dtype)
    if arrays == "cupy":
        first, second = host_cost.DeviceArray(first), host_cost.DeviceArray(second)
    with gpuconv.use_backend(CudaBackend(watch)):
        call(first)
        before, once = asked.copy(), watch.asked.copy()
        assert before["family"] == 1
        assert before["plan"] >= 1
        call(second)
    assert asked == before
    for what in ("ready", "constant"):
        assert watch.asked[what] == once[what]
    for what in ("launch", "empty"):
        assert watch.asked[what] == 2 * once[what]
    half = once["launch"]
    for (one, _), (again, _) in zip(watch.launched[:half], watch.launched[half:], strict=True):
        assert one is again
    arguments = {array for _, given in watch.launched[half:] for array in given}
    assert id(second) in arguments
    assert id(first) not in arguments


def in_two_steps(plan, inputs, outputs, launcher):
    """A family of two launches a stack, with scratch between them."""
    variant = launch.Variant("box.cu", "box_mean", ())
    for _ in range(4):
        between = launcher.empty((3, 5), np.dtype(np.float32))
        for arguments in ((inputs[0], between), (between[1:], outputs[0][:, 2:])):
            yield launch.Launch(variant, (1, 1, 1), (32, 1, 1), arguments)


def test_scratch_is_of_its_call_and_no_longer_kept_than_needed(monkeypatch):
    monkeypatch.setitem(families.FAMILIES, BoxPlan, in_two_steps)
    watch = Watch()
    with gpuconv.use_backend(CudaBackend(watch)):
        for call in range(1, 3):
            filters.box_blur(at(0), 3)
            assert watch.asked["empty"] == call * (1 + 4)
            assert watch.asked["launch"] == call * 8
    assert watch.asked["ready"] == 8
    assert watch.most_alive == 2  # the result, and what lies between the two steps of a stack
    assert watch.alive == 0
    (first, _), (second, _), *_ = watch.launched
    whole, offsets = (3, 5), [a.offset for a in second.arguments]
    assert [a.shape for a in first.arguments] == [at(0).shape, whole]
    assert [a.array for a in first.arguments + second.arguments] == [0, 2, 2, 1]
    assert offsets == [5 * 4, 2 * 64]


def test_what_is_prepared_is_forgotten_with_the_plan_and_bounded():
    watch = Watch()
    backend = CudaBackend(watch)
    whole = np.zeros((3, 20, 4096), np.uint8)
    with gpuconv.use_backend(backend):
        for step in range(1, 100):
            filters.box_blur(whole[:, :, : 30 * step : step], 3)
    plan = filter_plans.plan_box(whole[:, :, :30], 3, **COMMON)
    assert isinstance(plan, BoxPlan)
    assert 0 < len(plan.memo) <= prepared.MOST_LAYOUTS + 2


def many_stacks(seed):
    """Images that take a launch each: their batch does not fold into one axis."""
    return random_images((prepared.MOST_LAUNCHES + 1, 3, 9, 8), "uint8", seed)[:, ::2]


def test_calls_of_many_launches_are_not_kept(asked):
    watch = Watch()
    with gpuconv.use_backend(CudaBackend(watch)):
        for call in range(1, 3):
            filters.median_blur(many_stacks(0), 3)
            assert watch.asked["launch"] == call * (prepared.MOST_LAUNCHES + 1)
    assert asked["family"] == 4  # each time to see that they are many, and to launch them


# ---------------------------------------------------------------- what is told apart


@pytest.mark.parametrize(
    ("other", "times"),
    [
        (lambda: at(0), 1),
        (lambda: at(32), 1),
        (lambda: at(1), 2),
        (lambda: at(8), 2),
        (lambda: at(0, gap=16), 2),
        (lambda: at(0)[:, ::-1], 2),
        (lambda: at(0, (2, 20, 32)), 2),
        (lambda: at(0).view(np.int8), 2),
    ],
)
def test_arrays_laid_out_otherwise_are_prepared_for_anew(other, times, asked):
    out = at(0)
    with gpuconv.use_backend(CudaBackend(Watch())):
        filters.median_blur(at(0), 3, out=out)
        again = other()
        filters.median_blur(again, 3, out=at(0, again.shape, again.dtype))
        filters.median_blur(again, 3, out=at(0, again.shape, again.dtype))
    assert asked["family"] == times


@pytest.mark.parametrize(("offset", "times"), [(0, 1), (32, 1), (1, 2), (4, 2)])
def test_results_laid_out_otherwise_are_prepared_for_anew(offset, times, asked):
    with gpuconv.use_backend(CudaBackend(Watch())):
        filters.median_blur(at(0), 3, out=at(0))
        filters.median_blur(at(0), 3, out=at(offset))
    assert asked["family"] == times


def test_backends_and_devices_have_launches_of_their_own(asked):
    first, second = Watch(0), Watch(0)
    one, other = CudaBackend(first), CudaBackend(second)
    for _ in range(2):
        filters.gaussian_blur(at(0), 1.5, out=at(0), backend=one)
        filters.gaussian_blur(at(0), 1.5, out=at(0), backend=other)
    assert asked["family"] == 2
    first.number = 1
    for _ in range(2):
        filters.gaussian_blur(at(0), 1.5, out=at(0), backend=one)
    assert asked["family"] == 3
    assert first.asked["ready"] == 2
    assert second.asked["ready"] == 1


# ---------------------------------------------------------------- the same launches


class Compared(CudaBackend):
    """A backend that asks families twice: about the arrays, and about arrays that lie alike."""

    calls = launches = 0

    def _launch(self, plan, inputs, outputs):
        self.launcher.scratch.clear()
        arrays = [*inputs, *outputs]
        family = families.FAMILIES[type(plan)]
        direct = list(family(plan, inputs, outputs, self.launcher))
        scratch = list(self.launcher.scratch)
        steps = prepared.prepare(family, plan, inputs, outputs, self.launcher)
        self.calls += 1
        if steps is None:
            assert len(direct) > prepared.MOST_LAUNCHES
            return
        taken = {}
        for wanted, step in zip(direct, steps, strict=True):
            self.launches += 1
            self.compare(wanted, step.ready, arrays, scratch, taken)

    def compare(self, wanted, ready, arrays, scratch, taken):
        for name in ("variant", "grid", "block", "shared_bytes"):
            assert getattr(ready, name) == getattr(wanted, name)
        for argument, expected in zip(ready.arguments, wanted.arguments, strict=True):
            if not isinstance(argument, launch.Place):
                assert bits(np.asarray(argument)) == bits(np.asarray(expected))
                continue
            if argument.array < len(arrays):
                array = arrays[argument.array]
            else:
                owner = launch.address(expected) - argument.offset
                array = next(a for a in scratch if launch.address(a) == owner)
                assert taken.setdefault(argument.array, owner) == owner
            assert launch.address(array) + argument.offset == launch.address(expected)
            assert (argument.shape, argument.strides) == (expected.shape, expected.strides)
            assert argument.dtype == expected.dtype


def bits(values):
    """The bytes of an array, but for those between the fields of structs."""
    if values.dtype.names is None:
        return values.tobytes()
    return [bits(values[name]) for name in values.dtype.names]


class Kept(Watch):
    """A launcher that keeps scratch, so that no address is given twice."""

    def __init__(self):
        super().__init__()
        self.scratch = []

    def empty(self, shape, dtype):
        self.scratch.append(super().empty(shape, dtype))
        return self.scratch[-1]


def test_every_kind_of_call_is_prepared_as_it_is_launched():
    backend = Compared(Kept())
    for name, call in every_call().items():
        before = backend.launches
        with gpuconv.use_backend(backend):
            try:
                call()
            except AssertionError as error:
                error.add_note(name)
                raise
        assert backend.launches > before, name
    assert backend.calls >= len(every_call())


# ---------------------------------------------------------------- the right results again


IMAGE_CALLS = {
    "dense": lambda x: filters.filter2d(x, kernels.emboss),
    "separable": lambda x: filters.gaussian_blur(x, 1.5),
    "magnitude": lambda x: filters.sobel(x),
    "footprint": lambda x: filters.dilate(x, footprint=np.eye(4)),
    "two steps": lambda x: filters.morph_open(x, 5),
    "large box": lambda x: filters.box_blur(x, (60, 50)),
    "median": lambda x: filters.median_blur(x, 3),
}
VIEWS = {
    "plain": lambda x: x,
    "turned": lambda x: x[:, ::-1, ::-1],
    "rows": lambda x: x[:, 3:-2, 1:],
    "unfolded": lambda x: x.reshape(2, 3, *x.shape[1:])[:, :2],
}


@pytest.mark.emulator
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", IMAGE_CALLS)
def test_filters_are_right_when_launches_are_used_again(name, view):
    backend = EmulatorBackend()
    for seed in range(3):
        x = VIEWS[view](random_images((6, 40, 48), "uint8", seed))
        expected = IMAGE_CALLS[name](x)
        with gpuconv.use_backend(backend):
            assert_same(IMAGE_CALLS[name](x), expected)


@pytest.mark.emulator
def test_calls_of_many_launches_are_right():
    backend = EmulatorBackend()
    for seed in range(2):
        expected = filters.median_blur(many_stacks(seed), 3)
        result = filters.median_blur(many_stacks(seed), 3, backend=backend)
        np.testing.assert_array_equal(result, expected)
    assert sum(backend.launches.values()) == 2 * (prepared.MOST_LAUNCHES + 1)


MAP_CALLS = {
    "max pool": lambda x: gpuconv.max_pool2d(x, 3, 2, 1),
    "max pool with indices": lambda x: gpuconv.max_pool2d(x, 3, 2, 1, return_indices=True),
    "global pool": lambda x: gpuconv.global_avg_pool(x),
    "unpool": lambda x: gpuconv.max_unpool2d(*gpuconv.max_pool2d(x, 2, return_indices=True), 2),
    "conv": lambda x: gpuconv.conv2d(x, x[:, :, :3, :3]),
    "conv of itself": lambda x: gpuconv.conv2d(x[:3, :, :8, :8], x[:3, :, :8, :8], padding=3),
    "conv_transpose, flipped": lambda x: gpuconv.conv_transpose2d(
        x[:, :, :5, :6], x[::-1, :, ::-1, ::-1], None, 2
    ),
    "conv_transpose": lambda x: gpuconv.conv_transpose2d(
        x, x.swapaxes(0, 1)[:, :, :5, :5], None, 2
    ),
}


@pytest.mark.emulator
@pytest.mark.parametrize("name", MAP_CALLS)
def test_maps_are_right_when_launches_are_used_again(name):
    backend = EmulatorBackend()
    for seed in range(3):
        x = np.random.default_rng(seed).integers(-9, 9, (4, 4, 18, 22)).astype(np.float32)
        expected = MAP_CALLS[name](x)
        with gpuconv.use_backend(backend):
            result = MAP_CALLS[name](x)
        for one, wanted in zip(np.atleast_1d(result), np.atleast_1d(expected), strict=True):
            np.testing.assert_array_equal(one, wanted)


@pytest.mark.emulator
def test_operands_that_were_one_array_may_be_two_later():
    backend = EmulatorBackend()
    x, w = (np.random.default_rng(n).integers(-9, 9, (3, 3, 7, 7)).astype("f4") for n in (0, 1))
    for first, second in ((x, x), (x, w), (w, x), (w, w)):
        result = gpuconv.conv2d(first, second, padding=3, backend=backend)
        expected = gpuconv.conv2d(first, second, padding=3, backend="numpy")
        np.testing.assert_array_equal(result, expected)


@pytest.mark.emulator
def test_out_is_checked_and_filled_every_time():
    backend = EmulatorBackend()
    for seed in range(3):
        x = random_images((2, 30, 33), "uint8", seed)
        for out in (np.empty_like(x), np.empty((2, 30, 80), np.uint8)[:, :, 5:38]):
            assert filters.median_blur(x, 3, out=out, backend=backend) is out
            np.testing.assert_array_equal(out, filters.median_blur(x, 3, backend="numpy"))
        with pytest.raises(ValueError, match=r"^out must not share memory with images"):
            filters.median_blur(out, 3, out=out[:, ::-1], backend=backend)
        with pytest.raises(ValueError, match=r"^out must have shape"):
            filters.median_blur(x, 3, out=out[:1], backend=backend)
        frozen = np.empty_like(x)
        frozen.setflags(write=False)
        with pytest.raises(ValueError, match=r"^out must be writeable"):
            filters.median_blur(x, 3, out=frozen, backend=backend)


@pytest.mark.emulator
def test_threads_share_what_is_prepared():
    backend, wrong = EmulatorBackend(), []

    def work(seed):
        for turn in range(6):
            x = random_images((2, 40, 48), "uint8", 10 * seed + turn)
            for call in ("two steps", "median", "large box"):
                with gpuconv.use_backend(backend):
                    result = IMAGE_CALLS[call](x)
                if not np.array_equal(result, IMAGE_CALLS[call](x)):
                    wrong.append((seed, turn, call))

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---------------------------------------------------------------- CuPy's launcher


@pytest.fixture
def cupy_launcher(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    monkeypatch.setattr(fake_cupy.RawModule, "failure", None)
    return CupyLauncher()


@pytest.mark.emulator
def test_kernels_are_given_arrays_and_places_in_them(cupy_launcher):
    backend = CudaBackend(cupy_launcher)
    for seed in range(2):
        x = np.random.default_rng(seed).integers(-9, 9, (2, 3, 9, 8)).astype(np.float32)
        w = x.swapaxes(0, 1)[:, :, :5, :5].copy()
        given = [fake_cupy.asarray(a) for a in (x, w)]
        result = gpuconv.conv_transpose2d(*given, None, 2, backend=backend)
        expected = gpuconv.conv_transpose2d(x, w, None, 2, backend="numpy")
        np.testing.assert_array_equal(result.get(), expected)


def test_a_kernel_may_have_the_most_shared_memory_that_was_asked_for(cupy_launcher, monkeypatch):
    class Kernel:
        max_dynamic_shared_size_bytes = None
        kernel = "compiled"

    kernel = Kernel()
    monkeypatch.setattr(fake_cupy.RawModule, "get_function", lambda self, name: kernel)
    variant = launch.Variant("rank.cu", "rank_any", ("uint8", "uint8", "uint8"))
    for wanted, allowed in (
        (9, None),
        (100 << 10, 100 << 10),
        (60 << 10, 100 << 10),
        (9, 100 << 10),
    ):
        one = launch.Launch(variant, (1, 1, 1), (1, 1, 1), (), wanted)
        assert cupy_launcher.ready(one, None).kernel == "compiled"
        assert kernel.max_dynamic_shared_size_bytes == allowed


def test_a_device_is_entered_where_it_is_another(cupy_launcher):
    array = fake_cupy.asarray(np.zeros((2, 3)))
    assert cupy_launcher.scope(array) is HERE
    assert cupy_launcher.scope(np.zeros((2, 3))) is HERE
    array.device = fake_cupy.Device(1)
    assert cupy_launcher.scope(array).id == 1
    assert cupy_launcher.device(array) == 1


@pytest.mark.parametrize(
    ("pointer", "number", "expected"),
    [(0, 0, []), (5, 0, [0, (5, 0)]), (5, 1, [1, (5, 1)]), (0, 1, [1, "null"])],
)
def test_pytorchs_stream_is_entered_where_it_is_another(
    pointer, number, expected, cupy_launcher, monkeypatch
):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    entered = []

    @contextmanager
    def entering(what):
        entered.append(what)
        yield

    class Tensor:
        __module__ = "torch"
        is_cuda = True
        device = SimpleNamespace(index=number)

    stream = SimpleNamespace(cuda_stream=pointer)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(fake_cupy.cuda, "Device", entering)
    monkeypatch.setattr(fake_cupy.cuda, "ExternalStream", lambda *where: entering(where))
    monkeypatch.setattr(fake_cupy.cuda, "Stream", SimpleNamespace(null=entering("null")))
    with cupy_launcher.scope(Tensor()):
        assert entered == expected


def test_memory_of_device_arrays_is_told_apart_as_numpys():
    rng = np.random.default_rng(7)
    base = np.zeros((12, 14), np.int16)
    device = fake_cupy.ndarray(base)

    def place():
        low, high = np.sort(rng.integers(0, 13, (2, 2)), axis=0)
        step = rng.choice([1, 2, 3, -1, -2], 2)
        return tuple(
            slice(a, b + 1, s) if s > 0 else slice(b, a - 1 if a else None, s)
            for a, b, s in zip(low, high, step, strict=True)
        )

    seen = Counter()
    for _ in range(300):
        one, other = place(), place()
        shared = np.shares_memory(base[one], base[other])
        assert shares_memory(device[one], device[other]) == shared
        seen[shared] += 1
    assert min(seen[True], seen[False]) > 50


# ---------------------------------------------------------------- keys of plans


def test_arrays_of_a_device_find_the_plan_of_numpys():
    image = np.zeros((5, 6), np.float32)
    plan = filter_plans.plan_box(image, 3, **COMMON)
    assert filter_plans.plan_box(fake_cupy.ndarray(image), 3, **COMMON) is plan
    assert filter_plans.plan_box(fake_cupy.ndarray(image.T), 3, **COMMON) is not plan
    assert filter_plans.plan_box(image, 3, **(COMMON | {"out_dtype": np.dtype("f8")})) is not plan


def test_tensors_find_their_plans():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor = torch.zeros(5, 6)
    plan = filter_plans.plan_box(tensor, 3, **COMMON)
    assert filter_plans.plan_box(tensor.clone(), 3, **COMMON) is plan
    for other in (tensor.to(torch.float64), tensor[1:], tensor.to(torch.bfloat16)):
        assert filter_plans.plan_box(other, 3, **COMMON) is not plan


def test_arrays_of_other_libraries_find_their_plans():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    image = np.zeros((5, 6), np.float32)
    plan = filter_plans.plan_box(jax.numpy.asarray(image), 3, **COMMON)
    assert filter_plans.plan_box(image, 3, **COMMON) is plan
    for other in (np.ma.masked_array(image), [[1.0, 2.0]], 3.0, None, image[0, 0]):
        assert spec_key(other) is None


@pytest.mark.parametrize(
    ("value", "same", "others"),
    [
        (np.float32(2), np.float32(2), [2.0, 2, np.float64(2), np.float32(3)]),
        (np.int64(1), np.int64(1), [1, True, np.int32(1), np.uint64(1), 1.0]),
        (np.dtype("f4"), np.dtype("f4"), [np.float32, "float32", np.dtype("i4")]),
        ((1, 2.0), (1, 2.0), [(1.0, 2), [1, 2.0], (1, 2)]),
        (0.0, 0.0, [-0.0, 0, False, None]),
    ],
)
def test_arguments_are_told_apart_by_type_and_value(value, same, others):
    made = []

    @remembered("images")
    def plan(images, argument):
        made.append(argument)
        return object()

    x = np.zeros(3)
    found = plan(x, value)
    assert plan(x, same) is found
    assert all(plan(x, other) is not found for other in others)
    assert len(made) == 1 + len(others)


# ---------------------------------------------------------------- the table


def test_the_table_has_a_line_a_call(capsys):
    assert host_cost.main(["--calls", "3"]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert "µs from public call" in head
    assert [line[:24].strip() for line in lines] == list(host_cost.CALLS)
    assert all(float(number) > 0 for line in lines for number in line[24:].split())
    assert "cupy" not in sys.modules or not isinstance(sys.modules["cupy"], type(None))
