"""The operations of all compatible APIs, in the order of the reference."""

from typing import Final

from swell.api.facades.fal import fal
from swell.api.facades.libretranslate import libretranslate
from swell.api.facades.openai import openai
from swell.api.facades.replicate import replicate
from swell.api.route import Route

_FACADES: Final = (replicate, openai, fal, libretranslate)

#: Headings of the reference and tags of OpenAPI, with their texts.
FACADE_GROUPS: Final[dict[str, str]] = {each.group: each.about for each in _FACADES}

FACADE_ROUTES: Final[tuple[Route, ...]] = tuple(
    route for facade in _FACADES for route in facade.routes
)
