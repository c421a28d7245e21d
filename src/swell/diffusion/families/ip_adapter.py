"""Picture adapters: of which kind a file is, and with which image encoder it sees.

An IP-Adapter (Ye et al., arXiv 2308.06721) adds attention to a picture. What it hears of one comes
from a CLIP image encoder: its embedding (the plain kind), or all states of its last layer but one
(plus and full, which keep more of a face). The kind shows in the names of the file's tensors, and
the encoder that it learnt with in their shapes. Pure but for reading headers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidModel
from swell.weights.files import read_settings
from swell.weights.formats import read_header

_ENCODER: Final = "image_encoder"

#: Which tensor tells the kind → the kind; the tensor that hears the encoder, and that which speaks
#: to the network; the encoder's width as its settings call it. The first that is there counts.
_KINDS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "proj.weight": ("plain", "proj.weight", "norm.weight", "projection_dim"),
    "proj.3.weight": ("full", "proj.0.weight", "proj.3.weight", "hidden_size"),
    "latents": ("plus", "proj_in.weight", "proj_out.weight", "hidden_size"),
}

#: Tensors of kinds that hear a network which recognises people, and no image encoder alone.
_FACE_ID: Final = ("perceiver_resampler.", "proj.0.")

#: What the settings of a CLIP image encoder mean where they say nothing.
_USUAL: Final = {"projection_dim": 512, "hidden_size": 768}


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file of an IP-Adapter."""

    #: `plain`, `plus` or `full`.
    kind: str
    #: The folder of its image encoder, as transformers saves it.
    encoder: Path

    @property
    def hears_states(self) -> bool:
        """Whether it hears all states of the encoder, rather than its embedding."""
        return self.kind != "plain"


def read_adapter(path: Path, model: Path, network: Mapping[str, Any]) -> Adapter:
    """Return what a file is, once it is known to fit.

    Args:
        path: The file.
        model: Folder of the model; its own image encoder is taken if it fits.
        network: Settings of the network that draws.

    Raises:
        InvalidModel: It is no IP-Adapter, or one of a kind that cannot be served, or it is for
            another network, or its image encoder is not there.
        RefusedFormat, BrokenWeights: It is no safetensors file.
    """
    shapes = _shapes(path)
    found = next((told for name, told in _KINDS.items() if name in shapes), None)
    if found is None:
        if any(name.startswith(_FACE_ID) for name in shapes):
            raise InvalidModel(
                f"{path.name} needs a face-recognition network, which Swell does not "
                "include: use an adapter of the plus-face kind, which needs only an "
                "image encoder"
            )
        raise InvalidModel(f"{path.name} is no IP-Adapter: it has no projection that is known")
    kind, hears, speaks, width_name = found
    try:
        width, spoken = shapes[hears][-1], shapes[speaks][0]
    except (KeyError, IndexError):
        raise InvalidModel(
            f"{path.name} is no IP-Adapter: {hears} or {speaks} is missing"
        ) from None
    wanted = network.get("cross_attention_dim")
    if isinstance(wanted, int) and spoken != wanted:
        raise InvalidModel(
            f"{path.name} is for a network with {spoken} features per token, and "
            f"this one has {wanted}: an adapter for Stable Diffusion 1.5 does not "
            "fit SDXL, and the reverse"
        )
    return Adapter(kind, _encoder(path, model, width_name, width))


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the projection, by the names of its tensors.

    Raises:
        InvalidModel: There are tensors of something else.
    """
    if not path.is_file():
        raise InvalidModel(f"there is no IP-Adapter at {str(path)!r}: give its .safetensors file")
    shapes = {}
    for tensor in read_header(path).tensors:
        group, _, inner = tensor.name.partition(".")
        if group not in ("image_proj", "ip_adapter"):
            raise InvalidModel(f"{path.name} is no IP-Adapter: it has a tensor {tensor.name!r}")
        if group == "image_proj":
            shapes[inner] = tensor.shape
    return shapes


def _encoder(path: Path, model: Path, name: str, width: int) -> Path:
    """Return the folder of the image encoder whose width is the one that the adapter hears."""
    up = path.parent.parent
    # The last is where the makers of IP-Adapter keep the smaller one, beside those for SDXL.
    places = (model, path.parent, up, up / "models")
    seen = []
    for folder in dict.fromkeys(place / _ENCODER for place in places):
        told = _settings(folder)
        if not told:
            continue
        if told.get(name, _USUAL[name]) == width:
            return folder
        seen.append(f"{folder} has {told.get(name, _USUAL[name])}")
    told_seen = f" ({'; '.join(seen)})" if seen else ""
    raise InvalidModel(
        f"{path.name} needs {_ENCODER}/ with {name} {width} in the same folder "
        f"or one above: copy it there{told_seen}"
    )


def _settings(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_settings(folder / "config.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
