"""Samples on the cards of the built-in models that `look_pictures.py` has none for.

    python look_cards.py WORK ../src/swell/models/samples DEMOS  # swell_models/samples

Pictures, a sound and texts: what each model makes of the input that its caption tells.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import swell
from sample import PACKAGE, VERSION
from swell.core.clock import SystemClock
from swell.runtime.local_run import LocalResult, check_input, load_model, run_together
from swell.sdk.model_loader import load_models
from wheel import fetch

SAMPLE_PX = 256
SMALL_PX = 64

PROMPTS = (
    "un gato azul en la nieve",
    "um foguete no espaço",
    "eine rote Katze im Schnee",
    "un château dans la forêt",
    "una volpe rossa nel bosco",
)
ICONS = {
    "fox": {"prompt": "a red fox in the snow", "style": "noto"},
    "rocket": {"prompt": "rocket in space", "style": "fluent"},
    "castle": {"prompt": "a castle on a hill at sunset", "style": "ink"},
}
ARTWORKS = {
    "castle": {"prompt": "a castle", "art": "starlight"},
    "fox": {"prompt": "un zorro rojo en la nieve"},
}
CHECKED = ("a red fox in the snow", "a gory battle scene")


class Asked:
    """A model that has been loaded."""

    def __init__(self, name: str) -> None:
        [self._definition] = [each for each in load_models(name) if each.name == name]
        self._loaded = load_model(self._definition, "cpu", SystemClock())

    def __call__(self, seed: int = 1, **values: Any) -> LocalResult:
        checked = check_input(self._definition, values)
        [result] = run_together(self._loaded, checked, [seed], SystemClock())
        return result

    def picture(self, seed: int = 1, **values: Any) -> Image.Image:
        """What it draws."""
        [file] = self(seed, **values).files
        assert isinstance(file, swell.Image)
        return file.pil().convert("RGB")


def uri(picture: Image.Image) -> str:
    """A picture as an input."""
    file = io.BytesIO()
    picture.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def save(picture: Image.Image, path: Path, resample: Image.Resampling) -> None:
    """One picture of a card."""
    picture.resize((SAMPLE_PX, SAMPLE_PX), resample).save(path, quality=80, method=6)


def imagined(to: Path, demos: Path) -> None:
    """What the models of words draw; seed 4, not chosen."""
    icons, artwork = Asked("swell/icons"), Asked("swell/artwork")
    for name, asked in ICONS.items():
        save(icons.picture(4, **asked), to / f"icons-{name}.webp", Image.Resampling.LANCZOS)
    for name, asked in ARTWORKS.items():
        save(artwork.picture(4, **asked), demos / f"artwork-{name}.webp", Image.Resampling.LANCZOS)


def enlarged(photo: Image.Image, to: Path) -> None:
    """Before and after, of a drawing and of a photograph."""
    upscale = Asked("swell/upscale")
    drawn = Image.open(to / "icons-fox.webp").convert("RGB")
    for name, whole in (("fox", drawn), ("photograph", photo)):
        small = whole.resize((SMALL_PX, SMALL_PX), Image.Resampling.LANCZOS)
        save(small, to / f"upscale-{name}-before.webp", Image.Resampling.NEAREST)
        large = upscale.picture(image=uri(small), factor=SAMPLE_PX // SMALL_PX)
        save(large, to / f"upscale-{name}.webp", Image.Resampling.LANCZOS)


def found(photo: Image.Image, to: Path, demos: Path) -> None:
    """The photograph with the faces that are found in it, and its score."""
    output = Asked("swell/faces")(image=uri(photo)).output
    marked = photo.copy()
    pen = ImageDraw.Draw(marked)
    for face in output["faces"]:
        pen.rectangle(face["box"], outline="#39d353", width=5)
        for x, y in face["landmarks"].values():
            pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill="#ffd33d")
        print("faces:", face["score"])
    save(marked, demos / "faces.webp", Image.Resampling.LANCZOS)
    drawing = Image.open(to / "icons-fox.webp").convert("RGB")
    print("safety:", Asked("swell/safety")(image=uri(drawing)).output)


def said(to: Path, demos: Path) -> None:
    """What the models of words answer."""
    speech = Asked("swell/speech")
    [sound] = speech(text="Your picture is ready.").files
    (demos / "speech.wav").write_bytes(sound.read())
    translate = Asked("swell/translate")
    pairs = [f"{each} → {translate(text=each).output['text']}" for each in PROMPTS]
    (demos / "translate.txt").write_text("\n".join(pairs) + "\n")
    check = Asked("swell/prompt-check")
    lines = []
    for each in CHECKED:
        output = check(text=each).output
        verdict = "allowed" if output["allowed"] else f"refused: {', '.join(output['refused'])}"
        lines.append(f"{each} → {verdict}")
    (to / "prompt-check.txt").write_text("\n".join(lines) + "\n")


def drawn(to: Path, demos: Path) -> None:
    """What the demonstrations make."""
    rings = Asked("demo/echo-picture")
    for prompt in ("a red fox", "a blue cat"):
        path = to / f"echo-picture-{prompt.rpartition(' ')[2]}.webp"
        save(rings.picture(prompt=prompt, steps=8), path, Image.Resampling.BICUBIC)
    save(Asked("demo/curve").picture(steps=2), demos / "curve.webp", Image.Resampling.NEAREST)


def main(work: Path, to: Path, demos: Path) -> None:
    with fetch(work, PACKAGE, VERSION) as wheel:
        photo = Image.open(io.BytesIO(wheel.read("skimage/data/astronaut.png"))).convert("RGB")
    imagined(to, demos)
    enlarged(photo, to)
    found(photo, to, demos)
    said(to, demos)
    drawn(to, demos)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
