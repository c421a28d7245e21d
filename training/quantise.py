"""Store a float ONNX model's large weights as int8 or int4.

Only storage shrinks: each weight passes a DequantizeLinear node, which ONNX Runtime folds into a
float constant when the session starts, so that the arithmetic stays float32. int8 has one scale
per output channel, int4 one float16 scale for each `BLOCK` weights of an output channel.

Source: DequantizeLinear, https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html; rounding with
a Hessian: GPTQ (Frantar et al., arXiv 2210.17323), algorithm 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 2048
BLOCK = 32
READERS = ("Conv", "MatMul", "Gemm", "Gather")


def channel_axis(op_type: str, array: np.ndarray, attributes: dict) -> int:
    """The axis of a weight that holds its output channels (for a table: its rows)."""
    if op_type == "Gemm":
        return 0 if attributes.get("transB") else 1
    return array.ndim - 1 if op_type == "MatMul" else 0


def floated(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with plain float32 weights; the input model is changed in place."""
    graph = model.graph
    raw = {one.name: one for one in graph.initializer}
    made: dict[str, np.ndarray] = {}
    read: set[str] = set()

    def known(name: str) -> np.ndarray:
        return made[name] if name in made else numpy_helper.to_array(raw[name])

    nodes = []
    for node in graph.node:
        first = node.input[0] if node.input else ""
        is_half = first in raw and raw[first].data_type == TensorProto.FLOAT16
        if node.op_type == "DequantizeLinear" and first in raw and len(node.input) == 2:
            attributes = {a.name: a.i for a in node.attribute}
            codes, scale = known(first), known(node.input[1])
            axis, block = attributes["axis"], attributes.get("block_size", 0)
            if block:
                scale = scale.repeat(block, axis).take(range(codes.shape[axis]), axis)
            else:
                scale = scale.reshape([-1 if i == axis else 1 for i in range(codes.ndim)])
            made[node.output[0]] = codes.astype(np.float32) * scale
            read.update(node.input)
        elif node.op_type == "Cast" and (first in made or is_half):
            made[node.output[0]] = known(first)
            read.add(first)
        else:
            nodes.append(node)
    kept = [one for one in graph.initializer if one.name not in read]
    kept += [
        numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in made.items()
        if name not in read
    ]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return model


def quantise(
    model: onnx.ModelProto,
    halves: str = "$^",
    fours: str = "$^",
    hessians: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """The same model with int8 and int4 weights; the input model is changed in place.

    Args:
        model: A float32 model, of operators 21 or later where there are `fours`.
        halves: Weights whose names match become float16: the few that cannot bear int8.
        fours: Weights whose names match become int4.
        hessians: Input of a matrix product -> sum of its outer products on real data. Shape: (in,
            in). Its int4 weights are rounded so that errors cancel out on such data.
    """
    graph = model.graph
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    kept, nodes = [], []
    for weight in graph.initializer:
        array, name = numpy_helper.to_array(weight), weight.name
        readers = [node for node in users.get(name, []) if node.op_type in READERS]
        small = array.size < SMALLEST or array.ndim < 2 or array.dtype != np.float32
        if small or not readers:
            kept.append(weight)
            continue
        if re.search(halves, name):
            kept.append(numpy_helper.from_array(array.astype(np.float16), f"{name}_half"))
            nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in readers[0].attribute}
        axis = channel_axis(readers[0].op_type, array, attributes)
        inputs = [f"{name}_q", f"{name}_scale"]
        if re.search(fours, name):
            hessian = (hessians or {}).get(readers[0].input[0])
            codes, scale = in_blocks(np.moveaxis(array, axis, 0), hessian)
            codes, scale = (np.moveaxis(part, 0, axis) for part in (codes, scale))
            kept.append(numpy_helper.from_array(codes.astype(ml_dtypes.int4), inputs[0]))
            half, other = f"{name}_half", 1 if axis == 0 else 0
            node = helper.make_node(
                "DequantizeLinear", inputs, [half], axis=other, block_size=BLOCK
            )
            nodes += [node, helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT)]
        else:
            others = tuple(i for i in range(array.ndim) if i != axis)
            scale = np.maximum(np.abs(array).max(axis=others) / 127, 1e-12).astype(np.float32)
            shape = [-1 if i == axis else 1 for i in range(array.ndim)]
            codes = np.clip(np.round(array / scale.reshape(shape)), -127, 127).astype(np.int8)
            kept.append(numpy_helper.from_array(codes, inputs[0]))
            nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=axis))
        kept.append(numpy_helper.from_array(scale, inputs[1]))
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def in_blocks(array: np.ndarray, hessian: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Codes of 4 bits and their float16 scales.

    Shapes: (out, in, ...), (in, in) -> (out, in, ...), (out, in / BLOCK rounded up, ...).
    """
    array = array.astype(np.float64)
    count = array.shape[1]
    #: How an error of one column is made good by those after it.
    spread = np.eye(count)
    if hessian is not None:
        damped = hessian + np.eye(count) * 0.01 * np.diag(hessian).mean()
        spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    codes, scales = np.empty(array.shape, np.int8), []
    for start in range(0, count, BLOCK):
        part = slice(start, min(start + BLOCK, count))
        weights = 1 / np.diag(spread)[part].reshape(-1, *[1] * (array.ndim - 2)) ** 2
        scale = best_scale(array[:, part], weights)
        scales.append(scale)
        for row in range(part.start, part.stop):
            codes[:, row] = rounded(array[:, row], scale[:, 0])
            if hessian is not None:
                error = (array[:, row] - codes[:, row] * scale[:, 0]) / spread[row, row]
                array[:, row + 1 :] -= np.outer(error, spread[row, row + 1 :])
    return codes, np.concatenate(scales, 1).astype(np.float16)


def best_scale(block: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The scale with the least squared error; -8 stands for the largest weight, or nearly so."""
    largest = np.take_along_axis(block, np.abs(block).argmax(1, keepdims=True), 1)
    best, least = None, np.inf
    for part in np.linspace(0.7, 1.05, 15):
        scale = -largest / 8 * part
        scale = np.where(np.abs(scale) < 1e-7, 1e-7, scale).astype(np.float16).astype(np.float64)
        errors = weights * (rounded(block, scale) * scale - block) ** 2
        error = errors.sum(1, keepdims=True)
        best = scale if best is None else np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def rounded(array: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.round(array / scale), -8, 7).astype(np.int8)
