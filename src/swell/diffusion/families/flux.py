"""FLUX.1 and its variants.

Source: Black Forest Labs, the released code of FLUX.1 (no paper). It is a rectified flow (arXiv
2403.03206); its transformer takes T5's states, CLIP's pooled state and, where it was distilled for
it, guidance as a number. A token is 2 x 2 latents, with row and column as positions (Su et al.,
arXiv 2104.09864). FLUX.1 Fill also takes the picture around a mask, and each pixel of the mask.

A control net (arXiv 2302.05543) takes latents of its picture, sampled first of all, or its pixels;
one for several kinds of pictures takes the kind's number.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from swell.core.errors import InvalidModel
from swell.diffusion.families.family import Family, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from swell.diffusion.families.adapters import Net
    from swell.diffusion.families.detect_family import Facts
    from swell.diffusion.families.latent_diffusion_torch import LatentDiffusion
    from swell.diffusion.families.sample_plan import Picture, Words

#: Tokens of T5.
_LONG: Final = 512

#: Pixels a side that control nets with pixels as input make one state of.
_SEEN_PX: Final = 8


class Flux(Family):
    """See the module."""

    name: ClassVar = "flux"
    pipelines: ClassVar[Sequence[str]] = (
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxFillPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
    )
    network: ClassVar = "transformer"
    network_class: ClassVar = "FluxTransformer2DModel"
    control: ClassVar = "FluxControlNetModel"
    control_settings: ClassVar[Sequence[str]] = ("joint_attention_dim", "pooled_projection_dim")
    has_negative_prompt: ClassVar = False
    even: ClassVar = True
    steps: ClassVar = 28
    guidance: ClassVar = 3.5
    half: ClassVar = "bfloat16"
    beside: ClassVar[Sequence[str]] = ("around", "mask")
    row_gib: ClassVar = 0.46

    def defaults(self, pipeline: str, network: Settings) -> tuple[int, float] | None:
        if pipeline == "FluxFillPipeline":
            return 50, 30.0
        return None if network.get("guidance_embeds") else (4, 0.0)

    def patch(self, network: Settings) -> int:
        return 2

    def sample_size(self, network: Settings) -> Any:
        return 128

    def input_channels(self, channels: int, scale_px: int) -> tuple[int, int]:
        return 4 * channels, 4 * (2 * channels + scale_px**2)

    def check_net(self, net: "Net", scale_px: int) -> None:
        if net.sees_pixels and scale_px != _SEEN_PX:
            raise InvalidModel(
                f"{net.folder.name}/ sees pixels, {_SEEN_PX} a side for a latent, and this model's "
                f"autoencoder has {scale_px}: give a control net that sees latents"
            )

    def encode(self, model: "LatentDiffusion", prompt: str | None) -> "dict[str, Tensor]":
        """Return T5's states and CLIP's pooled state. Shapes: states (512, D), pooled (D,)."""
        parts = model.parts
        pooled = parts.get("text_encoder")(parts.ids("tokenizer", prompt)).pooler_output
        states = parts.get("text_encoder_2")(parts.ids("tokenizer_2", prompt, _LONG))[0]
        return {"states": states[0], "pooled": pooled[0]}

    def predict(
        self, model: "LatentDiffusion", x: "Tensor", t: "Tensor", cond: "Mapping[str, Tensor]"
    ) -> "Tensor":
        _, _, height, width = x.shape
        common = {
            "timestep": (t / 1000).to(x.dtype),
            "pooled_projections": cond["pooled"],
            "encoder_hidden_states": cond["states"],
            **_positions(cond["states"].shape[1], height // 2, width // 2, x.dtype, x.device),
            "return_dict": False,
        }
        tokens = _packed(x)
        added = _control(model, tokens, common, cond) if "control" in cond else {}
        found = model.parts.network(
            hidden_states=tokens, guidance=cond.get("guidance"), **common, **added
        )[0]
        return _unpacked(found, height, width)

    def encodes_control(self, net: "Net | None") -> bool:
        return net is not None and not net.sees_pixels

    def encodes_masked(self, facts: "Facts", words: "Words") -> bool:
        # diffusers samples here even where nothing of the picture is left.
        return True

    def control_input(
        self, model: "LatentDiffusion", picture: "Picture", words: "Words"
    ) -> "Tensor":
        """Return latents of the control picture, or pixels from -1 to 1. Shape: (C, h, w)."""
        pixels = model.pictures.pixels(picture, words)
        if not self.encodes_control(model.net):
            return model.pictures.on_device(pixels[0])
        return model.autoencoder.encode(pixels, words.seed, skipped=0)

    def mask_input(self, facts: "Facts", mask: "Tensor") -> "Tensor":
        """Return each pixel of a mask. Shapes: (1, 1, H, W) -> (P, h, w), P pixels a latent."""
        import torch

        return torch.nn.functional.pixel_unshuffle(mask, facts.scale_px)[0]


def _control(
    model: "LatentDiffusion",
    tokens: "Tensor",
    common: Mapping[str, Any],
    cond: "Mapping[str, Tensor]",
) -> dict[str, Any]:
    """Return what the control net adds after blocks, each row's at its scale."""
    assert model.net is not None, "a picture for it was asked for"
    net, control = model.parts.get("controlnet"), cond["control"]
    joint, single = net(
        hidden_states=tokens[..., : net.config.in_channels],
        controlnet_cond=control if model.net.sees_pixels else _packed(control),
        controlnet_mode=cond["control_mode"].long()[:, None] if model.net.modes else None,
        conditioning_scale=cond["control_scale"].to(tokens)[:, None, None],
        guidance=cond["guidance"] if model.net.hears_guidance else None,
        **common,
    )
    return {
        "controlnet_block_samples": joint,
        "controlnet_single_block_samples": single,
        "controlnet_blocks_repeat": model.net.sees_pixels,
    }


@functools.lru_cache(maxsize=32)
def _positions(
    words: int, rows: int, columns: int, dtype: "torch.dtype", device: "torch.device"
) -> "dict[str, Tensor]":
    """Return positions of words and of 2 x 2 latents. Shapes: (words, 3), (rows columns, 3)."""
    import torch

    places = torch.zeros(rows, columns, 3, device=device, dtype=dtype)
    places[..., 1] += torch.arange(rows, device=device)[:, None]
    places[..., 2] += torch.arange(columns, device=device)[None, :]
    return {
        "txt_ids": torch.zeros(words, 3, device=device, dtype=dtype),
        "img_ids": places.reshape(rows * columns, 3),
    }


def _packed(x: "Tensor") -> "Tensor":
    """Return tokens of 2 x 2 latents. Shapes: (B, C, h, w) -> (B, h w / 4, 4 C)."""
    count, channels, height, width = x.shape
    parts = x.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(count, height * width // 4, channels * 4)


def _unpacked(x: "Tensor", height: int, width: int) -> "Tensor":
    """Return the latents of tokens, the inverse of `_packed`."""
    parts = x.reshape(len(x), height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(len(x), -1, height, width)
