"""Runs a model in this process, without a worker."""

import difflib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from swell.core.clock import Clock
from swell.core.errors import FieldError, InvalidInput, SwellError
from swell.core.results import TaskWarning
from swell.sdk.context import Item, Listener, Reject
from swell.sdk.define import Definition
from swell.sdk.media import File, Image, flatten
from swell.sdk.model import Model
from swell.sdk.multi_sample_inputs import inputs_of, pack_fields

#: Code of Swell that calls models.
_CALLERS: Final = tuple(
    str(Path(__file__).parents[1] / name)
    for name in ("runtime", "diffusion/run_locally.py", "diffusion/step_", "cli", "sdk/model.py")
)


class RunFailed(SwellError):
    """A model raised an exception, or returned an invalid result."""

    code, title = "run_failed", "The model failed"


class InputRejected(RunFailed):
    """A model raised or returned `Reject`."""

    code, title = "rejected", "The model refused this input"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded model, and how long that took."""

    definition: Definition
    model: Model
    load_s: float
    warmup_s: float


@dataclass(frozen=True, slots=True)
class LocalResult:
    """Result of a model for one input."""

    #: JSON values, with `{"$artifact": i}` for each file.
    output: Any
    files: Sequence[Image | File]
    seed: int
    run_s: float
    warnings: Sequence[TaskWarning] = ()


class _Teller(Listener):
    """Forwards a model's progress, and collects its warnings."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        #: In order, once each.
        self.warnings: dict[TaskWarning, None] = {}

    def progress(self, done: int, total: int) -> None:
        self._tell(done, total)

    def warn(self, warning: TaskWarning) -> None:
        self.warnings[warning] = None


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
    try:
        return definition.input_type.model_validate(values)
    except ValidationError as error:
        known = list(definition.input_schema.get("properties", {}))
        errors = [
            FieldError(
                pointer="/" + "/".join(map(str, each["loc"])),
                detail=_detail_of(each, known),
                code=each["type"],
            )
            for each in error.errors()
        ]
        raise InvalidInput(f"the input does not fit {definition.name}", errors=errors) from error


def _detail_of(error: Mapping[str, Any], known: Sequence[str]) -> str:
    """Return the error text of a field, in the words of the API."""
    path = error["loc"]
    if error["type"] == "missing":
        return f"{str(path[-1])!r} is required"
    if error["type"] != "extra_forbidden" or len(path) != 1:
        return str(error["msg"])
    near = difflib.get_close_matches(str(path[0]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
    return f"there is no field {str(path[0])!r}; {hint}"


def author_traceback(error: BaseException) -> str:
    """Return the traceback of a model's error, without the frames of Swell that called it."""
    told = traceback.TracebackException.from_exception(error)
    own = [frame for frame in told.stack if not frame.filename.startswith(_CALLERS)]
    if own:
        told.stack = traceback.StackSummary.from_list(own)
    return "".join(told.format())


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
        InputRejected: The model refused it.
        RunFailed: It broke, or returned another number of results.
    """
    name = loaded.definition.name
    names = pack_fields(loaded.definition.input_type)
    inputs = inputs_of(checked, names) if names else [checked]
    if names:
        # Seeds count through the packs, as in a worker.
        seeds = [seeds[0] + len(inputs) * number for number in range(len(seeds))]
    tellers = [_Teller(tell) for _ in seeds]
    items = [
        Item(own, seed=seed + number, listener=teller)
        for seed, teller in zip(seeds, tellers, strict=True)
        for number, own in enumerate(inputs)
    ]
    started_s = clock.monotonic_s()
    try:
        answers = loaded.model.run(items)
    except Reject as error:
        answers = [error] * len(items)
    run_s = clock.monotonic_s() - started_s
    n = len(answers) if isinstance(answers, list | tuple) else None
    if n != len(items):
        got = type(answers).__name__ if n is None else f"{n} results"
        raise RunFailed(
            f"{name} returned {got} for a batch of {len(items)}: return a list with one result or "
            "exception per item, in order"
        )
    for answer in answers:
        if isinstance(answer, Reject):
            raise InputRejected(str(answer)) from answer
        if isinstance(answer, Exception):
            kind = type(answer).__name__
            raise RunFailed(f"{name} failed: {kind}: {answer}") from answer
    results = []
    for number, (seed, teller) in enumerate(zip(seeds, tellers, strict=True)):
        own = answers[number * len(inputs) : (number + 1) * len(inputs)]
        files: list[Image | File] = []
        output = flatten(list(own) if names else own[0], files)
        warnings = list(teller.warnings)
        results.append(LocalResult(output, files, seed, run_s, warnings))
    return results
