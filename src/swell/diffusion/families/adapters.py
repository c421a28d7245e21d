"""Control nets, IP-Adapters and names of LoRA layers."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidModel
from swell.diffusion.families.pipeline_folder import class_in, count_of, read_json
from swell.weights.files import read_settings
from swell.weights.formats import read_header

#: Settings in which a net of each kind and the network that it steers are the same.
_SHARED: Final[Mapping[str, Sequence[str]]] = {
    "ControlNetModel": ("cross_attention_dim",),
    "SD3ControlNetModel": ("joint_attention_dim", "pooled_projection_dim", "patch_size"),
    "FluxControlNetModel": ("joint_attention_dim", "pooled_projection_dim"),
}

#: Pixels a side that nets of Flux which see pixels make one state of.
_SEEN_PX: Final = 8

#: What the width of a head is called.
_WIDTH: Final = "attention_head_dim"

#: More kinds of pictures than any net has learnt.
_MOST_MODES: Final = 64


@dataclass(frozen=True, slots=True)
class Net:
    """A control net that fits."""

    folder: Path
    settings: Mapping[str, Any]

    @property
    def modes(self) -> int:
        """How many kinds of pictures it tells apart by number; 0 if it learnt one kind."""
        return int(self.settings.get("num_mode") or 0)

    @property
    def pools(self) -> bool:
        """Whether it says the same of each place, as of a picture's style.

        diffusers has such nets steer only where the prompt is heard.
        """
        return bool(self.settings.get("global_pool_conditions"))

    @property
    def hears_guidance(self) -> bool:
        """Whether it is told guidance as a number."""
        return bool(self.settings.get("guidance_embeds"))

    @property
    def hears_words(self) -> bool:
        """Whether it hears the states of text encoders."""
        return bool(self.settings.get("joint_attention_dim", True))

    @property
    def hears_sentence(self) -> bool:
        """Whether a net of Stable Diffusion 3 hears its sentence, rather than zeros.

        Those that hear zeros learnt latents without the autoencoder's shift.
        """
        return not self.settings.get("force_zeros_for_pooled_projection", True)

    @property
    def sees_pixels(self) -> bool:
        """Whether a net of Flux sees the picture itself, rather than its latents.

        Such nets add to the blocks in turn, where others add to stretches of them.
        """
        return self.settings.get("conditioning_embedding_channels") is not None

    @property
    def borrows_places(self) -> bool:
        """Whether it takes the first layer of the network that it steers for its own."""
        return self.settings.get("use_pos_embed") is False


def read_net(
    folder: Path,
    kind: str,
    family: str,
    network: Mapping[str, Any],
    *,
    latents: int,
    scale_px: int,
) -> Net:
    """Return what a folder is, once it is known to fit.

    Args:
        folder: As diffusers saves a control net.
        kind: The class in diffusers that the family takes.
        family: The family's name, for errors.
        network: Settings of the network that draws.
        latents: Channels that a network of the family hears of latents alone.
        scale_px: Pixels a side for one latent.

    Raises:
        InvalidModel: It is no control net, or one for another network.
    """
    told = read_json(folder, "config.json")
    file = f"{folder.name}/config.json"
    found = class_in(told, file)
    if found != kind:
        what = f"is a {found}" if found else "does not name its class"
        raise InvalidModel(
            f"{folder.name}/ {what}: give a control net of the kind that {family} "
            f"models take, {kind}"
        )
    if told.get("num_mode") is not None:
        count_of(told, "num_mode", 1, least=1, most=_MOST_MODES, file=file)
    net = Net(folder, told)
    if kind == "SD3ControlNetModel":
        _check_blocks(net, file)
    if net.sees_pixels and scale_px != _SEEN_PX:
        raise InvalidModel(
            f"{folder.name}/ sees pixels, {_SEEN_PX} a side for a latent, and this model's "
            f"autoencoder has {scale_px}: give a control net that sees latents"
        )
    for name, mine, its in _compared(kind, network, told, latents):
        if mine is not None and its is not None and mine != its:
            raise InvalidModel(
                f"{file}: {name} is {str(its)[:80]}, and this model needs {str(mine)[:80]}: give a "
                "control net that was trained for it"
            )
    if told.get("extra_conditioning_channels"):
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


def _check_blocks(net: Net, file: str) -> None:
    """Check that a net of Stable Diffusion 3 can run at all.

    Raises:
        InvalidModel: It has no blocks to share among those of the network, or its words do not fit
            into them.
    """
    count_of(net.settings, "num_layers", 18, least=1, most=1 << 10, file=file)
    width = _product(net.settings.get("num_attention_heads"), net.settings.get(_WIDTH))
    told = net.settings.get("caption_projection_dim")
    if net.hears_words and None not in (told, width) and told != width:
        raise InvalidModel(
            f"{file}: caption_projection_dim is {str(told)[:80]}, and num_attention_heads x "
            f"{_WIDTH} is {width}: they must be the same, so correct the file"
        )


def _compared(
    kind: str, network: Mapping[str, Any], told: Mapping[str, Any], latents: int
) -> list[tuple[str, Any, Any]]:
    """Return what has to be the same in both: its name, that of the network, that of the net."""
    pairs = [(name, network.get(name), told.get(name)) for name in _SHARED[kind]]
    heard = told.get("in_channels")
    # One that hears all that the network hears is as good as one that hears latents alone.
    whole = heard == network.get("in_channels")
    pairs.append(("in_channels", heard if whole else latents, heard))
    mine, its = (
        _product(each.get("num_attention_heads"), each.get(_WIDTH)) for each in (network, told)
    )
    pairs.append(("num_attention_heads x attention_head_dim", mine, its))
    return pairs


def _product(heads: Any, width: Any) -> int | None:
    """Return the width of inner states; None for networks that have several."""
    is_told = all(isinstance(each, int) for each in (heads, width))
    return heads * width if is_told else None


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


#: A layer of a CLIP that encodes words, with and without the level that some have.
_CLIP: Final = re.compile(
    r"(text_encoder(?:_\d)?)([._])(?:text_model\2)?((?:encoder|embeddings|final_layer_norm)[._].+)"
)
_BLOCK: Final = re.compile(r"(input|output)_blocks[._](\d+)[._](\d+)[._](.+)")
_MIDDLE: Final = re.compile(r"middle_block[._](\d)[._](.+)")

#: What the parts of a residual block are called in diffusers.
_RESNET: Final = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}


def encoder_layer(name: str, encoders: Mapping[str, object]) -> str:
    """Return the name in this model of a layer of a text encoder; others as they are.

    Files may count text encoders. Layers of a CLIP are in a level of their own, `text_model`, in
    nearly all files; `CLIPTextModel` of transformers has it no longer since version 5, and
    `CLIPTextModelWithProjection` still does.

    Args:
        name: Of a file of LoRAs.
        encoders: The model's parts that encode words, by name and in order.
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


def sgm_layer(name: str) -> str:
    """Return a layer's name in diffusers, with `_` for dots; others as they are."""
    middle = _MIDDLE.fullmatch(name)
    if middle is not None:
        block, inner = int(middle[1]), middle[2]
        if block == 1:
            return f"mid_block_attentions_0_{inner}"
        return f"mid_block_resnets_{block // 2}_{_inner(inner)}"
    found = _BLOCK.fullmatch(name)
    if found is None:
        return name
    number, part, inner = int(found[2]), int(found[3]), found[4]
    if found[1] == "input":
        return _down(number, part, inner)
    return _up(number, part, inner)


def _down(number: int, part: int, inner: str) -> str:
    if number == 0:
        return "conv_in"
    level, place = divmod(number - 1, 3)
    if place == 2:
        return f"down_blocks_{level}_downsamplers_0_conv"
    if part == 1:
        return f"down_blocks_{level}_attentions_{place}_{inner}"
    return f"down_blocks_{level}_resnets_{place}_{_inner(inner)}"


def _up(number: int, part: int, inner: str) -> str:
    level, place = divmod(number, 3)
    if inner in ("conv", "conv.weight"):
        return f"up_blocks_{level}_upsamplers_0_conv"
    if part == 1:
        return f"up_blocks_{level}_attentions_{place}_{inner}"
    return f"up_blocks_{level}_resnets_{place}_{_inner(inner)}"


def _inner(name: str) -> str:
    return _RESNET.get(name.replace(".", "_"), name)
