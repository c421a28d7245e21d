"""Limits of a model card: its size, and how much its input schema may take to check."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from swell.errors import InvalidInput
from swell.registry import ModelCard

__all__ = ["Rules", "check_card", "compile_schema", "rules_of"]

#: Largest Markdown of a card, in bytes of UTF-8.
MAX_MARKDOWN_BYTES: Final = 64 * 1024

#: Largest card, as JSON, without the content of its samples.
MAX_CARD_BYTES: Final = 256 * 1024

#: Most rules and most patterns of an input schema. Each counts once for each way that leads to it.
MAX_RULES: Final = 2000
MAX_PATTERNS: Final = 100

#: Largest compiled pattern, in bytes; a pattern that repeats long parts often is larger.
_MAX_PATTERN_BYTES: Final = 256 * 1024

_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


class Rules(NamedTuple):
    """How much there is to check in a schema."""

    schemas: int
    patterns: int


def compile_schema(schema: dict[str, Any]) -> Any:
    """Return a validator of a JSON Schema. It never fetches what the schema refers to.

    Patterns are matched without backtracking, in time in proportion to the text. Messages say `it`
    instead of a value, which may have megabytes.
    """
    return jsonschema_rs.validator_for(
        schema or True,
        retriever=_refuse_to_fetch,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=_MAX_PATTERN_BYTES),
        mask="it",
    )


def check_card(card: ModelCard) -> None:
    """Check that a card is small enough, and that its input schema can be used.

    Raises:
        InvalidInput: A field is too large, or the schema is not valid JSON Schema, refers to
            documents elsewhere, or takes too long to check.
    """
    for name in ("description", "credits"):
        n_bytes = len(getattr(card, name).encode(errors="replace"))
        if n_bytes > MAX_MARKDOWN_BYTES:
            raise InvalidInput(
                f"the {name} of {card.name} has {n_bytes:,} bytes: at most {MAX_MARKDOWN_BYTES:,} "
                "fit on a card; put the rest on a page of its own and name its URL"
            )
    schema = card.input_schema
    try:
        n_bytes = len(msgspec.json.encode(msgspec.structs.replace(card, samples=[])))
        if n_bytes > MAX_CARD_BYTES:
            sizes = {
                name: len(msgspec.json.encode(getattr(card, name)))
                for name in ("input_schema", "output_schema", "examples", "speed")
            }
            largest = max(sizes, key=sizes.__getitem__)
            raise InvalidInput(
                f"the card of {card.name} has {n_bytes:,} bytes of JSON, of which its {largest} "
                f"has {sizes[largest]:,}: a card has at most {MAX_CARD_BYTES:,}"
            )
        rules = rules_of(schema)
        if rules.schemas > MAX_RULES or rules.patterns > MAX_PATTERNS:
            raise InvalidInput(
                f"the input_schema of {card.name} has {rules.schemas:,} rules and "
                f"{rules.patterns:,} patterns, each counted for each way that leads to it: at most "
                f"{MAX_RULES:,} and {MAX_PATTERNS:,} are checked"
            )
        compile_schema(schema)
    except InvalidInput:
        raise
    except jsonschema_rs.ValidationError as error:
        raise InvalidInput(f"the input_schema of {card.name} {_why(error)}") from error
    except Exception as error:
        # jsonschema-rs raises several kinds, one of them not a ValueError.
        raise InvalidInput(f"the input_schema of {card.name} is not usable: {error}") from error


def rules_of(schema: Mapping[str, Any]) -> Rules:
    """Return how many rules and patterns a value may meet, references followed.

    Raises:
        ValueError: A reference leads nowhere, or to another document.
    """
    return _count(schema, schema, {})


def _count(node: Any, schema: Mapping[str, Any], known: dict[str, Rules]) -> Rules:
    if isinstance(node, list):
        return _sum(_count(each, schema, known) for each in node)
    if not isinstance(node, dict):
        return Rules(0, 0)
    if node is not schema and isinstance(node.get("$id"), str):
        raise ValueError("only the whole schema may have an $id")
    found = [_count(each, schema, known) for each in node.values()]
    found.append(Rules(1, int(isinstance(node.get("pattern"), str))))
    if isinstance(named := node.get("patternProperties"), dict):
        found.append(Rules(0, len(named)))
    for name in _REFERENCES:
        if isinstance(ref := node.get(name), str):
            if ref not in known:
                # One that leads back to itself counts once.
                known[ref] = Rules(0, 0)
                known[ref] = _count(_target(ref, schema), schema, known)
            found.append(known[ref])
    return _sum(found)


def _sum(found: Iterable[Rules]) -> Rules:
    each = list(found)
    return Rules(sum(one.schemas for one in each), sum(one.patterns for one in each))


def _target(ref: str, schema: Mapping[str, Any]) -> Any:
    node: Any = schema
    try:
        if ref != "#" and not ref.startswith("#/"):
            raise KeyError(ref)
        for part in ref.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            node = node[int(name)] if isinstance(node, list) else node[name]
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"a schema must be whole, but this one refers to {ref[:80]!r}: write #/$defs/NAME"
        ) from error
    return node


def _why(error: jsonschema_rs.ValidationError) -> str:
    path = [str(part)[:80] for part in error.instance_path]
    where = f"{str(error.instance)[:80]!r} at /{'/'.join(path)}"
    if path[-1:] == ["pattern"] or path[-2:-1] == ["patternProperties"]:
        return (
            f"has a pattern that cannot be used, {where}: patterns are matched without look-around "
            "((?=…), (?!…), (?<=…)) and back-references (\\1), and without large repetitions; "
            "check what needs those in the model, and raise swell.Reject"
        )
    return f"is not usable: {where}: {error.message[:300]}"


def _refuse_to_fetch(uri: str) -> NoReturn:
    raise ValueError(f"a schema must be whole, but this one refers to {uri}")
