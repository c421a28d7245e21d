"""Limits of a model card: its size, and the time that its input schema takes to check an input."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from swell.core.errors import InvalidInput
from swell.core.records import ModelCard

#: Largest Markdown of a card, in bytes of UTF-8.
MAX_MARKDOWN_BYTES: Final = 64 * 1024

#: Largest card, as JSON, without the content of its samples.
MAX_CARD_BYTES: Final = 256 * 1024

#: Most rules and patterns of an input schema. A rule counts once for each reference to it.
MAX_RULES: Final = 2000
MAX_PATTERNS: Final = 100

#: Most characters of all patterns of an input schema, with repetitions written out.
MAX_PATTERN_CHARS: Final = 20_000

#: Upper limit of counting such characters.
_MANY_CHARS: Final = 10**9

#: Largest compiled pattern, in bytes. 20,000 ASCII characters fit.
_MAX_PATTERN_BYTES: Final = 2 * 1024 * 1024

#: A pattern with at most this many characters after its first repetition takes 2 to 5 ns a byte, in
#: rare alphabets 20. Others may take 16 times as long for each character, and for at least 20.
_SMALL: Final = 8
_LARGE: Final = 20
_LARGE_WEIGHT: Final = 16

#: Most bytes of a character in UTF-8; in JSON it is 6 for each two of UTF-16.
_CHAR_BYTES: Final = 4

#: Bytes that a small pattern matches in the time of one rule.
_BYTES_PER_CHECK: Final = 256

#: Slow rules count as several: `multipleOf`, and choices that are fractions, lists or objects.
_MULTIPLE_RULES: Final = 50
_MIN_MULTIPLE: Final = 1e-9
_CHOICE_RULES: Final = 8

#: Parts of a pattern that need backtracking.
_BACKTRACKING: Final = re.compile(r"\(\?<?[=!]|\\[1-9k]")

#: Parts of a pattern: a class, an escape, a repetition, a group's start, or one character.
_PATTERN_PARTS: Final = re.compile(
    r"(?P<one>\\[pPu]\{[^}]*+\}?|\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]?)"
    r"|(?P<times>\{(?P<least>\d+)(?P<most>,\d*)?\}|[*+?])"
    r"|\((?:\?(?:P?<\w+>|[\w-]*:))?|.",
    re.DOTALL,
)

_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


class Rules(NamedTuple):
    """The time that a schema takes. Sums of rules are field by field."""

    schemas: int = 0
    patterns: int = 0
    pattern_chars: int = 0
    #: Weight of patterns that may read a whole text.
    open_weight: int = 0
    #: Weight of patterns that read the start of a text, and weight times length of that.
    start_weight: int = 0
    start_bytes: int = 0
    #: References that lead back to themselves.
    loops: int = 0

    def checks(self, n_bytes: int, n_values: int) -> int:
        """Return how many checks an input of this size takes."""
        matched = self.open_weight * n_bytes
        matched += min(self.start_weight * n_bytes, self.start_bytes * n_values)
        return self.schemas * n_values + matched // _BYTES_PER_CHECK


def compile_schema(schema: dict[str, Any]) -> Any:
    """Return a validator of a JSON Schema. It does not fetch references.

    Patterns are matched without backtracking, in time proportional to the text. Messages say `it`
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
            other documents, or takes too long to check.
    """
    for name in ("description", "credits"):
        n_bytes = len(getattr(card, name).encode(errors="replace"))
        if n_bytes > MAX_MARKDOWN_BYTES:
            raise InvalidInput(
                f"the {name} of {card.name} has {n_bytes:,} bytes, and a card has room "
                f"for {MAX_MARKDOWN_BYTES:,}: move the rest to a web page and link to it"
            )
    try:
        _check_size(card)
        _check_schema(card)
    except InvalidInput:
        raise
    except jsonschema_rs.ValidationError as error:
        raise InvalidInput(f"the input_schema of {card.name} {_why(error)}") from error
    except Exception as error:
        # jsonschema-rs raises several kinds, one of them not a ValueError.
        raise InvalidInput(f"the input_schema of {card.name} is not usable: {error}") from error


def _check_size(card: ModelCard) -> None:
    n_bytes = len(msgspec.json.encode(msgspec.structs.replace(card, samples=[])))
    if n_bytes > MAX_CARD_BYTES:
        names = ("input_schema", "output_schema", "examples", "speed")
        size, largest = max((len(msgspec.json.encode(getattr(card, name))), name) for name in names)
        raise InvalidInput(
            f"the card of {card.name} has {n_bytes:,} bytes of JSON ({largest}: {size:,}), and "
            f"the limit is {MAX_CARD_BYTES:,}"
        )


def _check_schema(card: ModelCard) -> None:
    rules = rules_of(card.input_schema)
    if rules.schemas > MAX_RULES or rules.patterns > MAX_PATTERNS:
        raise InvalidInput(
            f"the input_schema of {card.name} has {rules.schemas:,} rules and {rules.patterns:,} "
            f"patterns, each counted for each reference to it: the limits are {MAX_RULES:,} and "
            f"{MAX_PATTERNS:,}"
        )
    if rules.pattern_chars > MAX_PATTERN_CHARS:
        raise InvalidInput(
            f"the input_schema of {card.name} has patterns of {rules.pattern_chars:,} characters, "
            f"with repetitions written out: the limit is {MAX_PATTERN_CHARS:,}; use maxLength "
            "instead of large repetitions"
        )
    compile_schema(card.input_schema)


def rules_of(schema: Mapping[str, Any]) -> Rules:
    """Return the rules and patterns that a value may meet, references followed.

    Raises:
        ValueError: A reference leads nowhere, or to another document.
    """
    return _rules(schema, schema, {})


def _rules(node: Any, schema: Mapping[str, Any], known: dict[str, Rules]) -> Rules:
    if isinstance(node, list):
        return _sum(_rules(each, schema, known) for each in node)
    if not isinstance(node, dict):
        return Rules()
    if node is not schema and isinstance(node.get("$id"), str):
        raise ValueError("only the whole schema may have an $id")
    found = [_rules(each, schema, known) for each in node.values()]
    found.append(Rules(schemas=1 + _slow_rules(node)))
    if isinstance(pattern := node.get("pattern"), str):
        found.append(pattern_rules(pattern))
    if isinstance(named := node.get("patternProperties"), dict):
        found += map(pattern_rules, named)
    for name in _REFERENCES:
        if isinstance(ref := node.get(name), str):
            if ref not in known:
                # A reference back to itself counts once.
                known[ref] = Rules(loops=1)
                known[ref] = _rules(_target(ref, schema), schema, known)
            found.append(known[ref])
    return _sum(found)


def _sum(found: Iterable[Rules]) -> Rules:
    return Rules(*map(sum, zip(Rules(), *found, strict=True)))


def _slow_rules(node: Mapping[str, Any]) -> int:
    """Return how many more rules a schema counts as.

    Raises:
        ValueError: Its `multipleOf` is too small.
    """
    choices = node.get("enum")
    choices = choices if isinstance(choices, list) else []
    # The validator looks strings up, or integers, and compares mixed choices one by one.
    rules = 0 if {*map(type, choices)} in ({str}, {int}) else len(choices)
    slow = [each for each in (*choices, node.get("const")) if isinstance(each, float | list | dict)]
    rules += _CHOICE_RULES * len(slow)
    multiple = node.get("multipleOf")
    if isinstance(multiple, int | float):
        if 0 < multiple < _MIN_MULTIPLE:
            raise ValueError(f"multipleOf is {multiple}: it must be at least {_MIN_MULTIPLE}")
        rules += _MULTIPLE_RULES
    return rules


def pattern_rules(pattern: str) -> Rules:
    """Return the time that a pattern takes. Pure.

    The matcher reads a text once and follows all paths through the pattern at the same time. After
    a leading `^` there is one path up to the first repetition, and through one of a character.
    """
    is_anchored, is_endless = pattern.startswith("^"), False
    # Characters of each open group, of the last part, and on the only path.
    chars, last, single, branches = [0], 0, None, 0
    for part in _PATTERN_PARTS.finditer(pattern):
        text = part[0]
        if part["times"]:
            least, most = _times(part)
            is_endless |= most is None
            # Without a limit, the last repetition is a loop.
            n = most or max(1, least)
            chars[-1] = min(chars[-1] + last * (n - 1), _MANY_CHARS)
            if single is None and (least != most or len(chars) > 1):
                single = chars[0] - (0 if len(chars) > 1 else 1 if last == 1 else last * n)
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
    total = paths = sum(chars)
    if is_anchored:
        paths = min(total, 1 + branches + (0 if single is None else total - single))
    weight = 1 if paths <= _SMALL else _LARGE_WEIGHT * max(paths, _LARGE)
    if is_anchored and not is_endless:
        longest = _CHAR_BYTES * (total + 1)
        return Rules(0, 1, total, start_weight=weight, start_bytes=weight * longest)
    return Rules(0, 1, total, open_weight=weight)


def _times(part: re.Match[str]) -> tuple[int, int | None]:
    """Return the least and most repetitions of a part; None for no limit."""
    if part["least"] is None:
        return 0, 1 if part[0] == "?" else None
    least, most = int(part["least"]), part["most"]
    if most is None:
        return least, max(1, least)
    return least, max(1, int(most[1:])) if most != "," else None


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
