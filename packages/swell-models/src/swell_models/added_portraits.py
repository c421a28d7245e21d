"""Portraits by a model that was added: one picture of a face, and one portrait in each scenario.

The model hears a prompt for each scenario, and of the face through its picture adapter. The largest
face is found by the built-in detector, which turns the picture upright by it, and what the adapter
sees is a square around it, so that it learns who it is and not where that was. Asked is what
`swell/portraits` is asked, so that a client may go from one to the other.

Scenarios are data, a table for each:

    [office]
    title = "In the office"
    prompt = "portrait of a person in a bright office, soft light, shallow depth of field"
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import PIL.Image
import pydantic
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.errors import InvalidModel
from swell.diffusion.families.detect_family import Facts
from swell.diffusion.families.input_schema import (
    course,
    loras,
    reference_scale,
    seed,
    side,
    unwanted,
)
from swell.models import onnx_sessions as embedded
from swell.models import pictures
from swell.sdk.context import Reject
from swell.sdk.media import Image
from swell_models import faces, scenes

#: The scenarios that ship with Swell.
SCENARIOS: Final = Path(scenes.__file__).with_name("scenes.toml")

#: What portraits depend on beside the model's own files and the scenarios.
FILES: Final = (Path(__file__), Path(faces.__file__), embedded.weights("faces.onnx"))

#: Portraits in one pack, at least; a file with more scenarios may have all of them drawn at once.
_MOST: Final = 24

#: Those drawn unless others are asked for, where a file has them; else its first four.
_USUAL: Final = ("beach", "city", "space", "forest")

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_LONGEST: Final = 2000

#: Words of one's own have a space in them: a single word is the name of a scenario, or misspelt.
_WORDS: Final = r"\S\s+\S"

#: Values of `style` that add nothing to a scenario's prompt.
_NO_STYLE: Final = frozenset({"", "scene", "none"})

#: A square of so many heights of the face, whose middle is at this part of the square's height.
_SQUARE: Final = 2.6
_FACE_Y: Final = 0.45


@dataclass(frozen=True, slots=True)
class Scenario:
    """Where somebody is portrayed."""

    title: str
    prompt: str


def read_scenarios(path: Path = SCENARIOS) -> dict[str, Scenario]:
    """Return the scenarios of a file by name, in its order; what else it says is left alone.

    Raises:
        InvalidModel: There is no such file, or it is no table of scenarios.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidModel(f"there is no file of scenarios {str(path)!r}") from None
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{path.name} is no TOML: {error}") from None
    if not told:
        raise InvalidModel(f"{path.name} has no scenarios: write a [name] with title and prompt")
    return {name: _scenario(path.name, name, fields) for name, fields in told.items()}


def _scenario(file: str, name: str, fields: Any) -> Scenario:
    if not _NAME.fullmatch(name):
        raise InvalidModel(
            f"{file}: {name!r} cannot name a scenario: use lower-case letters, digits, '-' and '_'"
        )
    told = fields if isinstance(fields, dict) else {}
    prompt, title = told.get("prompt"), told.get("title", name)
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > _LONGEST:
        raise InvalidModel(
            f"{file}: [{name}] needs a prompt, a text of at most {_LONGEST:,} characters"
        )
    if not isinstance(title, str):
        raise InvalidModel(f"{file}: the title of [{name}] is no text")
    return Scenario(title, prompt)


# --- what is asked -------------------------------------------------------------------------------


def input_type(facts: Facts, known: Mapping[str, Scenario]) -> type[BaseModel]:
    """Return what may be asked: that of `swell/portraits`, and more.

    Args:
        facts: What the model's folder says.
        known: Scenarios by name.
    """
    fields: dict[str, Any] = {
        "image": (
            Annotated[
                Image,
                pictures.LIMITS,
                Field(title="Picture", description="A face, best with shoulders."),
                ui.image(),
            ],
            ...,
        ),
        "scenarios": _scenarios(known),
        "style": (
            Annotated[
                str,
                Field(
                    max_length=200,
                    title="Style",
                    description="Added to each prompt; `scene` and `none` add nothing.",
                ),
            ],
            "scene",
        ),
        "strength": (
            Annotated[
                float | None,
                Field(ge=0, le=1, title="Strength", description="How far the style goes."),
                ui.slider(step=0.05, advanced=True),
            ],
            None,
        ),
        **_size(facts),
        **unwanted(facts),
        **course(facts),
        **reference_scale("The face's weight"),
        **loras(),
        **seed("The first portrait's; each next one has the next seed."),
    }
    made: type[BaseModel] = pydantic.create_model(
        "Portrayed", __config__=ConfigDict(extra="forbid"), __module__=__name__, **fields
    )
    return made


def _scenarios(known: Mapping[str, Scenario]) -> Any:
    usual = [name for name in _USUAL if name in known] or list(known)[:4]
    words = Annotated[str, Field(pattern=_WORDS, max_length=_LONGEST)]
    name: Any = Literal[tuple(known)]
    limits = Field(
        min_length=1,
        max_length=max(_MOST, len(known)),
        title="Scenarios",
        description="One portrait each, in this order: names, or whole prompts of your own.",
    )
    titles = {name: scenario.title for name, scenario in known.items()}
    hints = ui.pack(whole=True), ui.select(labels=titles)
    return (Annotated[list[name | words], limits, *hints], usual)


def _size(facts: Facts) -> dict[str, Any]:
    aspects: Any = Literal[ui.ASPECTS]
    return {
        "size": side(facts, "Size", "Pixels of the longer side."),
        "aspect": (Annotated[aspects, Field(title="Aspect"), ui.aspect()], "1:1"),
    }


def sides(asked: Any, stride_px: int) -> tuple[int, int]:
    """Return the width and the height that are asked for, in px, multiples of `stride_px`."""
    across, down = (int(part) for part in asked.aspect.split(":"))
    width, height = (
        max(stride_px, round(asked.size * part / max(across, down) / stride_px) * stride_px)
        for part in (across, down)
    )
    return width, height


def prompts_of(asked: Any, scenario: str, known: Mapping[str, Scenario]) -> tuple[str, str]:
    """Return the prompt of a scenario as it is, and with the style that is asked for."""
    plain = known[scenario].prompt if scenario in known else scenario
    if asked.style in _NO_STYLE:
        return plain, plain
    style = asked.style if " " in asked.style else f"{asked.style.replace('-', ' ')} style"
    return plain, f"{plain}, {style}"


def examples_of(known: Mapping[str, Scenario]) -> tuple[dict[str, Any], ...]:
    """Return an input that works."""
    return ({"image": pictures.sample(), "scenarios": [next(iter(known))]},)


# --- the face ------------------------------------------------------------------------------------


class FaceFinder:
    """Finds the face in a picture, and cuts it out as a picture adapter is to see it."""

    def __init__(self) -> None:
        self._detector = faces.FaceDetector()

    def __call__(self, image: Image) -> PIL.Image.Image:
        """Return a square around the largest face, upright.

        Raises:
            Reject: There is none.
        """
        found = self._detector.upright(pictures.opened(image)[0])
        if found is None:
            raise Reject(faces.NO_FACE)
        pixels, face = found
        height, width = pixels.shape[:2]
        left, top, right, bottom = head_and_shoulders(face.box, width, height)
        return pictures.closed(pixels[top:bottom, left:right])


def head_and_shoulders(
    face: tuple[float, float, float, float], width: int, height: int
) -> tuple[int, int, int, int]:
    """Return a square around a face: left, top, right, bottom in px, inside the picture.

    Args:
        face: The same of the face.
        width: Of the picture, in px.
        height: Of the picture, in px.
    """
    left, top, right, bottom = face
    side = min(round(_SQUARE * max(bottom - top, right - left)), width, height)
    x = min(max(round((left + right) / 2 - side / 2), 0), width - side)
    y = min(max(round((top + bottom) / 2 - side * _FACE_Y), 0), height - side)
    return x, y, x + side, y + side
