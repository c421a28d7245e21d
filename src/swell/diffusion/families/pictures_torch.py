"""The autoencoder of a latent diffusion model, and its input pictures as latents and masks."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from swell.diffusion.families.components_torch import Parts
from swell.diffusion.families.detect_family import Facts
from swell.diffusion.families.family import first_pixels
from swell.diffusion.families.sample_plan import Picture, Planner, Words
from swell.diffusion.torch_arrays import OUT_OF_MEMORY, TorchNoise, inference, to_device
from swell.sdk.image_orientation import upright

ValueT = TypeVar("ValueT")

#: Larger pictures are decoded and encoded in tiles, in px.
_TILED_PX: Final = 1536 * 1536

#: Encoded pictures in the cache.
_REMEMBERED: Final = 32


class Autoencoder:
    """Turns pictures into latents, and latents into pictures."""

    def __init__(self, facts: Facts, parts: Parts) -> None:
        self._shift = facts.vae.get("shift_factor") or 0.0
        self._parts = parts

    def posterior(self, pixels: Tensor) -> Any:
        """Return the distribution of a picture's latents."""
        is_large = pixels.shape[-1] * pixels.shape[-2] > _TILED_PX
        return _in_tiles_if_needed(partial(self._encoded, pixels), is_large)

    @inference
    def _encoded(self, pixels: Tensor, *, is_tiled: bool) -> Any:
        vae = self._parts.vae
        vae.use_tiling = is_tiled
        return vae.encode(to_device(pixels, self._parts.device).to(vae.dtype)).latent_dist

    @inference
    def encode(self, pixels: Tensor, seed: int, skipped: int) -> Tensor:
        """Encode a picture with the numbers after `skipped` draws of the seed. Shape: (C, h, w)."""
        posterior = self.posterior(pixels)
        noise = TorchNoise(seed)
        shape = tuple(posterior.mean.shape[1:])
        for _ in range(skipped):
            noise.draw(shape)
        drawn = to_device(torch.from_numpy(noise.draw(shape)), self._parts.device)
        sample = posterior.mean + posterior.std * drawn.to(posterior.mean.dtype)
        scale = self._parts.vae.config.scaling_factor
        found: Tensor = ((sample - self._shift) * scale)[0].float()
        return found

    def decode(self, latents: Tensor, size_px: int) -> Tensor:
        """Decode one. Shapes: (C, h, w) -> (1, 3, H, W), about -1 to 1. `size_px`: H x W."""
        return _in_tiles_if_needed(partial(self._decoded, latents), size_px > _TILED_PX)

    @inference
    def _decoded(self, latents: Tensor, *, is_tiled: bool) -> Tensor:
        vae = self._parts.vae
        vae.use_tiling = is_tiled
        whole = (latents[None] / vae.config.scaling_factor + self._shift).to(vae.dtype)
        decoded: Tensor = vae.decode(whole, return_dict=False)[0]
        return decoded


class InputPictures:
    """The pictures that tasks give, as the network takes them; the last ones are cached."""

    def __init__(
        self, facts: Facts, parts: Parts, planner: Planner, autoencoder: Autoencoder
    ) -> None:
        self._facts = facts
        self._parts = parts
        self._planner = planner
        self._autoencoder = autoencoder
        self.cache: OrderedDict[Hashable, Any] = OrderedDict()
        self._pictures = VaeImageProcessor(vae_scale_factor=facts.scale_px)
        self._masks = VaeImageProcessor(
            vae_scale_factor=facts.scale_px,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        self._controls = VaeImageProcessor(
            vae_scale_factor=facts.scale_px, do_convert_rgb=True, do_normalize=False
        )

    def latents(self, words: Words) -> Tensor:
        """Return the input picture's latents, sampled with the first numbers. Shape: (C, h, w)."""
        assert words.image is not None, "it was asked for"
        picture, skipped = words.image, int(self._planner.encodes(words.control))

        def make() -> Tensor:
            return self._autoencoder.encode(self.pixels(picture, words), words.seed, skipped)

        return self.once((skipped, picture, words.width, words.height, words.seed), make)

    def pixels(self, picture: Picture, words: Words) -> Tensor:
        """Return a resized picture, from -1 to 1. Shape: (1, 3, H, W)."""
        pixels = upright(picture.image).convert("RGB")
        found: Tensor = self._pictures.preprocess(pixels, height=words.height, width=words.width)
        return found.float()

    def _mask(self, words: Words) -> Tensor:
        """Return a mask, 1 where it is repainted. Shape: (1, 1, H, W)."""
        assert words.mask is not None, "it was asked for"
        picture = upright(words.mask.image).convert("L")
        found: Tensor = self._masks.preprocess(picture, height=words.height, width=words.width)
        return found.float()

    def mask_conditions(self, words: Words) -> dict[str, Tensor]:
        """Return the mask, and the picture under it as the network or the solver takes it."""
        mask, (before, _) = self._mask(words), self._planner.draws(words)
        if not self._facts.sees_mask:
            noise = TorchNoise(words.seed)
            latents = self.latents(words)
            for _ in range(before + 1):
                drawn = noise.draw(tuple(latents.shape))
            return {
                "mask": self.on_device(first_pixels(mask, self._facts.scale_px)),
                "image": latents,
                "image_noise": self.on_device(torch.from_numpy(drawn)),
            }

        def make() -> Tensor:
            assert words.image is not None, "a mask lies over a picture"
            pixels = self.pixels(words.image, words)
            return self._autoencoder.encode(pixels * (mask < 0.5), words.seed, skipped=before + 1)

        around = self.once(("around", replace(words, prompt=None, with_prompt=True)), make)
        shown = self._facts.family.mask_input(self._facts, mask)
        return {"mask": self.on_device(shown), "around": around}

    def once(self, key: Hashable, make: Callable[[], ValueT]) -> ValueT:
        """Return a cached value of the last pictures."""
        if key in self.cache:
            self.cache.move_to_end(key)
        else:
            self.cache[key] = make()
            if len(self.cache) > _REMEMBERED:
                self.cache.popitem(last=False)
        found: ValueT = self.cache[key]
        return found

    def control_pixels(self, picture: Picture, words: Words) -> Tensor:
        """Return a control net's picture, from 0 to 1. Shape: (3, H, W)."""
        pixels = self._controls.preprocess(
            upright(picture.image), height=words.height, width=words.width
        )
        return self.on_device(pixels[0].float())

    def reference(self, picture: Picture, with_prompt: bool) -> Tensor:
        """Return the states of a reference picture."""

        def see() -> Tensor:
            return self._parts.see(upright(picture.image).convert("RGB"), with_prompt)

        return self.once(("reference", picture, with_prompt), see)

    def on_device(self, tensor: Tensor) -> Tensor:
        """Copy a tensor of the CPU to the model's device."""
        return to_device(tensor, self._parts.device)


def _in_tiles_if_needed(compute: Callable[..., ValueT], is_large: bool) -> ValueT:
    """Compute whole, or in tiles if the picture is large or memory runs out.

    Tiles need a fraction of the memory, and may differ in the last bits.
    """
    if not is_large:
        # The retry is outside of the handler, which would keep the failed call's tensors.
        with contextlib.suppress(*OUT_OF_MEMORY):
            return compute(is_tiled=False)
    return compute(is_tiled=True)
