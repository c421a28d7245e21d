"""Makes example inputs from a JSON Schema."""

from typing import Any, Final


def example_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Return an input with every property that is required or has an example."""
    required = schema.get("required", [])
    properties = schema.get("properties", {})
    return {
        key: _example_value(prop, schema.get("$defs", {}))
        for key, prop in properties.items()
        if key in required or prop.get("examples")
    }


_PLAIN_EXAMPLES: Final[dict[str, Any]] = {
    "string": "example",
    "integer": 1,
    "number": 1.0,
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


def _example_value(prop: dict[str, Any], defs: dict[str, Any]) -> Any:
    if "$ref" in prop:
        return _example_value(defs.get(prop["$ref"].removeprefix("#/$defs/"), {}), defs)
    for key in ("examples", "enum", "anyOf", "oneOf"):
        if prop.get(key):
            first = prop[key][0]
            return first if key in ("examples", "enum") else _example_value(first, defs)
    for key in ("const", "default", "minimum"):
        if key in prop:
            return prop[key]
    if "properties" in prop:
        return example_of({**prop, "$defs": defs})
    return _PLAIN_EXAMPLES.get(prop.get("type", ""), "example")
