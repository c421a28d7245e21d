"""Names and path prefixes of the compatible APIs, and the repair of base URLs. Pure."""

from typing import Final

#: Every compatible API, by the first part of its paths.
FACADE_NAMES: Final = ("replicate", "openai", "fal", "libretranslate")

#: Their path prefixes.
FACADES: Final = tuple(f"/{name}/" for name in FACADE_NAMES)

#: Some clients append `/v1` to their base URL, others expect it there: both work.
_VERSIONED: Final = ("/replicate/", "/openai/")


def path_meant(path: str) -> str:
    """Return the path to serve for a request to a compatible API.

    `/replicate/v1/v1/models` and `/replicate/models` both mean `/replicate/v1/models`.
    """
    for home in _VERSIONED:
        if path.startswith(home):
            rest = path[len(home) :]
            while rest.startswith("v1/"):
                rest = rest[3:]
            return f"{home}v1/{rest}"
    return path
