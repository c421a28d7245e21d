"""Styles that people choose by a picture."""

from typing import Annotated, Any

import msgspec

from swell.core.errors import NotFound
from swell.sdk.style_presets import Style
from swell.server.common_schemas import doc
from swell.server.models.sample_routes import constant_reply
from swell.server.request import Call, Reply
from swell.server.route import Response, model_route
from swell.server.serializers import encode, project
from swell.server.service import Service


class StyleView(msgspec.Struct, frozen=True, kw_only=True):
    """A style of the web app."""

    name: str
    label: str
    labels: Annotated[dict[str, str], doc("language → label")]
    prompt: Annotated[str, doc("template with `{prompt}` for the prompt; empty for no change")]
    input: Annotated[dict[str, Any], doc("further input for the model")]
    models: Annotated[list[str], doc("models it is for; empty for any")]
    picture: Annotated[str | None, doc("URL without a key, with constant content")]


class StyleList(msgspec.Struct, frozen=True, kw_only=True):
    """Styles, in display order."""

    styles: list[StyleView]


@model_route("GET /v1/styles", Response("Styles, in display order", StyleList))
async def list_styles(service: Service, call: Call) -> Reply:
    """List styles.

    A style is a change to the prompt and further input, which the client applies. Styles come
    from the operator's files (`server.styles`).
    """
    home = f"{service.base_url(call)}/v1/styles"
    views = [_view(each, home) for each in service.settings.styles]
    return Reply(200, encode(StyleList(styles=views)))


@model_route(
    "GET /v1/styles/{digest}",
    {
        200: Response("The picture", media_type="image/webp"),
        304: Response("It has not changed", media_type=""),
    },
    scope=None,
    errors=(NotFound,),
)
async def show_picture(service: Service, call: Call) -> Reply:
    """Get a style's picture.

    The URL comes with the style and needs no key.
    """
    digest = call.params["digest"]
    pictures = (each.picture for each in service.settings.styles)
    found = next((each for each in pictures if each is not None and each.digest == digest), None)
    if found is None:
        raise NotFound(f"no style has the picture {digest[:70]!r}: GET /v1/styles lists them")
    return constant_reply(call, digest, found.content_type, found.data)


def _view(style: Style, home: str) -> StyleView:
    picture = None if style.picture is None else f"{home}/{style.picture.digest}"
    return project(StyleView, style, models=list(style.models), picture=picture)
