"""Flux.1 and its kin.

Source: Black Forest Labs, the released code of FLUX.1 (no paper); it is a rectified flow (arXiv
2403.03206, see `stable_diffusion_3_torch`) whose transformer hears T5's states and CLIP's sentence,
and, where it was distilled for it, its guidance as a number. It sees 2 x 2 latents as one token,
with the row and the column as positions (Su et al., arXiv 2104.09864). FLUX.1 Fill also sees what
lies around a mask, and of the mask each pixel.

A control net (arXiv 2302.05543) sees latents of its picture, drawn before all else, or the picture
itself; one for several kinds of pictures is told the kind by number.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from swell.diffusion.families.latent_diffusion_torch import Latent, Picture, Words
from swell.diffusion.families.stable_diffusion_3_torch import flow_skip
from swell.diffusion.torch_arrays import to_device

#: Tokens that T5 hears.
_LONG: Final = 512


class Flux(Latent):
    """See the module."""

    half: ClassVar = "bfloat16"
    encoders: ClassVar = ("text_encoder",)
    beside: ClassVar = ("around", "mask")

    def _skip(self, steps: int, strength: float) -> int:
        return flow_skip(steps, strength)

    def text(self, prompt: str | None) -> Mapping[str, Tensor]:
        """Return T5's states and CLIP's sentence. Shapes: states (512, D), sentence (D,)."""
        parts, prompt = self.parts, prompt or ""
        length = parts.others["tokenizer"].model_max_length
        sentence = parts.get("text_encoder")(parts.ids("tokenizer", prompt, length)).pooler_output
        states = parts.get("text_encoder_2")(parts.ids("tokenizer_2", prompt, _LONG))[0]
        return {"states": states[0], "sentence": sentence[0]}

    def say(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """Ask the transformer."""
        _, _, height, width = x.shape
        heard = {
            "timestep": (t / 1000).to(x.dtype),
            "pooled_projections": told["sentence"],
            "encoder_hidden_states": told["states"],
            **_positions(told["states"].shape[1], height // 2, width // 2, x.dtype, x.device),
            "return_dict": False,
        }
        tokens = _packed(x)
        added = self._added(tokens, heard, told) if "control" in told else {}
        said = self.parts.network(
            hidden_states=tokens, guidance=told.get("guidance"), **heard, **added
        )[0]
        return _unpacked(said, height, width)

    def _added(
        self, tokens: Tensor, heard: Mapping[str, Any], told: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """Return what the control net adds after blocks, each row's at its scale."""
        assert self.net is not None, "a picture for it was asked for"
        net, control = self.parts.get("controlnet"), told["control"]
        joint, single = net(
            hidden_states=tokens[..., : net.config.in_channels],
            controlnet_cond=control if self.net.sees_pixels else _packed(control),
            controlnet_mode=told["control_mode"].long()[:, None] if self.net.modes else None,
            conditioning_scale=told["control_scale"].to(tokens)[:, None, None],
            guidance=told["guidance"] if self.net.hears_guidance else None,
            **heard,
        )
        return {
            "controlnet_block_samples": joint,
            "controlnet_single_block_samples": single,
            "controlnet_blocks_repeat": self.net.sees_pixels,
        }

    # Pictures that go in

    def _is_drawn(self, control: Picture | None) -> bool:
        return control is not None and self.net is not None and not self.net.sees_pixels

    def _is_encoded(self, words: Words) -> bool:
        # Whatever the network sees: diffusers draws here also what pure noise leaves nothing of.
        return True

    def _control(self, picture: Picture, words: Words) -> Tensor:
        """Return latents of the control net's picture, or pixels, -1 to 1. Shape: (C, h, w)."""
        pixels = self._pixels(picture, words)
        if not self._is_drawn(picture):
            return to_device(pixels[0], self.parts.device)
        return self._to_latents(pixels, words.seed, skipped=0)

    def _seen_mask(self, mask: Tensor) -> Tensor:
        """Return each pixel of a mask. Shapes: (1, 1, H, W) -> (P, h, w), P pixels a latent."""
        return torch.nn.functional.pixel_unshuffle(mask, self.facts.scale_px)[0]


@functools.lru_cache(maxsize=32)
def _positions(
    words: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Return positions of words and of 2 x 2 latents. Shapes: (words, 3), (rows columns, 3)."""
    places = torch.zeros(rows, columns, 3, device=device, dtype=dtype)
    places[..., 1] += torch.arange(rows, device=device)[:, None]
    places[..., 2] += torch.arange(columns, device=device)[None, :]
    return {
        "txt_ids": torch.zeros(words, 3, device=device, dtype=dtype),
        "img_ids": places.reshape(rows * columns, 3),
    }


def _packed(x: Tensor) -> Tensor:
    """Return tokens of 2 x 2 latents. Shapes: (B, C, h, w) -> (B, h w / 4, 4 C)."""
    count, channels, height, width = x.shape
    parts = x.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(count, height * width // 4, channels * 4)


def _unpacked(x: Tensor, height: int, width: int) -> Tensor:
    """Return the latents of tokens: the way back from `_packed`."""
    parts = x.reshape(len(x), height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(len(x), -1, height, width)


MODEL = Flux
