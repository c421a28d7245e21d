"""What may be asked of a model that was added without code: its input, made from the folder."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.diffusion.families.detect_family import Facts
from swell.diffusion.families.pipeline_signatures import MOST_GUIDANCE, MOST_STEPS
from swell.sdk.media import Image, LoRA

__all__ = [
    "MOST_STEPS",
    "course",
    "examples_of",
    "input_type",
    "loras",
    "reference_scale",
    "seed",
    "side",
    "unwanted",
    "variation",
]

#: Longest side, in px; a larger picture is made by an upscaler.
MOST_PX: Final = 2048

_PROMPT: Final = "a red fox in the snow"

#: A sky over a meadow, and its right half in white: 16 x 16 px, as PNG.
_MEADOW: Final = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAIElEQVR42mOsWHCCgRTAxEAiGNUwODSw"
    "PLpRMhpKhAAAbaoEMB7Ux6cAAAAASUVORK5CYII="
)
_RIGHT_HALF: Final = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAEElEQVR42mNg+M/EwEA8AgAw0gEe0P1L"
    "1QAAAABJRU5ErkJggg=="
)


def examples_of(facts: Facts) -> tuple[dict[str, Any], ...]:
    """Return an input that works."""
    if facts.sees_mask:
        return ({"prompt": _PROMPT, "image": _MEADOW, "mask": _RIGHT_HALF},)
    if facts.loop is not None and facts.refines:
        return ({"prompt": _PROMPT, "image": _MEADOW},)
    return ({"prompt": _PROMPT},)


def input_type(
    facts: Facts, *, controlled: bool = False, modes: int = 0, refers: bool = False
) -> type[BaseModel]:
    """Return the input of a model.

    Args:
        facts: What its folder says.
        controlled: Whether it has a control net.
        modes: How many kinds of pictures that net tells apart by number; 0 if it learnt one.
        refers: Whether it has a picture adapter.
    """
    fields: dict[str, Any] = {
        "prompt": (
            Annotated[
                str,
                Field(min_length=1, max_length=2000, title="Prompt", examples=[_PROMPT]),
                ui.textarea(),
            ],
            ...,
        )
    }
    fields |= unwanted(facts) | _sides(facts) | course(facts)
    if facts.takes_image:
        fields |= _pictures(facts)
    if facts.takes_loras:
        fields |= loras()
    if controlled:
        fields |= _control() | _mode(modes)
    if refers:
        fields |= _reference()
    fields |= seed("The same seed, the same picture.")
    if facts.loop is None:
        fields |= variation()
    made: type[BaseModel] = pydantic.create_model(
        "Asked", __config__=ConfigDict(extra="forbid"), __module__=__name__, **fields
    )
    return made


def unwanted(facts: Facts) -> dict[str, Any]:
    """Return the field for what is not wanted, where that is heard."""
    if not facts.is_guided:
        return {}
    limits = Field(max_length=2000, title="Unwanted", description="What should not be there.")
    return {"negative_prompt": (Annotated[str, limits, ui.textarea(rows=1)], "")}


def loras() -> dict[str, Any]:
    """Return the field for LoRAs."""
    return {"loras": (Annotated[list[LoRA], Field(max_length=8), ui.lora(advanced=True)], [])}


def seed(description: str) -> dict[str, Any]:
    """Return the field for the seed."""
    limits = Field(ge=0, lt=2**63, title="Seed", description=description)
    return {"seed": (Annotated[int | None, limits, ui.seed()], None)}


def variation() -> dict[str, Any]:
    """Return the field for how far pictures of one task are from each other."""
    limits = Field(
        ge=0,
        le=1,
        title="Variation",
        description="How different a task's other pictures are from its first: 0 starts "
        "from the same noise, 1 from independent noise.",
    )
    return {"variation": (Annotated[float, limits, ui.slider(step=0.05, advanced=True)], 1.0)}


def side(facts: Facts, title: str, description: str | None = None) -> Any:
    """Return a field for a side of the picture, in px."""
    least = facts.stride_px * max(1, -(-min(64, facts.side_px) // facts.stride_px))
    limits = Field(
        ge=least,
        le=max(MOST_PX, facts.side_px),
        multiple_of=facts.stride_px,
        title=title,
        description=description,
    )
    return (Annotated[int, limits, ui.slider(step=facts.stride_px)], facts.side_px)


def _sides(facts: Facts) -> dict[str, Any]:
    if facts.loop is not None and not facts.loop.is_sized:
        return {}
    return {"width": side(facts, "Width in px"), "height": side(facts, "Height in px")}


def course(facts: Facts) -> dict[str, Any]:
    """Return the fields for steps and for guidance, where they are heard."""
    made: dict[str, Any] = {}
    if facts.loop is None or facts.loop.steps:
        made["steps"] = (
            Annotated[int, Field(ge=1, le=MOST_STEPS, title="Steps"), ui.slider(advanced=True)],
            facts.steps,
        )
    if facts.takes_guidance:
        limits = Field(
            ge=0,
            le=MOST_GUIDANCE,
            title="Guidance",
            description="How strictly the words are taken.",
        )
        made["guidance"] = (
            Annotated[float, limits, ui.slider(step=0.5, advanced=True)],
            facts.guidance,
        )
    return made


#: What a strength is said of that counts in one use alone.
_USES: Final = {"image": "Without a mask: how", "mask": "Under the mask: how"}


def _pictures(facts: Facts) -> Mapping[str, Any]:
    stronger = ["image", "mask"] if facts.loop is None else facts.loop.strength
    starts = "image" in stronger
    # Where all that it draws is under masks, or masks know no strength, it is said of which.
    only = facts.is_masked and len(stronger) == 1
    told = "To start from" if starts else "To change as the words say"
    made: dict[str, Any] = {
        "image": (
            Annotated[
                Image | None,
                Field(
                    title="Picture",
                    description=f"{told}, or to change under the mask."
                    if facts.is_masked
                    else f"{told}.",
                ),
                ui.image(),
            ],
            None,
        ),
    }
    if stronger:
        limits = Field(
            gt=0,
            le=1,
            title="Strength",
            description=f"{_USES[stronger[0]] if only else 'How'} far from it; 1 forgets it.",
        )
        made["strength"] = (
            Annotated[float, limits, ui.slider(step=0.05)],
            1.0 if facts.sees_mask else 0.8,
        )
    if facts.is_masked:
        made["mask"] = (
            Annotated[
                Image | None,
                Field(title="Mask", description="White is drawn again, black is kept."),
                ui.mask(of="image"),
            ],
            None,
        )
    return made


def _control() -> dict[str, Any]:
    return {
        "control": (
            Annotated[
                Image | None,
                Field(title="Control", description="Edges, depth, a pose: what the net learnt."),
                ui.image(),
            ],
            None,
        ),
        "control_scale": (
            Annotated[float, Field(ge=0, le=2, title="Control's weight"), ui.slider(step=0.05)],
            1.0,
        ),
    }


def _mode(modes: int) -> dict[str, Any]:
    """Return the field for the kind of picture, where a net tells several apart."""
    if not modes:
        return {}
    limits = Field(
        ge=0,
        lt=modes,
        title="Control's kind",
        description="Which kind of picture it is, by the number that the net's makers gave it.",
    )
    return {"control_mode": (Annotated[int, limits], 0)}


def _reference() -> Mapping[str, Any]:
    return {
        "reference": (
            Annotated[
                Image | None,
                Field(
                    title="Reference",
                    description="A picture to resemble, in addition to the prompt.",
                ),
                ui.image(),
            ],
            None,
        ),
        **reference_scale("Reference's weight"),
    }


def reference_scale(title: str) -> dict[str, Any]:
    """Return the field for how much the adapter's picture counts."""
    limits = Field(ge=0, le=2, title=title)
    return {"reference_scale": (Annotated[float, limits, ui.slider(step=0.05)], 0.6)}
