"""Bad input: `<argument> must <rule>, got <value>`, on one line, of the right type."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import filters, kernels
from tests.image_cases import CALLS, random_images, refuse

U8 = random_images((6, 7), "uint8")
F32 = random_images((6, 7), "float32")
NAN, INF = float("nan"), float("inf")


# ---------------------------------------------------------------- images and shared keywords


BAD_IMAGES = {
    "complex": (U8.astype(complex), TypeError),
    "bool": (U8 > 3, TypeError),
    "object": (U8.astype(object), TypeError),
    "string": (U8.astype(str), TypeError),
    "time": (U8.astype("datetime64[s]"), TypeError),
    "record": (np.zeros((3, 4), "u1,u1"), TypeError),
    "long double": (U8.astype(np.longdouble), TypeError),
    "masked": (np.ma.array(U8), TypeError),
    "None": (None, TypeError),
    "text": ("photo.png", TypeError),
    "number": (3, TypeError),
    "generator": ((row for row in U8), TypeError),
    "no axes": (np.uint8(3), ValueError),
    "one axis": (U8[0], ValueError),
    "no rows": (U8[:0], ValueError),
    "no columns": (np.zeros((3, 5, 0), np.uint8), ValueError),
    "list with a bad one": ([U8, U8 > 3], TypeError),
    "list of rows": (U8.tolist(), ValueError),
    "ragged": ([[[1, 2], [3]]], ValueError),
}


@pytest.mark.parametrize("bad", BAD_IMAGES)
@pytest.mark.parametrize("name", CALLS)
def test_filters_refuse_images_that_are_none(name, bad):
    images, error = BAD_IMAGES[bad]
    refuse(error, "images", lambda: CALLS[name](images))


BAD_KEYWORDS = {
    "border": ("mirrored", None, 3, "EDGE"),
    "value": ("7", NAN, 1j, None, [1], True),
    "channel_axis": (0, -2, 2, 1.0, "last", True),
    "out_dtype": ("pixels", complex, bool, object, "S3"),
    "backend": ("gpu", 3, ""),
}


@pytest.mark.parametrize(
    ("argument", "value"), [(a, value) for a, values in BAD_KEYWORDS.items() for value in values]
)
@pytest.mark.parametrize("name", CALLS)
def test_filters_refuse_shared_keywords(name, argument, value):
    error = TypeError if argument == "out_dtype" else ValueError
    refuse(error, argument, lambda: CALLS[name](U8, **{argument: value}))


@pytest.mark.parametrize("name", CALLS)
def test_filters_refuse_an_integer_out_dtype_for_float_images(name):
    refuse(TypeError, "out_dtype", lambda: CALLS[name](F32, out_dtype="uint8"))


@pytest.mark.parametrize("name", CALLS)
def test_channels_need_an_axis_of_their_own(name):
    refuse(ValueError, "images", lambda: CALLS[name](U8, channel_axis=-1))
    empty = np.zeros((3, 4, 0), np.uint8)
    refuse(ValueError, "images", lambda: CALLS[name](empty, channel_axis=-1))


def test_filters_refuse_an_unknown_keyword():
    for run in CALLS.values():
        with pytest.raises(TypeError, match="unexpected keyword argument 'edges'"):
            run(U8, edges="reflect")
    for run, foreign in ((filters.laplacian, "anchor"), (filters.dilate, "gradient")):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{foreign}'"):
            run(U8, **{foreign: True})


def read_only(shape):
    out = np.empty(shape, np.uint8)
    out.setflags(write=False)
    return out


BUFFER = np.zeros((12, 7), np.uint8)
BAD_OUT = {
    "transposed": (np.empty((7, 6), np.uint8), ValueError),
    "batched": (np.empty((1, 6, 7), np.uint8), ValueError),
    "signed": (np.empty((6, 7), np.int8), ValueError),
    "float": (np.empty((6, 7), np.float32), ValueError),
    "read-only": (read_only((6, 7)), ValueError),
    "the images": (BUFFER[:6], ValueError),
    "overlapping": (BUFFER[3:9], ValueError),
    "mirrored images": (BUFFER[5::-1], ValueError),
    "masked": (np.ma.zeros((6, 7), np.uint8), TypeError),
    "nested list": ([[0] * 7 for _ in range(6)], ValueError),
    "number": (3, TypeError),
    "text": ("out.png", TypeError),
}


@pytest.mark.parametrize("bad", BAD_OUT)
@pytest.mark.parametrize("name", CALLS)
def test_filters_refuse_an_out_that_does_not_fit(name, bad):
    out, error = BAD_OUT[bad]
    refuse(error, "out", lambda: CALLS[name](BUFFER[:6], out=out))


def test_filters_refuse_an_out_of_foreign_byte_order():
    images = random_images((6, 7), "uint16")
    out = np.zeros((6, 7), np.dtype(np.uint16).newbyteorder())
    refuse(ValueError, "out", lambda: filters.box_blur(images, 3, out=out))
    assert not out.any()


def test_a_list_of_images_needs_a_list_of_outs():
    pair = [U8, U8.copy()]
    for out in (np.empty((2, 6, 7), np.uint8), [np.empty((6, 7), np.uint8)], "out.png"):
        refuse(ValueError, "out", lambda out=out: filters.box_blur(pair, 3, out=out))
    writeable = [U8.copy(), U8.copy()]
    refuse(ValueError, "out", lambda: filters.box_blur(writeable, 3, out=writeable[::-1]))


def test_arrays_without_an_element_for_numpy_to_read_are_refused():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for bad in (torch.ones(4, 4).to_sparse(), torch.ones(4, 4, device="meta")):
        for name in ("box_blur", "sobel", "filter2d"):
            with pytest.raises(TypeError, match=r"^images must be "):
                CALLS[name](bad)
        with pytest.raises(TypeError, match=r"^kernel must be "):
            filters.filter2d(U8, bad)
        with pytest.raises(TypeError, match=r"^out must be "):
            filters.box_blur(np.ones((4, 4), np.float32), 3, out=bad)


# ---------------------------------------------------------------- each filter's own arguments


def size_errors(run):
    """Every filter with a box refuses these sizes."""
    bad = (0, -3, (3, 0), 2.0, "3", None, NAN, True, (3, 3, 3), (), [[3, 3]], (3, 2.5))
    bad += (b"33", 10**30, (3, 2**31), np.array(2.5), int, object())
    return [("size", ValueError, lambda size=size: run(size)) for size in bad]


def kernel_errors(argument, run, ndim):
    """Every filter with weights refuses these."""
    box = np.ones((3,) * ndim)
    spoiled = {v: np.where(np.arange(box.size).reshape(box.shape) == 1, v, box) for v in (NAN, INF)}
    bad = [
        (np.ones((3,) * (ndim + 1)), ValueError),
        (np.ones((0,) * ndim), ValueError),
        (np.float64(3), ValueError),
        (spoiled[NAN], ValueError),
        (spoiled[INF], ValueError),
        (box * 1j, TypeError),
        (box > 0, TypeError),
        (box.astype(object), TypeError),
        (box.astype(str), TypeError),
        (np.ma.array(box), TypeError),
        ("sobel", TypeError),
        (None, TypeError),
        (3, TypeError),
    ]
    return [(argument, error, lambda kernel=kernel: run(kernel)) for kernel, error in bad]


CASES = [
    *kernel_errors("kernel", lambda kernel: filters.filter2d(U8, kernel), 2),
    *kernel_errors("kernel_y", lambda k: filters.separable_filter2d(U8, k, [1]), 1),
    *kernel_errors("kernel_x", lambda k: filters.separable_filter2d(U8, [1], k), 1),
    *kernel_errors("footprint", lambda f: filters.dilate(U8, footprint=f), 2)[:5],
    ("kernel", ValueError, lambda: filters.filter2d(U8, [[1, 2], [3]])),
    ("kernel", ValueError, lambda: filters.filter2d(U8, np.array([[2**63 - 1]]))),
    ("kernel", ValueError, lambda: filters.filter2d(U8, np.array([[2**64 - 1]], np.uint64))),
    ("kernel", ValueError, lambda: filters.filter2d(U8, [[1e300]])),
    ("kernel", ValueError, lambda: filters.filter2d(U8.astype(np.uint64), [[2.0**40]])),
    ("kernel", ValueError, lambda: filters.filter2d(U8, [[1e25, 0.5]])),
    ("kernel", TypeError, lambda: filters.filter2d(U8.astype(np.uint32), [[0.5]])),
    ("kernel", TypeError, lambda: filters.gaussian_blur(U8.astype(np.int64), 1)),
    ("kernel", TypeError, lambda: filters.unsharp_mask(U8.astype(np.int32), 1)),
    *[
        (
            "anchor",
            ValueError,
            lambda anchor=anchor: filters.filter2d(U8, kernels.edge, anchor=anchor),
        )
        for anchor in ((3, 0), (0, 3), (-2, 0), 3, (1.5, 1), (1, 1, 1), "middle", (), True)
    ],
    *[
        ("delta", ValueError, lambda delta=delta: filters.filter2d(U8, [[1]], delta=delta))
        for delta in (NAN, INF, -INF, "1", None, 1j, [1], True, 10**400, float)
    ],
    *[
        ("sigma", ValueError, lambda sigma=sigma, run=run: run(U8, sigma))
        for sigma in (
            *(-1, NAN, INF, "1", None, 1j, (1, -1), (1, 2, 3), (), (1, NAN), True, 10**400),
            *(int, 1e308, 10**9, b"11", np.array([1, 2, 3])),
        )
        for run in (filters.gaussian_blur, filters.unsharp_mask)
    ],
    *[
        ("truncate", ValueError, lambda t=t: filters.gaussian_blur(U8, 1, truncate=t))
        for t in (-1, NAN, INF, "4", None)
    ],
    *size_errors(lambda size: filters.box_blur(U8, size)),
    *size_errors(lambda size: filters.median_blur(U8, size)),
    *size_errors(lambda size: filters.rank_filter(U8, 0, size)),
    *size_errors(lambda size: filters.dilate(U8, size)),
    *size_errors(lambda size: filters.erode(U8, size)),
    *size_errors(lambda size: filters.morph_open(U8, size)),
    *size_errors(lambda size: filters.morph_close(U8, size)),
    *size_errors(lambda size: filters.morph_gradient(U8, size)),
    *[
        ("rank", ValueError, lambda rank=rank: filters.rank_filter(U8, rank, 3))
        for rank in (9, -10, 1.0, "1", None, NAN, True, (1,))
    ],
    *[
        ("axis", ValueError, lambda axis=axis, run=run: run(U8, axis=axis))
        for axis in (2, -1, 0.0, "x", True, (0, 1))
        for run in (filters.sobel, filters.scharr, filters.prewitt)
    ],
    *[
        ("amount", ValueError, lambda amount=amount, run=run: run(amount))
        for amount in (NAN, INF, "1", None, 1j, (1,), True)
        for run in (
            lambda amount: filters.sharpen(U8, amount),
            lambda amount: filters.unsharp_mask(U8, 1, amount),
        )
    ],
    ("amount", ValueError, lambda: filters.unsharp_mask(U8, 1, 1025)),
    ("amount", ValueError, lambda: filters.unsharp_mask(U8, 1, -(10**30))),
    ("size", ValueError, lambda: filters.box_blur(U8.astype(np.uint64), 2**15)),
    ("footprint", ValueError, lambda: filters.dilate(U8, footprint=[[1, 0], [1]])),
    ("footprint", ValueError, lambda: filters.erode(U8, footprint=np.zeros((3, 3)))),
    ("footprint", TypeError, lambda: filters.morph_open(U8, footprint="disk")),
    ("footprint", TypeError, lambda: filters.morph_close(U8, footprint=np.ma.ones((3, 3), bool))),
    ("footprint", TypeError, lambda: filters.morph_gradient(U8, footprint=3)),
]


@pytest.mark.parametrize(
    ("argument", "error", "run"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_filters_refuse_what_their_arguments_must_not_be(argument, error, run):
    refuse(error, argument, run)


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_value_that_no_float_holds_is_the_largest_or_infinite(value):
    with np.errstate(invalid="ignore"):
        for images in (U8, F32):
            got = filters.dilate(images, 3, border="constant", value=value)
            like = filters.dilate(images, 3, border="constant", value=INF if value > 0 else -INF)
            np.testing.assert_array_equal(got, like)


def test_one_number_may_be_an_array_without_axes():
    one, three = np.array(1.0), np.array(3)
    np.testing.assert_array_equal(filters.gaussian_blur(U8, one), filters.gaussian_blur(U8, 1))
    np.testing.assert_array_equal(filters.box_blur(U8, three), filters.box_blur(U8, 3))
