"""The OpenAPI document of a version, from the schemas of its card. Pure."""

from typing import Any, Final

import msgspec

from swell.registry import ModelCard

_COMPONENTS: Final = "#/components/schemas/"

#: Inputs of every prediction.
_OF_TASKS: Final[dict[str, dict[str, Any]]] = {
    "seed": {
        "type": "integer",
        "title": "Seed",
        "nullable": True,
        "description": "The same seed draws the same picture; leave it out for any.",
    },
    "num_outputs": {
        "type": "integer",
        "title": "Num Outputs",
        "default": 1,
        "minimum": 1,
        "maximum": 100,
        "description": "How many samples (pictures) to make; the output of several is a list.",
    },
}


def openapi_of(card: ModelCard) -> dict[str, Any]:
    """Return a document with `Input` and `Output` among its schemas.

    An array as output keeps its `x-cog-array-type`: with `iterator` clients read it while it grows.
    """
    schemas: dict[str, Any] = {}
    asked = _moved(card.input_schema, schemas)
    properties = {
        name: {"x-order": number, **schema} if isinstance(schema, dict) else schema
        for number, (name, schema) in enumerate(asked.get("properties", {}).items())
    }
    for name, schema in _OF_TASKS.items():
        properties.setdefault(name, {"x-order": len(properties), **schema})
    schemas["Input"] = {"type": "object", "title": "Input", **asked, "properties": properties}
    schemas["Output"] = {"title": "Output", **_moved(card.output_schema, schemas)}
    schemas["PredictionRequest"] = {
        "type": "object",
        "title": "PredictionRequest",
        "properties": {"input": {"$ref": f"{_COMPONENTS}Input"}},
    }
    body = {"schema": {"$ref": f"{_COMPONENTS}PredictionRequest"}}
    predict = {
        "operationId": "predict",
        "requestBody": {"content": {"application/json": body}},
        "responses": {"200": {"description": "The prediction"}},
    }
    return {
        "openapi": "3.0.2",
        "info": {"title": card.name, "version": card.version},
        "paths": {"/predictions": {"post": predict}},
        "components": {"schemas": schemas},
    }


def _moved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a schema after its definitions have moved to the document's schemas."""
    text = msgspec.json.encode(schema).replace(b'"#/$defs/', f'"{_COMPONENTS}'.encode())
    moved: dict[str, Any] = msgspec.json.decode(text)
    schemas.update(moved.pop("$defs", {}))
    return moved
