"""Style presets with sample pictures: each changes the prompt and the input.

Operators write them in TOML, with the pictures in the same folder:

    models = ["owner/name"]                     # models that they are for; without it, any

    [styles.woodcut]
    label = "Woodcut"
    labels = { es = "Xilografía" }              # in other languages
    prompt = "a woodcut of {prompt}"            # the new prompt
    input = { guidance = 6.0 }                  # other input fields
    picture = "woodcut.webp"
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from swell.core.errors import InvalidModel, InvalidRequest
from swell.core.records import Sample
from swell.sdk.card_samples import read_samples
from swell.sdk.toml_files import read_toml

#: Styles that come with Swell, as settings name them.
BUILT_IN: Final = "swell/picture"

_BUILT_IN: Final = Path(__file__).parents[1] / "models" / "styles" / "picture.toml"

#: Name of a style in links and requests.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")

#: Placeholder of the user's text in a prompt.
_PLACE: Final = "{prompt}"


@dataclass(frozen=True, slots=True)
class Style:
    """One style."""

    name: str
    label: str
    #: Language → label.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: With `{prompt}` for the user's text; empty for that text alone.
    prompt: str = ""
    #: Fields of the model's input that it sets.
    input: Mapping[str, Any] = field(default_factory=dict)
    #: Models that it is for; empty for any.
    models: Sequence[str] = ()
    picture: Sample | None = None


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
    labels: dict[str, str] = {}
    prompt: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    input: dict[str, Any] = {}
    picture: str = ""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    styles: dict[str, _Entry]
    models: list[str] = []


def load_styles(ref: str) -> list[Style]:
    """Return the styles of a file, in its order.

    Args:
        ref: Its path, or `swell/picture` for those that come with Swell.

    Raises:
        NotFound: There is no such file.
        InvalidModel: Something in it is wrong; the text says what and where.
    """
    path = _BUILT_IN if ref == BUILT_IN else Path(ref)
    file = read_toml(path, _File, "styles")
    return [_style(path, name, entry, file.models) for name, entry in file.styles.items()]


def _style(path: Path, name: str, entry: _Entry, models: Sequence[str]) -> Style:
    if not _NAME.fullmatch(name):
        raise InvalidModel(
            f"{path.name}: the style {name[:80]!r} has a name of other letters than a-z, 0-9 and -"
        )
    if entry.prompt and _PLACE not in entry.prompt:
        raise InvalidModel(
            f"{path.name}: the prompt of the style {name} has no {_PLACE}, so the "
            "user's text would be lost"
        )
    picture = _picture(path, name, entry)
    return Style(name, entry.label, entry.labels, entry.prompt, entry.input, tuple(models), picture)


def _picture(path: Path, name: str, entry: _Entry) -> Sample | None:
    if not entry.picture:
        return None
    try:
        [picture] = read_samples({entry.label: path.parent / entry.picture})
    except InvalidRequest as error:
        raise InvalidModel(f"{path.name}: the style {name}: {error.detail}") from error
    if not picture.content_type.startswith("image/"):
        raise InvalidModel(f"{path.name}: the style {name}: {entry.picture} is no picture")
    return picture
