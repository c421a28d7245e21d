"""Stable Diffusion XL.

Paper: Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis"
(arXiv 2307.01952). The U-Net hears the last but one states of two CLIP text encoders side by side,
and, added to the timestep, the second one's sentence and six numbers (section 2.2): the original
size, the corner of the crop, the target size, as (height, width). Turbo (arXiv 2311.17042) and
Lightning (arXiv 2402.13929) are the same network, distilled.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from swell.diffusion.families.adapters import sgm_layer
from swell.diffusion.families.latent_diffusion_torch import Latent, Words
from swell.diffusion.families.stable_diffusion_torch import unet
from swell.sdk.step_model import Sampler


class StableDiffusionXl(Latent):
    """See the module."""

    encoders: ClassVar = ("text_encoder", "text_encoder_2")

    def layer(self, name: str) -> str:
        """Return what a file of LoRAs means; many have the names of the first code."""
        return sgm_layer(super().layer(name))

    def _unwanted(self, asked: Any) -> str | None:
        text: str = asked.negative_prompt
        is_zero = not text and self.facts.index.get("force_zeros_for_empty_prompt", True)
        return None if is_zero else text

    def _values(self, asked: Any, words: Words, sampler: Sampler) -> dict[str, Any]:
        sizes = [asked.height, asked.width, 0, 0, asked.height, asked.width]
        told = np.array(sizes, np.float32)
        return super()._values(asked, words, sampler) | {"sizes": told}

    def text(self, prompt: str | None) -> Mapping[str, Tensor]:
        """Return both encoders' states. Shapes: states (77, D1 + D2), sentence (D,)."""
        parts, states, sentence = self.parts, [], None
        for name in self.encoders:
            encoder = parts.get(name)
            if encoder is None:
                continue
            tokenizer = name.replace("text_encoder", "tokenizer")
            length = parts.others[tokenizer].model_max_length
            told = encoder(parts.ids(tokenizer, prompt or "", length), output_hidden_states=True)
            states.append(told.hidden_states[-2][0])
            sentence = told[0][0]
        assert sentence is not None, "one of the encoders is there"
        found = {"states": torch.cat(states, dim=-1), "sentence": sentence}
        if prompt is None:
            return {name: torch.zeros_like(value) for name, value in found.items()}
        return found

    def say(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """Ask the U-Net."""
        added = {"text_embeds": told["sentence"], "time_ids": told["sizes"]}
        return unet(self.parts, x, t, told, added)


MODEL = StableDiffusionXl
