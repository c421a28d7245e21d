"""Pages for people and for language models."""

import html
import json
from typing import Any, Final

import msgspec

from swell.api import markdown
from swell.api.call import Call, Reply
from swell.api.card_page import listed, memory_in_words, model_card, shortened, took_in_words
from swell.api.html_page import page
from swell.api.problems import ERROR_TYPES
from swell.api.service import Service
from swell.errors import NotFound
from swell.money.amounts import dollars
from swell.registry import ModelCard

__all__ = [
    "app_file",
    "docs",
    "error_docs",
    "home",
    "llms_txt",
    "model_card",
    "models",
    "openapi_json",
]

_TEXT: Final = b"text/plain; charset=utf-8"


#: Where a checkout has no app yet.
_UNBUILT: Final = """<p>The web app is not part of this installation, and the API works without it.
In a checkout, <code>make web</code> builds the app, with Node.js 20.19 or newer; then start the
server again.</p>
"""


async def home(service: Service, call: Call) -> Reply:
    """`GET /`: the web app, or a page that says how to build it."""
    app = service.web_app.file(call, "index.html")
    return await _listing(service, call, _UNBUILT) if app is None else app


async def app_file(service: Service, call: Call) -> Reply:
    """`GET /assets/{name}`."""
    found = service.web_app.file(call, f"assets/{call.params['name']}")
    if found is None:
        raise NotFound("the web app has no such file: load the page again")
    return found


async def models(service: Service, call: Call) -> Reply:
    """`GET /models`: for browsers without scripts."""
    return await _listing(service, call)


async def _listing(service: Service, call: Call, note: str = "") -> Reply:
    await service.cards.refresh()
    base = html.escape(service.base_url(call))
    body = f"""<h1>Swell</h1>
<p>This server runs open generative models.</p>
{note}<h2>Models</h2>{listed(service.cards.newest())}
<h2>Ask</h2><p>With JSON over HTTP, and a key:</p>
<pre><code>curl {base}/v1/tasks -H "Authorization: Bearer $SWELL_KEY" \\
  -H "Content-Type: application/json" -H "Prefer: wait=60" \\
  -d '{{"model": "OWNER/NAME", "input": {{}}}}'</code></pre>
<ul><li><a href="docs">Reference of the API</a></li><li><a href="openapi.json">OpenAPI 3.1</a></li>
<li><a href="llms.txt">llms.txt</a>, for language models</li>
<li><a href="docs/errors">What each error means</a></li>
<li><a href="metrics">Numbers for Prometheus</a> · <a href="health/ready">health</a></li></ul>
"""
    return page("Swell", body)


async def docs(service: Service, call: Call) -> Reply:
    """`GET /docs`."""
    text = service.backend.settings.version
    return page("Swell: HTTP reference", markdown.to_html(_reference(text)))


async def error_docs(service: Service, call: Call) -> Reply:
    """`GET /docs/errors`; each code is an anchor, and the `type` of its problems."""
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{kind.status}</td>'
        f"<td>{html.escape(kind.title)}</td><td>{'yes' if kind.retryable else 'no'}</td></tr>"
        for code, kind in sorted(ERROR_TYPES.items(), key=lambda item: (item[1].status, item[0]))
    )
    body = f"""<h1>Errors</h1><p>Every error is a problem document (RFC 9457). Compare its
<code>code</code>; its <code>detail</code> says what to do; <code>errors</code> lists the broken
values by JSON pointer. A 5xx carries a <code>request_id</code> to report.</p>
<div class="wide"><table>
<tr><th>code</th><th>status</th><th>meaning</th><th>worth retrying</th></tr>{rows}</table></div>
<p><a href="../docs">Reference</a></p>"""
    return page("Swell: errors", body)


async def openapi_json(service: Service, call: Call) -> Reply:
    """`GET /openapi.json`."""
    # The table names this handler, so it can only be read when everything is loaded.
    from swell.api import openapi, routes  # noqa: PLC0415

    described = openapi.describe(
        routes.served_routes(service.settings.server.facades),
        routes.GROUPS,
        version=service.settings.version,
        base_url=service.base_url(call),
    )
    headers = [(b"access-control-allow-origin", b"*")]
    return Reply(200, msgspec.json.encode(described), headers=headers)


async def llms_txt(service: Service, call: Call) -> Reply:
    """`GET /llms.txt`."""
    await service.cards.refresh()
    base = service.base_url(call)
    lines = [
        "# Swell",
        "",
        "> This server runs open generative models. POST a task with a model and its input; the "
        "answer carries the output and its files.",
        "",
        "## How to ask",
        "",
        f"- POST {base}/v1/tasks with `Authorization: Bearer KEY`, `Prefer: wait=60` and a JSON "
        'body `{"model": "OWNER/NAME", "input": {…}}`',
        "- 201: `output` and `artifacts[].url` are the result. 202: GET `urls.get` until `state` "
        "is succeeded, failed, canceled or expired, or read `urls.events` (server-sent events)",
        "- With `Accept: image/png`, or another type of files, 201 is the file itself",
        "- Errors: `detail` says what to do, `errors[]` names the broken fields",
        f"- [OpenAPI 3.1]({base}/openapi.json): the whole surface",
        f"- [Reference]({base}/docs): the same for people",
        "",
        "## Models",
        "",
    ]
    for card in service.cards.newest():
        lines += _llms_model(card, base)
    return Reply(200, "\n".join(lines).encode(), _TEXT)


def _llms_model(card: ModelCard, base: str) -> list[str]:
    licence = " ".join(card.licence.split()) or "not stated"
    schema = json.dumps(card.input_schema, ensure_ascii=False)
    return [
        f"### {card.name}",
        "",
        f"- [{card.name}]({base}/models/{card.name}): {markdown.first_line(card.description)}",
        f"- licence: {licence}",
        f"- memory: {memory_in_words(card.memory_bytes)}",
        *(
            [f"- paid to others: {dollars(card.price_micros)} a sample"]
            if card.price_micros
            else []
        ),
        *(
            f"- takes {took_in_words(each.took_s)}: {each.what}, {each.device}"
            for each in card.speed
        ),
        f"- input schema: `{schema}`",
        f"- example input: `{json.dumps(_example(card), ensure_ascii=False)}`",
        "",
    ]


def _reference(version: str) -> str:
    # As in `openapi_json`: the table names these pages.
    from swell.api import reference  # noqa: PLC0415

    return reference.write(version)


def _example(card: ModelCard) -> Any:
    return shortened(card.examples[0]) if card.examples else {}
