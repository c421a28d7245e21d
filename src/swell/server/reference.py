"""The HTTP reference and the list of metrics as Markdown.

`python -m swell.server.reference > docs/reference/http.md` writes the reference from the route
table; the argument `metrics` writes the list of metrics. Tests compare both with the files.
"""

import json
import sys
from typing import Any, Final

import msgspec

from swell.server.metrics import METRICS, PROCESS_METRICS
from swell.server.openapi import all_errors, without_null
from swell.server.route import Route
from swell.server.routes import GROUPS, ROUTES

_HEAD: Final = """# HTTP reference

`python -m swell.server.reference` writes this page from the route table. A running
server shows it at `/docs`.

Bodies are JSON. Send the key as `Authorization: Bearer swell_…`. A key has the scope `client`,
`worker` or `admin`; `admin` allows everything. A 2xx answer to a new task means that the task is
durable. Every answer has `x-request-id`: the request's own, if it has one of up to 128 letters,
digits and `._:@/+=-`, or else a new one.

Every error is a problem document (RFC 9457, `application/problem+json`) with `type`, `title`,
`status`, `detail`, `instance`, `code`, `errors` and `request_id`; `error` and `error_type` repeat
this for clients of other APIs. A retryable error has `Retry-After` in whole seconds.
`GET /docs/errors` lists the codes; docs/use-the-api.md lists the events of a task with their data.
"""

_METRICS: Final = """# Metrics

`python -m swell.server.reference metrics` writes this page from the code. `GET /metrics` returns
the metrics in Prometheus' text format, without a key; [Operating](../operate.md) lists those to
watch, with alerts. Names that end in `_total` are counters; times in `_seconds` are histograms
(`_bucket`, `_sum`, `_count`).

| name | meaning |
| --- | --- |
"""


def write(version: str = "") -> str:
    """Return the reference."""
    text = _HEAD
    if version:
        text += f"\nThis is version {version}.\n"
    for group, about in GROUPS.items():
        text += f"\n## {group}\n\n{about}\n"
        text += "".join(_section(route) for route in ROUTES if route.group == group)
    return text


def metrics_markdown() -> str:
    """Return the list of metrics."""
    rows = (f"| `{name}` | {about} |\n" for name, about in {**METRICS, **PROCESS_METRICS}.items())
    return _METRICS + "".join(rows)


def _section(route: Route) -> str:
    key = "no key" if route.scope is None else f"`{route.scope.value}` key"
    text = f"\n### `{route.method} {route.public_path}`\n\n{route.summary} ({key}).\n"
    if route.description:
        text += f"\n{route.description}\n"
    rows = _query_rows(route) + [
        f"| header `{header.name}` | {header.description} |" for header in route.headers
    ]
    if route.body is not None and route.body.message is not None:
        rows += _message_rows(route.body.message)
    elif route.body is not None:
        rows.append(f"| body | {', '.join(f'`{each}`' for each in route.body.media_types)} |")
    if rows:
        text += "\n| takes | |\n| --- | --- |\n" + "\n".join(rows) + "\n"
    if route.body is not None and route.body.example is not None:
        text += f"\n```\n{json.dumps(route.body.example)}\n```\n"
    text += "\n" + "".join(
        f"- {status}: {response.description}\n" for status, response in route.responses.items()
    )
    codes = dict.fromkeys(f"`{kind.code}` ({kind.status})" for kind in all_errors(route))
    return f"{text}- errors: {', '.join(codes)}\n"


def _query_rows(route: Route) -> list[str]:
    if route.query is dict:
        return []
    return [row.replace("| `", "| query `", 1) for row in _message_rows(route.query)]


def _message_rows(kind: type[Any]) -> list[str]:
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]
    rows = []
    for name, field in schema.get("properties", {}).items():
        notes = [note for note in (_description(field), _bounds(field)) if note]
        if name in schema.get("required", []):
            notes.append("required")
        elif field.get("default") is not None:
            notes.append(f"default `{json.dumps(field['default'])}`")
        rows.append(f"| `{name}` | {'; '.join(notes)} |")
    return rows


def _description(field: dict[str, Any]) -> str:
    return str(field.get("description") or without_null(field).get("description", ""))


def _bounds(field: dict[str, Any]) -> str:
    plain = without_null(field)
    parts = []
    for words, low, high in (
        ("{} to {}", "minimum", "maximum"),
        ("{} to {} characters", "minLength", "maxLength"),
        ("{} to {} items", "minItems", "maxItems"),
    ):
        if high in plain:
            start = plain.get(low, plain.get("exclusiveMinimum", 0))
            parts.append(words.format(start, plain[high]))
    return ", ".join(parts)


if __name__ == "__main__":
    sys.stdout.write(metrics_markdown() if sys.argv[1:] == ["metrics"] else write())
