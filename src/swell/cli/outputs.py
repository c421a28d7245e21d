"""Checks a model's output against its declared schema."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import jsonschema_rs

from swell.sdk.media import Attachment, Audio, File, Image, Video

#: Value of `x-file` in a schema → class of the file.
_KINDS: Final[dict[str, type[Attachment]]] = {
    "image": Image,
    "audio": Audio,
    "video": Video,
    "file": File,
}


def artifact_index(value: Any, n: int) -> int | None:
    """Return the index of the file, of `n`, that an output value refers to, or None."""
    index = value.get("$artifact") if isinstance(value, dict) and len(value) == 1 else None
    # Exclude booleans, which are integers in Python.
    return index if type(index) is int and 0 <= index < n else None


def misfit(output: Any, files: Sequence[Attachment], schema: Mapping[str, Any]) -> str | None:
    """Return why an output does not match its schema; None if it does.

    Args:
        output: JSON values, with `{"$artifact": i}` for each file.
        files: The files.
        schema: JSON Schema of the output, with `x-file` for a file; empty for any output.
    """

    class OfKind:
        """The keyword `x-file`."""

        def __init__(self, parent: Any, kind: str, path: Any) -> None:
            self.kind = _KINDS.get(kind, File)

        def validate(self, value: Any) -> None:
            """Refuse values that are not files of this kind."""
            index = artifact_index(value, len(files))
            got = value if index is None else files[index]
            if not isinstance(got, self.kind):
                wanted = f"swell.{self.kind.__name__}"
                raise ValueError(f"{wanted} was promised, but {type(got).__name__} came")

    validator = jsonschema_rs.validator_for(_of_files(schema), keywords={"x-file": OfKind})
    try:
        error = next(iter(validator.iter_errors(output)), None)
    except ValueError as broken:
        return f"it is not JSON: {broken}"
    if error is None:
        return None
    place = "".join(f"/{part}" for part in error.instance_path)
    message = error.message if len(error.message) <= 300 else f"{error.message[:299]}…"
    return f"{place}: {message}" if place else message


def _of_files(schema: Any) -> Any:
    """Return the schema with only `x-file` for files, without the strings that replace them."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("x-file"), str):
            return {"x-file": schema["x-file"]}
        return {name: _of_files(value) for name, value in schema.items()}
    return [_of_files(value) for value in schema] if isinstance(schema, list) else schema
