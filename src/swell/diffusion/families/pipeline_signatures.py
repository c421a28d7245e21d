"""Pipelines of diffusers that make pictures of words, by their own loop, and what that takes. Pure.

An own loop is given a prompt and what stands here, so a pipeline that needs more (a depth map, a
length in seconds) could be added and never run. Which they are is told here and not by diffusers
itself, since a model is added where neither that nor torch is installed.

Source: diffusers 0.42 as `signatures_torch.py` reads it, which a test compares.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

#: More are never better.
MOST_STEPS: Final = 150
MOST_GUIDANCE: Final = 30.0

#: What pipelines call guidance; empty where they take none.
GuidedBy: TypeAlias = Literal["", "guidance_scale", "true_cfg_scale"]

#: What a picture is for: to start from, or to change under a mask.
Use: TypeAlias = Literal["image", "mask"]

#: The name of a pipeline; empty for none.
_Pipeline: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9]{1,72}Pipeline)?\Z")]


class Loop(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What the loop of a pipeline takes beside a prompt and a seed."""

    #: Whether it takes sides.
    is_sized: bool = True
    #: Its default; 0 where it takes none.
    steps: Annotated[int, msgspec.Meta(ge=0, le=MOST_STEPS)] = 50
    #: The argument for guidance; empty where it takes none. Its default, if it has one.
    guided_by: GuidedBy = "guidance_scale"
    guidance: Annotated[float, msgspec.Meta(ge=0, le=MOST_GUIDANCE)] | None = None
    #: Whether it hears what is not wanted.
    hears_unwanted: bool = True
    #: Pipelines that draw with the same parts from a picture, and under a mask; empty for none.
    image: _Pipeline = ""
    mask: _Pipeline = ""
    #: Which of them, `image` and `mask`, take a strength.
    strength: list[Use] = []


LOOPS: Final[Mapping[str, Loop]] = {
    "AltDiffusionPipeline": Loop(
        guidance=7.5, image="AltDiffusionImg2ImgPipeline", strength=["image"]
    ),
    "AmusedPipeline": Loop(
        steps=12,
        guidance=10.0,
        image="AmusedImg2ImgPipeline",
        mask="AmusedInpaintPipeline",
        strength=["image", "mask"],
    ),
    "AuraFlowPipeline": Loop(guidance=3.5),
    "BriaFiboPipeline": Loop(steps=30, guidance=5),
    "BriaPipeline": Loop(steps=30, guidance=5),
    "ChromaPipeline": Loop(
        steps=35, guidance=5.0, image="ChromaImg2ImgPipeline", strength=["image"]
    ),
    "CogView3PlusPipeline": Loop(guidance=5.0),
    "CogView4Pipeline": Loop(guidance=5.0),
    "ErnieImagePipeline": Loop(guidance=4.0),
    "Flux2KleinPipeline": Loop(
        guidance=4.0,
        hears_unwanted=False,
        image="Flux2KleinPipeline",
        mask="Flux2KleinInpaintPipeline",
        strength=["mask"],
    ),
    "Flux2Pipeline": Loop(guidance=4.0, hears_unwanted=False, image="Flux2Pipeline"),
    "FluxKontextPipeline": Loop(
        steps=28,
        guidance=3.5,
        hears_unwanted=False,
        image="FluxKontextPipeline",
        mask="FluxKontextInpaintPipeline",
        strength=["mask"],
    ),
    "FluxPipeline": Loop(
        steps=28,
        guidance=3.5,
        hears_unwanted=False,
        image="FluxImg2ImgPipeline",
        mask="FluxInpaintPipeline",
        strength=["image", "mask"],
    ),
    "GlmImagePipeline": Loop(guidance=1.5, hears_unwanted=False),
    "HiDreamImagePipeline": Loop(guidance=5.0),
    "HunyuanDiTPAGPipeline": Loop(guidance=5.0),
    "HunyuanDiTPipeline": Loop(guidance=5.0),
    "HunyuanImagePipeline": Loop(guided_by=""),
    "IFPipeline": Loop(
        steps=100,
        guidance=7.0,
        image="IFImg2ImgPipeline",
        mask="IFInpaintingPipeline",
        strength=["image", "mask"],
    ),
    "Ideogram4Pipeline": Loop(steps=48, hears_unwanted=False),
    "Kandinsky3Pipeline": Loop(
        steps=25, guidance=3.0, image="Kandinsky3Img2ImgPipeline", strength=["image"]
    ),
    "Kandinsky5T2IPipeline": Loop(guidance=3.5),
    "KandinskyCombinedPipeline": Loop(
        steps=100,
        guidance=4.0,
        image="KandinskyImg2ImgCombinedPipeline",
        mask="KandinskyInpaintCombinedPipeline",
        strength=["image"],
    ),
    "KandinskyV22CombinedPipeline": Loop(
        steps=100,
        guidance=4.0,
        image="KandinskyV22Img2ImgCombinedPipeline",
        mask="KandinskyV22InpaintCombinedPipeline",
        strength=["image"],
    ),
    "KolorsPAGPipeline": Loop(guidance=5.0),
    "KolorsPipeline": Loop(guidance=5.0, image="KolorsImg2ImgPipeline", strength=["image"]),
    "Krea2Pipeline": Loop(steps=28, guidance=4.5),
    "LDMTextToImagePipeline": Loop(guidance=1.0, hears_unwanted=False),
    "LatentConsistencyModelPipeline": Loop(
        steps=4,
        guidance=8.5,
        hears_unwanted=False,
        image="LatentConsistencyModelImg2ImgPipeline",
        strength=["image"],
    ),
    "LongCatImagePipeline": Loop(guidance=4.5),
    "Lumina2Pipeline": Loop(steps=30, guidance=4.0),
    "LuminaPipeline": Loop(steps=30, guidance=4.0),
    "NucleusMoEImagePipeline": Loop(guidance=4.0),
    "OmniGenPipeline": Loop(guidance=2.5, hears_unwanted=False),
    "OvisImagePipeline": Loop(guidance=5.0),
    "PRXPipeline": Loop(steps=28, guidance=4.0),
    "PRXPixelPipeline": Loop(steps=28, guidance=4.0),
    "PixArtAlphaPipeline": Loop(steps=20, guidance=4.5),
    "PixArtSigmaPAGPipeline": Loop(steps=20, guidance=4.5),
    "PixArtSigmaPipeline": Loop(steps=20, guidance=4.5),
    "QwenImagePipeline": Loop(
        guided_by="true_cfg_scale",
        guidance=4.0,
        image="QwenImageImg2ImgPipeline",
        mask="QwenImageInpaintPipeline",
        strength=["image", "mask"],
    ),
    "SanaPAGPipeline": Loop(steps=20, guidance=4.5),
    "SanaPipeline": Loop(steps=20, guidance=4.5),
    "SanaSprintPipeline": Loop(
        steps=2,
        guidance=4.5,
        hears_unwanted=False,
        image="SanaSprintImg2ImgPipeline",
        strength=["image"],
    ),
    "SemanticStableDiffusionPipeline": Loop(guidance=7.5),
    "StableCascadeCombinedPipeline": Loop(steps=12, guided_by=""),
    "StableDiffusion3PAGPipeline": Loop(
        steps=28, guidance=7.0, image="StableDiffusion3PAGImg2ImgPipeline", strength=["image"]
    ),
    "StableDiffusion3Pipeline": Loop(
        steps=28,
        guidance=7.0,
        image="StableDiffusion3Img2ImgPipeline",
        mask="StableDiffusion3InpaintPipeline",
        strength=["image", "mask"],
    ),
    "StableDiffusionPAGPipeline": Loop(
        guidance=7.5,
        image="StableDiffusionPAGImg2ImgPipeline",
        mask="StableDiffusionPAGInpaintPipeline",
        strength=["image", "mask"],
    ),
    "StableDiffusionPanoramaPipeline": Loop(guidance=7.5),
    "StableDiffusionParadigmsPipeline": Loop(guidance=7.5),
    "StableDiffusionPipeline": Loop(
        guidance=7.5,
        image="StableDiffusionImg2ImgPipeline",
        mask="StableDiffusionInpaintPipeline",
        strength=["image", "mask"],
    ),
    "StableDiffusionSAGPipeline": Loop(guidance=7.5),
    "StableDiffusionXLPAGPipeline": Loop(
        guidance=5.0,
        image="StableDiffusionXLPAGImg2ImgPipeline",
        mask="StableDiffusionXLPAGInpaintPipeline",
        strength=["image", "mask"],
    ),
    "StableDiffusionXLPipeline": Loop(
        guidance=5.0,
        image="StableDiffusionXLImg2ImgPipeline",
        mask="StableDiffusionXLInpaintPipeline",
        strength=["image", "mask"],
    ),
    "StableUnCLIPPipeline": Loop(steps=20, guidance=10.0),
    "UnCLIPPipeline": Loop(is_sized=False, steps=0, guided_by="", hears_unwanted=False),
    "VQDiffusionPipeline": Loop(is_sized=False, steps=100, guidance=5.0, hears_unwanted=False),
    "VersatileDiffusionTextToImagePipeline": Loop(guidance=7.5),
    "WuerstchenCombinedPipeline": Loop(steps=12, guided_by=""),
    "ZImagePipeline": Loop(
        guidance=5.0,
        image="ZImageImg2ImgPipeline",
        mask="ZImageInpaintPipeline",
        strength=["image", "mask"],
    ),
}

#: Pipelines that draw from pictures → the one that draws by words with the same parts.
_WORDS: Final = {
    other: name for name, loop in LOOPS.items() for other in (loop.image, loop.mask) if other
}


def words_of(pipeline: str) -> str:
    """Return the pipeline that draws by words with the parts of this one; itself if none does."""
    return _WORDS.get(pipeline, pipeline)
