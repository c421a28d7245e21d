"""Content negotiation (`Accept`): the JSON of a task, or one of its files."""

import re
from collections.abc import Sequence
from typing import Final

_JSON: Final = "application/json"

#: Any file is a stream of octets, so this range accepts any file.
_OCTETS: Final = "application/octet-stream"

#: No client sends more.
_MOST_BYTES: Final = 1000

#: Quoted values of parameters may contain commas and semicolons, and are no weights.
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_RANGE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")
_WEIGHT: Final = re.compile(r"0(?:\.\d{0,9})?|\.\d{1,9}|1(?:\.0{0,9})?", re.ASCII)


def preferred(accept: bytes, types: Sequence[str]) -> int | None:
    """Return which file a client would rather have than JSON; None where it is JSON.

    It is the first of those that it likes best, and better than JSON. For a range that is named
    with several parameters its best weight counts, since no file here has parameters. What cannot
    be read is ignored, and so is a header of more than 1,000 bytes.

    Args:
        accept: Value of the `Accept` header; several are joined by commas.
        types: Media types of the files, in lower case and without parameters.

    Source:
        RFC 9110, sections 12.4.2 and 12.5.1.
    """
    if len(accept) > _MOST_BYTES:
        return None
    weights = _weights(accept)
    best, least = None, _weight(weights, _JSON)
    for number, media_type in enumerate(types):
        weight = _weight(weights, media_type, _OCTETS)
        if weight > least:
            best, least = number, weight
    return best


def _weight(weights: dict[str, float], media_type: str, *others: str) -> float:
    """Return the weight of the closest range that holds a media type; 0 where none does."""
    family = media_type.partition("/")[0]
    for media_range in (media_type, f"{family}/*", *others, "*/*"):
        weight = weights.get(media_range)
        if weight is not None:
            return weight
    return 0.0


def _weights(accept: bytes) -> dict[str, float]:
    """Return the weight of each media range, 0 to 1."""
    found: dict[str, float] = {}
    for part in _QUOTED.sub("", accept.decode("latin-1").lower()).split(","):
        media_range, *parameters = (each.strip() for each in part.split(";"))
        weight = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        if _RANGE.fullmatch(media_range) and _WEIGHT.fullmatch(weight):
            found[media_range] = max(float(weight), found.get(media_range, 0.0))
    return found
