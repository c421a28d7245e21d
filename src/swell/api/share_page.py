"""The page behind a link: works without scripts, and tells messengers which picture to show."""

import html
from typing import Final

from swell.api.call import Call, Reply
from swell.api.html_page import page
from swell.api.route import page_route
from swell.api.service import Service
from swell.api.share_messages import SharedPictureView, SharedView
from swell.api.shares import UNLISTED, find_shared
from swell.errors import NotFound

_WORDS: Final = {
    "en": {
        "picture": "A picture",
        "made": "Made with {model}",
        "style": "Style: {style}",
        "try": "Try this prompt",
        "own": "Make your own",
        "settings": "Settings",
        "nowhere": "This link doesn't work",
        "why": "This link was revoked, has expired, or never existed.",
    },
    "es": {
        "picture": "Una imagen",
        "made": "Hecha con {model}",
        "style": "Estilo: {style}",
        "try": "Probar esta descripción",
        "own": "Crear la tuya",
        "settings": "Ajustes",
        "nowhere": "Este enlace no funciona",
        "why": "El enlace se revocó, ha caducado o nunca existió.",
    },
    "fr": {
        "picture": "Une image",
        "made": "Créée avec {model}",
        "style": "Style : {style}",
        "try": "Essayer cette description",
        "own": "Créer la vôtre",
        "settings": "Réglages",
        "nowhere": "Ce lien ne fonctionne pas",
        "why": "Ce lien a été révoqué, a expiré ou n'a jamais existé.",
    },
    "pt": {
        "picture": "Uma imagem",
        "made": "Feita com {model}",
        "style": "Estilo: {style}",
        "try": "Testar esta descrição",
        "own": "Criar a sua",
        "settings": "Ajustes",
        "nowhere": "Este link não funciona",
        "why": "O link foi revogado, expirou ou nunca existiu.",
    },
}

#: A title is at most so long, in characters.
_TITLE: Final = 100


@page_route("/s/{token}", errors=(NotFound,))
async def shared_page(service: Service, call: Call) -> Reply:
    """The page of a share link."""
    language = _language(call)
    words = _WORDS[language]
    try:
        _, view = await find_shared(service, call)
    except NotFound:
        body = f"<main><h1>{words['nowhere']}</h1><p>{words['why']}</p></main>"
        reply = page(words["nowhere"], body, head=_ROBOTS, language=language)
        reply.status = NotFound.status
        return _unkept(reply)
    token = html.escape(call.params["token"])
    title = words["picture"] if view.prompt is None else _shortened(view.prompt)
    made = words["made"].format(model=view.model)
    if style := _style(view):
        made = f"{words['style'].format(style=style)} · {made}"
    address = f"{service.base_url(call)}/s/{token}"
    head = _ROBOTS + _tags(title, made, address, view.pictures[0])
    pictures = "".join(
        # Relative, so that any prefix will do.
        _image(each, f"../v1/shares/{token}/pictures/{number}", title)
        for number, each in enumerate(view.pictures)
    )
    go = ""
    if service.web_app.is_built:
        act = "own" if view.prompt is None else "try"
        go = f'<p><a class="go" href="../#/s/{token}">{words[act]}</a></p>'
    asked = "" if view.prompt is None else f'<p dir="auto">{html.escape(view.prompt)}</p>'
    body = f"""<main class="shared"><h1 dir="auto">{html.escape(title)}</h1>{pictures}
{asked if view.prompt != title else ""}<p class="dim">{html.escape(made)}</p>
{go}{_settings(view, words["settings"])}</main>"""
    return _unkept(page(title, body, head=head, language=language))


_ROBOTS: Final = '<meta name="robots" content="noindex">'


def _unkept(reply: Reply) -> Reply:
    reply.headers = [*(reply.headers or []), (b"cache-control", b"no-store"), UNLISTED]
    return reply


def _tags(title: str, made: str, address: str, picture: SharedPictureView) -> str:
    """Return what a messenger reads to show a link as a picture.

    Source:
        The Open Graph protocol, https://ogp.me
    """
    tags = [
        ("og:type", "website"),
        ("og:title", title),
        ("og:description", made),
        ("og:url", address),
        ("og:image", picture.thumbnail_url),
        ("og:image:type", "image/webp"),
        ("og:image:alt", title),
    ]
    if picture.width and picture.height:
        scale = min(1.0, 512 / picture.width)
        tags.append(("og:image:width", str(round(picture.width * scale))))
        tags.append(("og:image:height", str(round(picture.height * scale))))
    told = "".join(
        f'<meta property="{name}" content="{html.escape(value)}">' for name, value in tags
    )
    return told + '<meta name="twitter:card" content="summary_large_image">'


def _image(picture: SharedPictureView, url: str, alt: str) -> str:
    sides = ""
    if picture.width and picture.height:
        sides = f' width="{picture.width}" height="{picture.height}"'
    return f'<img src="{url}" alt="{html.escape(alt)}"{sides}>'


def _settings(view: SharedView, label: str) -> str:
    told = dict(view.settings)
    if view.seed is not None:
        told["seed"] = view.seed
    if not told:
        return ""
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(_text(value))}</dd>"
        for name, value in told.items()
    )
    return f'<details><summary>{label}</summary><dl class="fields">{rows}</dl></details>'


def _style(view: SharedView) -> str:
    """Return how the picture is painted, or else by which hand, in words; empty if neither."""
    named = (view.settings.get(name) for name in ("art", "style"))
    found = next((each for each in named if isinstance(each, str) and each not in ("", "none")), "")
    return found.replace("-", " ").capitalize()


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _shortened(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= _TITLE else line[: _TITLE - 1] + "…"


def _language(call: Call) -> str:
    """Return the first language that a browser names and that is spoken here; else English."""
    told = (call.header(b"accept-language") or b"").decode("latin-1")
    named = (part.strip()[:2].lower() for part in told.split(",")[:20])
    return next((name for name in named if name in _WORDS), "en")
