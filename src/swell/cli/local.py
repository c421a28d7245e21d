"""Running a model in this process, without a server: for authors, and for a first try."""

import io
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from swell.cli.inputs import InputFile, as_data_uri
from swell.cli.output import CommandFailed
from swell.cli.pictures import FOLDER, free_path, save
from swell.clock import Clock
from swell.errors import FieldError, InvalidInput
from swell.model import Definition, File, Image, Item, Model, flatten
from swell.worker.child import SEED_BITS

__all__ = ["Loaded", "LocalResult", "check_input", "load_model", "run_local", "save_files"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready, and what that cost."""

    definition: Definition
    model: Model
    load_s: float
    warmup_s: float
    #: How much the process grew.
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What a model returned for one input."""

    #: JSON values, with `{"$artifact": i}` for each file.
    output: Any
    files: Sequence[Image | File]
    seed: int
    run_s: float


class _Teller:
    """Hands a model's progress on."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell

    def progress(self, done: int, total: int) -> None:
        self._tell(done, total)

    def preview(self, make: Callable[[], Any]) -> None:
        """Nobody looks at previews on a terminal, so none is made."""

    def is_cancelled(self) -> bool:
        return False


def load_model(definition: Definition, device: str, clock: Clock) -> Loaded:
    """Load a model and warm it up."""
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    started_s = clock.monotonic_s()
    model = definition.make()
    model.load(device)
    loaded_s = clock.monotonic_s()
    model.warmup()
    return Loaded(
        definition=definition,
        model=model,
        load_s=loaded_s - started_s,
        warmup_s=clock.monotonic_s() - loaded_s,
        memory_bytes=max(0, process.memory_info().rss - before_bytes),
    )


def check_input(definition: Definition, values: Mapping[str, Any]) -> Any:
    """Return the input as the model's own type.

    Raises:
        InvalidInput: A value breaks the schema.
    """
    ready = {
        name: as_data_uri(value) if isinstance(value, InputFile) else value
        for name, value in values.items()
    }
    try:
        return definition.input_type.model_validate(ready)
    except ValidationError as error:
        errors = [
            FieldError(
                pointer="/" + "/".join(map(str, each["loc"])),
                detail=each["msg"],
                code=each["type"],
            )
            for each in error.errors()
        ]
        raise InvalidInput(
            f"{definition.name} does not take this: `swell models show {definition.name}` tells "
            "what it takes",
            errors=errors,
        ) from error


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
        CommandFailed: The model refused it or broke.
    """
    chosen = _own_seed(checked) if seed is None else seed
    item = Item(checked, seed=chosen, listener=_Teller(tell))
    started_s = clock.monotonic_s()
    [result] = loaded.model.run([item])
    run_s = clock.monotonic_s() - started_s
    if isinstance(result, Exception):
        name = type(result).__name__
        raise CommandFailed(f"{loaded.definition.name} failed: {name}: {result}") from result
    files: list[Image | File] = []
    output = flatten(result, files)
    return LocalResult(output=output, files=files, seed=chosen, run_s=run_s)


def _own_seed(checked: Any) -> int:
    """Return the seed that an input names, or one at random: as a worker does."""
    own = getattr(checked, "seed", None)
    return own if isinstance(own, int) else secrets.randbits(SEED_BITS)


def save_files(result: LocalResult, stem: str, folder: Path = FOLDER) -> tuple[Any, list[Path]]:
    """Save a result's files; return the output with their paths in it, and the paths."""
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
    if isinstance(output, dict):
        if set(output) == {"$artifact"}:
            return str(paths[output["$artifact"]])
        return {name: _place(value, paths) for name, value in output.items()}
    if isinstance(output, list):
        return [_place(value, paths) for value in output]
    return output
