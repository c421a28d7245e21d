"""Names and path prefixes of the compatible APIs, and the repair of base URLs. Pure."""

import re
from typing import Final

#: Every compatible API, by the first part of its paths.
FACADE_NAMES: Final = ("replicate", "openai", "fal", "libretranslate")

#: Their path prefixes.
FACADES: Final = tuple(f"/{name}/" for name in FACADE_NAMES)

#: Some clients append `/v1` to their base URL, others expect it there: both work.
_VERSION: Final = re.compile(r"^(/replicate/|/openai/)(?:v1/)*")


def path_meant(path: str) -> str:
    """Return the path to serve for a request to a compatible API.

    `/replicate/v1/v1/models` and `/replicate/models` both mean `/replicate/v1/models`.
    """
    return _VERSION.sub(r"\1v1/", path)
