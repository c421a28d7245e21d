"""OpenAPI 3.1 from the route table.

`python -m swell.server.openapi` prints the document of the native API, without the worker protocol.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from swell.core.errors import Forbidden, Internal, SwellError, TooManyRequests, Unauthenticated
from swell.core.records import Scope
from swell.server.problem_details import Problem
from swell.server.route import Body, Response, Route

#: OpenAPI 3.1 has no other methods, such as QUERY.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_REF: Final = "#/components/schemas/{name}"
_INFO: Final = {
    "title": "Swell",
    "summary": "Serve open generative models",
    "description": "Create tasks for image, text, audio and video models, follow them, and "
    "download their results. Errors are problem documents (RFC 9457).",
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key; its scope is client, worker or admin.",
}
_PROBLEM: Final = "application/problem+json"


def describe(
    routes: Sequence[Route], groups: dict[str, str], *, version: str, base_url: str = ""
) -> dict[str, Any]:
    """Return the OpenAPI document of some routes.

    Args:
        routes: The operations.
        groups: Tag → description.
        version: Version of the service.
        base_url: Address of the server; empty for a relative one.
    """
    listed = [route for route in routes if not route.is_page and route.method in _METHODS]
    refs, schemas = _schemas(listed)
    paths: dict[str, dict[str, Any]] = {}
    for route in listed:
        operation = _operation(route, refs)
        paths.setdefault(route.public_path, {})[route.method.lower()] = operation
    described = {
        "openapi": "3.1.0",
        "info": {**_INFO, "version": version},
        "servers": [{"url": base_url or "/"}],
        "tags": [{"name": name, "description": text} for name, text in groups.items()],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": _KEY}},
    }
    # Encoding turns default values of messages into JSON values.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(described))
    return plain


def _schemas(routes: Sequence[Route]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """Return references by message type, and all schemas."""
    found: list[Any] = [Problem]
    for route in routes:
        found += [] if route.body is None else [route.body.message]
        found += [response.message for response in route.responses.values()]
    kinds = [kind for kind in dict.fromkeys(found) if kind not in (None, dict)]
    refs, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    return dict(zip(kinds, refs, strict=True)), schemas


def _operation(route: Route, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [route.group],
        "responses": _responses(route, refs),
        "security": [] if route.scope is None else [{"key": []}],
    }
    if route.description:
        operation["description"] = route.description
    parameters = _parameters(route)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = _request_body(route.body, refs)
    return operation


def _request_body(body: Body, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {} if body.message is None else {"schema": refs[body.message]}
    if body.message is not None and body.example is not None:
        content["example"] = body.example
    return {"required": True, "content": dict.fromkeys(body.media_types, content)}


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in re.findall(r"\{(\w+)", route.path):
        schema = {"type": "string", "minLength": 1}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    for name, schema in _query_schemas(route):
        parameter: dict[str, Any] = {"name": name, "in": "query", "schema": schema}
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        found.append(parameter)
    for header in route.headers:
        # OpenAPI ignores a parameter named Accept. The media types of responses replace it.
        if header.name != "Accept":
            found.append({"in": "header", **dataclasses.asdict(header)})
    return found


def _query_schemas(route: Route) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, schema) of each query parameter, without null, which a query cannot express."""
    if route.query is dict:
        return []
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    found = []
    for name, schema in components[route.query.__name__].get("properties", {}).items():
        plain = dict(without_null(schema))
        if schema.get("default") is not None:
            plain["default"] = schema["default"]
        if plain.get("$ref", "").startswith("#/components/schemas/"):
            plain = dict(components[plain["$ref"].rpartition("/")[2]])
        found.append((name, plain))
    return found


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the first option of a schema that is not null; the schema itself if it has none."""
    options = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    return options[0] if options else schema


def _responses(route: Route, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    found = {str(status): _response(response, refs) for status, response in route.responses.items()}
    by_status: dict[int, list[str]] = {}
    for kind in all_errors(route):
        by_status.setdefault(kind.status, []).append(f"`{kind.code}`: {kind.title}")
    content = {_PROBLEM: {"schema": refs[Problem]}}
    for status, errors in sorted(by_status.items()):
        found[str(status)] = {"description": "; ".join(errors), "content": content}
    return found


def all_errors(route: Route) -> list[type[SwellError]]:
    """Return every error of an operation, including those of keys and internal errors."""
    kinds: list[type[SwellError]] = list(route.errors)
    if route.scope is not None:
        kinds += [kind for kind in (Unauthenticated, Forbidden) if kind not in kinds]
    if route.scope is Scope.CLIENT:
        kinds.append(TooManyRequests)
    return [*kinds, Internal]


def _response(response: Response, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    headers = (("x-request-id", "Quote it when you report an error"), *response.headers)
    content: dict[str, Any] = {}
    if response.message is not None:
        schema = {"type": "object"} if response.message is dict else refs[response.message]
        content[response.media_type] = {"schema": schema}
    elif response.media_type:
        content[response.media_type] = {}
    content.update({each: {} for each in response.files})
    shown = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers}
    described = {"description": response.description, "headers": shown}
    return {**described, "content": content} if content else described


def _native() -> dict[str, Any]:
    # The route table imports the page that serves the document.
    from swell.server.routes import GROUPS, ROUTES  # noqa: PLC0415

    routes = [each for each in ROUTES if not each.facade and each.scope is not Scope.WORKER]
    return describe(routes, GROUPS, version="")


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(_native()).decode())
