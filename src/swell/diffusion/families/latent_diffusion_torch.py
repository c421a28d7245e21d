"""Latent diffusion with batched steps: everything that the families share.

Text encoders turn a prompt into states, the network turns noise into latents step by step, and the
autoencoder turns latents into a picture (Rombach et al., arXiv 2112.10752). A family encodes the
prompt and calls the network; weights, pictures as inputs, LoRAs, decoding and offloading are here.

In float32 on the CPU a seed gives the same picture as diffusers' own pipeline with
`torch.Generator("cpu").manual_seed(seed)`: noise comes from the same stream in the same order,
including the samples of the autoencoder.

Inpainting with a network that has no mask input follows RePaint (arXiv 2201.09865): before each
step, what is kept is the picture at this step's noise level. Only the network's input is replaced,
because solvers treat each element by itself; kept elements are restored before decoding.
"""

import contextlib
import functools
import importlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar, cast

import numpy as np
import PIL.Image
import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from swell.diffusion.families.adapters import encoder_layer
from swell.diffusion.families.components_torch import Parts, read_parts
from swell.diffusion.families.input_schema import input_type
from swell.diffusion.families.model_definition import MOST_ROWS, Described, bucket_of, fixed_loras
from swell.diffusion.families.schedulers import sampler_of
from swell.diffusion.torch_arrays import (
    OUT_OF_MEMORY,
    TorchArrays,
    TorchNoise,
    free_memory,
    inference,
    to_device,
)
from swell.sdk.context import Item, Reject
from swell.sdk.image_orientation import upright
from swell.sdk.media import Image, LoRA
from swell.sdk.step_model import NOT_FINITE, NoiseStream, Plan, Sampler, StepModel
from swell.weights.torch_lora import TorchAdaptedWeights

ValueT = TypeVar("ValueT")
MethodT = TypeVar("MethodT", bound=Callable[..., Any])

#: The module of solver tables, a layer above this package.
_TABLES: Final = "swell.diffusion.batch_buffers"

#: Capacity of a table of noise levels, in steps.
_LEVELS: Final = 160

#: torch compiles one graph for a single row and one for any larger number.
_COMPILED_ROWS: Final = (1, 2)

#: Larger pictures are decoded and encoded in tiles, in px.
_TILED_PX: Final = 1536 * 1536

#: A preview's longer side, in latents.
_PREVIEW: Final = 32

#: Encoded pictures in the cache.
_REMEMBERED: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An input picture; equal ones have the same file."""

    image: Image
    key: Hashable

    @classmethod
    def of(cls, image: Image | None) -> "Picture | None":
        """Return a picture by its content."""
        if image is None:
            return None
        encoded = image.encoded
        if encoded is None:
            pixels = upright(image)
            return cls(image, (pixels.mode, pixels.size, pixels.tobytes()))
        return cls(image, encoded)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, slots=True)
class Words:
    """The inputs of a row's conditions; unused fields are None, so that more rows share them."""

    #: None for the unconditional row, where that is zeros rather than the text "".
    prompt: str | None
    #: Whether this is the row with the prompt.
    with_prompt: bool = True
    width: int = 0
    height: int = 0
    seed: int = 0
    image: Picture | None = None
    mask: Picture | None = None
    #: Whether it starts from pure noise; also set where `image` is left out.
    is_full: bool = True
    control: Picture | None = None
    reference: Picture | None = None


def _stage(method: MethodT) -> MethodT:
    """Offload the parts that a method brought to the device when it returns."""

    @functools.wraps(method)
    def run(self: "LatentDiffusion", *args: Any) -> Any:
        try:
            return method(self, *args)
        finally:
            self.parts.rest()

    return cast("MethodT", run)


def _use(device: str) -> None:
    """Make a GPU the current device, and let float32 use its tensor cores.

    Pinned memory and Triton's kernels belong to the current device: without this they would create
    a context on the first GPU.
    """
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")


class LatentDiffusion(StepModel):
    """A latent diffusion model of any family.

    Args:
        described: Its entry, and the facts of its folder.
    """

    most_rows = MOST_ROWS

    def __init__(self, described: Described) -> None:
        self.facts = described.facts
        self.entry = described.entry
        self.net = described.net
        self.family = described.facts.family
        self._described = described
        self._loras = fixed_loras(described.entry)
        self._seen: OrderedDict[Hashable, Any] = OrderedDict()
        self.parts: Parts
        self.adapted: TorchAdaptedWeights | None = None

    # --- the device ------------------------------------------------------------------------------

    def load(self, device: str) -> None:
        """Read all parts onto the device.

        Raises:
            InvalidModel: A part is missing, or cannot be read, or something does not fit.
        """
        _use(device)
        self.parts = read_parts(
            self._described, device, self.family.half, free_memory(torch.device(device))
        )
        placement = self.parts.placement
        if placement.choice != "never":
            why = f" ({placement.reason})" if placement.reason else ""
            sys.stderr.write(f"{self.name} is offloaded: {placement.choice}{why}\n")
        self.arrays = TorchArrays(device)
        self.out_of_memory = OUT_OF_MEMORY
        self.memory_bytes = self.parts.size_bytes
        facts = self.facts
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
        if self.entry.quantize:
            self.parts.quantize()
        else:
            self.adapted = TorchAdaptedWeights(self._weights(), rename=self.layer)
        if self.parts.device.type == "cuda" and self.entry.compile:
            self.parts.compile()

    def warmup(self) -> None:
        """Draw a picture in one step on a GPU, so that no task waits for compilation."""
        if self.parts.device.type != "cuda":
            return
        error = self._first_run()
        is_broken = error is not None and not isinstance(error, OUT_OF_MEMORY)
        if is_broken and self.parts.compile_anew():
            # Cached programs may fail where those of this process do not.
            sys.stderr.write(f"{self.name} is compiled again: {error}\n")
            error = self._first_run()
        if error is not None and self.parts.is_compiled:
            # Without a compiler the model is slower, but works.
            sys.stderr.write(f"{self.name} is not compiled: {error}\n")
            self.parts.leave_uncompiled()
            error = self._first_run()
        if error is not None:
            raise error

    def _first_run(self) -> Exception | None:
        """Draw a picture in one step, and compile for all row counts; return the error."""
        try:
            [result] = self.run([Item(self.first_input())])
            if isinstance(result, Exception):
                return result
            if self.parts.is_compiled:
                for rows in _COMPILED_ROWS:
                    self.call_network(rows)
        except Exception as error:
            return error
        return None

    def call_network(self, rows: int) -> None:
        """Call the network once with this many equal rows, so that it is compiled for them."""
        plan = self.prepare(Item(self.first_input()))
        [conditions] = self.encode([cast("Words", plan.words)])
        for name, value in plan.values.items():
            kind = np.float32 if isinstance(value, float) else None
            conditions = {**conditions, name: self.arrays.put(np.asarray(value, kind))}
        x = self.arrays.rows(self.arrays.put(np.zeros(plan.shape, np.float32)), rows)
        t = self.arrays.put(np.ones(rows, np.float32))
        stacked = {name: torch.stack([value] * rows) for name, value in conditions.items()}
        self.denoise(x, t, stacked)

    def first_input(self) -> Any:
        """Return an input that takes one step."""
        asked: dict[str, Any] = {"prompt": "a fox", "steps": 1}
        if self.facts.sees_mask:
            asked |= {name: Image(PIL.Image.new("L", (64, 64))) for name in ("image", "mask")}
        return input_type(self.facts)(**asked)

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights that LoRAs may change, by name."""
        modules = self.parts.modules
        found = dict(modules[self.family.network].named_parameters())
        for part in self.family.encoders:
            encoder = modules.get(part)
            if encoder is not None:
                found |= {f"{part}.{name}": value for name, value in encoder.named_parameters()}
        return found

    def layer(self, name: str) -> str:
        """Return the name in this model of a layer in a LoRA file."""
        encoders = {part: self.parts.modules.get(part) for part in self.family.encoders}
        return self.family.layer(encoder_layer(name, encoders))

    def adapt(self, loras: Sequence[LoRA]) -> None:
        """Apply these LoRAs, and remove all others."""
        if self.adapted is not None:
            # Changes to a part on the device are lost when it is offloaded.
            self.parts.go_home()
            self.adapted.apply(loras)

    def offload(self) -> int:
        """Move to host memory; return the bytes that this takes there."""
        self.adapt(())
        self._seen.clear()
        return self.parts.offload()

    def onload(self) -> None:
        """Move back to the device."""
        self.parts.onload()
        if self.adapted is not None:
            self.adapted.moved(self._weights())

    # --- one sample ------------------------------------------------------------------------------

    def prepare(self, item: Item[Any]) -> Plan:
        """Return the plan of a sample."""
        asked, facts = item.input, self.facts
        seed = item.seed if asked.seed is None else asked.seed + item.index
        words = self._words(asked, seed)
        row = self._conditioned(words)
        loras = [*self._loras, *asked.loras]
        if loras and self.entry.quantize:
            raise Reject("This model's weights have 8 bits, and take no LoRAs: leave them out.")
        sampler = self._sampler(asked, words)
        is_guided = facts.is_guided and asked.guidance > 1
        without = None
        if is_guided:
            negative = self.family.negative_prompt(self, asked.negative_prompt)
            without = replace(row, prompt=negative, with_prompt=False)
        return Plan(
            sampler=sampler,
            shape=self._shape(asked),
            words=row,
            without=without,
            guidance=asked.guidance if is_guided else None,
            values=self._values(asked, words, sampler),
            key=tuple(name for name in ("mask", "control", "reference") if getattr(words, name)),
            loras=loras,
            seed=seed,
            near=_near(asked, item, seed),
            bucket=bucket_of(
                self.entry, is_guided=is_guided, width=asked.width, height=asked.height
            ),
            start=(lambda: self._start(words)) if self.starts(words) else None,
        )

    def _shape(self, asked: Any) -> tuple[int, ...]:
        scale_px = self.facts.scale_px
        return (self.facts.channels, asked.height // scale_px, asked.width // scale_px)

    def _words(self, asked: Any, seed: int) -> Words:
        image, mask = Picture.of(asked.image), Picture.of(getattr(asked, "mask", None))
        if mask is not None and image is None:
            raise Reject("Give the picture that the mask lies over, as `image`.")
        if self.facts.sees_mask and mask is None:
            raise Reject("This model paints into pictures: give `image` and `mask`.")
        control = Picture.of(getattr(asked, "control", None))
        has_pictures = image is not None or control is not None
        return Words(
            prompt=asked.prompt,
            width=asked.width if has_pictures else 0,
            height=asked.height if has_pictures else 0,
            seed=seed if image is not None or self._encodes(control) else 0,
            image=image,
            mask=mask,
            is_full=image is None or (mask is not None and asked.strength == 1),
            control=control,
            reference=Picture.of(getattr(asked, "reference", None)),
        )

    def _conditioned(self, words: Words) -> Words:
        """Return what conditions depend on: without a mask, only latents depend on the picture."""
        if words.mask is not None:
            return words
        control = words.control
        return replace(
            words,
            width=words.width if control is not None else 0,
            height=words.height if control is not None else 0,
            seed=words.seed if self._encodes(control) else 0,
            image=None,
        )

    def _sampler(self, asked: Any, words: Words) -> Sampler:
        tokens = self.facts.tokens(asked.width, asked.height)
        made = sampler_of(self.facts.scheduler, asked.steps, tokens=tokens, even=self.family.even)
        assert made is not None, "it was checked when the model was described"
        try:
            rows, skip = len(_table(made)), 0
            if words.image is not None and words.mask is None and self.facts.lays_all_steps:
                made = Sampler(made.solver, made.steps, **made.options, strength=asked.strength)
            elif words.image is not None:
                # One step remains in any case.
                skip = min(self.family.skip(asked.steps, asked.strength), rows - 1)
            if skip:
                made = Sampler(made.solver, made.steps, **made.options, skip=skip)
            _table(made)
        except ValueError as error:
            raise Reject(f"This model's scheduler cannot do that: {error}.") from None
        return made

    def _values(self, asked: Any, words: Words, sampler: Sampler) -> dict[str, Any]:
        values = self.family.values(asked)
        if self.facts.hears_guidance:
            values["guidance"] = float(asked.guidance)
        if words.control is not None:
            values["control_scale"] = float(asked.control_scale)
            if self.net is not None and self.net.modes:
                values["control_mode"] = float(asked.control_mode)
        if words.reference is not None:
            values["reference_scale"] = float(asked.reference_scale)
        if words.mask is not None and not self.facts.sees_mask:
            values |= self._levels(sampler, words.is_full)
        return values

    def _levels(self, sampler: Sampler, is_full: bool) -> dict[str, Any]:
        """Return the share of picture and noise at each timestep; the first of pure noise has none.

        Unused timesteps are below 0. Shapes: (_LEVELS,).
        """
        whole, rows = _table(sampler), []
        options: dict[str, Any] = dict(sampler.options)
        first = int(options.pop("skip", 0))
        for step in range(int(is_full), len(whole)):
            rest = options | ({"skip": first + step} if first + step else {})
            kept, added = _table(Sampler(sampler.solver, sampler.steps, **rest)).from_image
            c_in = float(whole.c_in[step])
            rows.append((float(whole.timesteps[step]), kept * c_in, added * c_in))
        rows += [(-1.0, 0.0, 0.0)] * (_LEVELS - len(rows))
        times, kept, added = np.array(rows, np.float32).T
        return {"level_times": times, "level_kept": kept, "level_added": added}

    # --- noise -----------------------------------------------------------------------------------

    def noise(self, seed: int, plan: Plan) -> NoiseStream:
        """Return torch's stream without the numbers that diffusers uses to encode pictures."""
        before, between = self._draws(plan.words)
        return TorchNoise(seed, before=[plan.shape] * before, between=[plan.shape] * between)

    def _draws(self, words: Any) -> tuple[int, int]:
        """Return how many encoded pictures use random numbers before the first noise, and after."""
        control = int(self._encodes(words.control))
        if words.mask is None:
            # `_conditioned` may have left the picture out.
            return control + int(not words.is_full), 0
        return control + int(self.family.encodes_masked(self, words)), 1

    def _encodes(self, control: Picture | None) -> bool:
        """Whether the control picture is encoded first, with the seed's first numbers."""
        return control is not None and self.family.encodes_control(self)

    # --- input pictures --------------------------------------------------------------------------

    def starts(self, words: Words) -> bool:
        """Whether a sample starts from a picture."""
        return words.image is not None and not words.is_full

    @_stage
    def _start(self, words: Words) -> Tensor:
        return self._image_latents(words)

    def _image_latents(self, words: Words) -> Tensor:
        """Return the picture's latents, sampled with the seed's first numbers. Shape: (C, h, w)."""
        assert words.image is not None, "it was asked for"
        picture, skipped = words.image, int(self._encodes(words.control))

        def make() -> Tensor:
            return self.to_latents(self.pixels(picture, words), words.seed, skipped)

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

    def posterior(self, pixels: Tensor) -> Any:
        """Return the autoencoder's distribution of a picture's latents."""
        is_large = pixels.shape[-1] * pixels.shape[-2] > _TILED_PX
        return _in_tiles_if_needed(partial(self._encoded, pixels), is_large)

    @inference
    def _encoded(self, pixels: Tensor, *, is_tiled: bool) -> Any:
        vae = self.parts.vae
        vae.use_tiling = is_tiled
        return vae.encode(self.to_device(pixels).to(vae.dtype)).latent_dist

    @inference
    def to_latents(self, pixels: Tensor, seed: int, skipped: int) -> Tensor:
        """Encode a picture with the numbers after `skipped` draws of the seed."""
        posterior = self.posterior(pixels)
        noise = TorchNoise(seed)
        shape = tuple(posterior.mean.shape[1:])
        for _ in range(skipped):
            noise.draw(shape)
        drawn = self.to_device(torch.from_numpy(noise.draw(shape))).to(posterior.mean.dtype)
        sample = posterior.mean + posterior.std * drawn
        shift = self.facts.vae.get("shift_factor") or 0.0
        found: Tensor = ((sample - shift) * self.parts.vae.config.scaling_factor)[0].float()
        return found

    def _mask_conditions(self, words: Words) -> dict[str, Tensor]:
        mask, (before, _) = self._mask(words), self._draws(words)
        if not self.facts.sees_mask:
            noise = TorchNoise(words.seed)
            latents = self._image_latents(words)
            for _ in range(before + 1):
                drawn = noise.draw(tuple(latents.shape))
            return {
                "mask": self.to_device(self.small(mask)),
                "image": latents,
                "image_noise": self.to_device(torch.from_numpy(drawn)),
            }

        def make() -> Tensor:
            assert words.image is not None, "a mask lies over a picture"
            pixels = self.pixels(words.image, words)
            return self.to_latents(pixels * (mask < 0.5), words.seed, skipped=before + 1)

        around = self.once(("around", replace(words, prompt=None, with_prompt=True)), make)
        return {"mask": self.to_device(self.family.mask_input(self, mask)), "around": around}

    def small(self, mask: Tensor) -> Tensor:
        """Return the first pixel of each latent. Shapes: (1, 1, H, W) -> (1, h, w)."""
        scale_px = self.facts.scale_px
        return mask[0, :, ::scale_px, ::scale_px]

    def to_device(self, tensor: Tensor) -> Tensor:
        """Copy a tensor of the CPU to the model's device."""
        return to_device(tensor, self.parts.device)

    def once(self, key: Hashable, make: Callable[[], ValueT]) -> ValueT:
        """Return a cached value of the last pictures."""
        if key in self._seen:
            self._seen.move_to_end(key)
        else:
            self._seen[key] = make()
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        found: ValueT = self._seen[key]
        return found

    # --- conditions ------------------------------------------------------------------------------

    @inference
    @_stage
    def encode(self, words: list[Words]) -> list[Mapping[str, Tensor]]:
        """Return the conditions of rows; one by one, so that none depends on its batch."""
        return [self._conditions(each) for each in words]

    def _conditions(self, words: Words) -> Mapping[str, Tensor]:
        found = self.family.encode(self, words.prompt)
        if words.mask is not None:
            found |= self._mask_conditions(words)
        if words.control is not None:
            found["control"] = self.family.control_input(self, words.control, words)
            if self.net is not None and self.net.pools:
                found["control_share"] = self.to_device(torch.tensor(float(words.with_prompt)))
        if words.reference is not None:
            found["reference"] = self._reference(words.reference, words.with_prompt)
        return found

    def control_pixels(self, picture: Picture, words: Words) -> Tensor:
        """Return a control net's picture, from 0 to 1. Shape: (3, H, W)."""
        pixels = self._controls.preprocess(
            upright(picture.image), height=words.height, width=words.width
        )
        return self.to_device(pixels[0].float())

    def _reference(self, picture: Picture, with_prompt: bool) -> Tensor:
        def see() -> Tensor:
            return self.parts.see(upright(picture.image).convert("RGB"), with_prompt)

        return self.once(("reference", picture, with_prompt), see)

    # --- a step ----------------------------------------------------------------------------------

    @inference
    def denoise(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Return the network's output for each row."""
        if "image" in conditions:
            x = _kept(x, t, conditions)
        kind = self.parts.dtype
        cond = {name: _cast(name, value, kind) for name, value in conditions.items()}
        shown = x.to(kind)
        if "around" in cond:
            shown = torch.cat([shown, *(cond[name] for name in self.family.beside)], dim=1)
        return self.family.predict(self, shown, t, cond).float()

    # --- a picture -------------------------------------------------------------------------------

    @inference
    @_stage
    def decode(self, latents: Tensor, item: Item[Any]) -> Any:
        """Return the picture, or a function that waits for its copy from the device."""
        asked = item.input
        words = self._words(asked, item.seed if asked.seed is None else asked.seed + item.index)
        if words.mask is not None and not self.facts.sees_mask:
            cond = self._mask_conditions(words)
            latents = (1 - cond["mask"]) * cond["image"] + cond["mask"] * latents
        is_large = asked.width * asked.height > _TILED_PX
        decoded = _in_tiles_if_needed(partial(self._decoded, latents), is_large)
        is_finite = self.arrays.is_finite(decoded)
        read = self._read(_to_pixels(decoded))

        def made() -> Image:
            picture = read()
            if not is_finite():
                raise FloatingPointError(NOT_FINITE)
            return picture

        return made() if self.parts.device.type == "cpu" else made

    def _read(self, pixels: Tensor) -> Callable[[], Image]:
        """Copy pixels to the host, and return a function that waits for the copy."""
        if pixels.device.type == "cpu":
            return lambda: Image(pixels.numpy())
        host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
        host.copy_(pixels, non_blocking=True)
        mark = self.arrays.mark()

        def made() -> Image:
            if mark is not None:
                mark.wait()
            return Image(host.numpy())

        return made

    @inference
    @_stage
    def preview(self, latents: Tensor, item: Any) -> Callable[[], Image]:
        """Decode a small version."""
        longest = max(latents.shape[-2:])
        if longest > _PREVIEW:
            factor = _PREVIEW / longest
            size = [max(2, int(side * factor) // 2 * 2) for side in latents.shape[-2:]]
            latents = torch.nn.functional.interpolate(latents[None], size=size, mode="area")[0]
        return self._read(_to_pixels(self._decoded(latents, is_tiled=False)))

    @inference
    def _decoded(self, latents: Tensor, *, is_tiled: bool) -> Tensor:
        """Decode one. Shapes: (C, h, w) -> (1, 3, H, W), about -1 to 1."""
        vae = self.parts.vae
        vae.use_tiling = is_tiled
        shift = self.facts.vae.get("shift_factor") or 0.0
        whole = (latents[None] / vae.config.scaling_factor + shift).to(vae.dtype)
        decoded: Tensor = vae.decode(whole, return_dict=False)[0]
        return decoded


def _in_tiles_if_needed(compute: Callable[..., ValueT], is_large: bool) -> ValueT:
    """Compute whole, or in tiles if the picture is large or memory runs out.

    Tiles need a fraction of the memory, and may differ in the last bits.
    """
    if not is_large:
        # The retry is outside of the handler, which would keep the failed call's tensors.
        with contextlib.suppress(*OUT_OF_MEMORY):
            return compute(is_tiled=False)
    return compute(is_tiled=True)


def _to_pixels(decoded: Tensor) -> Tensor:
    """Return a picture. Shapes: (1, 3, H, W) -> (H, W, 3) uint8 sRGB."""
    unit = (decoded / 2 + 0.5).clamp(0, 1).float()
    return (unit * 255).round().to(torch.uint8)[0].permute(1, 2, 0).contiguous()


#: Conditions that stay in float32: numbers of each row.
_EXACT: Final = (
    "guidance",
    "control_scale",
    "control_share",
    "control_mode",
    "reference_scale",
    "sizes",
)


def _cast(name: str, value: Tensor, kind: torch.dtype) -> Tensor:
    return value if name in _EXACT or name.startswith("level_") else value.to(kind)


def _near(asked: Any, item: Item[Any], seed: int) -> tuple[int, float] | None:
    """Return the seed of the noise that a sample's own is mixed with: see `Plan.near`."""
    share: float = getattr(asked, "variation", 1.0)
    return None if share == 1 or item.index == 0 else (seed - item.index, share)


def _table(sampler: Sampler) -> Any:
    return importlib.import_module(_TABLES).table_of(sampler)


def _kept(x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """Replace what is kept in the network's input by the picture at this step's noise level."""
    at = (conditions["level_times"] - t[:, None]).abs().argmin(dim=1, keepdim=True)
    near = conditions["level_times"].gather(1, at)[:, 0]
    kept, added = (
        conditions[f"level_{name}"].gather(1, at)[:, 0, None, None, None]
        for name in ("kept", "added")
    )
    seen = kept * conditions["image"] + added * conditions["image_noise"]
    mask = conditions["mask"]
    blended = (1 - mask) * seen + mask * x
    # A timestep that is not in the table is the first one of a sample of pure noise.
    is_listed = ((near - t).abs() < 1e-3)[:, None, None, None]
    return torch.where(is_listed, blended, x)


MODEL = LatentDiffusion
