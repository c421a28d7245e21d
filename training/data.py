"""Fetch the icon sets, render them, and keep what the vocabulary names.

    python data.py WORK        # writes WORK/icons.npz and WORK/sets.json

The sets are npm packages (`npm pack NAME`), whose version and licence end in ``sets.json``.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

SIZE_PX = 128
# style key -> npm package. All four draw the same emoji, so a concept has the same name in each.
SETS = {
    "noto": "@iconify-json/noto",
    "fluent": "@iconify-json/fluent-emoji",
    "flat": "@iconify-json/fluent-emoji-flat",
    "ink": "@iconify-json/fluent-emoji-high-contrast",
}
STYLES = tuple(SETS)


def rows() -> list[tuple[bool, str, list[str]]]:
    """Of each concept: whether it is popular, its icon, and its words, the plainest first."""
    path = Path(__file__).with_name("vocabulary.txt")
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    pairs = [line.split(": ", 1) for line in lines]
    return [(icon[0] == "*", icon.lstrip("*"), words.split(", ")) for icon, words in pairs]


def vocabulary() -> dict[str, list[str]]:
    """Icon name -> the words for it, the plainest first."""
    return {icon: words for _, icon, words in rows()}


def popular() -> list[bool]:
    """Of each concept, in the vocabulary's order."""
    return [star for star, _, _ in rows()]


def fetch(package: str, folder: Path) -> dict[str, dict]:
    """The JSON files of a package, fetched once by the ordinary npm client."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = package.replace("@", "").replace("/", "-")
    if not (found := sorted(folder.glob(f"{stem}-[0-9]*.tgz"))):
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True)
        found = sorted(folder.glob(f"{stem}-[0-9]*.tgz"))
    with tarfile.open(found[-1]) as tar:
        names = ("icons.json", "info.json", "package.json")
        return {n: json.loads(tar.extractfile(f"package/{n}").read()) for n in names}


def render(icons: dict, name: str) -> np.ndarray | None:
    """One icon as (SIZE_PX, SIZE_PX, 4) uint8 RGBA; None if the set lacks it."""
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    if (icon := icons["icons"].get(name)) is None:
        return None
    box = [
        icon.get(k, icons.get(k, d))
        for k, d in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    ]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box[0]} {box[1]} {box[2]} {box[3]}" width="{SIZE_PX}" height="{SIZE_PX}">'
        f"{icon['body'].replace('currentColor', '#000')}</svg>"
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE_PX, height=SIZE_PX))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA").resize((SIZE_PX, SIZE_PX)))


def main(work: Path) -> None:
    words, sets = vocabulary(), {}
    pictures, concepts, styles = [], [], []
    for style, package in SETS.items():
        files = fetch(package, work / "sets")
        icons, info = files["icons.json"], files["info.json"]
        used = 0
        for concept, name in enumerate(words):
            if (picture := render(icons, name)) is None or picture[..., 3].max() == 0:
                print("not in", style, name)
                continue
            pictures.append(picture)
            concepts.append(concept)
            styles.append(STYLES.index(style))
            used += 1
        sets[style] = {
            "package": package,
            "version": files["package.json"]["version"],
            "title": info["name"],
            "author": info["author"],
            "licence": info["license"],
            "used": used,
        }
    np.savez(work / "icons.npz", rgba=np.stack(pictures), concept=concepts, style=styles)
    (work / "sets.json").write_text(json.dumps(sets, indent=1) + "\n")
    print(len(words), "concepts,", len(pictures), "pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
