"""Makes the pictures of the wall on the page Create, and those of the styles.

`python web/inspiration.py URL KEY [NAME …]`, with a `swell up` at URL that serves swell/picture.
`src/pages/create/inspiration/inspiration.json` lists the wall; `_STYLES` below has the prompt of
each style. The seeds are kept, so the pictures come out the same again. With names only these are
made.
"""

import io
import json
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any, Final

import PIL.Image

_ROOT: Final = Path(__file__).resolve().parents[1]
_WALL: Final = _ROOT / "web" / "src" / "pages" / "create" / "inspiration"
_TILES: Final = _ROOT / "src" / "swell" / "models" / "styles"
_MODEL: Final = "swell/picture"

#: Pixels a side: of the wall, and of the styles.
_WALL_PX: Final = 256
_TILE_PX: Final = 192
_MOST_BYTES: Final = 10_000

_SEED: Final = 21

#: The style whose picture shows four of it, by the seeds from `_SEED` on.
_VARIED: Final = "varied"

#: Style → what its picture shows; a different thing in neighbouring styles.
_STYLES: Final = {
    _VARIED: "a fox",
    "starlight": "a sunflower at night",
    "pastel": "a whale at sunset",
    "jungle": "a parrot in the snow",
    "noto": "a red fox in the snow",
    "crimson-sky": "an elephant at sunset",
    "plain": "a rocket at night",
    "soft-ink": "a penguin in the snow",
    "impression": "a butterfly in the snow",
    "autumn": "an owl at sunset",
    "crayon": "a lion at sunset",
    "primary-oil": "a peacock in the snow",
    "mist": "a tiger in the snow",
    "pop": "a butterfly in the snow",
    "flat": "a cottage at sunset",
    "ink": "a horse at sunset",
    "bold-lines": "a sunflower at night",
    "mosaic": "a bear in the snow",
    "ember": "a bicycle at sunset",
    "charcoal-red": "a parrot in the snow",
    "etching": "a rocket at night",
    "parchment": "a penguin in the snow",
    "copper": "a red fox in the snow",
    "dusk": "a city at night",
    "shards": "a ferris wheel at night",
    "tapestry": "a dragon in the snow",
    "sandstone": "a bear in the snow",
    "dabs": "a rocket at night",
    "midnight": "a bear in the snow",
    "violet-hatch": "a peacock in the snow",
    "weave": "a lion at sunset",
}


def main(url: str, key: str, *names: str) -> None:
    """Make them all, or those that are named."""
    styles = tomllib.loads((_TILES / "picture.toml").read_text(encoding="utf-8"))["styles"]
    for each in json.loads((_WALL / "inspiration.json").read_text(encoding="utf-8"))["pictures"]:
        if not names or each["name"] in names:
            drawn = _draw(url, key, each["prompt"], styles[each["style"]]["input"], each["seed"])
            (_WALL / f"{each['name']}.webp").write_bytes(small(drawn, _WALL_PX))
    for name, prompt in _STYLES.items():
        if not names or name in names:
            seeds = range(_SEED, _SEED + (4 if name == _VARIED else 1))
            drawn = [_draw(url, key, prompt, styles[name]["input"], seed) for seed in seeds]
            one = quarters(drawn) if name == _VARIED else drawn[0]
            (_TILES / f"{name}.webp").write_bytes(small(one, _TILE_PX))


def quarters(pictures: list[bytes]) -> bytes:
    """Return four square pictures as one."""
    tiles = [PIL.Image.open(io.BytesIO(each)).convert("RGB") for each in pictures]
    side = tiles[0].width
    whole = PIL.Image.new("RGB", (2 * side, 2 * side))
    for number, tile in enumerate(tiles):
        whole.paste(tile, (number % 2 * side, number // 2 * side))
    out = io.BytesIO()
    whole.save(out, "PNG")
    return out.getvalue()


def small(data: bytes, side_px: int) -> bytes:
    """Return a picture as a WebP of at most so many pixels a side and `_MOST_BYTES`."""
    picture = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    made = b""
    for side in (side_px, side_px * 7 // 8, side_px * 3 // 4):
        smaller = picture.resize((side, side), PIL.Image.Resampling.LANCZOS)
        for quality in (74, 66, 58, 50, 42):
            out = io.BytesIO()
            smaller.save(out, "WEBP", quality=quality, method=6)
            made = out.getvalue()
            if len(made) <= _MOST_BYTES:
                return made
    return made


def _draw(url: str, key: str, prompt: str, values: dict[str, Any], seed: int) -> bytes:
    body = {"model": _MODEL, "input": {"prompt": prompt, **values}, "seed": seed}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    ask = urllib.request.Request(
        f"{url}/v1/tasks", json.dumps(body).encode(), {**headers, "prefer": "wait=60"}
    )
    with urllib.request.urlopen(ask, timeout=90) as answer:
        task = json.load(answer)
    if task["state"] != "succeeded":
        sys.exit(f"{prompt}: {task['state']}: {task['error']}")
    link = task["artifacts"][0]["url"]
    with urllib.request.urlopen(urllib.request.Request(link, headers=headers), timeout=60) as file:
        data: bytes = file.read()
    return data


if __name__ == "__main__":
    main(*sys.argv[1:])
