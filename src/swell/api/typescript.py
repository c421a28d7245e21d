"""Types of our own surface for the web app, from the same table as OpenAPI.

`python -m swell.api.typescript` writes `web/src/lib/api/schema.ts`, which is compared by a test.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any, Final

from swell.api.openapi import describe
from swell.api.route import Route
from swell.api.routes import GROUPS, ROUTES
from swell.registry import Scope

_PLAIN: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
    "object": "Record<string, unknown>",
    "array": "unknown[]",
}


def write() -> str:
    """Return a module of TypeScript with nothing but types."""
    routes = [route for route in ROUTES if _is_for_people(route)]
    described = describe(routes, GROUPS, version="")
    lines = [
        "// Written by `make docs` from the table of routes: change that, not this.",
        "",
    ]
    for name, schema in sorted(described["components"]["schemas"].items()):
        lines += _declared(name, schema)
    lines += [
        "/** Every operation with its request and response. */",
        "export interface Paths {",
    ]
    for route in routes:
        operation = described["paths"][route.public_path][route.method.lower()]
        lines.append(f"  {json.dumps(f'{route.method} {route.public_path}')}: {_path(operation)};")
    return "\n".join([*lines, "}", ""])


def _is_for_people(route: Route) -> bool:
    is_whole = route.method in ("GET", "POST", "PUT", "DELETE", "PATCH")
    return is_whole and not route.is_page and not route.facade and route.scope is not Scope.WORKER


def _declared(name: str, schema: dict[str, Any]) -> Iterator[str]:
    if "properties" not in schema:
        yield f"export type {name} = {_type(schema)};"
        yield ""
        return
    if "description" in schema:
        yield f"/** {' '.join(schema['description'].split())} */"
    yield f"export interface {name} {{"
    needed = schema.get("required", ())
    is_asked = name.endswith("Request")
    for field, each in schema["properties"].items():
        if "description" in each:
            yield f"  /** {' '.join(each['description'].split())} */"
        # Of requests what has a default may be left out; of answers what has none and may lack.
        mark = "" if field in needed or ("default" in each and not is_asked) else "?"
        yield f"  {_field(field)}{mark}: {_type(each)};"
    yield "}"
    yield ""


def _path(operation: dict[str, Any]) -> str:
    parts = []
    for place in ("path", "query"):
        fields = [
            f"{_field(each['name'])}{'?' if place == 'query' else ''}: {_type(each['schema'])}"
            for each in operation.get("parameters", ())
            if each["in"] == place
        ]
        if fields:
            parts.append(f"{place}: {{ {'; '.join(fields)} }}")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        parts.append(f"body: {_type(body['schema'])}")
    parts.append(f"answer: {_answer(operation['responses'])}")
    return f"{{ {'; '.join(parts)} }}"


def _answer(responses: dict[str, Any]) -> str:
    found: dict[str, None] = {}
    for status, answer in responses.items():
        content = answer.get("content", {}).get("application/json", {})
        if status.startswith("2") and "schema" in content:
            found[_type(content["schema"])] = None
    return " | ".join(found) or "unknown"


def _field(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)


def _type(schema: dict[str, Any]) -> str:
    """Return a schema as a type; what cannot be said in one is `unknown`."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return " | ".join(json.dumps(each) for each in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " | ".join(dict.fromkeys(map(_type, schema[word])))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(dict.fromkeys(_PLAIN[each] for each in kind))
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"({_type(schema['items'])})[]"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"Record<string, {_type(schema['additionalProperties'])}>"
    if kind == "object" and "properties" in schema:
        inner = (f"{_field(name)}: {_type(each)}" for name, each in schema["properties"].items())
        return f"{{ {'; '.join(inner)} }}"
    return _PLAIN.get(kind or "", "unknown")


if __name__ == "__main__":
    sys.stdout.write(write())
