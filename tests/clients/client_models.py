"""Models for clients that send a file, or want to see a failure."""

from typing import Literal

import PIL.Image

import swell


@swell.model("tests/measure")
def measure(image: swell.Image, note: str = "") -> list[str]:
    """Tell the size of a picture, and give the note back."""
    picture = image.pil()
    return [str(picture.width), str(picture.height), note]


@swell.model("tests/edit")
def edit(image: swell.Image, mask: swell.Image | None = None, prompt: str = "") -> swell.Image:
    """Turns a picture upside down."""
    return swell.Image(image.pil().convert("RGB").rotate(180))


@swell.model("tests/moody")
def moody(prompt: Literal["a", "reject", "break"]) -> swell.Image:
    """Fails as it is told."""
    if prompt == "reject":
        raise swell.Reject("not that")
    if prompt == "break":
        raise RuntimeError("as asked")
    return swell.Image(PIL.Image.new("RGB", (8, 8)))
