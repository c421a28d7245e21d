"""Control nets, IP-Adapters and LoRAs: whether a folder or file fits a model.

Pure but for reading settings and headers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidModel
from swell.diffusion.families.family import Family
from swell.diffusion.families.pipeline_folder import class_in, count_of, read_json
from swell.weights.formats import read_header

#: More kinds of pictures than any control net has.
_MOST_MODES: Final = 64

_ENCODER: Final = "image_encoder"

#: The tensor that gives away the kind of an IP-Adapter -> the kind, its input and output tensors,
#: and the setting of the image encoder that is as wide as its input. The first match counts.
_KINDS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "proj.weight": ("plain", "proj.weight", "norm.weight", "projection_dim"),
    "proj.3.weight": ("full", "proj.0.weight", "proj.3.weight", "hidden_size"),
    "latents": ("plus", "proj_in.weight", "proj_out.weight", "hidden_size"),
}

#: Tensors of IP-Adapters that take the output of a face-recognition network.
_FACE_ID: Final = ("perceiver_resampler.", "proj.0.")

#: Defaults of a CLIP image encoder's settings.
_ENCODER_WIDTHS: Final = {"projection_dim": 512, "hidden_size": 768}

#: A layer of a CLIP text encoder, with and without the `text_model` level.
_CLIP: Final = re.compile(
    r"(text_encoder(?:_\d)?)([._])(?:text_model\2)?((?:encoder|embeddings|final_layer_norm)[._].+)"
)


# --- control nets --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Net:
    """A control net that fits.

    A control net (Zhang et al., arXiv 2302.05543) is a copy of a network's first blocks that takes
    a picture and adds to the inner states of the whole network.
    """

    folder: Path
    settings: Mapping[str, Any]

    @property
    def modes(self) -> int:
        """The number of kinds of control pictures; 0 if there is only one."""
        return int(self.settings.get("num_mode") or 0)

    @property
    def pools(self) -> bool:
        """Whether it adds the same everywhere; diffusers then leaves out the unconditional row."""
        return bool(self.settings.get("global_pool_conditions"))

    @property
    def hears_guidance(self) -> bool:
        """Whether guidance is an input."""
        return bool(self.settings.get("guidance_embeds"))

    @property
    def hears_words(self) -> bool:
        """Whether the states of text encoders are an input."""
        return bool(self.settings.get("joint_attention_dim", True))

    @property
    def hears_pooled(self) -> bool:
        """Whether a net of Stable Diffusion 3 takes the pooled state, rather than zeros."""
        return not self.settings.get("force_zeros_for_pooled_projection", True)

    @property
    def sees_pixels(self) -> bool:
        """Whether a net of Flux takes pixels, rather than latents.

        Such nets add to the blocks in turn, where others add to groups of them.
        """
        return self.settings.get("conditioning_embedding_channels") is not None

    @property
    def borrows_places(self) -> bool:
        """Whether it uses the first layer of the network that it controls."""
        return self.settings.get("use_pos_embed") is False

    @property
    def width(self) -> int | None:
        """The width of its inner states; None where it has several."""
        return _width(self.settings)


def read_net(
    folder: Path, family: Family, network: Mapping[str, Any], *, latents: int, scale_px: int
) -> Net:
    """Read the settings of a control net and check that it fits.

    Args:
        folder: As diffusers saves a control net.
        family: The model's.
        network: Settings of the denoising network.
        latents: The family's input channels for latents alone.
        scale_px: Pixels a side for one latent.

    Raises:
        InvalidModel: It is no control net, or one for another network.
    """
    settings, file = read_json(folder, "config.json"), f"{folder.name}/config.json"
    found = class_in(settings, file)
    if found != family.control:
        what = f"is a {found}" if found else "does not name its class"
        raise InvalidModel(
            f"{folder.name}/ {what}: give a control net of the kind that {family.name} "
            f"models take, {family.control}"
        )
    if settings.get("num_mode") is not None:
        count_of(settings, "num_mode", 1, least=1, most=_MOST_MODES, file=file)
    net = Net(folder, settings)
    family.check_net(net, scale_px)
    channels = settings.get("in_channels")
    # One with the network's own input channels is as good as one for latents alone.
    wanted = channels if channels == network.get("in_channels") else latents
    compared = [
        *((name, network.get(name), settings.get(name)) for name in family.control_settings),
        ("in_channels", wanted, channels),
        ("num_attention_heads x attention_head_dim", _width(network), net.width),
    ]
    for name, mine, its in compared:
        if mine is not None and its is not None and mine != its:
            raise InvalidModel(
                f"{file}: {name} is {str(its)[:80]}, and this model needs {str(mine)[:80]}: give a "
                "control net that was trained for it"
            )
    if settings.get("extra_conditioning_channels"):
        raise InvalidModel(
            f"{folder.name}/ takes a mask with its picture, which Swell does not "
            "support: use a control net that takes only the picture"
        )
    if net.hears_guidance and not network.get("guidance_embeds"):
        raise InvalidModel(
            f"{folder.name}/ takes guidance as an input, and this model's network "
            "does not: use a control net that was trained for it"
        )
    return net


def _width(settings: Mapping[str, Any]) -> int | None:
    heads, width = settings.get("num_attention_heads"), settings.get("attention_head_dim")
    return heads * width if isinstance(heads, int) and isinstance(width, int) else None


# --- IP-Adapters ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file of an IP-Adapter.

    An IP-Adapter (Ye et al., arXiv 2308.06721) adds attention to a picture. Its input comes from a
    CLIP image encoder: the embedding (plain), or the penultimate states (plus and full, which keep
    more of a face).
    """

    #: `plain`, `plus` or `full`.
    kind: str
    #: The folder of its image encoder, as transformers saves it.
    encoder: Path

    @property
    def hears_states(self) -> bool:
        """Whether its input is the encoder's states, rather than the embedding."""
        return self.kind != "plain"


def read_adapter(path: Path, model: Path, network: Mapping[str, Any]) -> Adapter:
    """Read the header of an IP-Adapter and check that it fits.

    Args:
        path: The file.
        model: Folder of the model; its own image encoder is used if it fits.
        network: Settings of the denoising network.

    Raises:
        InvalidModel: It is no IP-Adapter, of a kind that Swell does not serve, for another network,
            or without an image encoder.
        RefusedFormat, BrokenWeights: It is no safetensors file.
    """
    shapes = _shapes(path)
    found = next((kind for name, kind in _KINDS.items() if name in shapes), None)
    if found is None:
        if any(name.startswith(_FACE_ID) for name in shapes):
            raise InvalidModel(
                f"{path.name} needs a face-recognition network, which Swell does not "
                "include: use an adapter of the plus-face kind, which needs only an "
                "image encoder"
            )
        raise InvalidModel(f"{path.name} is no IP-Adapter: it has no projection that is known")
    kind, first, last, setting = found
    try:
        width, features = shapes[first][-1], shapes[last][0]
    except (KeyError, IndexError):
        raise InvalidModel(f"{path.name} is no IP-Adapter: {first} or {last} is missing") from None
    wanted = network.get("cross_attention_dim")
    if isinstance(wanted, int) and features != wanted:
        raise InvalidModel(
            f"{path.name} is for a network with {features} features per token, and "
            f"this one has {wanted}: an adapter for Stable Diffusion 1.5 does not "
            "fit SDXL, and the reverse"
        )
    return Adapter(kind, _encoder(path, model, setting, width))


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the projection's tensors by name.

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


def _encoder(path: Path, model: Path, setting: str, width: int) -> Path:
    """Return the folder of the image encoder with this width."""
    up = path.parent.parent
    # The IP-Adapter repository keeps the smaller encoder in models/, next to those for SDXL.
    seen = []
    for place in dict.fromkeys((model, path.parent, up, up / "models")):
        folder = place / _ENCODER
        try:
            settings = read_json(folder, "config.json")
        except InvalidModel:
            continue
        found = settings.get(setting, _ENCODER_WIDTHS[setting])
        if settings and found == width:
            return folder
        seen.append(f"{folder} has {found}")
    tried = f" ({'; '.join(seen)})" if seen else ""
    raise InvalidModel(
        f"{path.name} needs {_ENCODER}/ with {setting} {width} in the same folder "
        f"or one above: copy it there{tried}"
    )


# --- LoRAs ---------------------------------------------------------------------------------------


def encoder_layer(name: str, encoders: Mapping[str, object]) -> str:
    """Return the name in this model of a text encoder's layer; other names as they are.

    Files may number text encoders. Nearly all files name layers of a CLIP below `text_model`, which
    `CLIPTextModel` of transformers 5 no longer has, and `CLIPTextModelWithProjection` has.

    Args:
        name: In a file of LoRAs.
        encoders: The model's text encoders by name, in order.
    """
    names = list(encoders)
    for prefix, part in (("lora_te1_", 0), ("lora_te2_", 1), ("lora_te_", 0)):
        if name.startswith(prefix) and part < len(names):
            name = f"{names[part]}_{name.removeprefix(prefix)}"
            break
    clip = _CLIP.fullmatch(name)
    if clip is None or clip[1] not in encoders:
        return name
    level = f"text_model{clip[2]}" if hasattr(encoders[clip[1]], "text_model") else ""
    return f"{clip[1]}{clip[2]}{level}{clip[3]}"
