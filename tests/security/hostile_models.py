"""Models that take every kind of input, and say what they were given."""

import os
from typing import Any, ClassVar

from pydantic import BaseModel

import swell
from swell.engines import external_api as remote


@swell.model("hostile/read")
def read(file: swell.File) -> str:
    """Give the beginning of a file back."""
    return f"{file.content_type} {file.read()[:400]!r}"


@swell.model("hostile/see")
def see(image: swell.Image) -> list[int]:
    """Give the size of a picture back, once it was decoded."""
    picture = image.pil().convert("RGB")
    return [picture.width, picture.height]


@swell.model("hostile/hear")
def hear(sound: swell.Audio) -> int:
    """Count the bytes of a sound."""
    return len(sound.read())


@swell.model("hostile/style")
def style(lora: swell.LoRA) -> str:
    """Take a LoRA."""
    return lora.digest


@swell.model("hostile/album")
def album(images: list[swell.Image]) -> int:
    """Count pictures."""
    return len(images)


@swell.model("hostile/echo")
def echo(text: str, numbers: list[float] | None = None) -> str:
    """Give a text back."""
    return f"{text} {len(numbers or [])}"


class Words(BaseModel):
    text: str


class Parrot(remote.Predictions):
    """A model elsewhere that repeats what it is told, as words."""

    name = "hostile/parrot"
    url = os.environ.get("HOSTILE_API", "http://localhost:1")
    remote_model = "a/parrot"
    Input = Words
    Output: ClassVar[Any] = str


class Carrier(Parrot):
    """The same, where what it says is a file."""

    name = "hostile/carrier"
    Output: ClassVar[Any] = swell.File
