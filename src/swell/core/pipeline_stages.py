"""Pipelines: models that work one after the other on one task. Pure.

A `Pipeline` is a plan: its stages, which model each of them runs, and what that model takes. It is
fixed when a task is accepted, and goes with the task as a `Run`, which also keeps what the stages
that have ended returned. So no lookups happen between two stages, and a retry resumes there.

References name what a stage takes:

    input.prompt                    a field of what the pipeline was asked
    stages.draw.output.title        a part of what a stage gave
    stages.draw.artifacts           its files, all of them; `.0` is the first
    A or B                          the first of them that is there

Conditions say whether a stage runs, and whether its result ends the task:

    input.upscale                   it is there, and neither false, 0 nor empty
    not input.upscale
    input.language != "en"          also `==`
    input.size in ["1k", "2k"]      also `not in`
    A and B                         both hold

There are no other expressions on purpose: what needs more is a model's work.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from swell.core.errors import UNREADABLE, InvalidRequest
from swell.core.results import Artifact, TaskWarning, Timings

_NAME: Final = r"(?:[A-Za-z_][A-Za-z0-9_-]*|[0-9]+)"
_REFERENCE: Final = re.compile(
    rf"(?:input(?=\.)|stages\.({_NAME})\.(output|artifacts))((?:\.{_NAME})*)"
)
_LITERAL: Final = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s\[\],=!'"]+)"""
_TEST: Final = re.compile(
    rf"""
    (?P<negated>not\s+)?(?P<path>[\w.-]+)
    (?(negated)|(?:
        \s*(?P<operator>[!=]=(?!\s*\[)|(?<=\s)(?:not\s+)?in(?=\s*\[))
        \s*(?P<values>{_LITERAL}|\[(?:{_LITERAL}|[\s,])*+\])
    )?)
    (?:\s+and\s+|$)
    """,
    re.VERBOSE,
)
_FILE_MARK: Final = "$artifact"

#: References find nothing in an input or output that is nested deeper.
_MAX_DEPTH: Final = 200


class StageOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a stage takes, and when it runs."""

    #: Input field of the model → a reference, or several that make a list. Missing values are left
    #: out, so that the model uses its default.
    take: Mapping[str, str | Sequence[str]] = {}
    #: Input field of the model → its value, the same for all tasks.
    fixed: Mapping[str, Any] = {}
    #: Condition: the stage is skipped unless it holds. Empty for always.
    when: str = ""
    #: Condition on its result: if it holds, the task ends here. Empty for never.
    reject: str = ""
    #: The reason, for the client: a reference, or text.
    reason: str = ""
    #: Whether the task's `count` is how many samples this stage makes; others make one.
    counts: bool = False


class Stage(StageOptions, frozen=True, kw_only=True, omit_defaults=True):
    """One model's part in a pipeline."""

    #: How references call it.
    name: str
    #: `owner/name`, or `owner/name:version`.
    queue: str

    @property
    def model(self) -> str:
        """`owner/name`."""
        return self.queue.partition(":")[0]

    @property
    def pinned_version(self) -> str | None:
        """The only version that may run it; None for any."""
        return self.queue.partition(":")[2] or None


class Pipeline(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The stages of a pipeline, in order."""

    stages: tuple[Stage, ...]
    #: What the task gives: a reference, or field → reference. Empty for what its last stage gave.
    output: str | dict[str, str] = ""
    #: Field of the input → its default.
    defaults: dict[str, Any] = {}


class Done(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stage that has ended, with its result."""

    name: str
    model: str
    version: str = ""
    worker_id: str | None = None
    #: The attempt that ended it, the token of its lease, and the number of attempts. The attempt is
    #: 0 if it belongs to the task that this one repeats.
    attempt: int
    token: str = ""
    tries: int = 1
    output: msgspec.Raw = msgspec.Raw(b"null")
    artifacts: tuple[Artifact, ...] = ()
    warnings: tuple[TaskWarning, ...] = ()
    seed: int | None = None
    timings: Timings = Timings()
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pipeline on its way."""

    pipeline: Pipeline
    #: Of the pipeline.
    version: str = ""
    #: The place of the stage that it is at.
    at: int = 0
    #: What came before, in order; stages that were passed over are not among them.
    done: tuple[Done, ...] = ()
    #: How many attempts of the task do not count at this stage, since they were those of others.
    spent: int = 0
    #: When it came to this stage.
    queued_at: datetime | None = None
    #: Start tags of fair queueing, one for each stage, given when the task was accepted.
    tags: tuple[float, ...] = ()

    @property
    def stage(self) -> Stage:
        """The stage that it is at."""
        return self.pipeline.stages[self.at]

    @property
    def last_attempt(self) -> int:
        """The attempt that ended the previous stage; 0 if it was not one of this task."""
        return self.done[-1].attempt if self.done else 0

    def is_withheld(self, done: Done) -> bool:
        """Whether a later stage has not yet allowed a stage's result, or has rejected it.

        A later stage with a `reject` condition decides about all files, and about the outputs that
        it takes. For runs that have not succeeded.
        """
        names = [stage.name for stage in self.pipeline.stages]
        later = self.pipeline.stages[max(self.at, names.index(done.name) + 1) :]
        return any(
            stage.reject and (done.artifacts or done.name in stages_taken(stage)) for stage in later
        )

    def samples_of(self, name: str, count: int) -> int:
        """Return how many samples a stage makes for a task of `count` samples."""
        counting = {stage.name for stage in self.pipeline.stages if stage.counts}
        return count if name in counting else 1

    def done_by(self, attempt: int) -> Done | None:
        """Return the stage that ended with an attempt, of this task and no other."""
        return next((each for each in self.done if each.attempt == attempt > 0), None)


class Path(NamedTuple):
    """A parsed reference."""

    #: Name of a stage; empty for the pipeline's input.
    stage: str
    #: `output` or `artifacts` of the stage, or `input`.
    part: str
    steps: tuple[str | int, ...]


class Test(NamedTuple):
    """A parsed condition."""

    path: Path
    #: The value must be one of these. None: it must be neither missing, false, 0 nor empty.
    values: list[Any] | None
    is_reversed: bool


class Sight:
    """The values that references can name: the pipeline's input, and the results of its stages.

    Args:
        pipeline: Has the defaults of input fields.
        asked: The input, as JSON.
        done: Stages that have ended.
    """

    def __init__(self, pipeline: Pipeline, asked: msgspec.Raw, done: Sequence[Done] = ()) -> None:
        given = decoded(asked)
        given = pipeline.defaults | given if isinstance(given, dict) else given
        self._values = {("", "input"): given}
        self.done = {each.name: each for each in done}
        for each in done:
            self._values[each.name, "output"] = with_files(decoded(each.output), each.artifacts)
            self._values[each.name, "artifacts"] = list(each.artifacts)

    def value(self, path: Path) -> Any:
        """Return the value at a path, with files as `Artifact`; None if it is missing."""
        value = self._values.get((path.stage, path.part))
        for step in path.steps:
            if isinstance(value, dict):
                value = value.get(str(step))
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def find(self, reference: str) -> Any:
        """Return the first value that a reference finds; None if it finds none."""
        values = map(self.value, parse_reference(reference))
        return next((value for value in values if value is not None), None)


def parse_reference(text: str) -> tuple[Path, ...]:
    """Return the paths of a reference, in the order of their lookup.

    Raises:
        InvalidRequest: It is not a reference.
    """
    return tuple(_path(part, text) for part in re.split(r"\s+or\s+", text.strip()))


def parse_condition(text: str) -> tuple[Test, ...]:
    """Return the tests of a condition, which must all hold; none if it is empty.

    Raises:
        InvalidRequest: It is not a condition.
    """
    tests: list[Test] = []
    rest = text.strip()
    while rest:
        found = _TEST.match(rest)
        if found is None:
            raise _no_condition(text)
        tests.append(_test(found, text))
        rest = rest[found.end() :]
    return tuple(tests)


def holds(condition: str, sight: Sight) -> bool:
    """Whether a condition holds; an empty one does."""
    return all(_holds(test, sight) for test in parse_condition(condition))


def may_run(stage: Stage, asked: Sight) -> bool:
    """Whether a stage may run, judged by the pipeline's input alone."""
    tests = [test for test in parse_condition(stage.when) if not test.path.stage]
    return all(_holds(test, asked) for test in tests)


def stages_ahead(run: Run, asked: msgspec.Raw) -> list[Stage]:
    """Return the stages that may still run, that which it is at among them."""
    sight = Sight(run.pipeline, asked)
    return [stage for stage in run.pipeline.stages[run.at :] if may_run(stage, sight)]


def stages_taken(stage: Stage) -> set[str]:
    """Return the stages that feed a stage."""
    groups = ([each] if isinstance(each, str) else each for each in stage.take.values())
    return {path.stage for group in groups for each in group for path in parse_reference(each)}


def next_stage(pipeline: Pipeline, start: int, sight: Sight) -> int | None:
    """Return the index of the first stage from `start` that must run; None if none must."""
    indexes = range(start, len(pipeline.stages))
    return next((each for each in indexes if holds(pipeline.stages[each].when, sight)), None)


def input_of(stage: Stage, sight: Sight) -> dict[str, Any]:
    """Return the input of a stage's model; files in it are `Artifact`."""
    values = dict(stage.fixed)
    for field, reference in stage.take.items():
        if isinstance(reference, str):
            found = sight.find(reference)
        else:
            found = [value for each in reference if (value := sight.find(each)) is not None]
        if found is not None:
            values[field] = found
    return values


def output_of(run: Run, sight: Sight) -> tuple[msgspec.Raw, tuple[Artifact, ...]]:
    """Return the output of an ended run: a JSON value, and the files in it.

    If it is the whole output of one stage, it stays unchanged, with all its files.
    """
    asked = run.pipeline.output
    if not asked:
        return run.done[-1].output, run.done[-1].artifacts
    value: Any
    if isinstance(asked, str):
        path = next((path for path in parse_reference(asked) if path.stage in sight.done), None)
        if path and path.part == "output" and not path.steps:
            return sight.done[path.stage].output, sight.done[path.stage].artifacts
        value = sight.find(asked)
    else:
        found = {field: sight.find(each) for field, each in asked.items()}
        value = {field: each for field, each in found.items() if each is not None}
    artifacts: list[Artifact] = []
    output = msgspec.json.encode(_marked(value, artifacts))
    return msgspec.Raw(output), tuple(artifacts)


def reason_of(stage: Stage, sight: Sight) -> str:
    """Return why a stage has ended its task, in words."""
    text = stage.reason
    if text.startswith(("input.", "stages.")):
        value = sight.find(text)
        text = value if isinstance(value, str) else ""
    return text[:2000] or f"the stage {stage.name!r} rejected its input"


def begin(pipeline: Pipeline, version: str, asked: msgspec.Raw) -> Run | None:
    """Return a run at its first stage; None where no stage is to run for this input."""
    first = next_stage(pipeline, 0, Sight(pipeline, asked))
    return None if first is None else Run(pipeline=pipeline, version=version, at=first)


def begin_again(run: Run, asked: msgspec.Raw, *, is_whole: bool) -> Run:
    """Return the run that repeats one.

    Args:
        run: It has ended.
        asked: Its input.
        is_whole: From the first stage, else from the one where it ended.
    """
    if is_whole:
        return begin(run.pipeline, run.version, asked) or run
    before = {stage.name for stage in run.pipeline.stages[: run.at]}
    kept = tuple(
        msgspec.structs.replace(each, attempt=0, token="")
        for each in run.done
        if each.name in before
    )
    return Run(pipeline=run.pipeline, version=run.version, at=run.at, done=kept)


def total(parts: Sequence[Timings]) -> Timings:
    """Return sums; a value that no part has stays unknown."""
    values = [msgspec.structs.asdict(part) for part in parts]
    known = {
        name: [each[name] for each in values if each[name] is not None]
        for name in Timings.__struct_fields__
    }
    return Timings(**{name: sum(found) for name, found in known.items() if found})


# --- parsing -------------------------------------------------------------------------------------


def _path(part: str, text: str) -> Path:
    found = _REFERENCE.fullmatch(part)
    if found is None:
        raise InvalidRequest(
            f"{text[:120]!r} is no reference: write input.FIELD, stages.NAME.output.FIELD or "
            "stages.NAME.artifacts, several joined by ` or ` for the first that is there"
        )
    steps = [int(step) if step.isdecimal() else step for step in found[3].split(".")[1:]]
    return Path(found[1] or "", found[2] or "input", tuple(steps))


def _test(found: re.Match[str], text: str) -> Test:
    path, operator = _path(found["path"], text), found["operator"]
    if not operator:
        return Test(path, None, bool(found["negated"]))
    try:
        values = [_literal(each) for each in re.findall(_LITERAL, found["values"])]
    except msgspec.DecodeError:
        raise _no_condition(text) from None
    return Test(path, values, operator.startswith(("!", "not")))


def _literal(text: str) -> Any:
    return text[1:-1] if text.startswith("'") else msgspec.json.decode(text)


def _no_condition(text: str) -> InvalidRequest:
    return InvalidRequest(
        f"{text[:120]!r} is no condition: write input.FIELD, not input.FIELD, "
        'input.FIELD == "value" (or !=), input.FIELD in ["a", "b"] (or not in), several joined by '
        "` and `; stages.NAME.output.FIELD goes as well"
    )


# --- values --------------------------------------------------------------------------------------


def _holds(test: Test, sight: Sight) -> bool:
    value = sight.value(test.path)
    if test.values is None:
        return bool(value) is not test.is_reversed
    # In JSON true is not 1.
    is_among = any(
        value == each and isinstance(value, bool) is isinstance(each, bool) for each in test.values
    )
    return is_among is not test.is_reversed


def decoded(raw: msgspec.Raw) -> Any:
    """Return the value of a JSON text; None if it cannot be read, or is nested too deeply."""
    try:
        value = msgspec.json.decode(raw)
    except UNREADABLE:
        return None
    return value if _is_shallow(value, _MAX_DEPTH) else None


def _is_shallow(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return True
    return depth > 0 and all(_is_shallow(each, depth - 1) for each in value)


def with_files(value: Any, files: Sequence[Any]) -> Any:
    """Return a value with `{"$artifact": i}` replaced by file `i`.

    Other objects stay, and so do those with an index out of range.
    """
    if isinstance(value, list):
        return [with_files(each, files) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        index = value.get(_FILE_MARK)
        if type(index) is int and 0 <= index < len(files):
            return files[index]
    return {name: with_files(each, files) for name, each in value.items()}


def _marked(value: Any, artifacts: list[Artifact]) -> Any:
    """Return a value with files replaced by `{"$artifact": i}`, and add them to the list."""
    if isinstance(value, Artifact):
        if value not in artifacts:
            artifacts.append(value)
        return {_FILE_MARK: artifacts.index(value)}
    if isinstance(value, list):
        return [_marked(each, artifacts) for each in value]
    if isinstance(value, dict):
        return {name: _marked(each, artifacts) for name, each in value.items()}
    return value
