"""Stable Diffusion 1.x and 2.x.

Paper: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv
2112.10752). The U-Net says the noise, or in 2.x at 768 px the velocity (arXiv 2202.00512):

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,    v_t = sqrt(a_t) e - sqrt(1 - a_t) x_0

It hears the states of a CLIP text encoder, 77 of them, after its last normalisation. A control net
(Zhang et al., arXiv 2302.05543) adds to the U-Net's inner states, each row's at its own scale; an
IP-Adapter (Ye et al., arXiv 2308.06721) adds attention to a picture. A distilled network that is
told its guidance as a number hears sines of it (Luo et al., arXiv 2310.04378).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from swell.diffusion.families.latent_diffusion_torch import Latent


class StableDiffusion(Latent):
    """See the module."""

    def text(self, prompt: str | None) -> Mapping[str, Tensor]:
        """Return CLIP's states. Shape: states (77, D)."""
        encoder = self.parts.get("text_encoder")
        ids = self.parts.ids(
            "tokenizer", prompt or "", self.parts.others["tokenizer"].model_max_length
        )
        return {"states": encoder(ids)[0][0]}

    def say(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """Ask the U-Net."""
        return unet(self.parts, x, t, told, {})


def unet(
    parts: Any, x: Tensor, t: Tensor, told: Mapping[str, Tensor], added: dict[str, Any]
) -> Tensor:
    """Ask a U-Net, and its control net and picture adapter where rows have such pictures.

    Args:
        parts: Those of the model.
        x: Shapes: (B, C, h, w).
        t: Shapes: (B,).
        told: What rows hear, by name.
        added: What else the network takes as added conditions.
    """
    network, cond = parts.network, None
    if "guidance" in told:
        cond = embedded(told["guidance"] - 1, network.config.time_cond_proj_dim).to(x)
    down = middle = None
    if "control" in told:
        down, middle = parts.get("controlnet")(
            x[:, : parts.get("controlnet").config.in_channels],
            t,
            encoder_hidden_states=told["states"],
            controlnet_cond=told["control"],
            added_cond_kwargs=dict(added),
            return_dict=False,
        )
        scale = told["control_scale"]
        if "control_share" in told:
            scale = scale * told["control_share"]
        scale = scale.to(x)[:, None, None, None]
        down, middle = [each * scale for each in down], middle * scale
    if parts.nothing is not None:
        added = added | {"image_embeds": [_reference(parts, x, told)]}
    said: Tensor = network(
        x,
        t,
        encoder_hidden_states=told["states"],
        timestep_cond=cond,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
        added_cond_kwargs=added or None,
        return_dict=False,
    )[0]
    return said


def _reference(parts: Any, x: Tensor, told: Mapping[str, Tensor]) -> Tensor:
    if "reference" in told:
        parts.scales.rows = told["reference_scale"]
        return told["reference"]
    parts.scales.rows = torch.zeros(len(x), device=x.device)
    nothing: Tensor = parts.nothing.to(x)
    return nothing.expand(len(x), *nothing.shape)


def embedded(values: Tensor, width: int) -> Tensor:
    """Return sines and cosines of numbers. Shapes: (B,) -> (B, width). Source: arXiv 1706.03762."""
    half = width // 2
    rates = torch.exp(
        torch.arange(half, device=values.device, dtype=torch.float32)
        * (-math.log(10000.0) / (half - 1))
    )
    angles = values.float()[:, None] * 1000.0 * rates[None, :]
    found = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return torch.nn.functional.pad(found, (0, width - found.shape[1]))


MODEL = StableDiffusion
