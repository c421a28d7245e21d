"""A model with four kinds of output: a text, a picture, a sound, and a page with all three."""

import base64
import html
import io
from typing import Annotated

from pydantic import BaseModel, Field

import swell
from swell import ui

__all__ = ["Postcard", "either", "postcard", "written"]

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{text}</title>
<style>body{{margin:0;min-height:100vh;display:grid;place-content:center;gap:1rem;padding:1rem;
font:1.25rem/1.4 Georgia,serif;background:#f6f1e7;color:#2a2320;text-align:center}}
img{{max-width:min(100%,32rem);border:12px solid #fff;box-shadow:0 4px 24px #0003}}
audio{{width:100%}}</style>
<img alt="{text}" src="data:image/webp;base64,{picture}"><p>{text}</p>
<audio controls src="data:audio/wav;base64,{voice}"></audio></html>
"""


Picture = Annotated[swell.Image, swell.Within(40_000_000), ui.image()]


@swell.model("multimodal/either", licence="Apache-2.0", memory_bytes=60_000_000)
def either(given: Picture | None = None, drawn: Picture | None = None) -> swell.Image:
    """Return the picture that was given, else the one that was drawn: one of them is always there.

    A pipeline is checked before it runs, and does not reckon out that two conditions exclude each
    other; this says it.
    """
    picture = given or drawn
    if picture is None:
        raise swell.Reject("Give a picture, or words that one is drawn from.")
    return picture


class Postcard(BaseModel):
    """What comes of it: each file is an artifact of its own kind."""

    text: str
    picture: swell.Image
    voice: swell.Audio
    page: swell.File


def written(text: str, picture: bytes, voice: bytes) -> str:
    """Return a page that holds all it shows."""
    pieces = (base64.b64encode(each).decode() for each in (picture, voice))
    shown, spoken = pieces
    return _PAGE.format(text=html.escape(text), picture=shown, voice=spoken)


@swell.model("multimodal/postcard", licence="Apache-2.0", memory_bytes=60_000_000)
def postcard(
    text: Annotated[str, Field(min_length=1, max_length=5000)],
    picture: Annotated[swell.Image, swell.Within(most_px=2048)],
    voice: swell.Audio,
) -> Postcard:
    """Put words, a picture and a voice on one page, which needs nothing beside itself."""
    encoded = io.BytesIO()
    picture.pil().convert("RGB").save(encoded, "WEBP", quality=85)
    sound = voice.read()
    page = written(text, encoded.getvalue(), sound)
    return Postcard(
        text=text,
        picture=swell.Image(encoded.getvalue()),
        voice=swell.Audio(sound, name="voice.wav"),
        page=swell.File(page.encode(), content_type="text/html", name="postcard.html"),
    )
