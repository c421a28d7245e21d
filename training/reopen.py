"""Turn the files that ship back into what training starts from.

    python reopen.py ../packages/swell-models/src/swell_models/weights START

The ONNX files hold the networks' weights as int4 and int8, some turned round and under names
of the exporter's own. Both networks are therefore exported once more with weights that tell which
is which, and what stands in the same place of the file that ships is read. The rounding is far
below what training moves.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn

from codec import Codec
from export import Decoder, Velocity
from quantise import floated
from train import build


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every weight of a file as float32, under its name before `quantise`."""
    weights = floated(model).graph.initializer
    floats = (one for one in weights if one.data_type == onnx.TensorProto.FLOAT)
    return {one.name: numpy_helper.to_array(one) for one in floats}


def uses(model: onnx.ModelProto) -> list[str]:
    """The names of weights in the order in which the graph first needs them."""
    known = stored(model)
    used = (name for node in model.graph.node for name in node.input if name in known)
    return list(dict.fromkeys(used))


def reopened(
    bare: nn.Module, whole: nn.Module, inputs: dict, file: Path
) -> dict[str, torch.Tensor]:
    """The state of `bare`, a part of `whole`, as it is in `file`.

    Raises:
        ValueError: A weight is not in the file.
    """
    torch.manual_seed(0)
    for value in bare.state_dict().values():
        value.copy_(torch.randn(value.shape))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        path = Path(folder) / "marked.onnx"
        torch.onnx.export(
            whole.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            opset_version=17,
            dynamo=False,
            dynamic_axes={name: {0: "batch"} for name in inputs},
        )
        marked = onnx.load(path)
    shipped = onnx.load(file)
    marks, values = stored(marked), stored(shipped)
    places = dict(zip(uses(marked), uses(shipped), strict=True))
    state = {}
    for key, value in bare.state_dict().items():
        mark = value.numpy()
        for name, place in places.items():
            seen = marks[name]
            if seen.size != mark.size or seen.ndim > 2 > mark.ndim > 1:
                continue
            for turned in (False, True):
                if turned and (mark.ndim != 2 or seen.ndim != 2):
                    continue
                if np.array_equal((seen.T if turned else seen).reshape(-1), mark.reshape(-1)):
                    got = values[place].T if turned else values[place]
                    state[key] = torch.from_numpy(got.reshape(mark.shape).copy())
        if key not in state:
            raise ValueError(f"{key} is not in {file.name}")
    return state


def main(weights: Path, start: Path) -> None:
    start.mkdir(parents=True, exist_ok=True)
    unet, codec = build(), Codec()
    latents = torch.randn(2, 48, 8, 8)
    inputs = {
        "latents": latents,
        "time": torch.rand(2),
        "states": torch.randn(2, 16, 384),
        "sentence": torch.randn(2, 384),
        "style": torch.tensor([0, -1]),
    }
    state = reopened(unet, Velocity(unet), inputs, weights / "icons-unet.onnx")
    save_file(
        {k: v.half().contiguous() for k, v in state.items()}, start / "unet_ema_fp16.safetensors"
    )
    state = reopened(codec, Decoder(codec), {"latents": latents}, weights / "icons-decoder.onnx")
    save_file({k: v.contiguous() for k, v in state.items()}, start / "codec.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
