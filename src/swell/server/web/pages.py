"""Pages for people and for language models: home, API reference, error codes, llms.txt."""

import html
import json
from typing import Any, Final

from markdown_it import MarkdownIt

from swell.core.billing.money_format import dollars
from swell.core.errors import NotFound
from swell.core.records import ModelCard
from swell.server.problem_details import ERROR_TYPES
from swell.server.request import Call, Reply
from swell.server.route import Response, page_route, service_route
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.web.html_page import page

_TEXT: Final = b"text/plain; charset=utf-8"

#: Longer data URIs in examples are cut, in characters.
_MAX_DATA_URI: Final = 40

_HOME: Final = """<h1>Swell</h1>
<p>This server runs open generative models. The web app is not part of this
installation: in a checkout, <code>make web</code> builds it, with Node.js 20.19 or newer; then
start the server again.</p>
<p>The API works without it: <a href="docs">reference</a>, <a href="openapi.json">OpenAPI 3.1</a>,
<a href="llms.txt">models</a>, <a href="docs/errors">errors</a>, <a href="metrics">metrics</a>,
<a href="health/ready">health</a>.</p>"""

_ERRORS: Final = """<h1>Errors</h1>
<p>Every error is a problem document (RFC 9457). Compare its <code>code</code>; its
<code>detail</code> says what to do; <code>errors</code> lists each wrong value with a JSON pointer.
Report a 5xx with its <code>request_id</code>.</p>
<table><tr><th>code</th><th>status</th><th>meaning</th><th>retryable</th></tr>{rows}</table>
<p><a href="../docs">API reference</a></p>"""

_LLMS: Final = """# Swell

> This server runs open generative models. POST a task with a model and its input; the answer \
carries the output and its files.

## How to ask

- POST {base}/v1/tasks with `Authorization: Bearer KEY`, `Prefer: wait=60` and a JSON body \
`{{"model": "OWNER/NAME", "input": {{…}}}}`
- 201: `output` and `artifacts[].url` are the result. 202: GET `urls.get` until `state` is \
succeeded, failed, canceled or expired, or read `urls.events` (server-sent events)
- With `Accept: image/png`, or another type of files, 201 is the file itself
- Errors: `detail` says what to do, `errors[]` names the broken fields
- [OpenAPI 3.1]({base}/openapi.json): the whole surface
- [Reference]({base}/docs): the same for people

## Models

"""


@page_route("/")
async def home(service: Service, call: Call) -> Reply:
    """The web app, or a page that says how to build it."""
    app = service.web_app.file(call, "index.html")
    return app or page("Swell", _HOME)


@page_route("/assets/{name}", errors=(NotFound,))
async def app_file(service: Service, call: Call) -> Reply:
    """A file of the web app."""
    found = service.web_app.file(call, f"assets/{call.params['name']}")
    if found is None:
        raise NotFound("the web app has no such file: load the page again")
    return found


@page_route("/docs")
async def docs(service: Service, call: Call) -> Reply:
    """The API reference."""
    # The route table imports this module.
    from swell.server import reference  # noqa: PLC0415

    text = reference.write(service.backend.settings.version)
    rendered = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return page("Swell: HTTP reference", rendered)


@page_route("/docs/errors")
async def error_docs(service: Service, call: Call) -> Reply:
    """The error reference."""
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{kind.status}</td>'
        f"<td>{html.escape(kind.title)}</td><td>{'yes' if kind.retryable else 'no'}</td></tr>"
        for code, kind in sorted(ERROR_TYPES.items(), key=lambda item: (item[1].status, item[0]))
    )
    return page("Swell: errors", _ERRORS.format(rows=rows))


@service_route("GET /openapi.json", Response("OpenAPI 3.1", dict))
async def openapi_json(service: Service, call: Call) -> Reply:
    """This API as OpenAPI 3.1."""
    # The route table imports this module.
    from swell.server import openapi, routes  # noqa: PLC0415

    described = openapi.describe(
        routes.served_routes(service.settings.server.facades),
        routes.GROUPS,
        version=service.settings.version,
        base_url=service.base_url(call),
    )
    return Reply(200, encode(described), headers=[(b"access-control-allow-origin", b"*")])


@service_route("GET /llms.txt", Response("Markdown", media_type="text/plain; charset=utf-8"))
async def llms_txt(service: Service, call: Call) -> Reply:
    """A description of this server for language models."""
    await service.cards.refresh()
    base = service.base_url(call)
    models = "\n".join(_llms_model(card, base) for card in service.cards.newest())
    return Reply(200, (_LLMS.format(base=base) + models).encode(), _TEXT)


def first_line(markdown: str) -> str:
    """Return the first line with text, without the signs of a heading."""
    lines = (line.strip().lstrip("# ") for line in markdown.splitlines())
    return next((line for line in lines if line), "")


def _llms_model(card: ModelCard, base: str) -> str:
    licence = " ".join(card.licence.split()) or "not stated"
    example = _shortened(card.examples[0]) if card.examples else {}
    memory = f"{card.memory_bytes / 2**20:,.0f} MiB" if card.memory_bytes else "not known"
    lines = [
        f"### {card.name}\n",
        f"- [{card.name}]({base}/#/models/{card.name}): {first_line(card.description)}",
        f"- licence: {licence}",
        f"- memory: {memory}",
    ]
    if card.price_micros:
        lines.append(f"- paid to others: {dollars(card.price_micros)} a sample")
    lines += [f"- takes {each.took_s:.3g} s: {each.what}, {each.device}" for each in card.speed]
    lines += [
        f"- input schema: `{json.dumps(card.input_schema, ensure_ascii=False)}`",
        f"- example input: `{json.dumps(example, ensure_ascii=False)}`\n",
    ]
    return "\n".join(lines)


def _shortened(value: Any) -> Any:
    """Return an input with long data URIs cut."""
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    if isinstance(value, str) and len(value) > _MAX_DATA_URI and value.startswith("data:"):
        return f"{value[:_MAX_DATA_URI]}…"
    return value
