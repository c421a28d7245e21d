"""The page of a share link. It needs no scripts; Open Graph tags give messengers a preview."""

import html
from typing import Final

from swell.core.errors import NotFound
from swell.server.request import Call, Reply
from swell.server.route import page_route
from swell.server.service import Service
from swell.server.shares.share_routes import (
    NO_INDEX_HEADER,
    SharedPictureView,
    SharedView,
    find_shared,
)
from swell.server.web.html_page import page

_TEXTS: Final = {
    "en": {
        "picture": "A picture",
        "made": "Made with {model}",
        "style": "Style: {style}",
        "try": "Try this prompt",
        "own": "Make your own",
        "settings": "Settings",
        "missing": "This link doesn't work",
        "reason": "This link was revoked, has expired, or never existed.",
    },
    "es": {
        "picture": "Una imagen",
        "made": "Hecha con {model}",
        "style": "Estilo: {style}",
        "try": "Probar esta descripción",
        "own": "Crear la tuya",
        "settings": "Ajustes",
        "missing": "Este enlace no funciona",
        "reason": "El enlace se revocó, ha caducado o nunca existió.",
    },
    "fr": {
        "picture": "Une image",
        "made": "Créée avec {model}",
        "style": "Style : {style}",
        "try": "Essayer cette description",
        "own": "Créer la vôtre",
        "settings": "Réglages",
        "missing": "Ce lien ne fonctionne pas",
        "reason": "Ce lien a été révoqué, a expiré ou n'a jamais existé.",
    },
    "pt": {
        "picture": "Uma imagem",
        "made": "Feita com {model}",
        "style": "Estilo: {style}",
        "try": "Testar esta descrição",
        "own": "Criar a sua",
        "settings": "Ajustes",
        "missing": "Este link não funciona",
        "reason": "O link foi revogado, expirou ou nunca existiu.",
    },
}

#: Longest title, in characters.
_MAX_TITLE: Final = 100

_NO_INDEX_TAG: Final = '<meta name="robots" content="noindex">'


@page_route("/s/{token}", errors=(NotFound,))
async def shared_page(service: Service, call: Call) -> Reply:
    """The page of a share link."""
    language = _language(call)
    texts = _TEXTS[language]
    try:
        _, view = await find_shared(service, call)
    except NotFound:
        body = f"<main><h1>{texts['missing']}</h1><p>{texts['reason']}</p></main>"
        reply = page(texts["missing"], body, head=_NO_INDEX_TAG, language=language)
        reply.status = NotFound.status
        return _uncached(reply)
    token = html.escape(call.params["token"])
    prompt = " ".join((view.prompt or texts["picture"]).split())
    title = prompt if len(prompt) <= _MAX_TITLE else prompt[: _MAX_TITLE - 1] + "…"
    made = texts["made"].format(model=view.model)
    if style := _style(view):
        made = f"{texts['style'].format(style=style)} · {made}"
    address = f"{service.base_url(call)}/s/{token}"
    # The addresses are relative because a proxy may add a path prefix.
    pictures = ""
    for number, each in enumerate(view.pictures):
        size = f' width="{each.width}" height="{each.height}"' if each.width else ""
        source = f"../v1/shares/{token}/pictures/{number}"
        pictures += f'<img src="{source}" alt="{html.escape(title)}"{size}>'
    link = ""
    if service.settings.web_app is not None:
        label = texts["own"] if view.prompt is None else texts["try"]
        link = f'<p><a class="go" href="../#/s/{token}">{label}</a></p>'
    shown = "" if prompt == title else f'<p dir="auto">{html.escape(prompt)}</p>'
    body = f"""<main class="shared"><h1 dir="auto">{html.escape(title)}</h1>{pictures}
{shown}<p class="dim">{html.escape(made)}</p>
{link}{_settings(view, texts["settings"])}</main>"""
    head = _NO_INDEX_TAG + _open_graph(title, made, address, view.pictures[0])
    return _uncached(page(title, body, head=head, language=language))


def _uncached(reply: Reply) -> Reply:
    reply.headers = [*(reply.headers or []), (b"cache-control", b"no-store"), NO_INDEX_HEADER]
    return reply


def _open_graph(title: str, made: str, address: str, picture: SharedPictureView) -> str:
    """Return the tags that messengers need for a preview.

    Source:
        The Open Graph protocol, https://ogp.me
    """
    tags = {
        "og:type": "website",
        "og:title": title,
        "og:description": made,
        "og:url": address,
        "og:image": picture.thumbnail_url,
        "og:image:type": "image/webp",
        "og:image:alt": title,
    }
    if picture.width and picture.height:
        scale = min(1.0, 512 / picture.width)
        tags["og:image:width"] = str(round(picture.width * scale))
        tags["og:image:height"] = str(round(picture.height * scale))
    shown = [f'<meta property="{name}" content="{html.escape(tags[name])}">' for name in tags]
    return "".join(shown) + '<meta name="twitter:card" content="summary_large_image">'


def _settings(view: SharedView, label: str) -> str:
    settings = view.settings if view.seed is None else {**view.settings, "seed": view.seed}
    if not settings:
        return ""
    rows = ""
    for name, value in settings.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows += f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
    return f"<details><summary>{label}</summary><dl>{rows}</dl></details>"


def _style(view: SharedView) -> str:
    """Return the name of the style for people; empty for none."""
    for name in ("art", "style"):
        value = view.settings.get(name)
        if isinstance(value, str) and value not in ("", "none"):
            return value.replace("-", " ").capitalize()
    return ""


def _language(call: Call) -> str:
    """Return the browser's first language that has texts here; English if none has."""
    accepted = (call.headers.get(b"accept-language") or b"").decode("latin-1")
    codes = (part.strip()[:2].lower() for part in accepted.split(",")[:20])
    return next((code for code in codes if code in _TEXTS), "en")
