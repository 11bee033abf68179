"""Host arrays cut into pieces: every piece a call of its own, together the whole, bit for bit."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuconv
from gpuconv import filters
from gpuconv.backends.cuda.pieces import cut_operands, pieces
from gpuconv.backends.numpy import NumpyBackend
from gpuconv.border import Border
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import CALLS, FRACTIONS, assert_same_sums, layout, random_images
from tests.map_cases import LAYOUTS, public_layout, random_maps, random_values
from tests.matrix import name, pairwise

JUNK = 0x5A


def junk(shape, dtype):
    """What memory holds before a result is written."""
    size = math.prod(shape) * dtype.itemsize
    return np.full(size, JUNK, np.uint8).view(dtype).reshape(shape)


class Pieces(NumpyBackend):
    """Every piece by NumPy, the results put together as CudaBackend does it."""

    def __init__(self, limit):
        self.limit = limit
        self.seen = []

    def empty(self, spec, like):
        return junk(spec.shape, spec.dtype)

    def run(self, plan, inputs, outputs):
        if any(0 in o.shape for o in outputs):
            return
        for piece in pieces(plan, inputs, outputs, self.limit):
            self.seen.append(piece)
            check_plan(piece)
            results = [junk(spec.shape, spec.dtype) for spec in piece.plan.outputs]
            super().run(piece.plan, piece.inputs, results)
            for result, target in zip(results, piece.outputs, strict=True):
                target[...] = result[piece.keep]
            piece.finish()

    @property
    def largest(self):
        """Bytes of the largest piece."""
        return max(piece.nbytes for piece in self.seen)


def check_plan(piece):
    """A piece's plan is that of a call with the piece's arrays."""
    plan = piece.plan
    hash(plan)
    if hasattr(plan, "images"):
        assert piece.inputs[0].shape == plan.images.shape
        return
    parts = (plan.conv, plan.pool) if hasattr(plan, "pool") else (plan,)
    assert parts[0].input.shape == piece.inputs[0].shape
    assert parts[-1].output.shape == plan.outputs[0].shape
    for part in parts:
        for window in getattr(part, "windows", ()):
            assert min(window.pad) >= 0


def assert_bits(result, expected):
    """The same array."""
    np.testing.assert_array_equal(result, expected, strict=True)


def assert_same(run, limit, most=None, same=assert_bits):
    """`run(backend)` gives the same in pieces of `limit` bytes; the pieces."""
    cut = Pieces(limit)
    expected, actual = run("numpy"), run(cut)
    if not isinstance(expected, tuple):
        expected, actual = (expected,), (actual,)
    for one, other in zip(expected, actual, strict=True):
        same(other, one)
    if most is not None:
        assert cut.largest <= most
    return cut.seen


# ---------------------------------------------------------------- images

IMAGE_AXES = {
    "call": tuple(CALLS),
    "border": tuple(Border),
    "layout": ("grey", "batch", "batches", "grey and alpha", "colour"),
    "height": (41, 60, 97),
    "rows": (1, 7, 20, 50),
    "dtype": ("uint8", "int16", "float32", "float16"),
}
"""`rows`: how many rows of input and output the limit has room for."""


def row_bytes(shape, channels, *dtypes):
    """Input and output of one row of an image."""
    width = math.prod(shape[-2:]) if channels else shape[-1]
    return width * sum(np.dtype(dtype).itemsize for dtype in dtypes)


@pytest.mark.parametrize("case", pairwise(IMAGE_AXES), ids=name)
def test_bands_of_images_equal_the_whole(case):
    shape, keywords = layout(case["layout"], (case["height"], 13))
    images = random_images(shape, case["dtype"])
    keywords |= {"border": case["border"], "value": 9}
    row = row_bytes(shape, keywords.get("channel_axis"), case["dtype"], case["dtype"])
    assert_same(
        lambda backend: CALLS[case["call"]](images, backend=backend, **keywords),
        row * case["rows"],
        same=partial(assert_same_sums, call=case["call"]),
    )


@pytest.mark.parametrize("border", Border)
@pytest.mark.parametrize("operation", ["morph_open", "morph_close", "dilate", "morph_gradient"])
@pytest.mark.parametrize("height", [11, 12, 13, 29, 30])
def test_bands_of_lopsided_footprints_equal_the_whole(operation, border, height):
    footprint = np.zeros((6, 5))
    footprint[0, 1] = footprint[1, 4] = footprint[4, 0] = 1
    images = random_images((height, 9), "uint8")

    def run(backend):
        call = getattr(filters, operation)
        return call(images, footprint=footprint, border=border, value=77, backend=backend)

    seen = assert_same(run, 18)
    assert (len(seen) > 1) == (height > (5 if operation in ("dilate", "morph_gradient") else 10))


@pytest.mark.parametrize("border", Border)
@pytest.mark.parametrize("anchor", [(0, 0), (6, 1), (2, 2)])
def test_bands_reach_as_far_as_the_anchor_tells(anchor, border):
    kernel = np.arange(21).reshape(7, 3) - 9
    images = random_images((40, 6), "int16")
    seen = assert_same(
        lambda backend: filters.filter2d(
            images, kernel, anchor=anchor, border=border, backend=backend
        ),
        24 * 16,
        24 * 16,
    )
    assert len(seen) == 4


@pytest.mark.parametrize("border", Border)
@pytest.mark.parametrize("anchor", [(0, 0), (6, 1)])
@pytest.mark.parametrize("height", [7, 8, 9, 13])
def test_bands_hold_all_that_the_border_folds_back(height, anchor, border):
    kernel = np.arange(21).reshape(7, 3) - 9
    images = random_images((height, 4), "int16")
    seen = assert_same(
        lambda backend: filters.filter2d(
            images, kernel, anchor=anchor, border=border, backend=backend
        ),
        1,
    )
    assert len(seen) == -(-height // 6)


def test_bands_share_no_more_rows_than_they_have_of_their_own():
    images = random_images((100, 10), "uint8")
    seen = assert_same(lambda backend: filters.box_blur(images, (11, 3), backend=backend), 1)
    assert len(seen) == 10
    assert max(piece.inputs[0].shape[0] for piece in seen) == 20


def test_an_image_no_higher_than_the_overlap_stays_whole():
    images = random_images((2, 8, 500), "uint8")
    seen = assert_same(lambda backend: filters.median_blur(images, (9, 3), backend=backend), 1000)
    assert [piece.plan.images.shape for piece in seen] == [(1, 8, 500)] * 2


@pytest.mark.parametrize("dtypes", [("uint8", "uint8"), ("uint8", "float32"), ("float32",) * 2])
@pytest.mark.parametrize("border", ["reflect", "wrap"])
def test_bands_keep_to_the_limit(dtypes, border):
    shape = (3, 200, 50)
    images = random_images(shape, dtypes[0])
    limit = 30 * row_bytes(shape, None, *dtypes)
    seen = assert_same(
        lambda backend: filters.filter2d(
            images, FRACTIONS, border=border, out_dtype=dtypes[1], backend=backend
        ),
        limit,
        limit,
        same=partial(assert_same_sums, call="filter2d"),
    )
    assert len(seen) == 3 * math.ceil(200 / 27)
    assert sum(piece.nbytes for piece in seen) < 3 * (200 / 30 + 1) * limit


@pytest.mark.parametrize("lead", [(1000,), (10, 100), (100, 1, 10), (1, 1000)])
def test_tiny_images_share_pieces(lead):
    images = random_images((*lead, 4, 5), "uint8")
    seen = assert_same(lambda b: filters.erode(images, 3, backend=b), 10_000, 10_000)
    assert 4 <= len(seen) <= 5


def test_leading_axes_are_cut_one_after_another():
    images = random_images((3, 5, 8, 8), "uint8")
    seen = assert_same(lambda b: filters.erode(images, 3, backend=b), 3 * 128, 3 * 128)
    assert [piece.plan.images.shape[:2] for piece in seen] == [(1, 2), (1, 3)] * 3


def test_pieces_are_views_but_for_a_wrapped_border():
    images = random_images((60, 10), "uint8")[::-1, ::-2]
    for border in Border:
        seen = assert_same(
            lambda backend, border=border: filters.box_blur(
                images, 5, border=border, backend=backend
            ),
            200,
        )
        copied = [not np.shares_memory(piece.inputs[0], images) for piece in seen]
        assert copied[1:-1] == [False] * (len(seen) - 2)
        assert copied[0] == copied[-1] == (border is Border.WRAP)
        assert all(p.outputs[0].base is not None for p in seen)


def test_a_call_within_the_limit_is_one_piece_of_the_very_arrays():
    images, out = random_images((2, 6, 7), "uint8"), np.empty((2, 6, 7), np.uint8)
    seen = assert_same(lambda b: filters.erode(images, backend=b, out=out).copy(), 168)
    assert len(seen) == 1
    assert seen[0].inputs[0].shape == images.shape
    assert seen[0].keep == ()


def test_an_empty_batch_has_no_pieces():
    images = np.empty((0, 5, 6), np.uint8)
    assert Pieces(1).seen == []
    assert filters.erode(images, backend=Pieces(1)).shape == (0, 5, 6)


# ---------------------------------------------------------------- feature maps

CONV_AXES = {
    "rank": (1, 2, 3),
    "layout": LAYOUTS,
    "length": (9, 14, 23),
    "kernel": (1, 2, 3, 4),
    "stride": (1, 2, 3),
    "dilation": (1, 2),
    "padding": (0, 1, 4, "far", "same_lower", "full"),
    "border": reference.BORDERS,
    "groups": (1, 2),
    "limit": (1, 300, 1200),
    "dtype": ("uint8", "float32"),
}
PADS = {0: (0, 0), 1: (1, 1), 4: (4, 4), "far": (5, 7)}
"""Paddings of the first axis, which is the one that is cut; the others have no room for them."""


def small_numbers(shape, dtype, seed=0):
    """Integers whose sums are exact in every order, even as floats."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.integers(0 if dtype == "uint8" else -4, 5, shape).astype(dtype)
    values.setflags(write=False)
    return values


def map_sizes(case):
    """Spatial sizes."""
    return (case["length"], 5, 4)[: case["rank"]]


def map_values(case):
    """The input."""
    inner = (*map_sizes(case), 4) if case["layout"].endswith("C") else (4, *map_sizes(case))
    shape = (2, *inner) if case["layout"].startswith("N") else inner
    return small_numbers(shape, case["dtype"])


def map_arguments(case):
    """stride, dilation, padding and layout: something happens along the first axis."""
    rest = case["rank"] - 1
    pad = case["padding"]
    return {
        "stride": (case["stride"],) + (1,) * rest,
        "dilation": (case["dilation"],) + (1,) * rest,
        "padding": (PADS[pad], *((1, 0),) * rest) if pad in PADS else pad,
        "layout": public_layout(case["layout"]),
    }


def fits(case):
    """Whether the kernel fits into the padded input at all."""
    extent = (case["kernel"] - 1) * case["dilation"] + 1
    pads = PADS.get(case["padding"], (extent, extent))
    return case["length"] + sum(pads) >= extent


def conv_weight(case, outs, ins):
    """Weights for `outs` and `ins` channels, two taps along the second axis."""
    shape = (outs, ins, case["kernel"], 2, 1)[: 2 + case["rank"]]
    return small_numbers(shape, case["dtype"])


@pytest.mark.parametrize("case", list(filter(fits, pairwise(CONV_AXES))), ids=name)
def test_rows_of_convolutions_equal_the_whole(case):
    conv = (gpuconv.conv1d, gpuconv.conv2d, gpuconv.conv3d)[case["rank"] - 1]
    assert_same(
        lambda backend: conv(
            map_values(case),
            conv_weight(case, 6, 4 // case["groups"]),
            small_numbers((6,), case["dtype"], 1),
            groups=case["groups"],
            padding_mode=case["border"],
            value=2,
            backend=backend,
            **map_arguments(case),
        ),
        case["limit"],
    )


@pytest.mark.parametrize("border", reference.BORDERS)
def test_a_convolution_is_cut_unless_its_border_folds_twice(border):
    x, w = small_numbers((3, 20, 4), "float32"), small_numbers((2, 3, 3, 3), "float32")
    for pad, cut in ((19, True), (20, border not in ("reflect", "symmetric"))):
        seen = assert_same(
            lambda backend, pad=pad: gpuconv.conv2d(
                x, w, padding=((pad, 0), (1, 1)), padding_mode=border, backend=backend
            ),
            1,
        )
        assert (len(seen) > 1) == cut


TRANSPOSE_AXES = {key: CONV_AXES[key] for key in CONV_AXES if key not in ("border", "padding")} | {
    "padding": (0, 1, "full", "same_upper"),
    "extra": (0, 1),
}


def leaves(case):
    """Whether the padding leaves an output, and the extra output is allowed."""
    extent = (case["kernel"] - 1) * case["dilation"] + 1
    if case["padding"] == 1 and case["rank"] > 1 and case["kernel"] < 2:
        return False
    whole = (case["length"] - 1) * case["stride"] + extent
    pad = {0: 0, 1: 2, "full": 2 * extent - 2, "same_upper": 0}[case["padding"]]
    return whole > pad and case["extra"] < max(case["stride"], case["dilation"])


@pytest.mark.parametrize("case", list(filter(leaves, pairwise(TRANSPOSE_AXES))), ids=name)
def test_rows_of_transposed_convolutions_equal_the_whole(case):
    function = (gpuconv.conv_transpose1d, gpuconv.conv_transpose2d, gpuconv.conv_transpose3d)
    assert_same(
        lambda backend: function[case["rank"] - 1](
            map_values(case),
            conv_weight(case, 4, 6 // case["groups"]),
            small_numbers((6,), case["dtype"], 1),
            groups=case["groups"],
            output_padding=(case["extra"],) + (0,) * (case["rank"] - 1),
            backend=backend,
            **map_arguments(case),
        ),
        case["limit"],
    )


@pytest.mark.parametrize("padding", [0, 2, "far", "full"])
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("pool", [("max", 2, None, 0), ("max", 3, 1, 1), ("avg", 3, 2, (1, 2))])
@pytest.mark.parametrize("form", ["CHW", "NHWC"])
def test_rows_of_pooled_convolutions_equal_the_whole(form, pool, border, padding):
    operation, size, stride, pad = pool
    x = small_numbers((3, 25, 6) if form == "CHW" else (2, 25, 6, 3), "float32")
    w = small_numbers((4, 3, 3, 3), "float32")
    seen = assert_same(
        lambda backend: gpuconv.conv2d_pool2d(
            x,
            w,
            padding=((5, 7), (1, 1)) if padding == "far" else padding,
            padding_mode=border,
            pool=operation,
            pool_size=size,
            pool_stride=stride,
            pool_padding=pad,
            layout=public_layout(form),
            backend=backend,
        ),
        1000,
    )
    assert len(seen) >= 3


POOL_AXES = {
    "call": ("max", "max, indices", "min, int32", "avg", "avg, present", "avg, divisor", "lp"),
    "ceil_mode": (False, True),
    "padding": (0, 1, "before", "after"),
    **{key: CONV_AXES[key] for key in ("rank", "layout", "length", "stride", "dilation", "limit")},
    "kernel": (2, 3, 5),
    "dtype": ("uint8", "float32", "int64"),
}
POOL_PADS = {0: (0, 0), 1: (1, 1), "before": (3, 0), "after": (0, 3)}


def pool_call(case):
    """A pool of a case, waiting for a backend."""
    kind, _, detail = case["call"].partition(", ")
    rest = case["rank"] - 1
    arguments = map_arguments(case | {"padding": 0})
    arguments["padding"] = (POOL_PADS[case["padding"]], *((0, 0),) * rest)
    arguments["ceil_mode"] = case["ceil_mode"]
    if detail in ("indices", "int32"):
        arguments["return_indices"] = True
        arguments["index_dtype"] = "int32" if detail == "int32" else "int64"
    if detail == "present":
        arguments["count_include_pad"] = False
    if detail == "divisor":
        arguments["divisor_override"] = 3
    pool = getattr(gpuconv, f"{kind}_pool{case['rank']}d")
    size = (case["kernel"],) + (2,) * rest
    before = (2,) if kind == "lp" else ()
    x = map_values(case)

    return lambda backend: pool(x, *before, size, backend=backend, **arguments)


def pools(case):
    """Whether there is such a pool: floats for lp, and windows that fit and hold an element."""
    if case["call"] == "lp" and case["dtype"] != "float32":
        return False
    try:
        pool_call(case)("numpy")
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("case", list(filter(pools, pairwise(POOL_AXES))), ids=name)
def test_parts_of_pools_equal_the_whole(case):
    assert_same(pool_call(case), case["limit"])


@pytest.mark.parametrize("form", LAYOUTS)
def test_indices_of_bands_count_from_the_top_of_the_plane(form):
    x = random_maps(form, 3, (40, 9), "uint8")
    seen = assert_same(
        lambda backend: gpuconv.max_pool2d(
            x, 3, 2, 1, return_indices=True, layout=public_layout(form), backend=backend
        ),
        200,
        200 if form in ("NCHW", "CHW") else 400,
    )
    assert max(piece.index_offset for piece in seen) > 9 * 30


@pytest.mark.parametrize("form", LAYOUTS)
@pytest.mark.parametrize("limit", [1, 250, 700])
def test_planes_of_adaptive_pools_and_unpools_equal_the_whole(form, limit):
    x = random_maps(form, 5, (9, 6), "float32")
    where = {"layout": public_layout(form)}

    def both(backend):
        values, indices = gpuconv.max_pool2d(x, 2, return_indices=True, **where)
        return (
            *gpuconv.adaptive_max_pool2d(x, (4, 5), return_indices=True, backend=backend, **where),
            gpuconv.adaptive_avg_pool2d(x, 3, backend=backend, **where),
            gpuconv.max_unpool2d(values, indices, 2, output_size=(9, 6), backend=backend, **where),
        )

    seen = assert_same(both, limit)
    assert len(seen) >= 3 * (10 if form.startswith("N") else 5) // (1 if limit == 1 else 4)


@given(
    *(st.integers(1, most) for most in (12, 5, 4, 3)),
    st.tuples(st.integers(0, 14), st.integers(0, 14)),
    st.sampled_from(sorted(reference.BORDERS)),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_window_is_cut_exactly(length, kernel, stride, dilation, pads, border):
    x, w = small_numbers((1, length), "float32"), small_numbers((1, 1, kernel), "float32", 5)
    extent = (kernel - 1) * dilation + 1
    common = {"stride": stride, "dilation": dilation}
    if length + sum(pads) >= extent:
        arguments = {**common, "padding": (pads,), "padding_mode": border}
        assert_same(lambda b: gpuconv.conv1d(x, w, backend=b, **arguments), 1)
    arguments = {**common, "output_padding": max(stride, dilation) - 1}
    assert_same(lambda b: gpuconv.conv_transpose1d(x, w, backend=b, **arguments), 1)
    assert_same(lambda b: gpuconv.conv_transpose1d(x, w, padding="same", backend=b, **common), 1)
    pads = tuple(min(pad, kernel - 1) for pad in pads)
    arguments = {**common, "padding": (pads,), "ceil_mode": True}
    try:
        gpuconv.max_pool1d(x, kernel, **arguments)
    except ValueError:
        return  # no window fits, or one lies in the padding
    assert_same(
        lambda b: gpuconv.max_pool1d(x, kernel, return_indices=True, backend=b, **arguments), 1
    )
    assert_same(lambda b: gpuconv.avg_pool1d(x, kernel, backend=b, **arguments), 1)


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_keep_to_the_limit(transposed, stride):
    x, w = small_numbers((1, 400, 3), "float32"), small_numbers((1, 1, 7, 1), "float32")
    conv = gpuconv.conv_transpose2d if transposed else gpuconv.conv2d
    limit = 12 * 60
    seen = assert_same(lambda b: conv(x, w, stride=(stride, 1), backend=b), limit, limit)
    assert len(seen) >= 9
    assert min(piece.nbytes for piece in seen) > limit / 2
    seen = assert_same(lambda b: conv(x, w, stride=(stride, 1), backend=b), 1)
    assert max(piece.inputs[0].shape[1] for piece in seen) <= 13


def test_a_batch_comes_before_channels_and_rows():
    x, w = small_numbers((10, 4, 8, 8), "float32"), small_numbers((4, 4, 3, 3), "float32")
    sample = 4 * (4 * 64 + 4 * 64)

    def conv(backend):
        return gpuconv.conv2d(x, w, padding=1, backend=backend)

    seen = assert_same(conv, 4 * sample, 4 * sample)
    assert [len(piece.outputs[0]) for piece in seen] == [3, 3, 4]
    assert all(piece.inputs[1] is seen[0].inputs[1] for piece in seen)
    seen = assert_same(conv, sample // 2 + 256)
    assert [piece.plan.output.spatial[0] for piece in seen] == [4, 4] * 10
    seen = assert_same(lambda b: gpuconv.max_pool2d(x, 2, backend=b), 700, 700)
    assert {piece.plan.input.shape for piece in seen} == {(1, 2, 8, 8)}


def test_cut_operands_are_those_that_no_piece_needs_whole():
    x = random_values((1, 2, 6, 6), "float32")
    values, indices = gpuconv.max_pool2d(x, 2, return_indices=True)
    backend = Pieces(1)
    gpuconv.max_unpool2d(values, indices, 2, backend=backend)
    gpuconv.conv2d(x, x[:, :, :2, :2], x[0, 0, 0, :1], backend=backend)
    assert {(type(p.plan).__name__, cut_operands(p.plan)) for p in backend.seen} == {
        ("UnpoolPlan", 2),
        ("ConvPlan", 1),
    }


# ---------------------------------------------------------------- through the CUDA backend


class Watched(EmulatorBackend):
    """Counts what is uploaded, and holds what lives on the device at once."""

    def __init__(self, piece_bytes):
        super().__init__(piece_bytes=piece_bytes)
        self.uploads = []
        upload = self._emulated.upload

        def counted(array):
            self.uploads.append(array.shape)
            return upload(array)

        self._emulated.upload = counted


@pytest.mark.emulator
@pytest.mark.parametrize("border", Border)
def test_host_images_pass_through_the_device_in_bands(border):
    images = random_images((2, 40, 33), "uint8")
    backend = Watched(33 * 2 * 20)
    with gpuconv.use_backend(backend):
        actual = filters.rank_filter(images, 5, (5, 3), border=border)
    np.testing.assert_array_equal(
        actual, filters.rank_filter(images, 5, (5, 3), border=border, backend="numpy")
    )
    assert len(backend.uploads) == 2 * 3
    assert backend.launches.total() == 2 * 3


PHOTO = random_images((2, 61, 37), "uint8")
MAPS, NHWC = random_values((2, 3, 40, 13), "float32"), random_values((40, 13, 5), "int16")
WEIGHT, UP = random_values((4, 3, 3, 3), "float32"), random_values((3, 2, 3, 2), "float32")
FAMILIES = {
    "dense": lambda border: filters.filter2d(PHOTO, FRACTIONS, border=border),
    "separable": lambda border: filters.gaussian_blur(PHOTO, 1.5, border=border),
    "box": lambda border: filters.box_blur(PHOTO, (7, 4), border=border),
    "morphology": lambda border: filters.morph_open(PHOTO, (6, 3), border=border),
    "conv": lambda border: gpuconv.conv2d(MAPS, WEIGHT, padding=2, padding_mode=border),
    "conv, strided": lambda border: gpuconv.conv2d(
        MAPS, WEIGHT, None, 3, ((9, 6), (1, 0)), 2, padding_mode=border
    ),
    "conv_pool": lambda border: gpuconv.conv2d_pool2d(
        MAPS, WEIGHT, padding=((9, 6), (1, 0)), padding_mode=border, pool_size=3, pool_stride=2
    ),
}
BORDERLESS = {
    "conv_transpose": lambda: gpuconv.conv_transpose2d(MAPS, UP, None, 2, 1, 1),
    "max, indices": lambda: gpuconv.max_pool2d(
        NHWC, 4, 3, 2, layout="NHWC", ceil_mode=True, return_indices=True
    ),
    "avg": lambda: gpuconv.avg_pool2d(MAPS, 5, 2, 2, ceil_mode=True, count_include_pad=False),
    "avg, windows that overlap": lambda: gpuconv.avg_pool2d(NHWC, 7, 1, 3, layout="NHWC"),
    "adaptive": lambda: gpuconv.adaptive_avg_pool2d(MAPS, (7, 4)),
    "unpool": lambda: gpuconv.max_unpool2d(
        *gpuconv.max_pool2d(MAPS, 2, return_indices=True, backend="numpy"), 2, output_size=(40, 13)
    ),
}


@pytest.mark.emulator
@pytest.mark.parametrize("family", [*FAMILIES, *BORDERLESS])
def test_every_family_gives_the_same_in_pieces(family):
    borders = tuple(Border) if family in FAMILIES else ("",)
    whole, cut = EmulatorBackend(), EmulatorBackend(piece_bytes=1500)
    for border in borders:
        call = FAMILIES.get(family)
        results = []
        for backend in (whole, cut):
            with gpuconv.use_backend(backend):
                result = call(border) if call else BORDERLESS[family]()
            results.append(result if isinstance(result, tuple) else (result,))
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=border, strict=True)
    assert cut.launches.total() >= 4 * whole.launches.total()


@pytest.mark.emulator
def test_operands_that_every_piece_needs_are_uploaded_once(monkeypatch):
    x, w = small_numbers((6, 2, 5, 5), "float32"), small_numbers((4, 2, 3, 3), "float32")
    backend = Watched(400)
    host = NumpyBackend()
    monkeypatch.setattr(backend, "_launch", host.run)
    actual = gpuconv.conv2d(x, w, small_numbers((4,), "float32"), backend=backend)
    expected = gpuconv.conv2d(x, w, small_numbers((4,), "float32"), backend="numpy")
    np.testing.assert_array_equal(actual, expected)
    assert backend.uploads == [(4, 2, 3, 3), (4,), *[(1, 2, 5, 5)] * 6]


@pytest.mark.emulator
def test_indices_of_pieces_come_back_as_those_of_the_whole(monkeypatch):
    x = random_values((2, 31, 6), "int16")
    backend = Watched(300)
    monkeypatch.setattr(backend, "_launch", NumpyBackend().run)

    def run(backend):
        return gpuconv.max_pool2d(x, 3, return_indices=True, stride=1, backend=backend)

    for actual, expected in zip(run(backend), run("numpy"), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert len(backend.uploads) > 4
