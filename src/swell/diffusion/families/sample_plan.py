"""Plans the samples of a latent diffusion model: sampler, numbers of each row, and noise."""

import importlib
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from swell.diffusion.families.model_definition import Described
from swell.diffusion.families.schedulers import sampler_of
from swell.sdk.context import Reject
from swell.sdk.image_orientation import upright
from swell.sdk.media import Image
from swell.sdk.step_model import Sampler

#: The module of solver tables, a layer above this package.
_TABLES: Final = "swell.diffusion.batch_buffers"

#: Capacity of a table of noise levels, in steps.
_LEVELS: Final = 160


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

    @property
    def starts(self) -> bool:
        """Whether a sample starts from a picture."""
        return self.image is not None and not self.is_full


class Planner:
    """Plans samples from the settings of one model, loaded or not."""

    def __init__(self, described: Described) -> None:
        self._facts = described.facts
        self._family = described.facts.family
        self._net = described.net

    def shape(self, asked: Any) -> tuple[int, ...]:
        """Return the shape of the latents."""
        scale_px = self._facts.scale_px
        return (self._facts.channels, asked.height // scale_px, asked.width // scale_px)

    def words(self, asked: Any, seed: int) -> Words:
        """Return the inputs of the row with the prompt.

        Raises:
            Reject: The pictures do not fit together.
        """
        image, mask = Picture.of(asked.image), Picture.of(getattr(asked, "mask", None))
        if mask is not None and image is None:
            raise Reject("Give the picture that the mask lies over, as `image`.")
        if self._facts.sees_mask and mask is None:
            raise Reject("This model paints into pictures: give `image` and `mask`.")
        control = Picture.of(getattr(asked, "control", None))
        has_pictures = image is not None or control is not None
        return Words(
            prompt=asked.prompt,
            width=asked.width if has_pictures else 0,
            height=asked.height if has_pictures else 0,
            seed=seed if image is not None or self.encodes(control) else 0,
            image=image,
            mask=mask,
            is_full=image is None or (mask is not None and asked.strength == 1),
            control=control,
            reference=Picture.of(getattr(asked, "reference", None)),
        )

    def conditioned(self, words: Words) -> Words:
        """Return what conditions depend on: without a mask, only latents depend on the picture."""
        if words.mask is not None:
            return words
        control = words.control
        return replace(
            words,
            width=words.width if control is not None else 0,
            height=words.height if control is not None else 0,
            seed=words.seed if self.encodes(control) else 0,
            image=None,
        )

    def sampler(self, asked: Any, words: Words) -> Sampler:
        """Return the solver with its options, and the step at which it starts.

        Raises:
            Reject: The scheduler has no such steps.
        """
        tokens = self._facts.tokens(asked.width, asked.height)
        made = sampler_of(self._facts.scheduler, asked.steps, tokens=tokens, even=self._family.even)
        assert made is not None, "it was checked when the model was described"
        try:
            rows, skip = len(_table(made)), 0
            if words.image is not None and words.mask is None and self._facts.lays_all_steps:
                made = Sampler(made.solver, made.steps, **made.options, strength=asked.strength)
            elif words.image is not None:
                # One step remains in any case.
                skip = min(self._family.skip(asked.steps, asked.strength), rows - 1)
            if skip:
                made = Sampler(made.solver, made.steps, **made.options, skip=skip)
            _table(made)
        except ValueError as error:
            raise Reject(f"This model's scheduler cannot do that: {error}.") from None
        return made

    def values(self, asked: Any, words: Words, sampler: Sampler) -> dict[str, Any]:
        """Return the numbers that the network takes with each row."""
        values = self._family.values(asked)
        if self._facts.hears_guidance:
            values["guidance"] = float(asked.guidance)
        if words.control is not None:
            values["control_scale"] = float(asked.control_scale)
            if self._net is not None and self._net.modes:
                values["control_mode"] = float(asked.control_mode)
        if words.reference is not None:
            values["reference_scale"] = float(asked.reference_scale)
        if words.mask is not None and not self._facts.sees_mask:
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

    def draws(self, words: Words) -> tuple[int, int]:
        """Return how many encoded pictures use random numbers before the first noise, and after."""
        control = int(self.encodes(words.control))
        if words.mask is None:
            # `conditioned` may have left the picture out.
            return control + int(not words.is_full), 0
        return control + int(self._family.encodes_masked(self._facts, words)), 1

    def encodes(self, control: Picture | None) -> bool:
        """Whether the control picture is encoded first, with the seed's first numbers."""
        return control is not None and self._family.encodes_control(self._net)


def _table(sampler: Sampler) -> Any:
    return importlib.import_module(_TABLES).table_of(sampler)
