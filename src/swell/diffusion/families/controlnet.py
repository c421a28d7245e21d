"""Control nets: of which kind a folder is, and whether it fits the network that it is to steer.

A control net (Zhang et al., arXiv 2302.05543) is a copy of a network's first blocks that hears a
picture and adds to the inner states of the whole. Each kind of network has a kind of its own, and
what they add must have the width of what it is added to. Pure but for reading settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidModel
from swell.diffusion.families.config_json import class_in, count_of, read_json

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
