"""Styles that people choose by a picture."""

from swell.api.call import Call, Reply
from swell.api.models_schemas import StyleList, StyleView
from swell.api.route import Response, route
from swell.api.service import Service
from swell.api.views import encode
from swell.errors import NotFound
from swell.sdk.style_presets import Style

#: A picture's URL has its digest, so its content never changes.
_FOREVER = b"public, max-age=31536000, immutable"


@route("GET /v1/styles", "Models", {200: Response("Styles, in display order", StyleList)})
async def list_styles(service: Service, call: Call) -> Reply:
    """List styles.

    A style is a change to the prompt and further input, which the client applies. Styles come
    from the operator's files (`server.styles`).
    """
    home = f"{service.base_url(call)}/v1/styles"
    views = [_view(each, home) for each in service.settings.styles]
    return Reply(200, encode(StyleList(styles=views)))


@route(
    "GET /v1/styles/{digest}",
    "Models",
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
    tag = f'"{digest}"'.encode()
    headers = [
        (b"cache-control", _FOREVER),
        (b"etag", tag),
        (b"content-security-policy", b"default-src 'none'; sandbox; frame-ancestors 'none'"),
        (b"access-control-allow-origin", b"*"),
        (b"cross-origin-resource-policy", b"cross-origin"),
    ]
    if call.headers.get(b"if-none-match") == tag:
        return Reply(304, headers=headers)
    return Reply(200, found.data, found.content_type.encode(), headers)


def _view(style: Style, home: str) -> StyleView:
    return StyleView(
        name=style.name,
        label=style.label,
        labels=dict(style.labels),
        prompt=style.prompt,
        input=dict(style.input),
        models=list(style.models),
        picture=None if style.picture is None else f"{home}/{style.picture.digest}",
    )
