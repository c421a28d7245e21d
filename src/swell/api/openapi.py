"""OpenAPI 3.1 from the route table."""

import http
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from swell.api.problems import Problem
from swell.api.route import Body, Response, Route
from swell.errors import Forbidden, Internal, SwellError, TooManyRequests, Unauthenticated
from swell.registry import Scope

#: Of others, such as QUERY, OpenAPI 3.1 knows nothing.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_REF: Final = "#/components/schemas/{name}"
_PROBLEM: Final = "application/problem+json"


def describe(
    routes: Sequence[Route], groups: dict[str, str], *, version: str, base_url: str = ""
) -> dict[str, Any]:
    """Return the description of a surface.

    Args:
        routes: Its operations.
        groups: Tags, with what they hold.
        version: Of the service.
        base_url: Where it is served; empty for relative.
    """
    listed = [route for route in routes if not route.is_page and route.method in _METHODS]
    refs, schemas = _schemas(listed)
    paths: dict[str, dict[str, Any]] = {}
    for route in listed:
        operation = _operation(route, refs)
        paths.setdefault(route.public_path, {})[route.method.lower()] = operation
    described = {
        "openapi": "3.1.0",
        "info": {
            "title": "Swell",
            "version": version,
            "summary": "Serve open generative models",
            "description": "Create tasks for image, text, audio and video models, follow them, and "
            "download their results. Errors are problem documents (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base_url or "/"}],
        "tags": [{"name": name, "description": text} for name, text in groups.items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key; its scope is client, worker or admin.",
                }
            },
        },
    }
    # Through JSON and back, so that defaults of our messages are JSON values too.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(described))
    return plain


def _schemas(routes: Sequence[Route]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """Return references by type, and all schemas."""
    kinds: dict[Any, None] = {Problem: None}
    for route in routes:
        if route.body is not None and route.body.message is not None:
            kinds[route.body.message] = None
        for response in route.responses.values():
            if response.message is not None and response.message is not dict:
                kinds[response.message] = None
    refs, schemas = msgspec.json.schema_components(list(kinds), ref_template=_REF)
    return dict(zip(kinds, refs, strict=True)), schemas


def _operation(route: Route, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
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
    content: dict[str, Any] = {}
    for media_type in body.media_types:
        if body.message is not None:
            content[media_type] = {"schema": refs[body.message]}
            if body.example is not None:
                content[media_type]["example"] = body.example
        else:
            content[media_type] = {}
    return {"required": True, "content": content}


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in route.path.split("/"):
        if part.startswith("{"):
            name = part[1:-1].removesuffix(":path")
            schema = {"type": "string", "minLength": 1}
            found.append({"name": name, "in": "path", "required": True, "schema": schema})
    for name, schema in _query_schemas(route):
        parameter: dict[str, Any] = {"name": name, "in": "query", "schema": schema}
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        found.append(parameter)
    found.extend(
        {
            "name": header.name,
            "in": "header",
            "description": header.description,
            "schema": header.schema,
            "example": header.example,
        }
        for header in route.headers
        # OpenAPI ignores a parameter of this name: the media types of responses stand for it.
        if header.name != "Accept"
    )
    return found


def _query_schemas(route: Route) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, schema) of each query parameter; null has no form in a query."""
    if route.query is dict:
        return []
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    found = []
    for name, schema in components[route.query.__name__].get("properties", {}).items():
        options = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
        plain = dict(options[0]) if options else dict(schema)
        if schema.get("default") is not None:
            plain["default"] = schema["default"]
        if plain.get("$ref", "").startswith("#/components/schemas/"):
            plain = dict(components[plain["$ref"].rpartition("/")[2]])
        found.append((name, plain))
    return found


def _responses(route: Route, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, response in route.responses.items():
        found[str(status)] = _response(response, refs)
    by_status: dict[int, list[type[SwellError]]] = {}
    for kind in all_errors(route):
        by_status.setdefault(kind.status, []).append(kind)
    for status in sorted(by_status):
        text = "; ".join(f"`{kind.code}`: {kind.title}" for kind in by_status[status])
        found[str(status)] = {
            "description": text or http.HTTPStatus(status).phrase,
            "content": {_PROBLEM: {"schema": refs[Problem]}},
        }
    return found


def all_errors(route: Route) -> list[type[SwellError]]:
    """Return every error of an operation, those of keys and of our own faults included."""
    kinds: list[type[SwellError]] = list(route.errors)
    if route.scope is not None:
        kinds += [kind for kind in (Unauthenticated, Forbidden) if kind not in kinds]
    if route.scope is Scope.CLIENT:
        kinds.append(TooManyRequests)
    return [*kinds, Internal]


def _response(response: Response, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    headers = (("x-request-id", "Quote it when you report an error"), *response.headers)
    told: dict[str, Any] = {
        "description": response.description,
        "headers": {
            name: {"description": text, "schema": {"type": "string"}} for name, text in headers
        },
    }
    if response.message is dict:
        told["content"] = {response.media_type: {"schema": {"type": "object"}}}
    elif response.message is not None:
        told["content"] = {response.media_type: {"schema": refs[response.message]}}
    elif response.media_type:
        told["content"] = {response.media_type: {}}
    if response.files:
        told.setdefault("content", {}).update({each: {} for each in response.files})
    return told
