"""Hints for the form that the web app draws from a model's schema.

A hint annotates the type, `Annotated[str, ui.textarea()]`, and becomes `x-ui` in the JSON Schema of
that property. Clients ignore hints that they do not know; a model without hints still gets a
complete form from its types.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

#: The default picture shapes of `aspect`.
ASPECTS = ("1:1", "3:2", "2:3", "4:3", "3:4", "16:9", "9:16")


@dataclass(frozen=True, slots=True)
class Hint:
    """The content of `x-ui`. Several hints on one property are merged; the last one wins."""

    values: dict[str, Any] = field(default_factory=dict)

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Add the hint to the schema; since JSON Schema 2019-09 also next to a `$ref`."""
        schema = handler(core_schema)
        schema["x-ui"] = {**schema.get("x-ui", {}), **self.values}
        return schema


def hint(widget: str | None = None, **values: Any) -> Hint:
    """Return a hint with a widget and any of `advanced, order, group, label, help, …`."""
    named = {} if widget is None else {"widget": widget}
    return Hint({**named, **{name: value for name, value in values.items() if value is not None}})


def text(**values: Any) -> Hint:
    """One line of text."""
    return hint("text", **values)


def textarea(*, rows: int = 3, languages: Sequence[str] | None = None, **values: Any) -> Hint:
    """Several lines of text, such as a prompt.

    Args:
        rows: Number of visible rows.
        languages: Codes of the languages that the model understands, such as `en`; the form shows
            them.
        values: More hints.
    """
    codes = None if languages is None else list(languages)
    return hint("textarea", rows=rows, languages=codes, **values)


def slider(*, step: float | None = None, **values: Any) -> Hint:
    """A number between the type's bounds (`ge`, `le`)."""
    return hint("slider", step=step, **values)


def pack(*, whole: bool = False, **values: Any) -> Hint:
    """A list with one sample, such as one picture, for each element.

    The model gets the list with one element at a time, and the results form a list. Several such
    fields of one input are combined: for each element of the first, all of the second. The list
    needs bounds: `Field(min_length=1, max_length=…)`.

    Args:
        whole: Whether the model takes the whole list, and makes a picture for each element itself:
            then this only gives the number of pictures, for quotas and credits.
        values: More hints.
    """
    return hint(None, pack="whole" if whole else True, **values)


def select(*, labels: dict[str, str] | None = None, **values: Any) -> Hint:
    """One of a `Literal`'s values, with labels for people."""
    return hint("select", labels=labels, **values)


def aspect(presets: Sequence[str] = ASPECTS, **values: Any) -> Hint:
    """The shape of a picture, drawn as small frames."""
    return hint("aspect", presets=list(presets), **values)


def styles(pictures: dict[str, str] | None = None, **values: Any) -> Hint:
    """An art style, shown with the sample picture at its URL in `pictures`."""
    return hint("styles", pictures=pictures, **values)


def seed(**values: Any) -> Hint:
    """A seed: empty for a new one each time, with a dice and a lock."""
    return hint("seed", **{"advanced": True, **values})


def image(*, accept: str = "image/*", **values: Any) -> Hint:
    """A picture to drop or choose."""
    return hint("image", accept=accept, **values)


def lora(*, accept: str = ".safetensors", **values: Any) -> Hint:
    """A LoRA to choose or to name, and its scale."""
    return hint("lora", accept=accept, **values)


def mask(of: str, **values: Any) -> Hint:
    """A mask to paint over the picture in property `of`."""
    return hint("mask", of=of, **values)


def color(**values: Any) -> Hint:
    """A colour as `#rrggbb`."""
    return hint("color", **values)


def hidden() -> Hint:
    """Not in the form; the API still accepts it."""
    return hint("hidden")
