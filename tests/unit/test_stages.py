"""References, conditions, and what becomes of a run."""

from typing import Any

import msgspec
import pytest

from swell.core.errors import InvalidRequest
from swell.core.pipeline_stages import (
    Done,
    Pipeline,
    Run,
    Sight,
    Stage,
    begin,
    begin_again,
    holds,
    input_of,
    may_run,
    next_stage,
    output_of,
    parse_condition,
    parse_reference,
    reason_of,
)
from swell.core.results import Artifact

PICTURES = tuple(
    Artifact(key=f"outputs/t/1/{n}.png", content_type="image/png", bytes=1) for n in range(3)
)


def done(name: str, output: Any, *artifacts: Artifact) -> Done:
    raw = msgspec.Raw(msgspec.json.encode(output))
    return Done(name=name, model=f"demo/{name}", attempt=1, output=raw, artifacts=artifacts)


def sight(asked: Any, *parts: Done, **defaults: Any) -> Sight:
    pipeline = Pipeline(stages=(), defaults=defaults)
    return Sight(pipeline, msgspec.Raw(msgspec.json.encode(asked)), parts)


SEEN = sight(
    {"prompt": "a fox", "n": 0, "deep": {"list": [1, {"x": "y"}]}, "none": None},
    done("draw", {"title": "Fox", "pictures": [{"$artifact": 1}]}, *PICTURES),
)


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("input.prompt", "a fox"),
        ("input.deep.list.1.x", "y"),
        ("input.deep", {"list": [1, {"x": "y"}]}),
        ("stages.draw.output.title", "Fox"),
        ("stages.draw.output.pictures.0", PICTURES[1]),
        ("stages.draw.artifacts.2", PICTURES[2]),
        ("stages.draw.artifacts", list(PICTURES)),
        ("stages.other.output or input.prompt", "a fox"),
        ("input.none or stages.draw.output.title", "Fox"),
    ],
)
def test_a_reference_leads_to_a_value(reference: str, value: Any) -> None:
    stage = Stage(name="s", queue="demo/s", take={"field": reference})
    assert input_of(stage, SEEN) == {"field": value}


@pytest.mark.parametrize(
    "reference",
    [
        "input.nothing",
        "input.prompt.further",
        "input.deep.list.9",
        "stages.other.output",
        "input.none",
    ],
)
def test_what_is_not_there_is_left_out(reference: str) -> None:
    stage = Stage(name="s", queue="demo/s", take={"field": reference}, fixed={"steps": 4})
    assert input_of(stage, SEEN) == {"steps": 4}


def test_several_references_make_a_list() -> None:
    stage = Stage(
        name="s",
        queue="demo/s",
        take={"images": ["stages.draw.artifacts.0", "input.nothing", "stages.draw.artifacts.2"]},
    )
    assert input_of(stage, SEEN) == {"images": [PICTURES[0], PICTURES[2]]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "input",
        "prompt",
        "stages.draw",
        "stages.draw.seed",
        "input..x",
        "input.a or",
        "input.a b",
        "stages.draw.output.__class__()",
        "input.x[0]",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no reference"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("", True),
        ("input.prompt", True),
        ("input.n", False),
        ("not input.n", True),
        ("input.nothing", False),
        ("not input.nothing", True),
        ('input.prompt == "a fox"', True),
        ("input.prompt == 'a fox'", True),
        ("input.prompt != 'a fox'", False),
        ("input.nothing != 'x'", True),
        ("input.n == 0", True),
        ("input.n == false", False),
        ('input.prompt in ["a cat", "a fox"]', True),
        ("input.n not in [1, 2]", True),
        ("input.prompt and input.n == 0", True),
        ("input.prompt and input.n", False),
        ("stages.draw.artifacts", True),
        ("stages.other.output", False),
    ],
)
def test_a_condition_holds_or_not(condition: str, expected: bool) -> None:
    assert holds(condition, SEEN) is expected


@pytest.mark.parametrize(
    "text",
    [
        "input.a ==",
        "input.a == b",
        "input.a and",
        "and input.a",
        "input.a in 3",
        "input.a in [1",
        "input.a or input.b",
        "1 == 1",
        "import os",
        "input.a == 'x",
        "not",
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_condition(text)


def test_fields_that_were_left_out_are_as_the_schema_says() -> None:
    seen = sight({"prompt": "x"}, large=True)
    assert holds("input.large", seen)
    assert not holds("input.large", sight({"large": False}, large=True))


def test_stages_whose_condition_fails_are_passed_over_until_the_end() -> None:
    stages = (
        Stage(name="a", queue="demo/a", when="input.a"),
        Stage(name="b", queue="demo/b"),
        Stage(name="c", queue="demo/c", when="stages.b.output.more"),
    )
    pipeline = Pipeline(stages=stages)
    run = begin(pipeline, "v", msgspec.Raw(b"{}"))
    assert run is not None
    assert run.at == 1
    seen = sight({}, done("b", {"more": False}))
    assert next_stage(pipeline, 2, seen) is None
    # The input alone does not say whether it runs.
    assert may_run(stages[2], sight({}))
    assert not may_run(stages[0], sight({}))
    assert begin(Pipeline(stages=stages[:1]), "v", msgspec.Raw(b"{}")) is None


def test_the_output_is_that_of_the_last_stage_unless_said_otherwise() -> None:
    parts = (
        done("draw", [{"$artifact": 0}, {"$artifact": 2}], *PICTURES),
        done("check", {"fine": True}),
    )
    seen = sight({"prompt": "x"}, *parts)

    def given(output: Any) -> Any:
        run = Run(pipeline=Pipeline(stages=(), output=output), done=parts)
        raw, artifacts = output_of(run, seen)
        return msgspec.json.decode(raw), artifacts

    assert given("") == ({"fine": True}, ())
    assert given("stages.draw.output") == ([{"$artifact": 0}, {"$artifact": 2}], PICTURES)
    assert given("stages.large.output or stages.draw.output") == (
        [{"$artifact": 0}, {"$artifact": 2}],
        PICTURES,
    )
    assert given("stages.draw.output.1") == ({"$artifact": 0}, (PICTURES[2],))
    assert given({"picture": "stages.draw.artifacts.2", "ok": "stages.check.output.fine"}) == (
        {"picture": {"$artifact": 0}, "ok": True},
        (PICTURES[2],),
    )
    assert given("stages.large.output") == (None, ())


def test_a_reason_is_a_reference_or_words() -> None:
    seen = sight({}, done("check", {"why": "too dark"}))
    assert reason_of(Stage(name="check", queue="d/c", reason="stages.check.output.why"), seen) == (
        "too dark"
    )
    assert reason_of(Stage(name="check", queue="d/c", reason="not like this"), seen) == (
        "not like this"
    )
    assert "'check'" in reason_of(Stage(name="check", queue="d/c"), seen)


def test_a_run_begins_again_where_it_ended_or_whole() -> None:
    stages = tuple(Stage(name=name, queue=f"demo/{name}") for name in "abc")
    parts = (done("a", 1), done("b", 2))
    run = Run(pipeline=Pipeline(stages=stages), version="v", at=1, done=parts, spent=3, tags=(1.0,))
    again = begin_again(run, msgspec.Raw(b"{}"), is_whole=False)
    assert [(each.name, each.attempt) for each in again.done] == [("a", 0)]
    assert (again.at, again.spent, again.tags) == (1, 0, ())
    # What was another task's nobody can say to have settled.
    assert again.done_by(0) is None
    whole = begin_again(run, msgspec.Raw(b"{}"), is_whole=True)
    assert (whole.at, whole.done) == (0, ())


def test_an_input_or_output_that_is_no_json_leads_nowhere() -> None:
    broken = Done(name="a", model="demo/a", attempt=1, output=msgspec.Raw(b"{"))
    seen = Sight(Pipeline(stages=()), msgspec.Raw(b"["), (broken,))
    stage = Stage(name="s", queue="d/s", take={"x": "input.x", "y": "stages.a.output.y"})
    assert input_of(stage, seen) == {}


def test_what_is_nested_too_deeply_to_be_looked_into_leads_nowhere() -> None:
    deep: Any = "bottom"
    for _ in range(1500):
        deep = [deep]
    asked = sight({"deep": deep}, done("echo", {"deep": deep}))
    for reference in ("input.deep", "stages.echo.output", "stages.echo.output.deep"):
        assert input_of(Stage(name="a", queue="demo/a", take={"x": reference}), asked) == {}
    wide = sight({"wide": [[each] for each in range(1000)]})
    stage = Stage(name="a", queue="demo/a", take={"x": "input.wide"})
    assert len(input_of(stage, wide)["x"]) == 1000
