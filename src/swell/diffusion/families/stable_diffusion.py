"""Stable Diffusion 1.x and 2.x, and latent consistency models of them.

Paper: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv
2112.10752). The U-Net predicts the noise, or in 2.x at 768 px the velocity (arXiv 2202.00512):

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,    v_t = sqrt(a_t) e - sqrt(1 - a_t) x_0

Its conditions are the 77 states of a CLIP text encoder after the last normalisation. A control net
(Zhang et al., arXiv 2302.05543) adds to the U-Net's inner states, each row's at its own scale; an
IP-Adapter (Ye et al., arXiv 2308.06721) adds attention to a picture. A distilled network with
guidance as an input takes sines of it (Luo et al., arXiv 2310.04378).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from swell.diffusion.families.family import Family, Settings
from swell.diffusion.families.schedulers import as_pipelines_take

if TYPE_CHECKING:
    from torch import Tensor

    from swell.diffusion.families.latent_diffusion_torch import LatentDiffusion


class StableDiffusion(Family):
    """See the module."""

    name: ClassVar = "stable-diffusion"
    pipelines: ClassVar[Sequence[str]] = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
        "LatentConsistencyModelPipeline",
    )
    control: ClassVar = "ControlNetModel"
    control_settings: ClassVar[Sequence[str]] = ("cross_attention_dim",)
    has_reference: ClassVar = True

    def defaults(self, pipeline: str, network: Settings) -> tuple[int, float] | None:
        return (4, 8.5) if pipeline == "LatentConsistencyModelPipeline" else None

    def scheduler(self, pipeline: str, config: Settings, *, sees_mask: bool) -> Settings:
        if pipeline not in self.pipelines[:3]:
            return config
        return as_pipelines_take(config, sees_mask=sees_mask)

    def encode(self, model: "LatentDiffusion", prompt: str | None) -> "dict[str, Tensor]":
        """Return CLIP's states. Shape: states (77, D)."""
        encoder = model.parts.get("text_encoder")
        return {"states": encoder(model.parts.ids("tokenizer", prompt))[0][0]}

    def predict(
        self, model: "LatentDiffusion", x: "Tensor", t: "Tensor", cond: "Mapping[str, Tensor]"
    ) -> "Tensor":
        return self.call_unet(model, x, t, cond, {})

    def call_unet(
        self,
        model: "LatentDiffusion",
        x: "Tensor",
        t: "Tensor",
        cond: "Mapping[str, Tensor]",
        added: dict[str, Any],
    ) -> "Tensor":
        """Call the U-Net, with its control net and IP-Adapter where rows have such pictures.

        Args:
            model: The loaded model.
            x: The latents.
            t: The timesteps.
            cond: The conditions of the rows.
            added: What else the network takes as added conditions.
        """
        parts = model.parts
        guidance = down = middle = None
        network = parts.network
        if "guidance" in cond:
            guidance = _sines(cond["guidance"] - 1, network.config.time_cond_proj_dim).to(x)
        if "control" in cond:
            net = parts.get("controlnet")
            down, middle = net(
                x[:, : net.config.in_channels],
                t,
                encoder_hidden_states=cond["states"],
                controlnet_cond=cond["control"],
                added_cond_kwargs=dict(added),
                return_dict=False,
            )
            scale = cond["control_scale"] * cond.get("control_share", 1.0)
            scale = scale.to(x)[:, None, None, None]
            down, middle = [each * scale for each in down], middle * scale
        if parts.nothing is not None:
            nothing = parts.nothing.to(x)
            parts.scales.rows = cond.get("reference_scale", x.new_zeros(len(x)))
            seen = cond.get("reference", nothing.expand(len(x), *nothing.shape))
            added = added | {"image_embeds": [seen]}
        found: Tensor = network(
            x,
            t,
            encoder_hidden_states=cond["states"],
            timestep_cond=guidance,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            added_cond_kwargs=added or None,
            return_dict=False,
        )[0]
        return found


def _sines(values: "Tensor", width: int) -> "Tensor":
    """Return sines and cosines of numbers. Shapes: (B,) -> (B, width). Source: arXiv 1706.03762."""
    from diffusers.models.embeddings import get_timestep_embedding

    found: Tensor = get_timestep_embedding(values.float() * 1000, width, downscale_freq_shift=1)
    return found
