"""Whether what a model returns is what it promises to return."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import jsonschema_rs

from swell.sdk.media import Attachment, Audio, File, Image, Video

#: What `x-file` in a schema asks for.
_KINDS: Final[dict[str, type[Attachment]]] = {
    "image": Image,
    "audio": Audio,
    "video": Video,
    "file": File,
}


def artifact_index(value: Any, n: int) -> int | None:
    """Return which of `n` files an output's value stands for; None if it stands for none."""
    index = value.get("$artifact") if isinstance(value, dict) and len(value) == 1 else None
    # A truth value is a whole number to Python.
    return index if type(index) is int and 0 <= index < n else None


def misfit(output: Any, files: Sequence[Attachment], schema: Mapping[str, Any]) -> str | None:
    """Return why an output is not what its schema promises; None if it is.

    Args:
        output: JSON values, with `{"$artifact": i}` for each file.
        files: The files.
        schema: JSON Schema of the output, where `x-file` stands for a file; empty for anything.
    """

    class OfKind:
        """The keyword `x-file`."""

        def __init__(self, parent: Any, kind: str, path: Any) -> None:
            self.kind = _KINDS.get(kind, File)

        def validate(self, value: Any) -> None:
            """Refuse what is no file, or one of another kind."""
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
    """Return a schema in which files are files, rather than the strings that they become."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("x-file"), str):
            return {"x-file": schema["x-file"]}
        return {name: _of_files(value) for name, value in schema.items()}
    return [_of_files(value) for value in schema] if isinstance(schema, list) else schema
