"""Portraits by a latent diffusion model with a picture adapter: what it is told for each scenario.

A pack is as many samples as there are scenarios, which the engine draws like all others; see
`swell_models.added_portraits` for what is asked.

How far a style goes is a place between the states of the prompt without it and those with it:

    c = c_plain + strength (c_styled - c_plain)
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from swell.diffusion.families.latent_diffusion_torch import LatentDiffusion
from swell.diffusion.families.model_definition import Described
from swell.diffusion.families.sample_plan import Picture, Planner, Words
from swell.sdk.context import Item
from swell.sdk.media import Image
from swell.sdk.step_model import Plan, whole
from swell_models import added_portraits


@dataclass(frozen=True, slots=True)
class _Styled(Words):
    """Words of a portrait whose style goes part of the way."""

    #: The prompt without the style.
    plain: str = ""
    strength: float = 1.0


class _Planner(Planner):
    """Plans a portrait whose style goes part of the way."""

    def words(self, asked: Any, seed: int) -> Words:
        words = super().words(asked, seed)
        if asked.strength is None or asked.plain == asked.prompt:
            return words
        told = {field.name: getattr(words, field.name) for field in fields(words)}
        return _Styled(**told, plain=asked.plain, strength=asked.strength)


class Portraits(LatentDiffusion):
    """A latent diffusion model that draws portraits."""

    def __init__(self, described: Described) -> None:
        super().__init__(described)
        self.planner = _Planner(described)
        self._known = added_portraits.read_scenarios(described.scenarios)

    @cached_property
    def _finder(self) -> added_portraits.FaceFinder:
        return added_portraits.FaceFinder()

    def pack(self, asked: Any) -> int:
        """Return how many portraits are asked for."""
        return len(asked.scenarios)

    def prepare(self, item: Item[Any]) -> Plan:
        """Return how one portrait is drawn.

        Raises:
            Reject: No face is in the picture.
        """
        kept = Item(self._portrayed(item), seed=item.seed, index=item.index, count=item.count)
        item.kept = kept
        return super().prepare(kept)

    def decode(self, latents: Tensor, item: Item[Any]) -> Any:
        """Return a portrait, which says in which scenario it is."""
        return partial(_labelled, super().decode(latents, item.kept), _scenario(item))

    def first_input(self) -> Any:
        """Return an input that takes one step."""
        asked = added_portraits.input_type(self.facts, self._known)
        [example] = added_portraits.examples_of(self._known)
        return asked(**example, steps=1)

    def _portrayed(self, item: Item[Any]) -> Any:
        """Return what the family would be asked for this one portrait, and the plain prompt."""
        asked = item.input
        plain, styled = added_portraits.prompts_of(asked, _scenario(item), self._known)
        width, height = added_portraits.sides(asked, self.facts.stride_px)
        told = {name: getattr(asked, name) for name in type(asked).model_fields}
        told |= {"prompt": styled, "plain": plain, "width": width, "height": height}
        told |= {"image": None, "reference": self._face(asked.image)}
        return SimpleNamespace(**told)

    def _face(self, image: Image) -> Image:
        def find() -> Image:
            return Image(self._finder(image))

        return self.pictures.once(("face", Picture.of(image)), find)

    def _conditions(self, words: Words) -> Mapping[str, Tensor]:
        found = dict(super()._conditions(words))
        if isinstance(words, _Styled) and words.with_prompt:
            for name, plain in self.family.encode(self, words.plain).items():
                found[name] = plain + words.strength * (found[name] - plain)
        return found


def _scenario(item: Item[Any]) -> str:
    wanted: list[str] = item.input.scenarios
    return wanted[item.index % len(wanted)]


def _labelled(made: Any, scenario: str) -> Image:
    """Return the picture with a word on what it shows."""
    picture: Image = whole(made)
    picture.metadata["scenario"] = scenario
    return picture


MODEL = Portraits
