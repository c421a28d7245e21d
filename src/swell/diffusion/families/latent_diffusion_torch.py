"""Latent diffusion, drawn in steps: what its families share.

A prompt becomes states of a text encoder, noise becomes latents in as many steps as the engine
takes, and latents become a picture (Rombach et al., arXiv 2112.10752). A family says how words are
encoded and what the network is told; everything else is here: weights, pictures that go in, LoRAs,
decoding, leaving the device and coming back.

In float32 on the CPU a seed gives the picture that diffusers' own pipeline gives with
`torch.Generator("cpu").manual_seed(seed)`: noise is drawn from the same stream in the same order,
the draws of the picture's latents included.

A mask over a network that does not see it keeps the rest as RePaint does (arXiv 2201.09865): before
each step, what is kept is the picture at this step's level of noise. Only the network's input is
replaced, since solvers move each element by itself: what becomes of kept elements between two steps
is of no account, and they are put back before decoding.
"""

import contextlib
import functools
import importlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Final, TypeVar, cast

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

#: Where a table of coefficients is made; it stands above this package.
_TABLES: Final = "swell.diffusion.batch_buffers"

#: Steps that a table of noise levels has room for.
_LEVELS: Final = 160

#: Row counts for which torch compiles a network apart: one row, and any larger number.
_COMPILED_ROWS: Final = (1, 2)

#: Larger pictures are decoded and encoded in tiles, in px.
_TILED_PX: Final = 1536 * 1536

#: A preview's longer side, in latents.
_PREVIEW: Final = 32

#: Encoded pictures that are remembered.
_REMEMBERED: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture that goes in; equal ones have the same file."""

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
    """All that a row's conditions depend on; what a sample lacks is None, so that it is shared."""

    #: None for the row without a prompt, where that is zeros rather than the text "".
    prompt: str | None
    #: Whether this row hears the prompt.
    with_prompt: bool = True
    width: int = 0
    height: int = 0
    seed: int = 0
    image: Picture | None = None
    mask: Picture | None = None
    #: Whether it starts from nothing but noise; said also where `image` is left out.
    is_full: bool = True
    control: Picture | None = None
    reference: Picture | None = None


@dataclass(slots=True)
class _Levels:
    """How much picture and noise the network is shown at each timestep. Shapes: (_LEVELS,)."""

    times: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)

    def padded(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return conditions; timesteps that do not come are below 0."""
        room = _LEVELS - len(self.times)
        return {
            "level_times": np.array([*self.times, *[-1.0] * room], np.float32),
            "level_kept": np.array([*self.kept, *[0.0] * room], np.float32),
            "level_added": np.array([*self.added, *[0.0] * room], np.float32),
        }


def _stage(method: MethodT) -> MethodT:
    """Have the parts that came to the device for a method leave when it is over."""

    @functools.wraps(method)
    def run(self: "Latent", *args: Any) -> Any:
        try:
            return method(self, *args)
        finally:
            self.parts.rest()

    return cast("MethodT", run)


def _use(device: str) -> None:
    """Make a GPU the process's current device, and let float32 use its tensor cores.

    Pinned memory and Triton's kernels belong to the current device: without this they would create
    a context on the first GPU.
    """
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")


class Latent(StepModel):
    """A model of latents; a family derives from it.

    Args:
        described: What was said of it, and what its folder says.
    """

    most_rows = MOST_ROWS
    #: In which type it computes on a GPU.
    half: ClassVar[str] = "float16"
    #: Parts that encode words, whose weights LoRAs may change too.
    encoders: ClassVar[Sequence[str]] = ("text_encoder",)
    #: In which order a network that sees the mask sees what lies beside latents.
    beside: ClassVar[Sequence[str]] = ("mask", "around")

    def __init__(self, described: Described) -> None:
        self.facts = described.facts
        self.entry = described.entry
        self.net = described.net
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
            self._described, device, self.half, free_memory(torch.device(device))
        )
        placement = self.parts.placement
        if placement.choice != "never":
            told = f" ({placement.reason})" if placement.reason else ""
            sys.stderr.write(f"{self.name} is offloaded: {placement.choice}{told}\n")
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
            # What was compiled before may fail where this process's does not.
            sys.stderr.write(f"{self.name} is compiled again: {error}\n")
            error = self._first_run()
        if error is not None and self.parts.is_compiled:
            # A compiler that is not there or fails costs speed, and no model.
            sys.stderr.write(f"{self.name} is not compiled: {error}\n")
            self.parts.leave_uncompiled()
            error = self._first_run()
        if error is not None:
            raise error
        self.parts.keep_compiled()

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
        told: dict[str, Any] = {"prompt": "a fox", "steps": 1}
        if self.facts.sees_mask:
            told |= {name: Image(PIL.Image.new("L", (64, 64))) for name in ("image", "mask")}
        return input_type(self.facts)(**told)

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights that LoRAs may change, by name."""
        modules = self.parts.modules
        found = dict(modules[self.facts.family.network].named_parameters())
        for part in self.encoders:
            encoder = modules.get(part)
            if encoder is not None:
                found |= {f"{part}.{name}": value for name, value in encoder.named_parameters()}
        return found

    def layer(self, name: str) -> str:
        """Return what a file of LoRAs means by a layer's name."""
        modules = self.parts.modules
        return encoder_layer(name, {part: modules.get(part) for part in self.encoders})

    def adapt(self, loras: Sequence[LoRA]) -> None:
        """Put these LoRAs on, and take off all others."""
        if self.adapted is not None:
            # What is changed on the device would be lost where a part's home is elsewhere.
            self.parts.go_home()
            self.adapted.apply(loras)

    def offload(self) -> int:
        """Leave the device for the host's memory; return how many bytes that takes."""
        self.adapt(())
        self._seen.clear()
        return self.parts.offload()

    def onload(self) -> None:
        """Come back to the device."""
        self.parts.onload()
        if self.adapted is not None:
            self.adapted.moved(self._weights())

    # --- one sample ------------------------------------------------------------------------------

    def prepare(self, item: Item[Any]) -> Plan:
        """Return how a sample is drawn."""
        asked, facts = item.input, self.facts
        seed = item.seed if asked.seed is None else asked.seed + item.index
        words = self._words(asked, seed)
        heard = self._heard(words)
        loras = [*self._loras, *asked.loras]
        if loras and self.entry.quantize:
            raise Reject("This model's weights have 8 bits, and take no LoRAs: leave them out.")
        sampler = self._sampler(asked, words)
        is_guided = facts.is_guided and asked.guidance > 1
        without = None
        if is_guided:
            without = replace(heard, prompt=self._unwanted(asked), with_prompt=False)
        return Plan(
            sampler=sampler,
            shape=self._shape(asked),
            words=heard,
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
            start=(lambda: self._start(words)) if self._starts(words) else None,
        )

    def _shape(self, asked: Any) -> tuple[int, ...]:
        scale_px = self.facts.scale_px
        return (self.facts.channels, asked.height // scale_px, asked.width // scale_px)

    def _unwanted(self, asked: Any) -> str | None:
        """Return the text of the row without the prompt; None for zeros."""
        text: str = asked.negative_prompt
        return text

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
            seed=seed if image is not None or self._is_drawn(control) else 0,
            image=image,
            mask=mask,
            is_full=image is None or (mask is not None and asked.strength == 1),
            control=control,
            reference=Picture.of(getattr(asked, "reference", None)),
        )

    def _heard(self, words: Words) -> Words:
        """Return what conditions depend on: where nothing lies over a picture, only latents do."""
        if words.mask is not None:
            return words
        control = words.control
        return replace(
            words,
            width=words.width if control is not None else 0,
            height=words.height if control is not None else 0,
            seed=words.seed if self._is_drawn(control) else 0,
            image=None,
        )

    def _sampler(self, asked: Any, words: Words) -> Sampler:
        tokens = self.facts.tokens(asked.width, asked.height)
        made = sampler_of(
            self.facts.scheduler, asked.steps, tokens=tokens, even=self.facts.family.even
        )
        assert made is not None, "it was checked when the model was described"
        try:
            rows, skip = len(_table(made)), 0
            if words.image is not None and words.mask is None and self.facts.lays_all_steps:
                made = Sampler(made.solver, made.steps, **made.options, strength=asked.strength)
            elif words.image is not None:
                skip = min(self._skip(asked.steps, asked.strength), rows - 1)
            if skip:
                made = Sampler(made.solver, made.steps, **made.options, skip=skip)
            _table(made)
        except ValueError as error:
            raise Reject(f"This model's scheduler cannot do that: {error}.") from None
        return made

    def _skip(self, steps: int, strength: float) -> int:
        """Return how many steps a sample leaves out that starts from a picture.

        One is drawn in any case. A solver that takes one more than is asked for is left with just
        that, where the strength is less than one step.
        """
        return steps - int(steps * strength)

    def _values(self, asked: Any, words: Words, sampler: Sampler) -> dict[str, Any]:
        values: dict[str, Any] = {}
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
        """Return how a picture looks at each step; the first of pure noise shows none of it."""
        whole, levels = _table(sampler), _Levels()
        options: dict[str, Any] = dict(sampler.options)
        first = int(options.pop("skip", 0))
        for step in range(int(is_full), len(whole)):
            skip = first + step
            later = Sampler(
                sampler.solver, sampler.steps, **options, **({"skip": skip} if skip else {})
            )
            kept, added = _table(later).from_image
            c_in = float(whole.c_in[step])
            levels.times.append(float(whole.timesteps[step]))
            levels.kept.append(kept * c_in)
            levels.added.append(added * c_in)
        return levels.padded()

    # --- noise -----------------------------------------------------------------------------------

    def noise(self, seed: int, plan: Plan) -> NoiseStream:
        """Return torch's stream, less what diffusers draws of it for the picture's latents."""
        before, between = self._draws(plan.words)
        return TorchNoise(seed, before=[plan.shape] * before, between=[plan.shape] * between)

    def _draws(self, words: Any) -> tuple[int, int]:
        """Return how many draws encoded pictures take before the first noise, and after it."""
        control = int(self._is_drawn(words.control))
        if words.mask is None:
            # Where it starts from a picture, `_heard` may have left that out.
            return control + int(not words.is_full), 0
        return control + int(self._is_encoded(words)), 1

    def _is_drawn(self, control: Picture | None) -> bool:
        """Whether the control net's picture is encoded first, with the seed's first numbers."""
        return False

    def _is_encoded(self, words: Words) -> bool:
        """Whether the picture below a mask is encoded whole, not only what lies around the mask."""
        return self._starts(words) or not self.facts.sees_mask

    # --- pictures that go in ---------------------------------------------------------------------

    def _starts(self, words: Words) -> bool:
        return words.image is not None and not words.is_full

    @_stage
    def _start(self, words: Words) -> Tensor:
        return self._image_latents(words)

    def _image_latents(self, words: Words) -> Tensor:
        """Return the picture's latents, drawn from the seed's first numbers. Shape: (C, h, w)."""
        assert words.image is not None, "it was asked for"
        picture, skipped = words.image, int(self._is_drawn(words.control))

        def make() -> Tensor:
            return self._to_latents(self._pixels(picture, words), words.seed, skipped)

        return self._once((skipped, picture, words.width, words.height, words.seed), make)

    def _pixels(self, picture: Picture, words: Words) -> Tensor:
        """Return a picture of the words' sides, from -1 to 1. Shape: (1, 3, H, W)."""
        pixels = upright(picture.image).convert("RGB")
        found: Tensor = self._pictures.preprocess(pixels, height=words.height, width=words.width)
        return found.float()

    def _mask(self, words: Words) -> Tensor:
        """Return 1 where something new is drawn, by pixels. Shape: (1, 1, H, W)."""
        assert words.mask is not None, "it was asked for"
        picture = upright(words.mask.image).convert("L")
        found: Tensor = self._masks.preprocess(picture, height=words.height, width=words.width)
        return found.float()

    def _posterior(self, pixels: Tensor) -> Any:
        """Return what the autoencoder makes of a picture: where its latents are, and how spread."""
        is_large = pixels.shape[-1] * pixels.shape[-2] > _TILED_PX
        return _in_tiles_if_needed(partial(self._encoded, pixels), is_large)

    @inference
    def _encoded(self, pixels: Tensor, *, is_tiled: bool) -> Any:
        vae = self.parts.vae
        vae.use_tiling = is_tiled
        return vae.encode(to_device(pixels, self.parts.device).to(vae.dtype)).latent_dist

    @inference
    def _to_latents(self, pixels: Tensor, seed: int, skipped: int) -> Tensor:
        """Encode a picture, with the numbers that come after `skipped` draws of the seed."""
        posterior = self._posterior(pixels)
        noise = TorchNoise(seed)
        shape = tuple(posterior.mean.shape[1:])
        for _ in range(skipped):
            noise.draw(shape)
        drawn = to_device(torch.from_numpy(noise.draw(shape)), self.parts.device)
        drawn = drawn.to(posterior.mean.dtype)
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
                "mask": to_device(self._small(mask), self.parts.device),
                "image": latents,
                "image_noise": to_device(torch.from_numpy(drawn), self.parts.device),
            }

        def make() -> Tensor:
            assert words.image is not None, "a mask lies over a picture"
            pixels = self._pixels(words.image, words)
            return self._to_latents(pixels * (mask < 0.5), words.seed, skipped=before + 1)

        around = self._once(("around", replace(words, prompt=None, with_prompt=True)), make)
        return {"mask": to_device(self._seen_mask(mask), self.parts.device), "around": around}

    def _small(self, mask: Tensor) -> Tensor:
        """Return a mask by latents: of each its first pixel. Shapes: (1, 1, H, W) -> (1, h, w)."""
        scale_px = self.facts.scale_px
        return mask[0, :, ::scale_px, ::scale_px]

    def _seen_mask(self, mask: Tensor) -> Tensor:
        """Return what a network sees of a mask. Shapes: (1, 1, H, W) -> (M, h, w)."""
        return self._small(mask)

    def _once(self, key: Hashable, make: Callable[[], ValueT]) -> ValueT:
        if key in self._seen:
            self._seen.move_to_end(key)
        else:
            self._seen[key] = make()
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        found: ValueT = self._seen[key]
        return found

    # --- words -----------------------------------------------------------------------------------

    @inference
    @_stage
    def encode(self, words: list[Words]) -> list[Mapping[str, Tensor]]:
        """Return what a row hears; one by one, so that nobody's depend on who else came."""
        return [self._conditions(each) for each in words]

    def _conditions(self, words: Words) -> Mapping[str, Tensor]:
        found = dict(self.text(words.prompt))
        if words.mask is not None:
            found |= self._mask_conditions(words)
        if words.control is not None:
            found["control"] = self._control(words.control, words)
            if self.net is not None and self.net.pools:
                share = torch.tensor(float(words.with_prompt))
                found["control_share"] = to_device(share, self.parts.device)
        if words.reference is not None:
            found["reference"] = self._reference(words.reference, words.with_prompt)
        return found

    def text(self, prompt: str | None) -> Mapping[str, Tensor]:
        """Return what words become; of None, zeros."""
        raise NotImplementedError

    def _control(self, picture: Picture, words: Words) -> Tensor:
        """Return what the control net sees: pixels from 0 to 1. Shape: (3, H, W)."""
        pixels = self._controls.preprocess(
            upright(picture.image), height=words.height, width=words.width
        )
        return to_device(pixels[0].float(), self.parts.device)

    def _reference(self, picture: Picture, is_heard: bool) -> Tensor:
        def see() -> Tensor:
            return self.parts.see(upright(picture.image).convert("RGB"), is_heard)

        return self._once(("reference", picture, is_heard), see)

    # --- a step ----------------------------------------------------------------------------------

    @inference
    def denoise(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Return what the network says of each row."""
        if "image" in conditions:
            x = _kept(x, t, conditions)
        kind = self.parts.dtype
        told = {name: _cast(name, value, kind) for name, value in conditions.items()}
        shown = x.to(kind)
        if "around" in told:
            shown = torch.cat([shown, *(told[name] for name in self.beside)], dim=1)
        return self.say(shown, t, told).float()

    def say(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """Ask the network. Shapes: x (B, C, h, w), t (B,), told each (B, ...)."""
        raise NotImplementedError

    # --- a picture -------------------------------------------------------------------------------

    @inference
    @_stage
    def decode(self, latents: Tensor, item: Item[Any]) -> Any:
        """Return the picture, once it has come from the device."""
        asked = item.input
        words = self._words(asked, item.seed if asked.seed is None else asked.seed + item.index)
        if words.mask is not None and not self.facts.sees_mask:
            told = self._mask_conditions(words)
            latents = (1 - told["mask"]) * told["image"] + told["mask"] * latents
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
        """Decode a small version, which costs little."""
        longest = max(latents.shape[-2:])
        if longest > _PREVIEW:
            factor = _PREVIEW / longest
            size = [max(2, int(side * factor) // 2 * 2) for side in latents.shape[-2:]]
            latents = torch.nn.functional.interpolate(latents[None], size=size, mode="area")[0]
        return self._read(_to_pixels(self._decoded(latents, is_tiled=False)))

    @inference
    def _decoded(self, latents: Tensor, *, is_tiled: bool) -> Tensor:
        """Decode one. Shapes: (C, h, w) -> (1, 3, H, W), from -1 to 1 but for what lies beyond."""
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


#: Conditions that stay in float32: numbers of each row, rather than states.
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
    """Return whose noise a sample starts from beside its own: see `Plan.near`."""
    share: float = getattr(asked, "variation", 1.0)
    return None if share == 1 or item.index == 0 else (seed - item.index, share)


def _table(sampler: Sampler) -> Any:
    return importlib.import_module(_TABLES).table_of(sampler)


def _kept(x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """Return what the network sees where something is kept: the picture at this step's noise."""
    at = (conditions["level_times"] - t[:, None]).abs().argmin(dim=1, keepdim=True)
    near = conditions["level_times"].gather(1, at)[:, 0]
    kept, added = (
        conditions[f"level_{name}"].gather(1, at)[:, 0, None, None, None]
        for name in ("kept", "added")
    )
    seen = kept * conditions["image"] + added * conditions["image_noise"]
    mask = conditions["mask"]
    blended = (1 - mask) * seen + mask * x
    # A timestep that is not in the table is the first one of a sample that begins as pure noise.
    is_told = ((near - t).abs() < 1e-3)[:, None, None, None]
    return torch.where(is_told, blended, x)
