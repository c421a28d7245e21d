"""What Stable Diffusion 3 and Flux must agree on with diffusers where pictures go in.

Cases as in `family_cases`: masks, with networks that see them and without, and control nets of all
kinds. Stable Diffusion 3 asks for two kinds of autoencoders, for what diffusers does by itself
there and nowhere else:

- With a mask, it decodes without the autoencoder's shift. One case has an autoencoder without a
  shift, and is diffusers' pipeline from end to end; others have one, and decode what diffusers drew
  as its other pipelines do.
- It draws the latents of a control net's picture from the state that all of torch shares. Cases
  have an autoencoder without spread, so that nothing is left to chance.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

import tiny_pipelines as tiny
from family_cases import (
    LONG,
    MASK,
    PHOTO,
    PROMPT,
    SIZE,
    Case,
    Pixels,
    generator,
    masked,
    pictured,
)
from swell.sdk.media import Image

__all__ = ["CASES"]

#: What a control net sees, unlike what is changed.
EDGES = tiny.picture(5)


@dataclass(frozen=True)
class Flow(Case):
    """A case whose control net is of the network's own kind."""

    #: Whether diffusers' latents are decoded with the autoencoder's shift, rather than by itself.
    decodes: bool = False

    def reference(self, folder: Path, made: Mapping[str, Path]) -> Pixels:
        index = json.loads((folder / "model_index.json").read_text())
        pipeline_type = getattr(diffusers, self.pipeline or index["_class_name"])
        extra: dict[str, Any] = {}
        if "net" in made:
            told = json.loads((made["net"] / "config.json").read_text())
            net_type = getattr(diffusers, told["_class_name"])
            extra["controlnet"] = net_type.from_pretrained(made["net"])
        missing = {part: None for part, told in index.items() if told == [None, None]}
        pipeline = pipeline_type.from_pretrained(folder, **extra, **missing)
        pipeline.set_progress_bar_config(disable=True)
        given = {"prompt": PROMPT, "generator": generator(), **self.given}
        if not self.decodes:
            return np.asarray(pipeline(**given).images[0])
        latents = pipeline(**given, output_type="latent").images
        vae = pipeline.vae
        whole = latents / vae.config.scaling_factor + vae.config.shift_factor
        with torch.no_grad():
            decoded = vae.decode(whole).sample
        return np.asarray(pipeline.image_processor.postprocess(decoded)[0])


def three(**settings: Any) -> Callable[[Path], Path]:
    return functools.partial(tiny.stable_diffusion_3, **settings)


def flux(**settings: Any) -> Callable[[Path], Path]:
    return functools.partial(tiny.flux, **settings)


def whole(
    asked: Mapping[str, Any], given: Mapping[str, Any], guidance: float = 3.5
) -> dict[str, Mapping[str, Any]]:
    """What is asked of Flux, and what diffusers is given."""
    return {
        "asked": {"steps": 5, "guidance": guidance, **LONG, **asked},
        "given": {"num_inference_steps": 5, "guidance_scale": guidance, **LONG, **given},
    }


def painted(strength: float) -> dict[str, Mapping[str, Any]]:
    return whole(
        {"image": Image(PHOTO), "mask": Image(MASK), "strength": strength},
        {"image": PHOTO, "mask_image": MASK, "strength": strength},
    )


def steered(scale: float, **more: Any) -> dict[str, Mapping[str, Any]]:
    """Flux with a control net, and what else is asked and given by name."""
    told = whole(
        {"control": Image(EDGES), "control_scale": scale},
        {"control_image": EDGES, "controlnet_conditioning_scale": scale},
    )
    return {name: {**value, **more.get(name, {})} for name, value in told.items()}


def steered_three(scale: float) -> dict[str, Mapping[str, Any]]:
    return pictured(
        {"control": Image(EDGES), "control_scale": scale},
        {"control_image": EDGES, "controlnet_conditioning_scale": scale, **SIZE},
    )


def beside(make: Callable[..., Path], **changes: Any) -> dict[str, Any]:
    return {
        "beside": {"net": functools.partial(make, **changes)},
        "options": ("--controlnet", "{net}"),
    }


START = {"image": Image(PHOTO), "strength": 0.6}
START_GIVEN = {"image": PHOTO, "strength": 0.6}
UNDER = {**START, "mask": Image(MASK)}
UNDER_GIVEN = {**START_GIVEN, "mask_image": MASK}

#: Like those of Stability AI for the largest network: without text, places and zeros.
BARE = {
    "joint_attention_dim": None,
    "use_pos_embed": False,
    "pos_embed_type": None,
    "force_zeros_for_pooled_projection": False,
}

THREE_MASKED, FLUX_MASKED = "StableDiffusion3InpaintPipeline", "FluxInpaintPipeline"
THREE_CONTROLLED, FLUX_CONTROLLED = "StableDiffusion3ControlNetPipeline", "FluxControlNetPipeline"

CASES = [
    Flow("sd 3, masked", three(channels=16, shift=0.0), THREE_MASKED, **masked(0.6)),
    Flow("sd 3, masked, shifted", three(channels=16), THREE_MASKED, decodes=True, **masked(0.8)),
    Flow("sd 3, masked, from noise", three(channels=16), THREE_MASKED, decodes=True, **masked(1.0)),
    Flow("sd 3, sees masks", three(channels=16, sees_mask=True), decodes=True, **masked(0.6)),
    Flow(
        "sd 3, sees masks, from noise",
        three(channels=16, sees_mask=True, shift=0.0),
        **masked(1.0),
    ),
    Flow("flux, masked", flux(), FLUX_MASKED, **painted(0.6)),
    Flow("flux, masked, from noise", flux(), FLUX_MASKED, **painted(1.0)),
    Flow("flux fill", flux(fills=True), **painted(1.0)),
    Flow("flux fill, started", flux(fills=True), **painted(0.6)),
    Flow(
        "sd 3, control net",
        three(is_sure=True),
        THREE_CONTROLLED,
        **steered_three(0.7),
        **beside(tiny.control_net_3),
    ),
    Flow(
        "sd 3, control net without words",
        three(is_sure=True),
        THREE_CONTROLLED,
        **steered_three(0.7),
        **beside(tiny.control_net_3, **BARE),
    ),
    Flow(
        "flux, control net",
        flux(layers=3),
        FLUX_CONTROLLED,
        **steered(0.7),
        **beside(tiny.control_net_flux, num_layers=2),
    ),
    Flow(
        "flux, control net that hears no guidance",
        flux(),
        FLUX_CONTROLLED,
        **steered(0.7),
        **beside(tiny.control_net_flux, guidance_embeds=False),
    ),
    Flow(
        "flux, control net of several kinds",
        flux(),
        FLUX_CONTROLLED,
        **steered(0.7, asked={"control_mode": 3}, given={"control_mode": 3}),
        **beside(tiny.control_net_flux, num_mode=5),
    ),
    Flow(
        "flux, control net that sees pixels",
        flux(stages=4, layers=3),
        FLUX_CONTROLLED,
        **steered(0.7),
        **beside(
            tiny.control_net_flux, num_layers=2, conditioning_embedding_channels=4, patch_size=2
        ),
    ),
    Flow(
        "flux, control net and start",
        flux(),
        "FluxControlNetImg2ImgPipeline",
        **steered(0.7, asked=START, given=START_GIVEN),
        **beside(tiny.control_net_flux),
    ),
    Flow(
        "flux, control net and mask",
        flux(),
        "FluxControlNetInpaintPipeline",
        **steered(0.7, asked=UNDER, given=UNDER_GIVEN),
        **beside(tiny.control_net_flux),
    ),
]
