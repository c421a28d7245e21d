"""Pipelines of diffusers that make pictures of words alone, by their own loop. Pure.

An own loop is given a prompt, sides, steps, guidance and a seed, so a pipeline that needs more (a
picture, a mask, a length in seconds) could be added and never run. Which they are is told here and
not by diffusers itself, since a model is added where neither that nor torch is installed.

Source: the signatures of `__call__` in diffusers 0.42, which a test compares.
"""

from typing import Final

__all__ = ["PIPELINES"]

PIPELINES: Final = frozenset(
    [
        "AltDiffusionPipeline",
        "AmusedPipeline",
        "AuraFlowPipeline",
        "BriaFiboPipeline",
        "BriaPipeline",
        "ChromaPipeline",
        "CogView3PlusPipeline",
        "CogView4Pipeline",
        "ErnieImagePipeline",
        "Flux2KleinPipeline",
        "Flux2Pipeline",
        "GlmImagePipeline",
        "HiDreamImagePipeline",
        "HunyuanDiTPAGPipeline",
        "HunyuanDiTPipeline",
        "HunyuanImagePipeline",
        "IFPipeline",
        "Ideogram4Pipeline",
        "Kandinsky3Pipeline",
        "Kandinsky5T2IPipeline",
        "KandinskyCombinedPipeline",
        "KandinskyV22CombinedPipeline",
        "KolorsPAGPipeline",
        "KolorsPipeline",
        "Krea2Pipeline",
        "LDMTextToImagePipeline",
        "LongCatImagePipeline",
        "Lumina2Pipeline",
        "LuminaPipeline",
        "NucleusMoEImagePipeline",
        "OmniGenPipeline",
        "OvisImagePipeline",
        "PRXPipeline",
        "PRXPixelPipeline",
        "PixArtAlphaPipeline",
        "PixArtSigmaPAGPipeline",
        "PixArtSigmaPipeline",
        "QwenImagePipeline",
        "SanaPAGPipeline",
        "SanaPipeline",
        "SanaSprintPipeline",
        "SemanticStableDiffusionPipeline",
        "StableCascadeCombinedPipeline",
        "StableDiffusion3PAGPipeline",
        "StableDiffusionPAGPipeline",
        "StableDiffusionPanoramaPipeline",
        "StableDiffusionParadigmsPipeline",
        "StableDiffusionSAGPipeline",
        "StableDiffusionXLPAGPipeline",
        "StableUnCLIPPipeline",
        "UnCLIPPipeline",
        "VQDiffusionPipeline",
        "VersatileDiffusionTextToImagePipeline",
        "WuerstchenCombinedPipeline",
        "ZImagePipeline",
    ]
)
