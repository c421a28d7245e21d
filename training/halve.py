"""Make published ONNX files smaller and plainer: half the bytes, no operators that do nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

#: Smaller weights stay float32: halving a bias saves nothing.
LEAST = 256


def tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with constants folded, in standard operators."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tidy.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        tidy = onnx.load(path)
    del tidy.metadata_props[:]
    return tidy


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store large float32 weights as float16; a `Cast` gives them back when the file is read."""
    graph, casts = model.graph, []
    for one in list(graph.initializer):
        if one.data_type != TensorProto.FLOAT or np.prod(one.dims) < LEAST:
            continue
        half = numpy_helper.from_array(
            numpy_helper.to_array(one).astype(np.float16), one.name + "_half"
        )
        casts.append(helper.make_node("Cast", [half.name], [one.name], to=TensorProto.FLOAT))
        graph.initializer.remove(one)
        graph.initializer.append(half)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """Give inputs and outputs names that say what they are."""

    def new(name: str) -> str:
        return names.get(name, name)

    for node in model.graph.node:
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for value in [*model.graph.input, *model.graph.output]:
        value.name = new(value.name)
    return model


def run(model: onnx.ModelProto | bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of a network on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, ["CPUExecutionProvider"]).run(None, inputs)
