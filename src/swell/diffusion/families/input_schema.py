"""The input schema of an added model, made from the facts of its folder."""

from typing import Annotated, Any, Final

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.diffusion.families.detect_family import Facts
from swell.diffusion.families.pipeline_signatures import MOST_GUIDANCE, MOST_STEPS
from swell.sdk.media import Image, LoRA

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


def _field(kind: Any, default: Any, *hints: Any, **limits: Any) -> Any:
    """Return a field of `pydantic.create_model`: hints of the form, and limits of `Field`."""
    return (Annotated[(kind, Field(**limits), *hints)], default)


def _picture(title: str, description: str, hint: Any = None) -> Any:
    return _field(Image | None, None, hint or ui.image(), title=title, description=description)


def input_type(
    facts: Facts, *, controlled: bool = False, modes: int = 0, refers: bool = False
) -> type[BaseModel]:
    """Return the input of a model.

    Args:
        facts: Of its folder.
        controlled: Whether it has a control net.
        modes: The number of kinds of control pictures; 0 if there is only one.
        refers: Whether it has an IP-Adapter.
    """
    prompt = {"min_length": 1, "max_length": 2000, "title": "Prompt", "examples": [_PROMPT]}
    fields: dict[str, Any] = {"prompt": _field(str, ..., ui.textarea(), **prompt)}
    fields |= unwanted(facts)
    if facts.loop is None or facts.loop.is_sized:
        fields |= {"width": side(facts, "Width in px"), "height": side(facts, "Height in px")}
    fields |= course(facts)
    if facts.takes_image:
        fields |= _pictures(facts)
    if facts.takes_loras:
        fields |= loras()
    if controlled:
        fields |= _control(modes)
    if refers:
        resembled = "A picture to resemble, in addition to the prompt."
        fields |= {"reference": _picture("Reference", resembled)}
        fields |= reference_scale("Reference's weight")
    fields |= seed("The same seed, the same picture.")
    if facts.loop is None:
        fields |= variation()
    made: type[BaseModel] = pydantic.create_model(
        "Asked", __config__=ConfigDict(extra="forbid"), __module__=__name__, **fields
    )
    return made


def unwanted(facts: Facts) -> dict[str, Any]:
    """Return the field of the negative prompt, if the model has one."""
    limits = {"max_length": 2000, "title": "Unwanted", "description": "What should not be there."}
    field = _field(str, "", ui.textarea(rows=1), **limits)
    return {"negative_prompt": field} if facts.is_guided else {}


def loras() -> dict[str, Any]:
    """Return the field of LoRAs."""
    return {"loras": _field(list[LoRA], [], ui.lora(advanced=True), max_length=8)}


def seed(description: str) -> dict[str, Any]:
    """Return the field of the seed."""
    limits = {"ge": 0, "lt": 2**63, "title": "Seed", "description": description}
    return {"seed": _field(int | None, None, ui.seed(), **limits)}


def variation() -> dict[str, Any]:
    """Return the field of the difference between a task's pictures."""
    description = (
        "How different a task's other pictures are from its first: 0 starts from the same noise, "
        "1 from independent noise."
    )
    slider = ui.slider(step=0.05, advanced=True)
    limits = {"ge": 0, "le": 1, "title": "Variation", "description": description}
    return {"variation": _field(float, 1.0, slider, **limits)}


def side(facts: Facts, title: str, description: str | None = None) -> Any:
    """Return the field of a side of the picture, in px."""
    stride_px = facts.stride_px
    return _field(
        int,
        facts.side_px,
        ui.slider(step=stride_px),
        ge=stride_px * max(1, -(-min(64, facts.side_px) // stride_px)),
        le=max(MOST_PX, facts.side_px),
        multiple_of=stride_px,
        title=title,
        description=description,
    )


def course(facts: Facts) -> dict[str, Any]:
    """Return the fields of steps and guidance, if the model has them."""
    fields: dict[str, Any] = {}
    if facts.loop is None or facts.loop.steps:
        limits: dict[str, Any] = {"ge": 1, "le": MOST_STEPS, "title": "Steps"}
        fields["steps"] = _field(int, facts.steps, ui.slider(advanced=True), **limits)
    if facts.takes_guidance:
        description = "How strictly the words are taken."
        limits = {"ge": 0, "le": MOST_GUIDANCE, "title": "Guidance", "description": description}
        slider = ui.slider(step=0.5, advanced=True)
        fields["guidance"] = _field(float, facts.guidance, slider, **limits)
    return fields


#: Beginnings of the description of a strength that has one use.
_USES: Final = {"image": "Without a mask: how", "mask": "Under the mask: how"}


def _pictures(facts: Facts) -> dict[str, Any]:
    uses = ["image", "mask"] if facts.loop is None else facts.loop.strength
    start = "To start from" if "image" in uses else "To change as the words say"
    rest = ", or to change under the mask." if facts.is_masked else "."
    fields = {"image": _picture("Picture", f"{start}{rest}")}
    if uses:
        how = _USES[uses[0]] if facts.is_masked and len(uses) == 1 else "How"
        fields["strength"] = _field(
            float,
            1.0 if facts.sees_mask else 0.8,
            ui.slider(step=0.05),
            gt=0,
            le=1,
            title="Strength",
            description=f"{how} far from it; 1 forgets it.",
        )
    if facts.is_masked:
        repainted = "White is drawn again, black is kept."
        fields["mask"] = _picture("Mask", repainted, ui.mask(of="image"))
    return fields


def _control(modes: int) -> dict[str, Any]:
    slider, limits = ui.slider(step=0.05), {"ge": 0, "le": 2, "title": "Control's weight"}
    fields = {
        "control": _picture("Control", "Edges, depth, a pose: what the net learnt."),
        "control_scale": _field(float, 1.0, slider, **limits),
    }
    if modes:
        kind = "Which kind of picture it is, by the number that the net's makers gave it."
        limits = {"ge": 0, "lt": modes, "title": "Control's kind", "description": kind}
        fields["control_mode"] = _field(int, 0, **limits)
    return fields


def reference_scale(title: str) -> dict[str, Any]:
    """Return the field of the reference picture's weight."""
    return {"reference_scale": _field(float, 0.6, ui.slider(step=0.05), ge=0, le=2, title=title)}
