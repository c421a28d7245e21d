"""Stable Diffusion 3 and 3.5.

Paper: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis"
(arXiv 2403.03206). Pictures go to noise along straight lines, and the transformer says how fast:

    x_t = (1 - t) x_0 + t e,    v = e - x_0

It hears three text encoders: two CLIPs side by side, padded to the width of T5's states, then those
of T5; and the sentences of both CLIPs together. Without T5 its states are zeros.

A control net (arXiv 2302.05543) sees latents of its picture. diffusers draws them from the state
that all of torch shares, so that no seed fixes them; here they are the middle of that draw, and the
same for every seed.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from swell.diffusion.families.latent_diffusion_torch import Latent, Picture, Words
from swell.diffusion.torch_arrays import inference

#: Tokens that T5 hears.
_LONG: Final = 256


class StableDiffusion3(Latent):
    """See the module."""

    half: ClassVar = "bfloat16"
    encoders: ClassVar = ("text_encoder", "text_encoder_2")

    def _skip(self, steps: int, strength: float) -> int:
        return flow_skip(steps, strength)

    def text(self, prompt: str | None) -> Mapping[str, Tensor]:
        """Return all encoders' states. Shapes: states (77 + 256, D), sentence (D1 + D2,)."""
        parts, prompt = self.parts, prompt or ""
        told = [self._clip(name, prompt) for name in self.encoders]
        clips = torch.cat([states for states, _ in told], dim=-1)
        width = int(self.facts.network["joint_attention_dim"])
        long = parts.get("text_encoder_3")
        if long is None:
            states = clips.new_zeros((_LONG, width))
        else:
            states = long(parts.ids("tokenizer_3", prompt, _LONG))[0][0]
        clips = torch.nn.functional.pad(clips, (0, states.shape[-1] - clips.shape[-1]))
        return {
            "states": torch.cat([clips, states.to(clips)], dim=0),
            "sentence": torch.cat([sentence for _, sentence in told], dim=-1),
        }

    def _clip(self, name: str, prompt: str) -> tuple[Tensor, Tensor]:
        tokenizer = name.replace("text_encoder", "tokenizer")
        length = self.parts.others["tokenizer"].model_max_length
        ids = self.parts.ids(tokenizer, prompt, length)
        told: Any = self.parts.get(name)(ids, output_hidden_states=True)
        return told.hidden_states[-2][0], told[0][0]

    def say(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """Ask the transformer."""
        said: Tensor = self.parts.network(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=told["states"],
            pooled_projections=told["sentence"],
            block_controlnet_hidden_states=self._added(x, t, told) if "control" in told else None,
            return_dict=False,
        )[0]
        return said

    # The control net

    @inference
    def _control(self, picture: Picture, words: Words) -> Tensor:
        """Return the latents of the control net's picture. Shape: (C, h, w)."""
        assert self.net is not None, "a picture for it was asked for"
        shift = self.facts.vae.get("shift_factor") if self.net.hears_sentence else None

        def make() -> Tensor:
            middle = self._posterior(self._pixels(picture, words)).mean
            scaling: float = self.parts.vae.config.scaling_factor
            found: Tensor = ((middle - (shift or 0.0)) * scaling)[0].float()
            return found

        return self._once(("control", picture, words.width, words.height), make)

    def _added(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what the control net adds after stretches of blocks, each row's at its scale."""
        assert self.net is not None, "a picture for it was asked for"
        net, sentence = self.parts.get("controlnet"), told["sentence"]
        found: list[Tensor] = net(
            hidden_states=x[:, : net.config.in_channels],
            controlnet_cond=told["control"],
            conditioning_scale=told["control_scale"].to(x)[:, None, None],
            encoder_hidden_states=told["states"] if self.net.hears_words else None,
            pooled_projections=sentence if self.net.hears_sentence else torch.zeros_like(sentence),
            timestep=t,
            return_dict=False,
        )[0]
        return found


def flow_skip(steps: int, strength: float) -> int:
    """Return how many steps of a flow a sample leaves out that starts from a picture."""
    return min(int(max(steps - min(steps * strength, steps), 0)), steps - 1)


MODEL = StableDiffusion3
