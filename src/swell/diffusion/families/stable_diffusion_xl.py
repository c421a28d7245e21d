"""Stable Diffusion XL.

Paper: Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis"
(arXiv 2307.01952). The U-Net's conditions are the penultimate states of two CLIP text encoders,
concatenated, and, added to the timestep, the second one's pooled state and six numbers (section
2.2): original size, corner of the crop, target size, as (height, width). Turbo (arXiv 2311.17042)
and Lightning (arXiv 2402.13929) are the same network, distilled.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from swell.diffusion.families.family import Settings
from swell.diffusion.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from torch import Tensor

    from swell.diffusion.families.latent_diffusion_torch import LatentDiffusion

_BLOCK: Final = re.compile(r"(input|output)_blocks[._](\d+)[._](\d+)[._](.+)")
_MIDDLE: Final = re.compile(r"middle_block[._](\d)[._](.+)")

#: Layers of a residual block: name in the first code -> name in diffusers.
_RESNET: Final = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}


class StableDiffusionXl(StableDiffusion):
    """See the module."""

    name: ClassVar = "stable-diffusion-xl"
    pipelines: ClassVar[Sequence[str]] = (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
    )
    guidance: ClassVar = 5.0
    upcasts_vae: ClassVar = True
    encoders: ClassVar[Sequence[str]] = ("text_encoder", "text_encoder_2")

    def scheduler(self, pipeline: str, config: Settings, *, sees_mask: bool) -> Settings:
        return config

    def layer(self, name: str) -> str:
        return sgm_layer(name)

    def negative_prompt(self, model: "LatentDiffusion", text: str) -> str | None:
        is_zero = not text and model.facts.index.get("force_zeros_for_empty_prompt", True)
        return None if is_zero else text

    def values(self, asked: Any) -> dict[str, Any]:
        sizes = [asked.height, asked.width, 0, 0, asked.height, asked.width]
        return {"sizes": np.array(sizes, np.float32)}

    def encode(self, model: "LatentDiffusion", prompt: str | None) -> "dict[str, Tensor]":
        """Return both encoders' states. Shapes: states (77, D1 + D2), pooled (D,)."""
        import torch

        # A refiner has the second one alone.
        names = [name for name in self.encoders if model.parts.get(name) is not None]
        found = [model.parts.clip(name, prompt) for name in names]
        states, pooled = torch.cat([states for states, _ in found], dim=-1), found[-1][1]
        if prompt is None:
            states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
        return {"states": states, "pooled": pooled}

    def predict(
        self, model: "LatentDiffusion", x: "Tensor", t: "Tensor", cond: "Mapping[str, Tensor]"
    ) -> "Tensor":
        added = {"text_embeds": cond["pooled"], "time_ids": cond["sizes"]}
        return self.call_unet(model, x, t, cond, added)


def sgm_layer(name: str) -> str:
    """Return a layer's name in diffusers, with `_` for dots; other names as they are.

    Many LoRAs have the names of the first code (`sgm`).

    Source: the order of blocks in Stability AI's generative-models (`openaimodel.py`): a level has
    two residual blocks and then one that halves, on the way back three and one that doubles.
    """
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
    if found[1] == "input" and number == 0:
        return "conv_in"
    side = "down" if found[1] == "input" else "up"
    level, place = divmod(number - (side == "down"), 3)
    if side == "down" and place == 2:
        return f"down_blocks_{level}_downsamplers_0_conv"
    if side == "up" and inner in ("conv", "conv.weight"):
        return f"up_blocks_{level}_upsamplers_0_conv"
    if part == 1:
        return f"{side}_blocks_{level}_attentions_{place}_{inner}"
    return f"{side}_blocks_{level}_resnets_{place}_{_inner(inner)}"


def _inner(name: str) -> str:
    return _RESNET.get(name.replace(".", "_"), name)
