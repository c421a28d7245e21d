"""Which façades there are, and which path a client means whose base URL is a little off. Pure."""

from typing import Final

#: Every façade, by the first part of its paths.
FACADE_NAMES: Final = ("replicate", "openai", "fal", "libretranslate")

#: What their paths begin with.
FACADES: Final = tuple(f"/{name}/" for name in FACADE_NAMES)

#: Some clients put `/v1` behind their base URL, others want it there: both spellings get through.
_VERSIONED: Final = ("/replicate/", "/openai/")


def path_meant(path: str) -> str:
    """Return the path that is served for one that a client asked below a façade.

    `/replicate/v1/v1/models` and `/replicate/models` mean `/replicate/v1/models`.
    """
    for home in _VERSIONED:
        if path.startswith(home):
            rest = path[len(home) :]
            while rest.startswith("v1/"):
                rest = rest[3:]
            return f"{home}v1/{rest}"
    return path
