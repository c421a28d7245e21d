"""What diffusers' own loop must agree on with diffusers, given words, pictures and masks.

Cases as in `family_cases`: families with a scheduler that the engine has no solver for, and
pipelines of no family here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers

import tiny_loops as loops
import tiny_pipelines as tiny
from family_cases import (
    LONG,
    MASKED,
    START,
    XL_MASKED,
    XL_START,
    Case,
    guided,
    masked,
    plain,
    sd,
    started,
)

__all__ = ["CASES", "heun", "unipc"]

Told = dict[str, Mapping[str, Any]]


def heun() -> Any:
    return diffusers.HeunDiscreteScheduler(**tiny.BETAS)


def unipc() -> Any:
    return diffusers.UniPCMultistepScheduler(**tiny.BETAS)


def sdxl(folder: Path) -> Path:
    return tiny.stable_diffusion_xl(folder, unipc())


def three_without_t5(folder: Path) -> Path:
    """Its folder says of two parts that it is without them."""
    tiny.stable_diffusion_3(folder, with_t5=False, channels=16)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_karras_sigmas": True}))
    return folder


def sided(told: Told) -> Told:
    """The same with sides, to which diffusers is given pictures that are resized already."""
    sides = LONG["width"], LONG["height"]
    found = {name: {**each, **LONG} for name, each in told.items()}
    pictures = {"image", "mask_image"} & found["given"].keys()
    found["given"] |= {name: found["given"][name].resize(sides, 1) for name in pictures}
    return found


def without(told: Told, *names: str) -> Told:
    return {
        use: {name: value for name, value in each.items() if name not in names}
        for use, each in told.items()
    }


def true_scale(told: Told) -> Told:
    """Guidance as Qwen calls it, which hears nothing unwanted as a space."""
    given = dict(told["given"])
    given |= {"true_cfg_scale": given.pop("guidance_scale")}
    return {"asked": told["asked"], "given": {"negative_prompt": " ", **given}}


CASES = [
    Case("own loop, sd 1 unipc", sd(unipc), in_steps=False, **guided()),
    Case("own loop, start, sd 1 unipc", sd(unipc), START, in_steps=False, **started(0.6)),
    Case("own loop, start, sd 1 heun", sd(heun), START, in_steps=False, **started(0.6)),
    Case("own loop, mask, 4 channels", sd(heun), MASKED, in_steps=False, **masked(0.6)),
    Case("own loop, mask, 9 channels", sd(unipc, channels=9), in_steps=False, **masked(1.0)),
    Case("own loop, start, sdxl", sdxl, XL_START, in_steps=False, **started(0.6)),
    Case("own loop, mask, sdxl", sdxl, XL_MASKED, in_steps=False, **masked(0.7)),
    Case("own loop, sd 3 without t5", three_without_t5, in_steps=False, **guided()),
    Case(
        "own loop, start, sd 3 without t5",
        three_without_t5,
        "StableDiffusion3Img2ImgPipeline",
        in_steps=False,
        **started(0.6),
    ),
    Case("own loop, chroma", loops.chroma, in_steps=False, **sided(guided())),
    Case(
        "own loop, start, chroma",
        loops.chroma,
        "ChromaImg2ImgPipeline",
        in_steps=False,
        **sided(started(0.6)),
    ),
    Case(
        "own loop, start, z-image",
        loops.z_image,
        "ZImageImg2ImgPipeline",
        in_steps=False,
        **sided(started(0.6)),
    ),
    Case(
        "own loop, mask, z-image",
        loops.z_image,
        "ZImageInpaintPipeline",
        in_steps=False,
        **sided(masked(0.6)),
    ),
    Case(
        "own loop, qwen, nothing unwanted",
        loops.qwen_image,
        in_steps=False,
        **true_scale(sided(plain(6, 5.0))),
    ),
    Case(
        "own loop, mask, qwen",
        loops.qwen_image,
        "QwenImageInpaintPipeline",
        in_steps=False,
        **true_scale(sided(masked(0.6))),
    ),
    Case(
        "own loop, change, flux 2 klein",
        loops.flux_2_klein,
        in_steps=False,
        **sided(without(started(0.6), "strength", "negative_prompt")),
    ),
    Case(
        "own loop, mask, flux 2 klein",
        loops.flux_2_klein,
        "Flux2KleinInpaintPipeline",
        in_steps=False,
        **sided(without(masked(0.6), "negative_prompt")),
    ),
]
