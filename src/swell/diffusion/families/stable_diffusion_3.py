"""Stable Diffusion 3 and 3.5.

Paper: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis"
(arXiv 2403.03206). The transformer predicts the velocity on straight lines from picture to noise:

    x_t = (1 - t) x_0 + t e,    v = e - x_0

Its conditions are the states of three text encoders: two CLIPs concatenated, padded to the width of
T5, then those of T5; and the pooled states of both CLIPs. Without T5 its states are zeros.

A control net (arXiv 2302.05543) takes latents of its picture. diffusers samples them from torch's
global random state, so that no seed fixes them; here they are the mean, for every seed.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from swell.core.errors import InvalidModel
from swell.diffusion.families.family import Family
from swell.diffusion.families.pipeline_folder import count_of

if TYPE_CHECKING:
    from torch import Tensor

    from swell.diffusion.families.adapters import Net
    from swell.diffusion.families.latent_diffusion_torch import LatentDiffusion
    from swell.diffusion.families.sample_plan import Picture, Words

#: Tokens of T5.
_LONG: Final = 256


class StableDiffusion3(Family):
    """See the module."""

    name: ClassVar = "stable-diffusion-3"
    pipelines: ClassVar[Sequence[str]] = (
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline",
    )
    network: ClassVar = "transformer"
    network_class: ClassVar = "SD3Transformer2DModel"
    blocks: ClassVar[Sequence[str]] = ("JointTransformerBlock",)
    control: ClassVar = "SD3ControlNetModel"
    control_settings: ClassVar[Sequence[str]] = (
        "joint_attention_dim",
        "pooled_projection_dim",
        "patch_size",
    )
    steps: ClassVar = 28
    guidance: ClassVar = 7.0
    half: ClassVar = "bfloat16"
    encoders: ClassVar[Sequence[str]] = ("text_encoder", "text_encoder_2")
    row_gib: ClassVar = 0.25

    def check_net(self, net: "Net", scale_px: int) -> None:
        file = f"{net.folder.name}/config.json"
        count_of(net.settings, "num_layers", 18, least=1, most=1 << 10, file=file)
        width, stated = net.width, net.settings.get("caption_projection_dim")
        if net.hears_words and None not in (stated, width) and stated != width:
            raise InvalidModel(
                f"{file}: caption_projection_dim is {str(stated)[:80]}, and num_attention_heads x "
                f"attention_head_dim is {width}: they must be the same, so correct the file"
            )

    def encode(self, model: "LatentDiffusion", prompt: str | None) -> "dict[str, Tensor]":
        """Return all encoders' states. Shapes: states (77 + 256, D), pooled (D1 + D2,)."""
        import torch

        parts = model.parts
        found = [parts.clip(name, prompt) for name in self.encoders]
        clips = torch.cat([states for states, _ in found], dim=-1)
        long = parts.get("text_encoder_3")
        if long is None:
            states = clips.new_zeros((_LONG, int(model.facts.network["joint_attention_dim"])))
        else:
            states = long(parts.ids("tokenizer_3", prompt, _LONG))[0][0].to(clips)
        clips = torch.nn.functional.pad(clips, (0, states.shape[-1] - clips.shape[-1]))
        return {
            "states": torch.cat([clips, states], dim=0),
            "pooled": torch.cat([pooled for _, pooled in found], dim=-1),
        }

    def predict(
        self, model: "LatentDiffusion", x: "Tensor", t: "Tensor", cond: "Mapping[str, Tensor]"
    ) -> "Tensor":
        found: Tensor = model.parts.network(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=cond["states"],
            pooled_projections=cond["pooled"],
            block_controlnet_hidden_states=_control(model, x, t, cond)
            if "control" in cond
            else None,
            return_dict=False,
        )[0]
        return found

    def control_input(
        self, model: "LatentDiffusion", picture: "Picture", words: "Words"
    ) -> "Tensor":
        """Return the latents of the control picture. Shape: (C, h, w)."""
        assert model.net is not None, "a picture for it was asked for"
        # Nets without a pooled state were trained on latents without the autoencoder's shift.
        shift = (model.facts.vae.get("shift_factor") or 0.0) if model.net.hears_pooled else 0.0

        def make() -> "Tensor":
            mean = model.autoencoder.posterior(model.pictures.pixels(picture, words)).mean
            found: Tensor = ((mean - shift) * model.parts.vae.config.scaling_factor)[0].float()
            return found

        return model.pictures.once(("control", picture, words.width, words.height), make)


def _control(
    model: "LatentDiffusion", x: "Tensor", t: "Tensor", cond: "Mapping[str, Tensor]"
) -> "list[Tensor]":
    """Return what the control net adds to groups of blocks, each row's at its scale."""
    assert model.net is not None, "a picture for it was asked for"
    net, pooled = model.parts.get("controlnet"), cond["pooled"]
    found: list[Tensor] = net(
        hidden_states=x[:, : net.config.in_channels],
        controlnet_cond=cond["control"],
        conditioning_scale=cond["control_scale"].to(x)[:, None, None],
        encoder_hidden_states=cond["states"] if model.net.hears_words else None,
        pooled_projections=pooled if model.net.hears_pooled else pooled.new_zeros(pooled.shape),
        timestep=t,
        return_dict=False,
    )[0]
    return found
