"""ONNX Runtime on the CPU: each layer a model of one node, its weights inside the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases import Arrays, Case
from bench.peers.common import Call, Library, UnsupportedError, pair

OPSET = 21


class OnnxRuntime(Library):
    """Conv, MaxPool and AveragePool of the CPU provider."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnxruntime-gpu")
    modules = ("onnxruntime", "onnx")
    lacks = ("bfloat16",)

    def start(self, threads: int) -> None:
        import onnx
        import onnxruntime

        self.onnx, self.runtime, self.threads = onnx, onnxruntime, threads

    def call(self, case: Case, plan: Any, arrays: Arrays) -> Call:
        nodes = {"conv2d": "Conv", "max_pool2d": "MaxPool", "avg_pool2d": "AveragePool"}
        if case.operation not in nodes:
            raise UnsupportedError(f"has no {case.operation}")
        if case.dtype.name in self.lacks:
            raise UnsupportedError(f"takes no {case.dtype}")
        if case.arguments["layout"] != "NCHW":
            raise UnsupportedError("takes NCHW")
        session = self._session(nodes[case.operation], case, plan, arrays[1:])

        def run(x: Any, *weights: Any, out: Any) -> Any:
            binding = session.io_binding()
            binding.bind_cpu_input("x", x)
            binding.bind_output("y", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
            session.run_with_iobinding(binding)
            return out

        return Call(run)

    def _session(self, node: str, case: Case, plan: Any, weights: Arrays) -> Any:
        helper, arguments = self.onnx.helper, case.arguments
        attributes: dict[str, Any] = {
            "strides": pair(arguments["stride"]),
            "pads": pair(arguments["padding"]) * 2,
        }
        if node == "Conv":
            attributes["group"] = arguments["groups"]
        else:
            attributes["kernel_shape"] = pair(arguments["kernel_size"])
        if node == "AveragePool":
            attributes["count_include_pad"] = 1
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
        names = ["w", "b"][: len(weights)]
        graph = helper.make_graph(
            [helper.make_node(node, ["x", *names], ["y"], **attributes)],
            case.operation,
            [helper.make_tensor_value_info("x", kind, case.shape)],
            [helper.make_tensor_value_info("y", kind, plan.outputs[0].shape)],
            [
                self.onnx.numpy_helper.from_array(array, name)
                for array, name in zip(weights, names, strict=True)
            ],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
        )
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        # Its threads must not spin on while the next library is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return self.runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
