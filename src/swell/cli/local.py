"""Running a model in this process, without a server: for authors, and for a first try."""

import io
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swell.cli.inputs import InputFile, as_data_uri
from swell.cli.output import CommandFailed
from swell.cli.outputs import artifact_index
from swell.cli.pictures import FOLDER, free_path, save
from swell.clock import Clock
from swell.errors import FieldError, InvalidInput
from swell.model import Definition, File, Image, Item, Model, flatten
from swell.worker.child import SEED_BITS

__all__ = [
    "Loaded",
    "LocalResult",
    "check_input",
    "load_model",
    "run_local",
    "run_together",
    "save_files",
]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready, and what that cost."""

    definition: Definition
    model: Model
    load_s: float
    warmup_s: float


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
    [result] = run_together(loaded, checked, [chosen], clock, tell=tell)
    return result


def run_together(
    loaded: Loaded,
    checked: Any,
    seeds: Sequence[int],
    clock: Clock,
    *,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[LocalResult]:
    """Run one input once for each seed, all in one batch.

    Raises:
        CommandFailed: The model refused it, broke, or returned another number of results.
    """
    name = loaded.definition.name
    items = [Item(checked, seed=seed, listener=_Teller(tell)) for seed in seeds]
    started_s = clock.monotonic_s()
    answers = loaded.model.run(items)
    run_s = clock.monotonic_s() - started_s
    n = len(answers) if isinstance(answers, list | tuple) else None
    if n != len(items):
        got = type(answers).__name__ if n is None else f"{n} results"
        raise CommandFailed(
            f"{name} returned {got} for a batch of {len(items)}: return a list with one result or "
            "exception per item, in order"
        )
    results = []
    for seed, answer in zip(seeds, answers, strict=True):
        if isinstance(answer, Exception):
            kind = type(answer).__name__
            raise CommandFailed(f"{name} failed: {kind}: {answer}") from answer
        files: list[Image | File] = []
        output = flatten(answer, files)
        results.append(LocalResult(output=output, files=files, seed=seed, run_s=run_s))
    return results


def _own_seed(checked: Any) -> int:
    """Return the seed that an input names, or one at random: as a worker does."""
    own = getattr(checked, "seed", None)
    return own if isinstance(own, int) else secrets.randbits(SEED_BITS)


def save_files(result: LocalResult, stem: str, folder: Path = FOLDER) -> tuple[Any, list[Path]]:
    """Save a result's files; return the output with their paths in it, and the paths.

    What names none of the files stays as it is.
    """
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
