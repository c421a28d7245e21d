"""A small network that draws in steps and takes LoRAs, and files of LoRAs for it.

Random weights, the same in every process: two convolutions around a block of attention, told the
time and the words. Each row is computed alone, so that nothing but the weights can change a bit.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

import swell
from swell.weights.lora_weights import AdaptedWeights

Floats = NDArray[np.float32]

SHAPES: dict[str, tuple[int, ...]] = {
    "conv_in.weight": (8, 4, 3, 3),
    "blocks.0.to_q.weight": (8, 8),
    "blocks.0.to_k.weight": (8, 8),
    "blocks.0.to_v.weight": (8, 8),
    "blocks.0.to_out.0.weight": (8, 8),
    "blocks.0.ff.net_in.weight": (16, 8),
    "blocks.0.ff.net_out.weight": (8, 16),
    "mix.weight": (8, 8, 1, 1),
    "time.weight": (8, 4),
    "text.proj.weight": (8, 5),
    "conv_out.weight": (4, 8, 3, 3),
    "conv_out.bias": (4,),
}

LATENTS = (4, 6, 6)


def weights() -> dict[str, Floats]:
    rng = np.random.default_rng(7)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)
        for name, shape in SHAPES.items()
    }


class Painter(swell.StepModel):
    """Paints by a network that nobody has trained."""

    name = "test/painter"
    Output = swell.Image
    bucket = 4
    most_rows = 8

    class Input(BaseModel):
        prompt: str = "a red fox"
        steps: int = Field(4, ge=1, le=1000)
        guidance: float | None = None
        loras: Annotated[list[swell.LoRA], swell.ui.lora()] = []

    def load(self, device: str) -> None:
        self.weights = weights()
        self.adapted = AdaptedWeights(self.weights)

    def prepare(self, item: swell.Item[Input]) -> swell.Plan:
        asked = item.input
        return swell.Plan(
            sampler=swell.Sampler("flow_euler", asked.steps),
            shape=LATENTS,
            words=asked.prompt,
            without="",
            guidance=asked.guidance,
            loras=asked.loras,
        )

    def adapt(self, loras: Sequence[swell.LoRA]) -> None:
        self.adapted.apply(loras)

    def encode(self, words: list[str]) -> list[Mapping[str, Floats]]:
        return [{"words": self.weights["text.proj.weight"] @ _numbers(text)} for text in words]

    def denoise(self, x: Floats, t: Floats, conditions: Mapping[str, Floats]) -> Floats:
        rows = zip(x, t, conditions["words"], strict=True)
        return np.stack([self._row(*row) for row in rows])

    def _row(self, x: Floats, t: np.float32, words: Floats) -> Floats:
        w = self.weights
        phases = np.float32(t / 1000) * np.array([1, 2, 4, 8], np.float32)
        told = w["time.weight"] @ np.sin(phases) + words
        tokens = np.tanh(_conv(x, w["conv_in.weight"])).reshape(8, -1).T + told
        q, k, v = (tokens @ w[f"blocks.0.to_{part}.weight"].T for part in "qkv")
        scores = np.exp((q @ k.T) / np.float32(8**0.5) - 1)
        heard = (scores / scores.sum(axis=1, keepdims=True)) @ v
        tokens = tokens + heard @ w["blocks.0.to_out.0.weight"].T
        inner = np.maximum(tokens @ w["blocks.0.ff.net_in.weight"].T, 0)
        tokens = tokens + inner @ w["blocks.0.ff.net_out.weight"].T
        mixed = np.tanh(_conv(tokens.T.reshape(8, *x.shape[1:]), w["mix.weight"]))
        said = _conv(mixed, w["conv_out.weight"]) + w["conv_out.bias"][:, None, None]
        return said.astype(np.float32)

    def decode(self, latents: Floats, item: swell.Item[Input]) -> Any:
        pixels = (np.tanh(latents[:3]) * 127.5 + 127.5).astype(np.uint8)
        return swell.Image(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _numbers(text: str) -> Floats:
    return np.random.default_rng(zlib.crc32(text.encode())).random(5, np.float32)


def _conv(x: Floats, kernel: Floats) -> Floats:
    """Shapes: x (inputs, height, width), kernel (outputs, inputs, k, k)."""
    size, (_, height, width) = kernel.shape[-1], x.shape
    around = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    columns = np.stack(
        [around[:, i : i + height, j : j + width] for i in range(size) for j in range(size)],
        axis=1,
    ).reshape(-1, height * width)
    return (kernel.reshape(len(kernel), -1) @ columns).reshape(-1, height, width)


# --- files ---------------------------------------------------------------------------------------

#: Layer → (up, down, alpha); up (outputs, rank), down (rank, inputs, *kernel); alpha None for none.
Layers = Mapping[str, tuple[Floats, Floats, float | None]]


def layers(seed: int, rank: int = 2, only: Sequence[str] = (), strength: float = 0.3) -> Layers:
    """Return random changes of the painter's layers, or of those in `only`."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in SHAPES.items():
        layer = name.removesuffix(".weight")
        if len(shape) > 1 and (not only or layer in only):
            up = (rng.standard_normal((shape[0], rank)) * strength).astype(np.float32)
            down = rng.standard_normal((rank, *shape[1:])).astype(np.float32)
            made[layer] = (up, down, float(rng.integers(1, 5)))
    return made


def lora_file(made: Layers, style: str = "kohya", kind: str = "F32", prefix: str = "") -> bytes:
    """Return a LoRA as a safetensors file, with the names of `kohya` or `peft`.

    PEFT has no alphas in its file: there they become part of up.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for layer, (up, down, alpha) in made.items():
        is_conv = down.ndim > 2
        shaped = up.reshape(*up.shape, *(1,) * (down.ndim - 2)) if is_conv else up
        if style == "kohya":
            name = f"{prefix or 'lora_unet_'}{layer.replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"] = down
            tensors[f"{name}.lora_up.weight"] = shaped
            if alpha is not None:
                tensors[f"{name}.alpha"] = np.array(alpha, np.float32)
        else:
            name = f"{prefix or 'base_model.model.'}{layer}"
            factor = 1.0 if alpha is None else alpha / down.shape[0]
            tensors[f"{name}.lora_A.weight"] = down
            tensors[f"{name}.lora_B.weight"] = shaped * np.float32(factor)
    return packed(tensors, kind)


def packed(
    tensors: Mapping[str, NDArray[Any]], kind: str = "F32", metadata: Mapping[str, str] = {}
) -> bytes:
    """Return a safetensors file of floats of this type."""
    header: dict[str, Any] = {"__metadata__": {"made": "by a test", **metadata}}
    data = b""
    for name, values in tensors.items():
        raw = _bits(np.asarray(values, np.float32), kind)
        header[name] = {
            "dtype": kind,
            "shape": list(np.shape(values)),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _bits(values: Floats, kind: str) -> bytes:
    match kind:
        case "F32":
            return values.tobytes()
        case "F16":
            return values.astype(np.float16).tobytes()
        case "BF16":
            # Cut rather than rounded: whoever reads it gets the same numbers.
            return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    raise ValueError(kind)
