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

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from swell.errors import InvalidRequest
from swell.results import Artifact, TaskWarning, Timings

#: Parts of a stage's result that references may name.
PARTS: Final = ("output", "artifacts")

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'[^']*')|(?P<sign>==|!=|[\[\],])|(?P<word>[^\s\[\],=!'"]+))"""
)
_FILE_MARK: Final = "$artifact"

#: Deeper values are ignored: references into them find nothing.
_MOST_NESTED: Final = 200


class Stage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model's part in a pipeline."""

    #: How references call it.
    name: str
    #: `owner/name`, or `owner/name:version`.
    queue: str
    #: Input field of the model → a reference, or several that make a list. Missing values are left
    #: out, so that the model uses its default.
    take: dict[str, str | list[str]] = {}
    #: Input field of the model → its value, the same for all tasks.
    fixed: dict[str, Any] = {}
    #: Condition: the stage is skipped unless it holds. Empty for always.
    when: str = ""
    #: Condition on its result: if it holds, the task ends here. Empty for never.
    reject: str = ""
    #: The reason, for the client: a reference, or text.
    reason: str = ""
    #: Whether the task's `count` is how many samples this stage makes; others make one.
    counts: bool = False

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

    @property
    def has_count(self) -> bool:
        """Whether a stage makes as many samples as are asked for."""
        return any(stage.counts for stage in self.stages)


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
        return (
            count if any(each.counts for each in self.pipeline.stages if each.name == name) else 1
        )

    def done_by(self, attempt: int) -> Done | None:
        """Return the stage that ended with an attempt, of this task and no other."""
        return next((each for each in self.done if each.attempt == attempt > 0), None)


class Path(NamedTuple):
    """A reference, taken apart."""

    #: Name of a stage; empty for the pipeline's input.
    stage: str
    #: `output` or `artifacts` of the stage.
    part: str
    steps: tuple[str | int, ...]


class Test(NamedTuple):
    """A condition, taken apart."""

    path: Path
    #: `true`, `==` or `in`.
    kind: str
    value: Any
    #: Whether it holds where `kind` does not.
    is_reversed: bool


class NamedFile(msgspec.Struct, frozen=True):
    """Placeholder in a value for a file of an earlier stage."""

    artifact: Artifact


class _Missing:
    """Marks a missing value."""


_MISSING: Final = _Missing()


class Sight:
    """What references see: the pipeline's input, and what stages have given.

    Args:
        pipeline: Knows what fields are that were left out.
        asked: The input, as JSON.
        done: Stages that have ended.
    """

    def __init__(self, pipeline: Pipeline, asked: msgspec.Raw, done: Sequence[Done] = ()) -> None:
        given = _decoded(asked)
        self._input = pipeline.defaults | given if isinstance(given, dict) else given
        self._done = {each.name: each for each in done}
        self._outputs: dict[str, Any] = {}

    def value(self, path: Path) -> Any:
        """Return the value at a path; files in it are `NamedFile`."""
        if not path.stage:
            return _walk(self._input, path.steps)
        done = self._done.get(path.stage)
        if done is None:
            return _MISSING
        if path.part == "artifacts":
            return _walk([NamedFile(each) for each in done.artifacts], path.steps)
        if path.stage not in self._outputs:
            self._outputs[path.stage] = _with_files(_decoded(done.output), done.artifacts)
        return _walk(self._outputs[path.stage], path.steps)

    def first(self, paths: Iterable[Path]) -> Any:
        """Return what the first path that leads somewhere leads to."""
        for path in paths:
            value = self.value(path)
            if value is not _MISSING and value is not None:
                return value
        return _MISSING

    def whole(self, paths: Iterable[Path]) -> Done | None:
        """Return the stage if a reference names its whole output; else None."""
        for path in paths:
            if path.stage in self._done:
                is_whole = path.part == "output" and not path.steps
                return self._done[path.stage] if is_whole else None
        return None


@functools.lru_cache(maxsize=4096)
def parse_reference(text: str) -> tuple[Path, ...]:
    """Return the paths of a reference, in the order of their lookup.

    Raises:
        InvalidRequest: It is none.
    """
    return tuple(_path(part.strip(), text) for part in re.split(r"\s+or\s+", text.strip()))


@functools.lru_cache(maxsize=4096)
def parse_condition(text: str) -> tuple[Test, ...]:
    """Return the tests of a condition, which all must hold; none where it is empty.

    Raises:
        InvalidRequest: It is none.
    """
    tokens = _tokens(text)
    tests: list[Test] = []
    while tokens:
        tests.append(_test(tokens, text))
        if tokens and (tokens.pop(0) != "and" or not tokens):
            raise _no_condition(text)
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
    told = (each if isinstance(each, list) else [each] for each in stage.take.values())
    return {path.stage for each in told for one in each for path in parse_reference(one)}


def next_stage(pipeline: Pipeline, start: int, sight: Sight) -> int | None:
    """Return the place of the first stage from `start` on that is to run; None if none is."""
    for place in range(start, len(pipeline.stages)):
        if holds(pipeline.stages[place].when, sight):
            return place
    return None


def input_of(stage: Stage, sight: Sight) -> dict[str, Any]:
    """Return the input of a stage's model; files in it are `NamedFile`."""
    taken: dict[str, Any] = dict(stage.fixed)
    for field, reference in stage.take.items():
        if isinstance(reference, str):
            value = sight.first(parse_reference(reference))
        else:
            parts = [sight.first(parse_reference(each)) for each in reference]
            value = [each for each in parts if each is not _MISSING]
        if value is not _MISSING:
            taken[field] = value
    return taken


def output_of(run: Run, sight: Sight) -> tuple[msgspec.Raw, tuple[Artifact, ...]]:
    """Return the output of an ended run: a JSON value, and the files in it.

    If it is the whole output of one stage, it stays unchanged, with all its files.
    """
    asked = run.pipeline.output
    if not asked:
        last = run.done[-1]
        return last.output, last.artifacts
    if isinstance(asked, str):
        paths = parse_reference(asked)
        whole = sight.whole(paths)
        if whole is not None:
            return whole.output, whole.artifacts
        value = sight.first(paths)
        value = None if value is _MISSING else value
    else:
        found = {field: sight.first(parse_reference(each)) for field, each in asked.items()}
        value = {field: each for field, each in found.items() if each is not _MISSING}
    artifacts: list[Artifact] = []
    output = msgspec.json.encode(_marked(value, artifacts))
    return msgspec.Raw(output), tuple(artifacts)


def reason_of(stage: Stage, sight: Sight) -> str:
    """Return why a stage has ended its task, in words."""
    text = stage.reason
    if text.startswith(("input.", "stages.")):
        value = sight.first(parse_reference(text))
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
    shares = [part.device_s for part in parts if part.device_s is not None]
    costs = [part.cost_micros for part in parts if part.cost_micros is not None]
    return Timings(
        queue_s=sum(part.queue_s for part in parts),
        load_s=sum(part.load_s for part in parts),
        run_s=sum(part.run_s for part in parts),
        encode_s=sum(part.encode_s for part in parts),
        upload_s=sum(part.upload_s for part in parts),
        device_s=sum(shares) if shares else None,
        cost_micros=sum(costs) if costs else None,
        paid_micros=sum(part.paid_micros for part in parts),
    )


# --- reading -------------------------------------------------------------------------------------


def _path(text: str, whole: str) -> Path:
    steps = text.split(".")
    if not all(_NAME.fullmatch(step) or step.isdecimal() for step in steps):
        raise _no_reference(whole)
    rest = tuple(int(step) if step.isdecimal() else step for step in steps)
    if steps[0] == "input" and len(steps) > 1:
        return Path("", "input", rest[1:])
    if steps[0] == "stages" and len(steps) > 2 and steps[2] in PARTS:
        return Path(steps[1], steps[2], rest[3:])
    raise _no_reference(whole)


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _no_condition(text)
        tokens.append(found[0].strip())
        at = found.end()
    return tokens


def _test(tokens: list[str], whole: str) -> Test:
    is_reversed = tokens[0] == "not"
    if is_reversed:
        tokens.pop(0)
    if not tokens:
        raise _no_condition(whole)
    path = _path(tokens.pop(0), whole)
    if is_reversed or not tokens or tokens[0] == "and":
        return Test(path, "true", None, is_reversed)
    sign = tokens.pop(0)
    if sign == "not" and tokens[:1] == ["in"]:
        tokens.pop(0)
        return Test(path, "in", _literals(tokens, whole), True)
    if sign == "in":
        return Test(path, "in", _literals(tokens, whole), False)
    if sign in ("==", "!=") and tokens:
        return Test(path, "==", _literal(tokens.pop(0), whole), sign == "!=")
    raise _no_condition(whole)


def _literals(tokens: list[str], whole: str) -> list[Any]:
    if not tokens or tokens.pop(0) != "[":
        raise _no_condition(whole)
    found: list[Any] = []
    while tokens:
        token = tokens.pop(0)
        if token == "]":
            return found
        if token != ",":
            found.append(_literal(token, whole))
    raise _no_condition(whole)


def _literal(token: str, whole: str) -> Any:
    if token.startswith("'"):
        return token[1:-1]
    try:
        return msgspec.json.decode(token)
    except msgspec.DecodeError:
        raise _no_condition(whole) from None


def _no_reference(text: str) -> InvalidRequest:
    return InvalidRequest(
        f"{text[:120]!r} is no reference: write input.FIELD, stages.NAME.output.FIELD or "
        "stages.NAME.artifacts, several joined by ` or ` for the first that is there"
    )


def _no_condition(text: str) -> InvalidRequest:
    return InvalidRequest(
        f"{text[:120]!r} is no condition: write input.FIELD, not input.FIELD, "
        'input.FIELD == "value" (or !=), input.FIELD in ["a", "b"] (or not in), several joined by '
        "` and `; stages.NAME.output.FIELD goes as well"
    )


# --- looking up ----------------------------------------------------------------------------------


def _holds(test: Test, sight: Sight) -> bool:
    value = sight.value(test.path)
    if value is _MISSING:
        value = None
    if test.kind == "true":
        is_so = bool(value)
    elif test.kind == "in":
        is_so = any(_is_same(value, each) for each in test.value)
    else:
        is_so = _is_same(value, test.value)
    return is_so is not test.is_reversed


def _is_same(one: Any, other: Any) -> bool:
    # In JSON true is not 1.
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)


def _walk(value: Any, steps: Iterable[str | int]) -> Any:
    for step in steps:
        if isinstance(value, Mapping):
            value = value.get(str(step), _MISSING)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return _MISSING
    return value


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    text = bytes(raw)
    may_be_deep = text.count(b"[") + text.count(b"{") > _MOST_NESTED
    return None if may_be_deep and _is_deep(value) else value


def _is_deep(value: Any) -> bool:
    """Whether a value is nested deeper than those are that look into it."""
    level = [value]
    for _ in range(_MOST_NESTED):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        if not inner:
            return False
        level = inner
    return True


def _with_files(value: Any, artifacts: Sequence[Artifact]) -> Any:
    """Return a value with `{"$artifact": i}` replaced by the file."""
    if isinstance(value, list):
        return [_with_files(each, artifacts) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        index = value.get(_FILE_MARK)
        if type(index) is int and 0 <= index < len(artifacts):
            return NamedFile(artifacts[index])
    return {name: _with_files(each, artifacts) for name, each in value.items()}


def _marked(value: Any, artifacts: list[Artifact]) -> Any:
    """Return a value with files replaced by `{"$artifact": i}`, and add them to the list."""
    if isinstance(value, NamedFile):
        if value.artifact not in artifacts:
            artifacts.append(value.artifact)
        return {_FILE_MARK: artifacts.index(value.artifact)}
    if isinstance(value, list):
        return [_marked(each, artifacts) for each in value]
    if isinstance(value, dict):
        return {name: _marked(each, artifacts) for name, each in value.items()}
    return value
