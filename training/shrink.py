"""Store the files that ship at 8 bits a weight, and at 4 where a network bears it.

    python shrink.py ../packages/swell-models/src/swell_models/weights [FILE ...]

Run it last, and once on each file: 4-bit weights lose a little each time that they are rounded.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, version_converter

from halve import run
from quantise import floated, quantise
from register import register

#: The first operators with 4-bit tensors and scales by block.
OPSET = 21
NONE = "$^"
#: File -> which weights stay float16, and which have 4 bits; the rest have 8. float16 stays where 8
#: bits change what comes out: the first and last weights of `icons-unet.onnx`, the shallow ones of
#: `faces.onnx`, all of `cutout.onnx` (the mask of a picture without a subject moves by 16 of 255).
FILES = {
    "icons-unet.onnx": (
        r"unet\.conv_(in|out)\.",
        r"MatMul|time_emb|class_emb|(down_blocks|mid_block|up_blocks\.0)\..*conv",
    ),
    "icons-text.onnx": (NONE, r"MatMul|word_embeddings"),
    "safety.onnx": (NONE, NONE),
    "faces.onnx": (r"^(?!7[0-4])", NONE),
    "upscale.onnx": (NONE, NONE),
    "speech-reader.onnx": (NONE, NONE),
}


def phrases(weights: Path) -> list[list[int]]:
    """Word pieces of every name that `swell/icons` draws, in a scene, and of 400 random words."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    from swell.models.icons import LOOKS, WordPiece

    names = np.load(weights / "icons-names.npz")["names"].tolist()
    texts = [f"a {name} {LOOKS[i % len(LOOKS)][0]}" for i, name in enumerate(names)]
    words = gzip.decompress((weights / "english.txt.gz").read_bytes()).decode().split()
    texts += np.random.default_rng(0).choice(words, 400).tolist()
    pieces = WordPiece(weights / "icons-vocab.txt")
    return [pieces.ids(text) for text in texts]


def hessians(model: onnx.ModelProto, rows: list[list[int]]) -> dict[str, np.ndarray]:
    """The input of each matrix product by a weight -> the sum of its outer products."""
    known = {one.name for one in model.graph.initializer}
    inputs = {
        node.input[0]: node
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in known
    }
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    del seen.graph.output[:]
    seen.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs
    )
    widest = max(map(len, rows))
    ids = np.array([row + [0] * (widest - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (widest - len(row)) for row in rows])
    found = run(seen, {"ids": ids, "mask": mask})
    real = [each[mask.astype(bool)].astype(np.float64) for each in found]
    return {name: each.T @ each for name, each in zip(inputs, real, strict=True)}


def main(weights: Path, *files: str) -> None:
    told = json.loads((weights / "files.json").read_text())
    for name in files or FILES:
        path = weights / name
        model = floated(version_converter.convert_version(onnx.load(path), OPSET))
        model.ir_version = 10
        seen = hessians(model, phrases(weights)) if name == "icons-text.onnx" else None
        onnx.save(quantise(model, *FILES[name], seen), path)
        register(path, told[name]["licence"], told[name]["source"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
