"""Chains on CUDA: few launches, and the very results of the steps one by one."""

from __future__ import annotations

import pickle
import re
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest

from gpuconv import Pipeline
from gpuconv.plan import ChainPlan
from gpuconv.plan.chain import LINES
from tests.emulator import EmulatorBackend
from tests.image_cases import assert_same_sums, random_images

pytestmark = pytest.mark.emulator

BORDERS = ("reflect", "symmetric", "edge", "wrap", "constant")
EXAMPLE = ("gaussian_blur:sigma=1", "sobel", "max_pool2d:kernel_size=2")

FACTORS = (
    "gaussian_blur:sigma=1",
    "gaussian_blur:sigma=(0.5,0.8)",
    "gaussian_blur:sigma=(0,1)",
    "separable_filter2d:kernel_y=[1,2,1],kernel_x=[0.25,0.5,0.25,0.5,-0.5]",
    "prewitt:axis=1",
    "unsharp_mask:sigma=1,amount=0.7",
)
DENSE = (
    "filter2d:kernel=emboss",
    "filter2d:kernel=[0.1,0.2,-0.3;0.4,0.1,0.2;0,0.3,0.1],delta=2",
    "filter2d:kernel=[1,2,3,4,5;0,1,0,2,0;3,1,-9,1,3;0,2,0,1,0;5,4,3,2,1]",
    "filter2d:kernel=[-2.5;],delta=200",
    "sobel",
    "scharr",
    "sharpen:amount=0.7",
    "laplacian",
)
OF_INTEGERS = (
    "box_blur:size=(3,5)",
    "box_blur:size=9",
    "box_blur:size=(1,7)",
    "dilate",
    "erode:size=(5,7)",
    "dilate:size=(1,7)",
    "morph_open",
    "morph_close:size=(3,5)",
)
POOLS = (
    "max_pool2d:kernel_size=2",
    "min_pool2d:kernel_size=(2,3),stride=(1,2),padding=(1,1)",
    "max_pool2d:kernel_size=3,stride=2,padding=1,ceil_mode=true",
)
MEANS = (
    "avg_pool2d:kernel_size=2",
    "avg_pool2d:kernel_size=3,stride=2,padding=1,count_include_pad=false",
    "avg_pool2d:kernel_size=(3,2),stride=(3,1),padding=(1,0),ceil_mode=true",
)


@cache
def emulator(**settings):
    return EmulatorBackend(**settings)


def chain_of(rng, choices, border=None):
    """Two to four steps, each with a border of its own unless one is given."""
    found = []
    for step in rng.choice(choices, rng.integers(2, 5)).tolist():
        if "pool" not in step:
            own = border or rng.choice(BORDERS)
            step += f"{',' if ':' in step else ':'}border={own},value=7"
        found.append(step)
    return Pipeline(*found)


def images_for(rng, dtype, channels=None):
    """Noise of any batch, of sizes around those of tiles and smaller than windows."""
    size = rng.choice([1, 2, 5, 8, 17, 33, 64, 70], 2).tolist()
    lead = [(), (2,), (2, 1, 2)][rng.integers(3)]
    shape = (*lead, *size, *([channels] if channels else []))
    return random_images(shape, dtype, int(rng.integers(1000)))


def one_by_one(pipeline, images, **keywords):
    for step in pipeline.steps:
        images = Pipeline(step)(images, **keywords)
    return images


def expected_of(pipeline, images, **keywords):
    """NumPy's results; None where a pool's window does not fit, and CUDA says the same."""
    try:
        return pipeline(images, backend="numpy", **keywords)
    except ValueError as refused:
        with pytest.raises(ValueError, match=f"^{re.escape(str(refused))}$"):
            pipeline(images, backend=emulator(), **keywords)
        return None


def chain_plan(*steps, shape=(64, 64), dtype="uint8", channel_axis=None):
    """The plan of steps that are one chain."""
    backend = Recorder()
    images = np.broadcast_to(np.zeros((), dtype), shape)
    Pipeline(*steps)(images, channel_axis=channel_axis, backend=backend)
    (plan,) = backend.plans
    assert isinstance(plan, ChainPlan)
    return plan


def launches_of(*steps, **call):
    """How many steps each launch of a chain has."""
    return [group.stop - group.first for group in chain_plan(*steps, **call).groups]


class Recorder:
    """A backend that takes chains, and only writes down what it is asked for."""

    name = "recorder"
    chains = True

    def __init__(self):
        self.plans = []

    def scope(self, array):
        return nullcontext()

    def adopt(self, argument, array):
        return array

    def empty(self, spec, like):
        return np.broadcast_to(np.zeros((), spec.dtype), spec.shape)

    def run(self, plan, inputs, outputs):
        self.plans.append(plan)


# ---------------------------------------------------------------- results


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
def test_a_short_chain_is_one_launch(dtype):
    backend = EmulatorBackend()
    images = random_images((2, 150, 144), dtype)
    pipeline = Pipeline("sharpen", *EXAMPLE[1:]) if dtype == "uint16" else Pipeline(*EXAMPLE)
    result = pipeline(images, backend=backend)
    assert backend.launches == {"chain": 1}
    expected = one_by_one(pipeline, images, backend=emulator())
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape == (2, 75, 72)
    assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(
    ("dtype", "channels"), [("uint8", None), ("uint16", None), ("uint8", 3), ("uint8", 2)]
)
def test_integers_are_those_of_the_steps(dtype, channels, seed):
    rng = np.random.default_rng([seed, channels or 0, len(dtype)])
    choices = FACTORS + DENSE + OF_INTEGERS + POOLS + MEANS
    pipeline = chain_of(rng, choices, "wrap" if seed % 5 == 0 else None)
    images = images_for(rng, dtype, channels)
    keywords = {} if channels is None else {"channel_axis": -1}
    expected = expected_of(pipeline, images, **keywords)
    if expected is None:
        return
    result = pipeline(images, backend=emulator(), **keywords)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_are_the_bits_of_the_steps(dtype, seed):
    rng = np.random.default_rng([seed, len(dtype)])
    pipeline = chain_of(rng, DENSE, "wrap" if seed % 5 == 0 else None)
    pipeline = Pipeline(pipeline, POOLS[seed % len(POOLS)])
    # Of images whose rows begin at multiples of 16 bytes: there are other kernels for others.
    images = np.repeat(images_for(rng, dtype)[..., :20], 8, axis=-1)
    odd = rng.random(images.shape) < 0.003 * (seed % 2)
    images[odd] = rng.choice([np.nan, np.inf, -np.inf], odd.sum())
    if expected_of(pipeline, images) is None:
        return
    expected = one_by_one(pipeline, images, backend=emulator())
    result = pipeline(images, backend=emulator())
    np.testing.assert_array_equal(result, expected)
    assert (np.signbit(result) == np.signbit(expected))[~np.isnan(result)].all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("step", FACTORS)
def test_separable_sums_of_floats_are_within_the_bound(step, dtype):
    # The steps' own kernels add the terms of some rows in another order.
    pipeline = Pipeline(step, "filter2d:kernel=[1;]")
    images = random_images((2, 33, 70), dtype).copy()
    result = pipeline(images, backend=emulator())
    assert_same_sums(result, pipeline(images, backend="numpy"), "separable")
    images[0, 5, 7], images[1, 20, 60] = np.nan, np.inf
    spoiled = pipeline(images, backend=emulator())
    expected = pipeline(images, backend="numpy")
    np.testing.assert_array_equal(np.isfinite(spoiled), np.isfinite(expected))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("pool", MEANS)
def test_means_of_floats_are_within_the_bound(pool, dtype):
    images = random_images((2, 33, 70), dtype)
    pipeline = Pipeline("sharpen", pool)
    result = pipeline(images, backend=emulator())
    expected = pipeline(images, backend="numpy")
    largest = float(np.abs(expected).max())
    atol = 4 * float(np.finfo(dtype).eps) * 2 * largest
    np.testing.assert_allclose(result, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (2, 3), (16, 64), (17, 65)])
@pytest.mark.parametrize("border", BORDERS)
def test_every_border_at_the_edges_of_tiles(border, size):
    images = random_images(size, "uint8")
    tail = f"border={border},value=9"
    pipeline = Pipeline(f"gaussian_blur:sigma=1,{tail}", f"sobel:{tail}", f"dilate:size=5,{tail}")
    backend = EmulatorBackend()
    result = pipeline(images, backend=backend)
    np.testing.assert_array_equal(result, pipeline(images, backend="numpy"))
    assert backend.launches == {"chain": 1}


def test_a_chain_takes_any_strides_and_fills_any_out():
    pipeline = Pipeline("sharpen", "erode", "max_pool2d:kernel_size=2")
    images = np.swapaxes(random_images((3, 41, 60, 2), "uint8"), 0, 2)[:, ::-1]
    expected = one_by_one(pipeline, images, backend="numpy")
    np.testing.assert_array_equal(pipeline(images, backend=emulator()), expected)
    out = np.zeros((2, *expected.shape), np.uint8)[0].swapaxes(0, 1).copy().swapaxes(0, 1)
    assert pipeline(images, out=out, backend=emulator()) is out
    np.testing.assert_array_equal(out, expected)
    colour = random_images((2, 30, 20, 5), "uint8")[..., ::2]
    expected = one_by_one(pipeline, colour, backend="numpy", channel_axis=-1)
    result = pipeline(colour, backend=emulator(), channel_axis=-1)
    np.testing.assert_array_equal(result, expected)


def test_steps_of_their_own_lie_between_launches():
    backend = EmulatorBackend()
    images = random_images((2, 1, 40, 30), "uint8")
    pipeline = Pipeline(
        "sharpen",
        "sobel",
        "median_blur:size=3",
        "max_pool2d:kernel_size=2",
        "adaptive_avg_pool2d:output_size=(9,7)",
        "erode",
    )
    expected = one_by_one(pipeline, images, backend="numpy")
    np.testing.assert_array_equal(pipeline(images, backend=backend), expected)
    assert backend.launches["chain"] == 1
    out = np.empty_like(expected)
    assert pipeline(images, out=out, backend=backend) is out
    np.testing.assert_array_equal(out, expected)


def test_lists_callables_and_batches_of_none():
    backend = EmulatorBackend()
    images = [random_images((30, 20), "uint8"), random_images((2, 9, 40), "uint8")]
    seen = []

    def look(pixels):
        seen.append(pixels.copy())
        return 255 - pixels

    pipeline = Pipeline("sharpen", "sobel", look, "erode", "dilate")
    results = pipeline(images, backend=backend)
    assert backend.launches == {"chain": 4}
    assert len(seen) == len(images)
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result, pipeline(image, backend="numpy"))
    empty = np.empty((0, 8, 6), np.uint8)
    assert Pipeline(*EXAMPLE)(empty, backend=backend).shape == (0, 4, 3)


def test_a_chain_refuses_what_its_steps_refuse():
    images = random_images((8, 6), "uint8")
    image = images.copy()
    for wrong in (np.empty((4, 4), np.uint8), np.empty((4, 3), np.int16)):
        with pytest.raises(ValueError, match=r"^out must "):
            Pipeline(*EXAMPLE)(images, out=wrong, backend=emulator())
    with pytest.raises(ValueError, match=r"^out must not share memory with images"):
        Pipeline("sobel", "erode")(image, out=image, backend=emulator())
    with pytest.raises(ValueError, match=r"^images must have shape \(..., H, W, C\), got \(8, 6\)"):
        Pipeline("sobel", "erode")(images, channel_axis=-1, backend=emulator())
    with pytest.raises(ValueError, match=r"^kernel_size must fit"):
        Pipeline("sobel", "max_pool2d:kernel_size=9")(images, backend=emulator())


# ---------------------------------------------------------------- images of the host


class Counting(EmulatorBackend):
    """Counts what goes up and comes down."""

    def __init__(self, piece_bytes):
        super().__init__(piece_bytes=piece_bytes)
        self.up, self.down = [], []
        upload, download = self.launcher.upload, self.launcher.download
        self.launcher.upload = lambda array: self.up.append(array.shape) or upload(array)
        self.launcher.download = lambda a, b: self.down.append(b.shape) or download(a, b)


def test_host_images_go_up_and_come_down_once():
    images = random_images((2, 50, 40), "uint8")
    pipeline = Pipeline(*EXAMPLE, "median_blur:size=3")
    backend = Counting(piece_bytes=1 << 20)
    result = pipeline(images, backend=backend)
    np.testing.assert_array_equal(result, pipeline(images, backend="numpy"))
    assert backend.up == [(2, 50, 40)]
    assert backend.down == [(2, 25, 20)]


@pytest.mark.parametrize("piece_bytes", [600, 4000])
@pytest.mark.parametrize("seed", range(10))
def test_pieces_of_chains_are_the_whole(seed, piece_bytes):
    rng = np.random.default_rng([seed, piece_bytes])
    border = ("wrap", "reflect", "constant", "edge", None)[seed % 5]
    choices = FACTORS + DENSE + OF_INTEGERS + (() if border == "wrap" else POOLS + MEANS)
    pipeline = chain_of(rng, choices, border)
    images = random_images((2, int(rng.integers(40, 120)), 31), "uint8", seed)
    backend = Counting(piece_bytes)
    result = pipeline(images, backend=backend)
    np.testing.assert_array_equal(result, pipeline(images, backend="numpy"))
    assert len(backend.down) >= 2


def test_images_that_no_pieces_make_up_pass_step_by_step():
    images = random_images((90, 31), "uint8")
    pipeline = Pipeline("erode", "adaptive_max_pool2d:output_size=(13,5)", "dilate:border=wrap")
    backend = Counting(piece_bytes=600)
    result = pipeline(images, backend=backend)
    np.testing.assert_array_equal(result, pipeline(images, backend="numpy"))
    assert max(rows * columns for rows, columns, *_ in map(np.shape, [images])) > 600


# ---------------------------------------------------------------- which steps share a launch


def test_steps_that_the_kernel_has_share_a_launch():
    assert launches_of(*EXAMPLE) == [3]
    assert launches_of("sharpen", "filter2d:kernel=[2;],delta=3", "filter2d:kernel=[0.5;]") == [3]
    assert launches_of("morph_open", "morph_close:size=5") == [2]
    assert launches_of("unsharp_mask", "sobel") == [2]
    assert launches_of("sobel", "avg_pool2d:kernel_size=2", "gaussian_blur:sigma=0.5") == [3]
    assert launches_of(*["erode"] * 6) in ([3, 3], [4, 2], [2, 4])  # eight sweeps, at most


@pytest.mark.parametrize(
    "second",
    [
        "median_blur:size=3",
        "gaussian_blur:sigma=3",
        "filter2d:kernel=[1,2;3,4]",
        "filter2d:kernel=[1,0,0;0,1,0;0,0,1],anchor=(0,0)",
        "filter2d:kernel=[1,0,0;0,1,0;0,0,1],delta=0.1",
        "filter2d:kernel=[100000,0,0;0,1,0;0,0,1]",
        "box_blur:size=4",
        "erode:footprint=[0,1,0;1,1,1;0,1,0]",
        "morph_gradient",
        "max_pool2d:kernel_size=2,dilation=2",
        "avg_pool2d:kernel_size=2,divisor_override=3",
        "adaptive_avg_pool2d:output_size=3",
    ],
)
def test_other_steps_have_a_launch_of_their_own(second):
    assert launches_of("sharpen", second) == [1, 1]
    assert launches_of("sharpen", "sharpen", second, "sharpen", "sharpen") == [2, 1, 2]


def test_a_wrapping_border_needs_the_whole_image_or_one_that_wraps():
    assert launches_of("sharpen", "sobel:border=wrap", "sharpen") == [1, 2]
    assert launches_of("sharpen:border=wrap", "sobel:border=wrap", "erode") == [3]
    assert launches_of("max_pool2d:kernel_size=2", "sobel:border=wrap", "erode") == [1, 2]
    assert launches_of("sharpen", "sobel:out_dtype=int16", "erode") == [1, 1, 1]


def test_what_is_compiled_is_what_shares_a_launch():
    assert launches_of("erode", "dilate", dtype="int16") == [1, 1]
    assert launches_of("erode", "dilate", dtype="float32") == [1, 1]
    assert launches_of("sharpen", "sobel", dtype="float64") == [1, 1]
    assert launches_of("sharpen", "gaussian_blur:sigma=1", dtype="uint16") == [1, 1]
    assert launches_of("sharpen", "sobel", "box_blur:size=9", dtype="uint16") == [3]
    colour = {"shape": (64, 64, 4), "channel_axis": -1}
    assert launches_of("erode", "dilate", **colour) == [2]
    assert launches_of("erode", "dilate", **colour | {"shape": (64, 64, 5)}) == [1, 1]


def test_launches_are_shared_where_that_pays_off():
    large = {"shape": (64, 2160, 3840)}
    assert launches_of("sharpen", "sobel", **large, dtype="float32") == [2]
    assert launches_of("gaussian_blur:sigma=1", "gaussian_blur:sigma=1", **large) == [1, 1]
    plan = chain_plan(*EXAMPLE)
    assert "linear 9x9 | linear 3x3 | max pool 2x2 in one launch" in repr(plan)
    assert "median" not in repr(plan)
    plan = chain_plan("sharpen", "median_blur:size=3")
    assert "rank 3x3 by its own kernel" in repr(plan)


def test_plans_of_chains_are_remembered_by_shape_and_dtype():
    backend = Recorder()
    pipeline = Pipeline("sharpen", "sobel")
    for dtype in ("uint8", "uint8", "float32"):
        pipeline(np.zeros((5, 7), dtype), backend=backend)
    first, again, other = backend.plans
    assert first is again
    assert first != other
    assert hash(first) == hash(chain_plan("sharpen", "sobel", shape=(5, 7)))
    assert first == chain_plan("sharpen", "sobel", shape=(5, 7))
    assert pickle.loads(pickle.dumps(first)) == first


def test_every_mean_of_a_box_is_rounded_right():
    sizes = (1, *LINES)
    for count in {height * width for height in sizes for width in sizes}:
        sums = np.arange(65535 * count + 1)
        # A float32 product has at most 48 bits: float64 holds what the kernel rounds.
        found = np.rint(sums * np.float64(np.float32(1 / count)))
        np.testing.assert_array_equal(found, (2 * sums + count) // (2 * count))
