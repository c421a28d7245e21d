"""A VQGAN as its authors' program keeps it, told in the words of diffusers.

    told["ddconfig"]["ch_mult"] = [1, 1, 2, 2, 4]  ->  block_out_channels, and so on
    decoder.up.4.attn.0.q.weight, (C, C, 1, 1)     ->  decoder.up_blocks.0.attentions.0.to_q.weight

Levels of the decoder are counted from the finest there, and from the coarsest in diffusers.

Source: Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (arXiv 2012.09841),
and the names in the checkpoints that they released.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from swell.core.errors import InvalidModel

_ATTENTION: Final = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}

_PLACE: Final = re.compile(r"(down|up)\.(\d+)\.(block|attn|downsample|upsample)\.(.+)")


def is_taming(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is the `params` of such a VQGAN's own settings."""
    return "ddconfig" in config


def diffusers_config(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a `VQModel`.

    Args:
        told: `model.params` of the VQGAN's own file: `ddconfig`, `n_embed`, `embed_dim`.

    Raises:
        InvalidModel: Something is missing, or is a VQGAN of another kind.
    """
    try:
        inner = told["ddconfig"]
        widths = [int(inner["ch"]) * int(times) for times in inner["ch_mult"]]
        sides = [int(inner["resolution"]) >> level for level in range(len(widths))]
        attends = [side in inner["attn_resolutions"] for side in sides]
        found = {
            "_class_name": "VQModel",
            "in_channels": int(inner["in_channels"]),
            "out_channels": int(inner["out_ch"]),
            "block_out_channels": widths,
            "layers_per_block": int(inner["num_res_blocks"]),
            "down_block_types": [f"{'Attn' * at}DownEncoderBlock2D" for at in attends],
            "up_block_types": [f"{'Attn' * at}UpDecoderBlock2D" for at in reversed(attends)],
            "latent_channels": int(inner["z_channels"]),
            "sample_size": int(inner["resolution"]),
            "num_vq_embeddings": int(told["n_embed"]),
            "vq_embed_dim": int(told["embed_dim"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidModel(
            f"vqgan/config.json lacks {error} of a VQGAN: copy model.params from its"
            " original settings, with ddconfig, n_embed and embed_dim"
        ) from None
    if inner.get("double_z"):
        raise InvalidModel("vqgan/ has no codebook (double_z): give a VQGAN")
    return found


def diffusers_name(name: str, levels: int) -> str | None:
    """Return what a weight is called in a `VQModel`; None for what only training needs.

    Args:
        name: As the VQGAN's authors call it, such as `encoder.down.0.block.1.conv1.weight`.
        levels: How many resolutions it has.

    Raises:
        InvalidModel: It belongs to a VQGAN that is built otherwise.
    """
    half, _, rest = name.partition(".")
    if half == "loss":
        return None
    if name == "quantize.embedding.weight" or half in ("quant_conv", "post_quant_conv"):
        return name
    found = _inner(rest, levels) if half in ("encoder", "decoder") else None
    if found is None:
        raise InvalidModel(f"vqgan/ has {name}, which a VQGAN with nearest codes does not have")
    return f"{half}.{found}"


def _inner(name: str, levels: int) -> str | None:
    if name.startswith(("conv_in.", "conv_out.")):
        return name
    if name.startswith("norm_out."):
        return f"conv_{name}"
    part, _, rest = name.partition(".")
    if part == "mid":
        which, _, rest = rest.partition(".")
        places = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
        if which not in places:
            return None
        return f"mid_block.{places[which]}.{_leaf(rest, is_attention=which == 'attn_1')}"
    found = _PLACE.fullmatch(name)
    if found is None:
        return None
    side, level, kind, rest = found.groups()
    place = f"down_blocks.{level}" if side == "down" else f"up_blocks.{levels - 1 - int(level)}"
    if kind in ("downsample", "upsample"):
        return f"{place}.{kind}rs.0.{rest}"
    number, _, leaf = rest.partition(".")
    inner = "resnets" if kind == "block" else "attentions"
    return f"{place}.{inner}.{number}.{_leaf(leaf, is_attention=kind == 'attn')}"


def _leaf(name: str, *, is_attention: bool) -> str:
    layer, _, kind = name.rpartition(".")
    if is_attention:
        return f"{_ATTENTION.get(layer, layer)}.{kind}"
    return f"{'conv_shortcut' if layer == 'nin_shortcut' else layer}.{kind}"
