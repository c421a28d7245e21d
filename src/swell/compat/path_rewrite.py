"""Repairs paths that clients of compatible APIs build from their base URL. Pure."""

import re
from typing import Final

#: Path prefixes of the APIs whose clients append `/v1` to their base URL, or expect it there.
VERSIONED: Final = ("/replicate/", "/openai/")

_VERSION: Final = re.compile(r"^(/replicate/|/openai/)(?:v1/)*")


def path_meant(path: str) -> str:
    """Return the path to serve for a request to a compatible API.

    `/replicate/v1/v1/models` and `/replicate/models` both mean `/replicate/v1/models`.
    """
    return _VERSION.sub(r"\1v1/", path)
