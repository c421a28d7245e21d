"""Store a float ONNX model's large weights as int8, one scale per output channel.

Only storage shrinks: each weight passes a DequantizeLinear node, which ONNX Runtime folds into a
float constant when the session starts, so that the arithmetic stays float32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

SMALLEST = 2048


def channel_axis(op_type: str, array: np.ndarray, attributes: dict) -> int:
    """The axis of a weight that holds its output channels (for a table: its rows)."""
    if op_type == "Gemm":
        return 0 if attributes.get("transB") else 1
    return array.ndim - 1 if op_type == "MatMul" else 0


def quantise(model: onnx.ModelProto, halves: tuple[str, ...] = ()) -> onnx.ModelProto:
    """The same model with int8 weights; the input model is changed in place.

    Args:
        model: A float32 model.
        halves: Weights whose names hold one of these become float16 instead: the few that cannot
            bear int8.
    """
    graph = model.graph
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    kept, added, nodes = [], [], []
    for weight in graph.initializer:
        array = numpy_helper.to_array(weight)
        small = array.size < SMALLEST or array.ndim < 2 or array.dtype != np.float32
        kinds = {node.op_type for node in users.get(weight.name, [])}
        if small or not kinds & {"Conv", "MatMul", "Gemm", "Gather"}:
            kept.append(weight)
            continue
        if any(part in weight.name for part in halves):
            added.append(numpy_helper.from_array(array.astype(np.float16), weight.name + "_half"))
            cast = onnx.helper.make_node(
                "Cast", [weight.name + "_half"], [weight.name], to=onnx.TensorProto.FLOAT
            )
            nodes.append(cast)
            continue
        first = next(
            n for n in users[weight.name] if n.op_type in ("Conv", "MatMul", "Gemm", "Gather")
        )
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in first.attribute}
        axis = channel_axis(first.op_type, array, attributes)
        others = tuple(i for i in range(array.ndim) if i != axis)
        scale = np.maximum(np.abs(array).max(axis=others) / 127, 1e-12).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(array.ndim)]
        codes = np.clip(np.round(array / scale.reshape(shape)), -127, 127).astype(np.int8)
        added.append(numpy_helper.from_array(codes, weight.name + "_q"))
        added.append(numpy_helper.from_array(scale, weight.name + "_scale"))
        inputs = [weight.name + "_q", weight.name + "_scale"]
        nodes.append(onnx.helper.make_node("DequantizeLinear", inputs, [weight.name], axis=axis))
    old = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept + added)
    graph.node.extend(nodes + old)
    onnx.checker.check_model(model)
    return model
