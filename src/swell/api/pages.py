"""Pages for people and for language models: no script, no font and no picture from elsewhere."""

import html
import json
from typing import Any, Final

import msgspec

from swell.api import markdown
from swell.api.call import Call, Reply
from swell.api.operators import model_name
from swell.api.problems import ERROR_TYPES
from swell.api.service import Service
from swell.registry import ModelCard, Speed

__all__ = ["docs", "error_docs", "home", "llms_txt", "model_card", "openapi_json"]

_HTML: Final = b"text/html; charset=utf-8"
_TEXT: Final = b"text/plain; charset=utf-8"

_STYLE: Final = """
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--dim:#667;--line:#dde;--code:#f4f5f8}
@media(prefers-color-scheme:dark){:root{--fg:#e6e8ec;--bg:#14171b;--dim:#99a;--line:#333a44;--code:#1d2229}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:50rem;
margin:2rem auto;padding:0 1rem}a{color:#2f6fde}h1,h2,h3{line-height:1.2}h2{margin-top:2.2em}
code,pre{font:14px/1.45 ui-monospace,monospace;background:var(--code);border-radius:4px}
code{padding:.1em .3em}pre{padding:.8em;overflow:auto}pre code{padding:0}
table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid var(--line);padding:.35em .5em}
td,th{text-align:left;vertical-align:top}.dim{color:var(--dim)}
.samples{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;max-width:11rem}
figure img{width:100%;height:auto;border-radius:6px}figcaption{font-size:13px;color:var(--dim)}
"""

#: So many of a model's inputs are shown, at most.
_MOST_EXAMPLES: Final = 6

#: A file within an input is shown up to here, in characters.
_LONG_TEXT: Final = 60

_HEADERS: Final = [
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:",
    ),
    (b"x-content-type-options", b"nosniff"),
]


async def home(service: Service, call: Call) -> Reply:
    """`GET /`."""
    await service.cards.refresh()
    rows = "".join(
        f'<li><a href="models/{html.escape(card.name)}">{html.escape(card.name)}</a> '
        f'<span class="dim">{html.escape(markdown.first_line(card.description))}</span></li>'
        for card in service.cards.newest()
    )
    base = html.escape(service.base_url(call))
    body = f"""<h1>Swell</h1>
<p>This server runs open generative models. Ask with JSON over HTTP, with a key:</p>
<pre><code>curl {base}/v1/tasks -H "Authorization: Bearer $SWELL_KEY" \\
  -H "Content-Type: application/json" -H "Prefer: wait=60" \\
  -d '{{"model": "OWNER/NAME", "input": {{}}}}'</code></pre>
<ul><li><a href="docs">Reference of the API</a></li><li><a href="openapi.json">OpenAPI 3.1</a></li>
<li><a href="llms.txt">llms.txt</a>, for language models</li>
<li><a href="docs/errors">What each error means</a></li>
<li><a href="metrics">Numbers for Prometheus</a> · <a href="health/ready">health</a></li></ul>
<h2>Models</h2><ul>{rows or "<li>None is served yet: start a worker.</li>"}</ul>"""
    return _page("Swell", body)


async def docs(service: Service, call: Call) -> Reply:
    """`GET /docs`."""
    text = service.backend.settings.version
    return _page("Swell: HTTP reference", markdown.to_html(_reference(text)))


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
<table><tr><th>code</th><th>status</th><th>meaning</th><th>worth retrying</th></tr>{rows}</table>
<p><a href="../docs">Reference</a></p>"""
    return _page("Swell: errors", body)


async def model_card(service: Service, call: Call) -> Reply:
    """`GET /models/{owner}/{name}`."""
    target = await service.cards.target(model_name(call))
    card = target.card
    example = json.dumps({"model": card.name, "input": _example(card)}, ensure_ascii=False)
    base = html.escape(service.base_url(call))
    body = f"""<p><a href="../../">Swell</a></p><h1>{html.escape(card.name)}</h1>
<p class="dim">version {html.escape(card.version)} · {html.escape(card.stage)}</p>
{_gallery(card)}
{markdown.to_html(card.description)}
{_facts(service, card)}
<h2>Ask it</h2><pre><code>curl {base}/v1/tasks -H "Authorization: Bearer $SWELL_KEY" \\
  -H "Content-Type: application/json" -H "Prefer: wait=60" \\
  -d '{html.escape(example)}'</code></pre>
<h2>Input</h2>{_schema_table(card.input_schema)}
<details><summary>JSON Schema</summary>
<pre><code>{_pretty(card.input_schema)}</code></pre></details>
<h2>Output</h2><pre><code>{_pretty(card.output_schema)}</code></pre>
{_more_examples(card)}"""
    return _page(card.name, body)


def _gallery(card: ModelCard) -> str:
    """Return the card's pictures; relative addresses, which hold behind a proxy too."""
    figures = "".join(
        f'<figure><img src="../../v1/models/{html.escape(card.name)}/samples/'
        f'{html.escape(each.digest)}" alt="{html.escape(each.caption)}" width="{each.width}" '
        f'height="{each.height}" loading="lazy"><figcaption>{html.escape(each.caption)}'
        "</figcaption></figure>"
        for each in card.samples
    )
    return f'<div class="samples">{figures}</div>' if figures else ""


def _facts(service: Service, card: ModelCard) -> str:
    """Return licence, credits, memory and speed."""
    workers = service.fleet.live(card.name, card.version)
    rows = [
        ("licence", card.licence or "not stated: ask its author before you use it"),
        ("memory", _mebibytes(card.memory_bytes)),
        *((f"on {each.device}", _told(each)) for each in card.speed),
        *(
            (f"here, on {device}", f"{median_s:.3g} s for half of the last {n} tasks")
            for device, n, median_s in service.times.by_device(card.name)
        ),
        ("workers", str(len(workers))),
    ]
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows
    )
    named = f"<h2>Credits</h2>{markdown.to_html(card.credits)}" if card.credits else ""
    return f"<h2>Facts</h2><table>{cells}</table>{named}"


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB" if size_bytes else "not known"


def _told(speed: Speed) -> str:
    day = f" ({speed.measured_on})" if speed.measured_on else ""
    return f"{speed.took_s:.3g} s for {speed.what}{day}"


def _more_examples(card: ModelCard) -> str:
    examples = "".join(
        f"<pre><code>{html.escape(json.dumps(_shortened(each), ensure_ascii=False))}</code></pre>"
        for each in card.examples[1:_MOST_EXAMPLES]
    )
    return f"<h2>More inputs that work</h2>{examples}" if examples else ""


async def openapi_json(service: Service, call: Call) -> Reply:
    """`GET /openapi.json`."""
    # The table names this handler, so it can only be read when everything is loaded.
    from swell.api import openapi, routes  # noqa: PLC0415

    described = openapi.describe(
        routes.ROUTES,
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
        f"- input schema: `{schema}`",
        f"- example input: `{json.dumps(_example(card), ensure_ascii=False)}`",
        "",
    ]


def _reference(version: str) -> str:
    # As in `openapi_json`: the table names these pages.
    from swell.api import reference  # noqa: PLC0415

    return reference.write(version)


def _example(card: ModelCard) -> dict[str, Any]:
    return _shortened(card.examples[0]) if card.examples else {}


def _shortened(example: dict[str, Any]) -> dict[str, Any]:
    """Return an input for people to read: files in it, which are long texts, are cut."""
    return {
        name: f"{value[:_LONG_TEXT]}…"
        if isinstance(value, str) and len(value) > _LONG_TEXT and value.startswith("data:")
        else value
        for name, value in example.items()
    }


def _schema_table(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = ""
    for name, field in schema.get("properties", {}).items():
        told = field if isinstance(field, dict) else {}
        notes = [str(told.get("type", ""))]
        notes += [f"{key}: {told[key]}" for key in _SHOWN_KEYS if key in told]
        rows += (
            f"<tr><td><code>{html.escape(name)}</code>{' *' if name in required else ''}</td>"
            f"<td>{html.escape(str(told.get('description', told.get('title', ''))))}</td>"
            f"<td class=dim>{html.escape('; '.join(note for note in notes if note))}</td></tr>"
        )
    return f"<table>{rows}</table>" if rows else "<p>Any object.</p>"


_SHOWN_KEYS: Final = ("default", "enum", "minimum", "maximum", "minLength", "maxLength")


def _pretty(value: Any) -> str:
    return html.escape(json.dumps(value, indent=2, ensure_ascii=False))


def _page(title: str, body: str) -> Reply:
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    return Reply(200, text.encode(), _HTML, headers=list(_HEADERS))
