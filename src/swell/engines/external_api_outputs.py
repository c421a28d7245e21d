"""Which strings of a response are files, by the schema of the model's `Output`. Pure.

A string that looks like a URL may be text that a stranger made the model return: only the schema
says that it is a file. If a string may be a file or text, it counts as text.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

#: References are not followed any further.
_DEEPEST: Final = 20


class Meant:
    """The types that a place in a response allows.

    Args:
        schema: JSON Schema, with `x-file` for files.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        definitions = schema.get("$defs", {})
        self._definitions: Mapping[str, Any] = definitions
        self._either = tuple(_alternatives(schema, definitions, 0))

    @property
    def file(self) -> str | None:
        """The kind of file that a string here refers to; None if it is text.

        `file` if several kinds are possible.
        """
        kinds = {str(each["x-file"]) for each in self._either if "x-file" in each}
        if not kinds or any(map(_takes_text, self._either)):
            return None
        return kinds.pop() if len(kinds) == 1 else "file"

    @property
    def is_file_alone(self) -> bool:
        """Whether only a file or null is allowed here."""
        others = [each for each in self._either if "x-file" not in each]
        return self.file is not None and all(each.get("type") == "null" for each in others)

    def item(self, index: int) -> "Meant":
        """Return the types of an item of a list here."""
        return self._within([_item(each, index) for each in self._either])

    def value(self, key: str) -> "Meant":
        """Return the types of the value of a key here."""
        return self._within([_value(each, key) for each in self._either])

    def _within(self, schemas: Sequence[Any]) -> "Meant":
        found = [each for each in schemas if isinstance(each, Mapping)]
        return Meant({"anyOf": found, "$defs": self._definitions})


def _alternatives(
    schema: Any, definitions: Mapping[str, Any], depth: int
) -> Iterator[Mapping[str, Any]]:
    """Yield what a schema allows, one by one, without references."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return
    reference = schema.get("$ref")
    if isinstance(reference, str):
        yield from _alternatives(
            definitions.get(reference.rpartition("/")[2]), definitions, depth + 1
        )
        return
    groups = [schema[key] for key in ("anyOf", "oneOf", "allOf") if key in schema]
    if not groups:
        yield schema
    for group in groups:
        for part in group:
            yield from _alternatives(part, definitions, depth + 1)


def _takes_text(schema: Mapping[str, Any]) -> bool:
    return "x-file" not in schema and schema.get("type", "string") == "string"


def _item(schema: Mapping[str, Any], index: int) -> Any:
    first = schema.get("prefixItems", ())
    return first[index] if index < len(first) else schema.get("items")


def _value(schema: Mapping[str, Any], key: str) -> Any:
    named = schema.get("properties", {})
    return named[key] if key in named else schema.get("additionalProperties")
