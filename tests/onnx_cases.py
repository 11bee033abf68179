"""ONNX's own operator tests, told in the names and arguments of gpuconv's public functions.

`cases("Conv")` yields (name, function name, keyword arguments, inputs, expected outputs); the
inputs are positional. Flat indices are turned into gpuconv's (row-major in the output's plane).
"""

import importlib
import math

import numpy as np

FUNCTIONS = {
    "Conv": "conv{dims}d",
    "ConvInteger": "conv{dims}d",
    "ConvTranspose": "conv_transpose{dims}d",
    "AveragePool": "avg_pool{dims}d",
    "MaxPool": "max_pool{dims}d",
    "LpPool": "lp_pool{dims}d",
    "GlobalAveragePool": "global_avg_pool",
    "GlobalMaxPool": "global_max_pool",
    "MaxUnpool": "max_unpool{dims}d",
}
RENAMED = {
    "strides": "stride",
    "dilations": "dilation",
    "group": "groups",
    "kernel_shape": "kernel_size",
    "p": "norm_type",
    "output_padding": "output_padding",
}
FLAGS = ("ceil_mode", "count_include_pad")


def cases(operator):
    """Yield the cases of one operator of `FUNCTIONS`."""
    node_tests = importlib.import_module("onnx.backend.test.case.node")
    importlib.import_module(f"onnx.backend.test.case.node.{operator.lower()}")
    # `collect_testcases()` would import, and run, the tests of all 190 operators: seconds.
    for case in list(node_tests._NodeTestCases):
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type == operator:
            for inputs, outputs in case.data_sets:
                yield case.name, *told(operator, attributes(nodes[0]), inputs, outputs)


def attributes(node):
    """{name: value} of an ONNX node, strings decoded."""
    get = importlib.import_module("onnx.helper").get_attribute_value
    values = {attribute.name: get(attribute) for attribute in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def told(operator, given, inputs, outputs):
    """(function name, keyword arguments, inputs, outputs) of one data set."""
    dims = inputs[0].ndim - 2
    arguments = {new: as_argument(given[old]) for old, new in RENAMED.items() if old in given}
    arguments |= {flag: bool(given[flag]) for flag in FLAGS if flag in given}
    if "pads" in given or "auto_pad" in given:
        arguments["padding"] = padding(given)
    inputs, outputs = list(inputs), list(outputs)
    if operator.startswith("Conv"):
        arguments.pop("kernel_size", None)
    elif "kernel_size" in arguments:
        arguments.setdefault("stride", (1,) * dims)
    if operator == "ConvInteger":
        inputs = without_zero_points(*inputs)
    if operator == "ConvTranspose" and "output_shape" in given:
        arguments |= transposed_padding(given, inputs, dims)
    if operator == "AveragePool":
        arguments.setdefault("count_include_pad", False)
    if operator == "MaxPool" and len(outputs) == 2:
        arguments["return_indices"] = True
        outputs[1] = row_major(outputs[1], inputs[0].shape, given.get("storage_order", 0))
    if operator == "MaxUnpool" and len(inputs) == 3:
        shape = inputs.pop()
        arguments["output_size"] = tuple(int(n) for n in shape[2:])
        inputs[1] = in_larger_plane(inputs[0], inputs[1], arguments)
    return FUNCTIONS[operator].format(dims=dims), arguments, inputs, outputs


def as_argument(value):
    """ONNX's lists as tuples."""
    return tuple(value) if isinstance(value, list) else value


def padding(given):
    """The public `padding` from `auto_pad` or `pads` (all befores, then all afters)."""
    auto = given.get("auto_pad", "NOTSET")
    if auto != "NOTSET":
        return auto.lower()
    pads = given["pads"]
    half = len(pads) // 2
    return tuple(zip(pads[:half], pads[half:], strict=True))


def without_zero_points(x, w, x_zero=0, w_zero=0):
    """Integer operands with their zero points (of the weight: one for all or one per output)."""
    w_zero = np.reshape(w_zero, (-1,) + (1,) * (w.ndim - 1)).astype(np.int16)
    return [x.astype(np.int16) - np.int16(x_zero), w.astype(np.int16) - w_zero]


def transposed_padding(given, inputs, dims):
    """The padding, or output padding, that leads to ConvTranspose's `output_shape`."""
    x, w = inputs[:2]
    ones, zeros = (1,) * dims, (0,) * dims
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    extra = given.get("output_padding", zeros)
    axes = zip(x.shape[2:], w.shape[2:], strides, dilations, extra, strict=True)
    full = [(n - 1) * s + (k - 1) * d + 1 + e for n, k, s, d, e in axes]
    surplus = [f - wanted for f, wanted in zip(full, given["output_shape"], strict=True)]
    return {
        "padding": tuple((max(p, 0) - max(p, 0) // 2, max(p, 0) // 2) for p in surplus),
        "output_padding": tuple(e + max(-p, 0) for e, p in zip(extra, surplus, strict=True)),
    }


def row_major(indices, shape, storage_order):
    """MaxPool's indices, flat in the whole tensor, as row-major ones in each plane."""
    plane = shape[2:]
    indices = indices % math.prod(plane)
    if storage_order == 0:
        return indices
    return np.ravel_multi_index(np.unravel_index(indices, plane, order="F"), plane)


def in_larger_plane(x, indices, arguments):
    """MaxUnpool's indices into the plane of the default size, as ones into `output_size`."""
    axes = zip(x.shape[2:], arguments["kernel_size"], arguments["stride"], strict=True)
    default = tuple((n - 1) * s + k for n, k, s in axes)
    return np.ravel_multi_index(np.unravel_index(indices, default), arguments["output_size"])
