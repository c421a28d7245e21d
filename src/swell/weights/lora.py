"""LoRAs: small files that change some of a model's weights. Pure but for reading the file.

A LoRA holds two thin matrices for each layer that it changes, and the layer's weight becomes

    W + scale * alpha / rank * up @ down

The weight of a convolution is a matrix with a row for each output and a column for each input and
place of the kernel. Two ways of naming are read, and what diffusers makes of either:

    kohya   lora_unet_down_0_to_q.lora_down.weight, ….lora_up.weight, ….alpha
    PEFT    base_model.model.down.0.to_q.lora_A.weight, ….lora_B.weight; A is down and B is up

The default alpha is the rank. A file with other tensors is refused, because ignoring them would
change the picture unnoticed.

Source:
    E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685. For
    alpha / sqrt(rank), D. Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with
    LoRA", arXiv 2312.03732. Names: kohya-ss/sd-scripts, networks/lora.py; peft 0.21,
    utils/save_and_load.py; diffusers 0.42, loaders/lora_base.py, for alphas in the metadata.
"""

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from swell.core.errors import InvalidRequest
from swell.weights.fast_file_reader import Reading, host_memory
from swell.weights.files import NoFile, open_file
from swell.weights.formats import Header, Tensor, parse_header
from swell.weights.safetensors_loader import view
from swell.weights.weight_errors import BrokenWeights, RefusedFormat

Singles = NDArray[np.float32]

#: Prefixes of layer names in files, which the model's own names lack.
PREFIXES: Final = (
    "lora_unet_",
    "lora_transformer_",
    "base_model.model.",
    "unet.",
    "transformer.",
    "model.diffusion_model.",
    "diffusion_model.",
)

_PAIR: Final = re.compile(
    r"(?P<layer>.+)\.(?:(?P<down>lora_down|lora_A|lora\.down)|lora_up|lora_B|lora\.up)"
    r"(?:\.default)?\.weight"
)
_ALPHA: Final = re.compile(r"(?P<layer>.+)\.alpha")

#: What else goes by the name of LoRA, by what its tensors are called.
_KIN: Final[Mapping[str, str]] = {
    r"\bhada_": "LoHa",
    r"\blokr_": "LoKr",
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"\blora_mid\b": "a LoRA of three matrices",
    r"\.diff(_b)?$": "a whole difference",
    r"\blora_embedding_": "a LoRA of embeddings",
    r"\blora_(B|up)\.bias$": "a LoRA with biases",
}

#: Metadata key of the PEFT configuration in files of diffusers.
_SETTINGS: Final = "lora_adapter_metadata"

_FLOATS: Final = ("F16", "BF16", "F32", "F64")


class WrongLora(InvalidRequest):
    """A file is no LoRA, or one for another model."""

    code, title = "wrong_lora", "This LoRA cannot be used"


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """The change of one weight by a LoRA at scale 1: `factor * up @ down`.

    Args:
        up: Shapes: (outputs, rank) float32.
        down: Shapes: (rank, inputs * places of the kernel) float32.
        kernel: The kernel's shape; empty for a linear layer.
        factor: alpha / rank, most often.
    """

    up: Singles
    down: Singles
    kernel: tuple[int, ...]
    factor: float

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether it can be added to a weight of this shape: (outputs, inputs, *kernel)."""
        if len(shape) < 2 or (self.up.shape[0], self.down.shape[1]) != (
            shape[0],
            math.prod(shape[1:]),
        ):
            return False
        # A linear layer and a convolution of one place do the same.
        return self.kernel == tuple(shape[2:]) or math.prod((*self.kernel, *shape[2:])) == 1


# --- files ---------------------------------------------------------------------------------------


def check_lora(source: Path | bytes, name: str) -> None:
    """Check that a file is a LoRA, by its header alone.

    Args:
        source: The file, or its bytes.
        name: For errors.

    Raises:
        WrongLora: It is none; the text says what to do.
        OSError: It cannot be read.
    """
    _pairs_of(_header(source, name), name)


def read_lora(source: Path | bytes, name: str) -> dict[str, Change]:
    """Return what a LoRA adds, by the names that the file gives to layers.

    Raises:
        WrongLora: It is none; the text says what to do.
        OSError: It cannot be read.
    """
    header = _header(source, name)
    # Not the page cache's: the system may take its pages away.
    memory = host_memory(header.file_bytes)
    if isinstance(source, bytes):
        memory[: len(source)] = np.frombuffer(source, np.uint8)
    else:
        Reading(source, into=memory).start().wait()
    settings = _settings(header)
    return {
        layer: _change(layer, pair, memory, settings, name)
        for layer, pair in _pairs_of(header, name).items()
    }


def _header(source: Path | bytes, name: str) -> Header:
    try:
        if isinstance(source, bytes):
            return parse_header(io.BytesIO(source), name, len(source))
        with open_file(source) as file:
            return parse_header(file, name)
    except NoFile as error:
        raise WrongLora(f"{name}: {error}: a LoRA must be a .safetensors file") from None
    except (BrokenWeights, RefusedFormat) as error:
        raise WrongLora(f"{error.detail}. A LoRA must be a .safetensors file") from None


@dataclass(slots=True)
class _Pair:
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: Tensor | None = None


def _pairs_of(header: Header, name: str) -> dict[str, _Pair]:
    """Return the tensors of each layer, checked."""
    pairs: dict[str, _Pair] = {}
    for tensor in header.tensors:
        found = _PAIR.fullmatch(tensor.name)
        alpha = None if found else _ALPHA.fullmatch(tensor.name)
        if found is not None:
            pair = pairs.setdefault(found["layer"], _Pair())
            part = "down" if found["down"] else "up"
        elif alpha is not None:
            pair, part = pairs.setdefault(alpha["layer"], _Pair()), "alpha"
        else:
            raise WrongLora(_foreign(tensor.name, name))
        if getattr(pair, part) is not None:
            raise WrongLora(
                f"{name}: {tensor.name[:100]!r} stands twice, under two names: take the file from "
                "its author"
            )
        setattr(pair, part, tensor)
    if not pairs:
        raise WrongLora(f"{name} holds no tensors: give a LoRA as a .safetensors file")
    for layer, pair in pairs.items():
        _check_pair(layer, pair, name)
    return pairs


def _foreign(tensor: str, name: str) -> str:
    kin = next((kin for pattern, kin in _KIN.items() if re.search(pattern, tensor)), None)
    if kin is not None:
        return (
            f"{name} is {kin} (it holds {tensor[:100]!r}), which is not read: give a LoRA of pairs "
            "(lora_down and lora_up, or lora_A and lora_B) alone"
        )
    return (
        f"{name} is no LoRA: it holds {tensor[:100]!r}. Give a file with lora_down and lora_up, or "
        "lora_A and lora_B, for each layer"
    )


def _check_pair(layer: str, pair: _Pair, name: str) -> None:
    def wrong(what: str) -> WrongLora:
        return WrongLora(f"{name}: layer {layer[:100]!r} {what}: take the file from its author")

    down, up = pair.down, pair.up
    if down is None or up is None:
        raise wrong(f"has no {'down (A)' if down is None else 'up (B)'}")
    for tensor in (down, up):
        if tensor.kind not in _FLOATS:
            raise wrong(f"is made of {tensor.kind}, not of {', '.join(_FLOATS)}")
    if len(down.shape) < 2 or len(up.shape) < 2 or 0 in down.shape + up.shape:
        raise wrong(f"has shapes {down.shape} and {up.shape}, which are no matrices")
    if down.shape[0] != up.shape[1] or math.prod(up.shape[2:]) != 1:
        raise wrong(f"has shapes {down.shape} and {up.shape}, which do not fit each other")
    alpha = pair.alpha
    if alpha is not None and (alpha.kind not in _FLOATS or math.prod(alpha.shape) != 1):
        raise wrong("has an alpha that is not one number")


def _change(
    layer: str, pair: _Pair, memory: NDArray[np.uint8], settings: Mapping[str, Any], name: str
) -> Change:
    assert pair.down is not None, "it was checked"
    assert pair.up is not None, "it was checked"
    down, up = _singles(memory, pair.down), _singles(memory, pair.up)
    rank = down.shape[0]
    if pair.alpha is not None:
        factor = float(_singles(memory, pair.alpha).reshape(())) / rank
    else:
        factor = _factor(layer, rank, settings, name)
    if not math.isfinite(factor):
        raise WrongLora(f"{name}: layer {layer[:100]!r} has an alpha that is not finite")
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise WrongLora(
            f"{name}: layer {layer[:100]!r} holds what is not finite: its training went wrong, so "
            "give another file"
        )
    return Change(up.reshape(-1, rank), down.reshape(rank, -1), down.shape[2:], factor)


def _singles(memory: NDArray[np.uint8], tensor: Tensor) -> Singles:
    """Return a tensor in float32: the same memory where it is of that type already."""
    found = view(memory, tensor)
    if tensor.kind == "BF16":
        # The upper half of a float32.
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32, copy=False)


def _settings(header: Header) -> dict[str, Any]:
    """Return what PEFT was set to, by component and name; empty where the file does not tell."""
    try:
        found = json.loads(header.metadata.get(_SETTINGS, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _factor(layer: str, rank: int, settings: Mapping[str, Any], name: str) -> float:
    # Kept by component (`unet.lora_alpha`), or plainly where the file has one only.
    component, _, rest = layer.partition(".")
    if f"{component}.lora_alpha" in settings:
        prefix, own = f"{component}.", rest
    else:
        prefix, own = "", layer
    alpha = settings.get(f"{prefix}lora_alpha", rank)
    patterns = settings.get(f"{prefix}alpha_pattern") or {}
    for pattern, other in patterns.items() if isinstance(patterns, dict) else ():
        if not re.fullmatch(r"[\w.]+", pattern):
            # PEFT takes regular expressions, and those of strangers are not run.
            raise WrongLora(
                f"{name} gives alphas by the pattern {pattern[:100]!r}, which is not read: save it "
                "with names of layers in alpha_pattern"
            )
        if f".{own}".endswith(f".{pattern}"):
            alpha = other
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        return math.nan
    is_stabilised = settings.get(f"{prefix}use_rslora") is True
    return alpha / (math.sqrt(rank) if is_stabilised else rank)


# --- names ---------------------------------------------------------------------------------------


class LayerNames:
    """Which weight of a model a file means by the name of a layer.

    Args:
        shapes: The model's weights: `down.0.to_q.weight` → its shape.
        ignore: Prefixes of layers that the model lacks and that may be ignored, such
            as `lora_te` and `text_encoder.` where it does not adapt its text encoder.
        rename: Turns a file's name of a layer, its prefix taken off, into the model's.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        ignore: Sequence[str] = (),
        rename: Callable[[str], str] | None = None,
    ) -> None:
        self._shapes = {name: shape for name, shape in shapes.items() if len(shape) > 1}
        self._ignore = tuple(ignore)
        self._rename = rename or str
        self._by_layer = {name.removesuffix(".weight"): name for name in self._shapes}
        # kohya writes `_` for each dot.
        self._flat: dict[str, str | None] = {}
        for layer, name in self._by_layer.items():
            flat = layer.replace(".", "_")
            self._flat[flat] = None if flat in self._flat else name

    def place(self, changes: Mapping[str, Change], name: str) -> dict[str, Change]:
        """Return the change of each weight.

        Raises:
            WrongLora: A layer is not there or has another shape: the LoRA is for another model.
        """
        placed: dict[str, Change] = {}
        for layer, change in changes.items():
            if layer.startswith(self._ignore):
                continue
            weight = self._find(layer)
            if weight is None:
                raise WrongLora(
                    f"{name} is for another model: this one has no layer {layer[:100]!r}. Give a "
                    "LoRA that was trained for this model"
                )
            if weight in placed:
                raise WrongLora(f"{name} changes {weight!r} twice: take the file from its author")
            shape = self._shapes[weight]
            if not change.fits(shape):
                raise WrongLora(
                    f"{name} is for another model: it has {change.up.shape[0]} outputs and "
                    f"{change.down.shape[1]} inputs for {weight!r}, whose shape is {shape}. Give a "
                    "LoRA that was trained for this model"
                )
            placed[weight] = change
        return placed

    def _find(self, layer: str) -> str | None:
        for bare in _bare(layer):
            own = self._rename(bare)
            found = self._by_layer.get(own) or self._flat.get(own.replace(".", "_"))
            if found is not None:
                return found
        return None


def _bare(layer: str) -> Iterable[str]:
    """Yield a layer's name as it stands, then without its prefixes, one after the other."""
    yield layer
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if layer.startswith(prefix):
                layer, stripped = layer.removeprefix(prefix), True
                yield layer


# --- sums ----------------------------------------------------------------------------------------


def joined(parts: Sequence[tuple[Change, float]]) -> tuple[Singles, Singles]:
    """Return up and down matrices; their product equals the scaled sum of all changes.

    Shapes: (outputs, ranks) and (ranks, inputs * places), float32.
    """
    ups = [change.up * np.float32(change.factor * scale) for change, scale in parts]
    downs = [change.down for change, _ in parts]
    return np.concatenate(ups, axis=1), np.concatenate(downs, axis=0)


def add(base: NDArray[Any], parts: Sequence[tuple[Change, float]], out: NDArray[Any]) -> None:
    """Write a weight with LoRAs added, computed in float32, then rounded to the weight's type.

    Args:
        base: The weight without LoRAs.
        parts: The changes, with their scales.
        out: Where the sum is written; may be `base`.
    """
    up, down = joined(parts)
    added = np.matmul(up, down).reshape(base.shape)
    added += base
    out[...] = added
