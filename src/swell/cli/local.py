"""Runs a model without a server, for commands."""

import io
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swell.cli.inputs import InputFile, as_data_uri
from swell.cli.outputs import artifact_index
from swell.cli.pictures import FOLDER, free_path, save
from swell.core.clock import Clock
from swell.runtime.local_run import Loaded, LocalResult, load_model, run_together
from swell.runtime.local_run import check_input as worker_check_input
from swell.runtime.model_process_main import SEED_BITS
from swell.sdk.define import Definition
from swell.sdk.media import File, Image

__all__ = [
    "Loaded",
    "LocalResult",
    "check_input",
    "load_model",
    "run_local",
    "run_together",
    "save_files",
]


def check_input(definition: Definition, values: Mapping[str, Any]) -> Any:
    """Return the input as the model's own type.

    Raises:
        InvalidInput: A value breaks the schema.
    """
    ready = {
        name: as_data_uri(value) if isinstance(value, InputFile) else value
        for name, value in values.items()
    }
    return worker_check_input(definition, ready)


def run_local(
    loaded: Loaded,
    checked: Any,
    clock: Clock,
    *,
    seed: int | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> LocalResult:
    """Run one input.

    Raises:
        RunFailed: The model refused the input or failed.
    """
    chosen = _own_seed(checked) if seed is None else seed
    [result] = run_together(loaded, checked, [chosen], clock, tell=tell)
    return result


def _own_seed(checked: Any) -> int:
    """Return the seed of an input, or a random one, as a worker does."""
    own = getattr(checked, "seed", None)
    return own if isinstance(own, int) else secrets.randbits(SEED_BITS)


def save_files(result: LocalResult, stem: str, folder: Path = FOLDER) -> tuple[Any, list[Path]]:
    """Save a result's files; return the output with their paths in place of them, and the paths."""
    paths = []
    for file in result.files:
        data, content_type = _encode(file)
        paths.append(save(free_path(stem, content_type, folder), data))
    return _place(result.output, paths), paths


def _encode(file: Image | File) -> tuple[bytes, str]:
    if isinstance(file, File):
        return file.read(), file.content_type
    picture = file.pil()
    encoded = file.encoded
    if encoded is not None:
        return encoded, f"image/{(picture.format or 'png').lower()}"
    name = file.format or "png"
    buffer = io.BytesIO()
    picture.save(buffer, name)
    return buffer.getvalue(), f"image/{name}"


def _place(output: Any, paths: Sequence[Path]) -> Any:
    index = artifact_index(output, len(paths))
    if index is not None:
        return str(paths[index])
    if isinstance(output, dict):
        return {name: _place(value, paths) for name, value in output.items()}
    if isinstance(output, list):
        return [_place(value, paths) for value in output]
    return output
