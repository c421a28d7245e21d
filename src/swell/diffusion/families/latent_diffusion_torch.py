"""Latent diffusion with batched steps: everything that the families share.

Text encoders turn a prompt into states, the network turns noise into latents step by step, and the
autoencoder turns latents into a picture (Rombach et al., arXiv 2112.10752). A family encodes the
prompt and calls the network; weights, pictures as inputs, LoRAs, decoding and offloading are here.

In float32 on the CPU a seed gives the same picture as diffusers' own pipeline with
`torch.Generator("cpu").manual_seed(seed)`: noise comes from the same stream in the same order,
including the samples of the autoencoder.

Inpainting with a network that has no mask input follows RePaint (arXiv 2201.09865): before each
step, the kept region is the picture at this step's noise level. Only the network's input is
replaced, because solvers treat each element by itself; the region is restored before decoding.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from swell.diffusion.families.adapters import encoder_layer
from swell.diffusion.families.components_torch import Parts, read_parts
from swell.diffusion.families.input_schema import input_type
from swell.diffusion.families.model_definition import MOST_ROWS, Described, bucket_of, fixed_loras
from swell.diffusion.families.pictures_torch import Autoencoder, InputPictures
from swell.diffusion.families.sample_plan import Planner, Words
from swell.diffusion.torch_arrays import (
    OUT_OF_MEMORY,
    TorchArrays,
    TorchNoise,
    free_memory,
    inference,
    to_device,
)
from swell.sdk.context import Item, Reject
from swell.sdk.media import Image, LoRA
from swell.sdk.step_model import NOT_FINITE, NoiseStream, Plan, StepModel
from swell.weights.torch_lora import TorchAdaptedWeights

MethodT = TypeVar("MethodT", bound=Callable[..., Any])

#: torch compiles one graph for a single row and one for any larger number.
_COMPILED_ROWS: Final = (1, 2)

#: A preview's longer side, in latents.
_PREVIEW: Final = 32


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
        self.planner = Planner(described)
        self.parts: Parts
        self.autoencoder: Autoencoder
        self.pictures: InputPictures
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
        self.autoencoder = Autoencoder(self.facts, self.parts)
        self.pictures = InputPictures(self.facts, self.parts, self.planner, self.autoencoder)
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
        self.pictures.cache.clear()
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
        words = self.planner.words(asked, seed)
        row = self.planner.conditioned(words)
        loras = [*self._loras, *asked.loras]
        if loras and self.entry.quantize:
            raise Reject("This model's weights have 8 bits, and take no LoRAs: leave them out.")
        sampler = self.planner.sampler(asked, words)
        is_guided = facts.is_guided and asked.guidance > 1
        share: float = getattr(asked, "variation", 1.0)
        near = None if share == 1 or item.index == 0 else (seed - item.index, share)
        without = None
        if is_guided:
            negative = self.family.negative_prompt(self, asked.negative_prompt)
            without = replace(row, prompt=negative, with_prompt=False)
        return Plan(
            sampler=sampler,
            shape=self.planner.shape(asked),
            words=row,
            without=without,
            guidance=asked.guidance if is_guided else None,
            values=self.planner.values(asked, words, sampler),
            key=tuple(name for name in ("mask", "control", "reference") if getattr(words, name)),
            loras=loras,
            seed=seed,
            near=near,
            bucket=bucket_of(
                self.entry, is_guided=is_guided, width=asked.width, height=asked.height
            ),
            start=(lambda: self._start(words)) if words.starts else None,
        )

    def noise(self, seed: int, plan: Plan) -> NoiseStream:
        """Return torch's stream without the numbers that diffusers uses to encode pictures."""
        before, between = self.planner.draws(cast("Words", plan.words))
        return TorchNoise(seed, before=[plan.shape] * before, between=[plan.shape] * between)

    @_stage
    def _start(self, words: Words) -> Tensor:
        return self.pictures.latents(words)

    # --- conditions ------------------------------------------------------------------------------

    @inference
    @_stage
    def encode(self, words: list[Words]) -> list[Mapping[str, Tensor]]:
        """Return the conditions of rows; one by one, so that none depends on its batch."""
        return [self._conditions(each) for each in words]

    def _conditions(self, words: Words) -> Mapping[str, Tensor]:
        found = self.family.encode(self, words.prompt)
        if words.mask is not None:
            found |= self.pictures.mask_conditions(words)
        if words.control is not None:
            found["control"] = self.family.control_input(self, words.control, words)
            if self.net is not None and self.net.pools:
                found["control_share"] = to_device(
                    torch.tensor(float(words.with_prompt)), self.parts.device
                )
        if words.reference is not None:
            found["reference"] = self.pictures.reference(words.reference, words.with_prompt)
        return found

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
        words = self.planner.words(
            asked, item.seed if asked.seed is None else asked.seed + item.index
        )
        if words.mask is not None and not self.facts.sees_mask:
            cond = self.pictures.mask_conditions(words)
            latents = (1 - cond["mask"]) * cond["image"] + cond["mask"] * latents
        decoded = self.autoencoder.decode(latents, asked.width * asked.height)
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
        return self._read(_to_pixels(self.autoencoder.decode(latents, 0)))


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


def _kept(x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """Replace the kept region of the network's input by the picture at this noise level."""
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
