"""Pipelines: the grammar, the checks, and that a chain is its steps run one by one."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpuconv
from gpuconv import filters, kernels
from gpuconv.pipeline import Pipeline, operations
from gpuconv.step_text import format_step, format_value, parse_step, parse_value
from tests.image_files import Pixels, noise

SAMPLES: dict[str, dict[str, Any]] = {
    "box_blur": {"size": (3, 5)},
    "dilate": {"footprint": np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])},
    "erode": {"size": 3},
    "filter2d": {"kernel": kernels.emboss, "border": "wrap", "delta": 3},
    "gaussian_blur": {"sigma": 1.5, "truncate": 3},
    "laplacian": {"border": "constant", "value": 9},
    "median_blur": {"size": 3},
    "morph_close": {"size": 3},
    "morph_gradient": {},
    "morph_open": {"size": (1, 3)},
    "prewitt": {"axis": 0},
    "rank_filter": {"rank": 2, "size": 3},
    "scharr": {"axis": 1},
    "separable_filter2d": {"kernel_y": [1, 2, 1], "kernel_x": [0.25, 0.5, 0.25]},
    "sharpen": {"amount": 0.5},
    "sobel": {},
    "unsharp_mask": {"sigma": 2.0, "amount": 0.75},
    "max_pool2d": {"kernel_size": 2},
    "min_pool2d": {"kernel_size": (2, 3), "stride": 1, "padding": 1},
    "avg_pool2d": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "lp_pool2d": {"norm_type": 2, "kernel_size": 2},
    "adaptive_avg_pool2d": {"output_size": (4, 5)},
    "adaptive_max_pool2d": {"output_size": 3},
}


def direct(name: str, images: Pixels, arguments: dict[str, Any], channel_axis: int | None) -> Any:
    """The public function called by hand."""
    if hasattr(filters, name):
        return getattr(filters, name)(images, channel_axis=channel_axis, **arguments)
    pool = getattr(gpuconv, name)
    if channel_axis is not None:
        maps = images.reshape(-1, *images.shape[-3:])
        result = pool(maps, layout="NHWC", **arguments)
        return result.reshape(*images.shape[:-3], *result.shape[1:])
    result = pool(images.reshape(-1, 1, *images.shape[-2:]), **arguments)
    return result.reshape(*images.shape[:-2], *result.shape[-2:])


@pytest.mark.parametrize(
    ("shape", "channel_axis"), [((13, 11), None), ((2, 3, 13, 11), None), ((2, 13, 11, 3), -1)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", [operation.name for operation in operations()])
def test_pipeline_step_equals_the_function(
    name: str, dtype: Any, shape: tuple[int, ...], channel_axis: int | None
) -> None:
    if name == "lp_pool2d":
        dtype = np.float32  # integers have no lp pool
    images = noise(*shape, dtype=dtype)
    expected = direct(name, images, SAMPLES[name], channel_axis)
    before = images.copy()
    pipeline = Pipeline((name, SAMPLES[name]))
    result = pipeline(images, channel_axis=channel_axis, backend="numpy")
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(images, before)
    out = np.empty_like(expected)
    assert pipeline(images, channel_axis=channel_axis, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_pipeline_chain_equals_the_steps_one_by_one() -> None:
    images = noise(2, 40, 30, 3)
    pipeline = Pipeline(
        "gaussian_blur:sigma=2",
        ("filter2d", {"kernel": "edge"}),
        lambda pixels: 255 - pixels,
        "max_pool2d:kernel_size=3",
    )
    step = filters.gaussian_blur(images, 2, channel_axis=-1)
    step = 255 - filters.filter2d(step, kernels.edge, channel_axis=-1)
    step = gpuconv.max_pool2d(step, 3, layout="NHWC")
    np.testing.assert_array_equal(pipeline(images, channel_axis=-1), step)
    out = np.empty_like(step)
    assert pipeline(images, channel_axis=-1, out=out) is out
    np.testing.assert_array_equal(out, step)


def test_pipeline_list_of_different_shapes_gives_a_list() -> None:
    images = [noise(9, 8), noise(20, 4), noise(3, 5, 6)]
    pipeline = Pipeline("sobel", "max_pool2d:kernel_size=2")
    result = pipeline(images)
    assert isinstance(result, list)
    for one, image in zip(result, images, strict=True):
        np.testing.assert_array_equal(one, pipeline(image))
    outs = [np.empty_like(one) for one in result]
    again = pipeline(images, out=outs)
    assert all(a is o for a, o in zip(again, outs, strict=True))
    np.testing.assert_array_equal(outs[1], result[1])
    with pytest.raises(ValueError, match="out must hold 3 arrays, got 2"):
        pipeline(images, out=outs[:2])


def test_pipeline_batch_of_none_is_empty() -> None:
    pipeline = Pipeline("gaussian_blur:sigma=1", "avg_pool2d:kernel_size=2")
    assert pipeline(np.empty((0, 8, 6), np.uint8)).shape == (0, 4, 3)
    assert pipeline(np.empty((2, 0, 8, 6, 3), np.uint8), channel_axis=-1).shape == (2, 0, 4, 3, 3)


@pytest.mark.parametrize("channel_axis", [None, -1])
def test_pipeline_pool_fills_an_out_of_any_strides(channel_axis: int | None) -> None:
    shape = (2, 3, 8, 6) if channel_axis is None else (2, 3, 8, 6, 4)
    images = np.swapaxes(noise(*shape), 0, 1)
    pipeline = Pipeline("max_pool2d:kernel_size=2")
    expected = pipeline(images, channel_axis=channel_axis)
    out = np.swapaxes(
        np.zeros((expected.shape[1], expected.shape[0], *expected.shape[2:]), np.uint8), 0, 1
    )
    assert not out.flags.c_contiguous
    assert pipeline(images, channel_axis=channel_axis, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16"])
def test_pipeline_fills_a_tensor_of_any_strides(dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    images = torch.arange(2 * 3 * 8 * 6).remainder(251).reshape(2, 3, 8, 6)
    images = images.to(getattr(torch, dtype))
    for pipeline in (
        Pipeline("max_pool2d:kernel_size=2"),
        Pipeline("dilate", "max_pool2d:kernel_size=2"),
        Pipeline("dilate", lambda pixels: pixels[..., ::2, ::2]),
    ):
        expected = pipeline(images, backend="numpy")
        out = torch.zeros((3, 2, 4, 3), dtype=images.dtype).transpose(0, 1)
        assert pipeline(images, out=out, backend="numpy") is out
        assert torch.equal(out, expected)
        with pytest.raises(ValueError, match=r"^out must have "):
            pipeline(images, out=out[..., :2], backend="numpy")


@pytest.mark.parametrize("name", ["dilate", "max_pool2d:kernel_size=1", "erode"])
def test_pipeline_refuses_an_out_where_a_later_image_lies(name: str) -> None:
    memory = noise(5, 8, 6)
    images = [memory[0], memory[1]]
    for outs in ([memory[1], memory[2]], [memory[2], memory[0]], [memory[3], memory[1][::-1]]):
        with pytest.raises(ValueError, match=r"^out must not share memory"):
            Pipeline(name, "sobel")(images, out=outs)
        with pytest.raises(ValueError, match=r"^out must not share memory"):
            filters.dilate(images, out=outs)
    expected = [Pipeline(name)(image) for image in images]
    Pipeline(name)(images, out=[memory[3], memory[4]])
    np.testing.assert_array_equal(memory[3:], expected)


def test_pipeline_refuses_a_wrong_out() -> None:
    images = noise(4, 8, 6)
    for pipeline in (
        Pipeline("max_pool2d:kernel_size=2"),
        Pipeline("sobel", "max_pool2d:kernel_size=2"),
        Pipeline(lambda pixels: pixels[:, ::2, ::2]),
    ):
        for wrong in (np.empty((4, 4, 4), np.uint8), np.empty((4, 4, 3), np.int16)):
            with pytest.raises(ValueError, match=r"^out must "):
                pipeline(images, out=wrong)
    with pytest.raises(ValueError, match=r"^out must have the batch axes"):
        Pipeline("max_pool2d:kernel_size=2")(images, out=np.empty((2, 2, 4, 3), np.uint8))
    for pipeline in (Pipeline("sobel"), Pipeline("sobel", "erode")):
        with pytest.raises(ValueError, match=r"^out must not share memory"):
            pipeline(images, out=images)
    swapped = np.zeros((4, 2, 4, 3), np.uint8).swapaxes(0, 1)
    swapped.setflags(write=False)
    with pytest.raises(ValueError, match=r"^out must be writeable"):
        Pipeline("max_pool2d:kernel_size=2")(noise(2, 4, 8, 6), out=swapped)
    for pipeline in (Pipeline("max_pool2d:kernel_size=2"), Pipeline("sobel", "erode")):
        for strange in (3, "out", [3], (image for image in images), object()):
            with pytest.raises(TypeError, match=r"^out must be an array"):
                pipeline(images, out=strange)


def test_pipeline_refuses_wrong_images_and_backends() -> None:
    pool = Pipeline("max_pool2d:kernel_size=2")
    with pytest.raises(ValueError, match=r"^channel_axis must be None or -1"):
        pool(noise(8, 6, 3), channel_axis=1)
    with pytest.raises(ValueError, match=r"^images must have shape \(..., H, W, C\), got \(8, 6\)"):
        pool(noise(8, 6), channel_axis=-1)
    with pytest.raises(ValueError, match=r"^backend must be one of"):
        pool(noise(8, 6), backend="gpu")
    for pipeline in (pool, Pipeline("sobel", "erode")):
        for strange in (None, 3, "photo.png", object(), {}):
            with pytest.raises(TypeError, match=r"^images must be an array"):
                pipeline(strange)
        for axis in ([], {}, slice(3), True, np.array([3, 3]), "last"):
            with pytest.raises(ValueError, match=r"^channel_axis must be None or -1"):
                pipeline(noise(8, 6, 3), channel_axis=axis)
    matrix = noise(8, 6).view(np.matrix)
    np.testing.assert_array_equal(pool(matrix), pool(np.asarray(matrix)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("-3", -3),
        ("2.0", 2.0),
        ("1e-3", 0.001),
        ("inf", float("inf")),
        ("true", True),
        ("False", False),
        ("none", None),
        ("wrap", "wrap"),
        ("'3'", "3"),
        ('"wrap"', "wrap"),
        ("(3,5)", (3, 5)),
        ("(3,)", (3,)),
        ("[3, 5]", (3, 5)),
        ("((1,2),(0,1))", ((1, 2), (0, 1))),
        ("()", ()),
    ],
)
def test_parse_value_reads_every_kind(text: str, expected: Any) -> None:
    value = parse_value("size", text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[0,-1,0;-1,5,-1;0,-1,0]", kernels.sharpen),
        ("0,-1,0;-1,5,-1;0,-1,0", kernels.sharpen),
        ("[1,2,1]", [1, 2, 1]),
        ("(1,2,1)", [1, 2, 1]),
        ("[1,2,1;]", [[1, 2, 1]]),
        ("[ .5 ; -1e-2 ]", [[0.5], [-0.01]]),
        ("[true,false;false,true]", [[True, False], [False, True]]),
    ],
)
def test_parse_value_reads_matrices(text: str, expected: Any) -> None:
    value = parse_value("kernel", text)
    assert isinstance(value, np.ndarray)
    assert value.ndim == np.ndim(expected)
    np.testing.assert_array_equal(value, expected)


def test_parse_step_lets_brackets_protect_commas() -> None:
    name, arguments = parse_step("box_blur: size=(3,5), border=wrap ")
    assert name == "box_blur"
    assert arguments == {"size": (3, 5), "border": "wrap"}


numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.booleans(), st.none()
)
words = st.text(st.characters(codec="ascii", exclude_characters="'\"\\", min_codepoint=32))
values = st.recursive(numbers | words, lambda inner: st.lists(inner, max_size=4).map(tuple))


@given(st.dictionaries(st.sampled_from(["size", "sigma", "border"]), values))
def test_format_step_reads_back(arguments: dict[str, Any]) -> None:
    assert parse_step(format_step("name", arguments)) == ("name", arguments)


@given(st.lists(st.lists(st.floats(allow_nan=False), min_size=2, max_size=2), min_size=1))
def test_format_value_keeps_every_bit_of_a_matrix(rows: list[list[float]]) -> None:
    matrix = np.array(rows)
    np.testing.assert_array_equal(parse_value("kernel", format_value("kernel", matrix)), matrix)


def test_pipeline_repr_rebuilds_it() -> None:
    pipeline = Pipeline(
        "gaussian_blur:sigma=(2,0.1),border=wrap",
        ("filter2d", {"kernel": np.array([[1 / 3, -2e-30]]), "delta": np.float32(0.5)}),
        ("separable_filter2d", {"kernel_y": [1, 2], "kernel_x": np.array([3], np.int8)}),
        ("dilate", {"footprint": np.array([[True], [False]]), "out_dtype": np.float32}),
        "filter2d:kernel=emboss",
    )
    again = eval(repr(pipeline), {"Pipeline": Pipeline})
    assert again == pipeline
    assert hash(again) == hash(pipeline)
    assert again.steps == pipeline.steps
    assert again.fingerprint == pipeline.fingerprint
    images = noise(9, 9)
    np.testing.assert_array_equal(again(images), pipeline(images))


def test_pipeline_is_equal_however_it_was_written() -> None:
    written = Pipeline("box_blur: border=wrap , size=(3, 5)", "filter2d:kernel='edge'")
    pairs = Pipeline(
        ("box_blur", {"size": [3, np.int64(5)], "border": "wrap"}), ("filter2d", {"kernel": "edge"})
    )
    assert written == pairs
    assert written.fingerprint == pairs.fingerprint
    assert {written, pairs} == {written}
    assert Pipeline("sobel") != Pipeline("sobel:axis=0")
    assert Pipeline(Pipeline("sobel"), "erode") == Pipeline("sobel", "erode")
    assert Pipeline("sobel") != "sobel"


def negative(pixels: Pixels) -> Pixels:
    """A callable that can be pickled."""
    return 255 - pixels


def test_pipeline_can_be_pickled() -> None:
    pipeline = Pipeline("gaussian_blur:sigma=2", negative, ("filter2d", {"kernel": kernels.edge}))
    again = pickle.loads(pickle.dumps(pipeline))
    assert again == pipeline
    assert str(again).startswith("gaussian_blur:sigma=2 | negative | filter2d:kernel=[")
    np.testing.assert_array_equal(again(noise(9, 9)), pipeline(noise(9, 9)))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "gausian_blur:sigma=1",
            "an operation must be one that `gpuconv ops` lists "
            "(did you mean gaussian_blur?), got 'gausian_blur'",
        ),
        ("", "an operation must be one that `gpuconv ops` lists (box_blur, "),
        (
            "gaussian_blur:sigm=2",
            "an argument of gaussian_blur must be one of sigma, truncate, algorithm, "
            "border, value, out_dtype (did you mean sigma?), got sigm",
        ),
        ("max_pool2d:kernel_size=2,return_indices=true", "an argument of max_pool2d must be one "),
        ("gaussian_blur:sigma=2,backend=numpy", "an argument of gaussian_blur must be one of "),
        ("gaussian_blur", "sigma must be given to gaussian_blur, got nothing"),
        ("gaussian_blur:", "sigma must be given to gaussian_blur, got nothing"),
        ("gaussian_blur:2", "an argument of gaussian_blur must be key=value, got 2"),
        ("gaussian_blur:sigma=", "an argument of gaussian_blur must be key=value, got sigma="),
        ("gaussian_blur:sigma=1,sigma=2", "sigma must be given once, got it twice in "),
        ("gaussian_blur:sigma=1/2", "sigma must be a number, true, false, none, a word, "),
        ("gaussian_blur:sigma=abc", "sigma must be a number, got 'abc'"),
        ("gaussian_blur:sigma=-1", "sigma must be at least 0, got -1"),
        ("gaussian_blur:sigma=nan", "sigma must be finite, got nan"),
        ("gaussian_blur:sigma=1,border=bad", "border must be one of "),
        ("gaussian_blur:sigma=1,out_dtype=bad", "out_dtype must be a dtype, got 'bad'"),
        ("box_blur:size=(3,5", "brackets must be closed, got "),
        ("box_blur:size=3)", "brackets must be paired, got "),
        ("box_blur:size=0", "size must be at least 1, got 0"),
        ("box_blur:size=2.5", "size must be "),
        ("filter2d:kernel=[1,2;3]", "kernel must have rows of one length, got [1,2;3]"),
        ("filter2d:kernel=[1,x]", "kernel must hold numbers only, got x in [1,x]"),
        ("filter2d:kernel=[1,2,1]", "kernel must have shape (KH, KW), got (3,)"),
        ("filter2d:kernel=[]", "kernel must "),
        ("filter2d:kernel=gaussian", "kernel must be rows such as "),
        ("filter2d:kernel=[nan,1;1,1]", "kernel must be finite"),
        ("max_pool2d:kernel_size=0", "kernel_size must be "),
        ("max_pool2d:kernel_size=2,stride=0", "stride must be "),
        ("lp_pool2d:norm_type=2,kernel_size=(1,2,3)", "kernel_size must be "),
        (("gaussian_blur", {"sigma": object()}), "sigma must be a number, text, tuple or array, "),
        (("filter2d", {"kernel": np.zeros((2, 2, 2))}), "kernel must be an array of numbers with "),
        (("filter2d", {"kernel": np.zeros((2, 2), complex)}), "kernel must be an array of "),
        (("filter2d", [1, 2]), "steps must be text, (name, arguments) pairs or callables, got "),
        (3, "steps must be text, (name, arguments) pairs or callables, got 3"),
    ],
)
def test_pipeline_checks_everything_when_it_is_made(step: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Pipeline("sobel", step)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_pipeline_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must hold at least one operation, got none"):
        Pipeline()


def test_pipeline_accepts_what_only_floats_allow() -> None:
    pipeline = Pipeline("unsharp_mask:amount=100000", "sobel:border=constant,value=nan")
    assert pipeline(noise(5, 5, dtype=np.float32)).dtype == np.float32


def test_pipeline_computes_nothing_when_it_is_made() -> None:
    Pipeline("median_blur:size=3")
    tracemalloc.start()
    try:
        Pipeline("median_blur:size=999", "avg_pool2d:kernel_size=9999", "dilate:size=501")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22


def test_operations_lists_every_filter_and_pool_with_its_arguments() -> None:
    known = {operation.name: operation for operation in operations()}
    assert set(known) == set(SAMPLES)
    assert set(filters.__all__) <= set(known)
    blur = {argument.name: argument for argument in known["gaussian_blur"].arguments}
    assert list(blur) == ["sigma", "truncate", "algorithm", "border", "value", "out_dtype"]
    assert blur["sigma"].required
    assert blur["truncate"].default == 4.0
    assert blur["border"].default == "reflect"
    pool = [argument.name for argument in known["max_pool2d"].arguments]
    assert pool == ["kernel_size", "stride", "padding", "dilation", "ceil_mode"]
    for operation in known.values():
        assert operation.summary
        for argument in operation.arguments:
            assert argument.meaning, f"{operation.name} {argument.name}"


def test_operations_defaults_are_those_of_the_functions() -> None:
    images = noise(9, 8, dtype=np.float32)
    for operation in operations():
        needed = {
            a.name: SAMPLES[operation.name][a.name] for a in operation.arguments if a.required
        }
        spelled = {a.name: a.default for a in operation.arguments if not a.required}
        np.testing.assert_array_equal(
            Pipeline((operation.name, needed | spelled))(images),
            Pipeline((operation.name, needed))(images),
        )


def test_operations_can_be_json() -> None:
    found = json.loads(json.dumps([operation.as_dict() for operation in operations()]))
    blur = next(one for one in found if one["name"] == "gaussian_blur")
    assert blur["arguments"][0]["required"] is True
    assert blur["arguments"][1]["default"] == 4.0
