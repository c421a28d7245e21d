"""Limits of a model card: its size, and how much its input schema may take to check."""

import re
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from swell.errors import InvalidInput
from swell.registry import ModelCard

#: Largest Markdown of a card, in bytes of UTF-8.
MAX_MARKDOWN_BYTES: Final = 64 * 1024

#: Largest card, as JSON, without the content of its samples.
MAX_CARD_BYTES: Final = 256 * 1024

#: Most rules and most patterns of an input schema. Each counts once for each way that leads to it.
MAX_RULES: Final = 2000
MAX_PATTERNS: Final = 100

#: Most characters of all patterns of an input schema, each as often as it is repeated.
MAX_PATTERN_CHARS: Final = 20_000

#: Characters of a pattern are not counted further.
_MANY_CHARS: Final = 10**9

#: Largest compiled pattern, in bytes. Of 20,000 ASCII characters one fits.
_MAX_PATTERN_BYTES: Final = 2 * 1024 * 1024

#: A pattern with so few characters after its first repetition takes 2 to 5 ns a byte, in rare
#: alphabets 20. Others may take 16 times as long for each character, and for at least 20.
_SMALL: Final = 8
_LARGE: Final = 20
_LARGE_WEIGHT: Final = 16

#: A character in UTF-8 has at most so many bytes, in JSON 6 for each two of UTF-16.
_CHAR_BYTES: Final = 4

#: So many rules a `multipleOf` counts as: it takes long, above all with a fraction.
_MULTIPLE_RULES: Final = 10
_FRACTION_RULES: Final = 50
_MIN_MULTIPLE: Final = 1e-9

#: So many rules a choice of `enum` or `const` counts as that is a fraction, a list or an object.
_CHOICE_RULES: Final = 8

#: So many rules a limit of numbers counts as that is a fraction.
_LIMIT_RULES: Final = 3
_LIMITS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

#: What needs backtracking.
_BACKTRACKING: Final = re.compile(r"\(\?<?[=!]|\\[1-9k]")

#: Parts of a pattern: a class, an escape, a repetition, a group's start, or one character.
_PATTERN_PARTS: Final = re.compile(
    r"(?P<one>\\[pPu]\{[^}]*+\}?|\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]?)"
    r"|(?P<times>\{(?P<least>\d+)(?P<most>,\d*)?\}|[*+?])"
    r"|\((?:\?(?:P?<\w+>|[\w-]*:))?|.",
    re.DOTALL,
)

_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


class Pattern(NamedTuple):
    """How long it takes to match a pattern."""

    #: Characters, each as often as it is repeated.
    chars: int
    #: Time for each byte of a text; 1 for a small pattern.
    weight: int
    #: So much of a text is read at most.
    longest_bytes: int


class Rules(NamedTuple):
    """How much there is to check in a schema."""

    schemas: int
    patterns: tuple[Pattern, ...] = ()
    #: Whether a reference leads back to itself.
    is_recursive: bool = False


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
                f"the {name} of {card.name} has {n_bytes:,} bytes, and a card has room "
                f"for {MAX_MARKDOWN_BYTES:,}: move the rest to a web page and link to it"
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
                f"the card of {card.name} has {n_bytes:,} bytes of JSON ({largest}: "
                f"{sizes[largest]:,}), and the limit is {MAX_CARD_BYTES:,}"
            )
        rules = rules_of(schema)
        if rules.schemas > MAX_RULES or len(rules.patterns) > MAX_PATTERNS:
            n = len(rules.patterns)
            n_patterns = n if n <= MAX_PATTERNS else f"more than {MAX_PATTERNS}"
            raise InvalidInput(
                f"the input_schema of {card.name} has {rules.schemas:,} rules and "
                f"{n_patterns} patterns, each counted for each way that leads to it: at "
                f"most {MAX_RULES:,} and {MAX_PATTERNS:,} are checked"
            )
        chars = sum(each.chars for each in rules.patterns)
        if chars > MAX_PATTERN_CHARS:
            raise InvalidInput(
                f"the input_schema of {card.name} has patterns of {chars:,} characters, each "
                f"counted as often as it is repeated: at most {MAX_PATTERN_CHARS:,} are checked; "
                "use maxLength instead of large repetitions"
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
        return Rules(0)
    if node is not schema and isinstance(node.get("$id"), str):
        raise ValueError("only the whole schema may have an $id")
    found = [_count(each, schema, known) for each in node.values()]
    found.append(Rules(1 + _further_rules(node)))
    if isinstance(pattern := node.get("pattern"), str):
        found.append(Rules(0, (pattern_of(pattern),)))
    if isinstance(named := node.get("patternProperties"), dict):
        found.append(Rules(0, tuple(map(pattern_of, named))))
    for name in _REFERENCES:
        if isinstance(ref := node.get(name), str):
            if ref not in known:
                # One that leads back to itself counts once.
                known[ref] = Rules(0, is_recursive=True)
                known[ref] = _count(_target(ref, schema), schema, known)
            found.append(known[ref])
    return _sum(found)


def _sum(found: Iterable[Rules]) -> Rules:
    each = list(found)
    return Rules(
        sum(one.schemas for one in each),
        # A short schema may lead to a pattern in more ways than memory has room for.
        tuple(islice((pattern for one in each for pattern in one.patterns), MAX_PATTERNS + 1)),
        any(one.is_recursive for one in each),
    )


def _further_rules(node: Mapping[str, Any]) -> int:
    """Return how many rules a schema counts as beside itself.

    Raises:
        ValueError: Its `multipleOf` is too small.
    """
    choices = node.get("enum")
    choices = list(choices) if isinstance(choices, list) else []
    # The validator compares the value with each choice, unless all are strings, or all integers.
    if set(map(type, choices)) in ({str}, {int}):
        choices = []
    rules = len(choices)
    for each in (*choices, node.get("const")):
        rules += _CHOICE_RULES if isinstance(each, float | list | dict) else 0
    limits = (node.get(name) for name in _LIMITS)
    rules += sum(_LIMIT_RULES for each in limits if isinstance(each, float) and each % 1)
    multiple = node.get("multipleOf")
    if isinstance(multiple, int | float):
        if 0 < multiple < _MIN_MULTIPLE:
            raise ValueError(f"multipleOf is {multiple}: it must be at least {_MIN_MULTIPLE}")
        rules += _MULTIPLE_RULES if multiple == int(multiple) else _FRACTION_RULES
    return rules


def pattern_of(pattern: str) -> Pattern:
    """Return how long it takes to match a pattern. Pure.

    The matcher reads a text once and follows all ways through the pattern at the same time. Where
    `^` stands first, there is one way up to the first repetition, and through one of a character.
    """
    is_anchored, is_bounded, is_open = pattern.startswith("^"), True, False
    # Characters of each group that is open, of the last part, and on the only way.
    chars, last, single, branches = [0], 0, 0, 0
    for part in _PATTERN_PARTS.finditer(pattern):
        text = part[0]
        if part["times"]:
            least, most, is_endless = _times(part)
            is_bounded &= not is_endless
            chars[-1] = min(chars[-1] + last * (most - 1), _MANY_CHARS)
            if not is_open and (least != most or len(chars) > 1):
                is_open = True
                own = 0 if len(chars) > 1 else 1 if last == 1 else last * most
                single = chars[0] - own
        elif part["one"] or not (text in ")|^$" or text[0] == "("):
            chars[-1] += 1
            last = 1
        elif text == ")" and len(chars) > 1:
            last = chars.pop()
            chars[-1] += last
        else:
            is_anchored &= text != "|" or len(chars) > 1
            branches += text == "|"
            last = 0
            if text[0] == "(":
                chars.append(0)
    total = sum(chars)
    ways = total
    if is_anchored:
        ways = min(total, 1 + branches + (total - single if is_open else 0))
    weight = 1 if ways <= _SMALL else _LARGE_WEIGHT * max(ways, _LARGE)
    is_bounded &= is_anchored
    return Pattern(total, weight, _CHAR_BYTES * (total + 1) if is_bounded else sys.maxsize)


def _times(part: re.Match[str]) -> tuple[int, int, bool]:
    """Return how often a part is repeated at least and at most, and whether there is no most."""
    if part["least"] is None:
        return 0, 1, part[0] != "?"
    least, most = int(part["least"]), part["most"]
    if most == ",":
        return 0, least or 1, True
    return least, max(1, least if most is None else int(most[1:])), False


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
        pattern = path[-1] if path[-2:-1] == ["patternProperties"] else str(error.instance)
        if _BACKTRACKING.search(pattern):
            return (
                f"has a pattern that cannot be used, {where}: patterns are matched without "
                "look-around ((?=…), (?!…), (?<=…)) and back-references (\\1); check what needs "
                "those in the model, and raise swell.Reject"
            )
        return (
            f"has a pattern that cannot be used, {where}: it is not a regular expression, or it is "
            "too large; use maxLength instead of large repetitions"
        )
    return f"is not usable: {where}: {error.message[:300]}"


def _refuse_to_fetch(uri: str) -> NoReturn:
    raise ValueError(f"a schema must be whole, but this one refers to {uri}")
