"""`swell tasks submit`, `estimate` and `show` against the real service: admission and stages."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from admission_harness import PAINT, POSTER, QUICK, drawn, measured
from api_harness import UPPER, World, a_world
from served_harness import Commands, served

from swell.cli.telling import estimate_lines, task_lines, told_lines

PAINTED = ("demo/paint", "-i", "prompt=a")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    # A thousandth of a dollar each second.
    async with a_world(pipelines=(POSTER,), hour_micros={"default": 3_600_000}) as world:
        yield world


@pytest.fixture
async def swell(world: World, tmp_path: Path) -> AsyncIterator[Commands]:
    async with served(world) as url:
        yield Commands(url, world.keys["anna"], tmp_path)


def lines(text: str) -> dict[str, str]:
    """Return name → what stands behind it, of lines for people."""
    return {line[:13].strip(): line[14:] for line in text.splitlines()}


# ---- tasks in words


def test_a_task_is_shown_without_json_of_python() -> None:
    task = {
        **{"id": "01a", "model": "demo/paint", "version": "1", "state": "failed", "seed": 7},
        **{"input": {"prompt": "a fox", "steps": 4}, "output": None, "artifacts": []},
        **{"error": {"title": "It failed", "detail": "boom"}, "attempt": 2, "max_attempts": 3},
        **{"created_at": "2026-11-30T21:30:41Z", "started_at": None, "finished_at": None},
        **{"timings": {"run_s": 1.5}, "cost_micros": 250, "data_removed": [], "position": None},
        **{"eta_s": None, "user": None, "metadata": None},
        "warnings": [
            {"code": "unknown_subject", "message": "Unknown: foks.", "suggestions": ["fox", "box"]}
        ],
    }
    now = datetime(2026, 11, 30, 21, 33, 41, tzinfo=UTC)
    assert list(task_lines(task, now)) == [
        ("id", "01a"),
        ("model", "demo/paint:1"),
        ("state", "failed, attempt 2 of 3"),
        ("input", "prompt: a fox"),
        ("", "steps: 4"),
        ("seed", "7"),
        ("created", "2026-11-30 21:30:41 UTC (3 min ago)"),
        ("time", "queue 0 ms · load 0 ms · run 1.5 s · encode 0 ms · upload 0 ms"),
        ("cost", "$0.00025"),
        ("error", "It failed: boom"),
        ("warning", "Unknown: foks. Try: fox, box."),
    ]


# ---- notes


def test_a_note_of_an_output_is_told_of_stages_and_of_the_task() -> None:
    stage = {
        **{"name": "translate", "model": "swell/translate", "state": "succeeded"},
        **{"attempts": 1, "timings": None, "output": {"text": "lis", "note": "Looks like Polish."}},
    }
    silent = {**stage, "name": "draw", "output": "a picture"}
    told = list(told_lines({"stages": [stage, silent], "output": {"note": ""}}))
    assert [words for name, words in told if name == "note"] == ["Looks like Polish."]
    assert list(told_lines({"output": {"note": "Read as English."}})) == [
        ("note", "Read as English.")
    ]


def test_a_note_that_a_warning_repeats_is_printed_once() -> None:
    warning = {"code": "language", "message": "Read as English.", "suggestions": []}
    told = list(told_lines({"warnings": [warning], "output": {"note": "Read as English."}}))
    assert told == [("warning", "Read as English.")]


# ---- cheaper tasks


@pytest.mark.slow
async def test_what_was_changed_of_a_task_is_said_in_words(world: World, swell: Commands) -> None:
    await measured(world, 10)
    asked = (*PAINTED, "--finish-by-s", "3", "--degrade-steps", "20", "--degrade-size-px", "256")
    done = await swell.ok("tasks", "submit", *asked)
    task_id = done.stdout.strip()
    changed = ["steps 40 → 20", "width 1024 → 640", "height 768 → 512"]
    assert [line for line in done.stderr.splitlines() if "changed" in line] == [
        f"  changed {each}" for each in changed
    ]
    shown = (await swell.ok("tasks", "show", task_id)).stdout.splitlines()
    assert [line for line in shown if "→" in line] == [f"changed       {each}" for each in changed]
    told = await swell.json("tasks", "show", task_id)
    assert told["degraded"][0] == {"field": "/input/steps", "from": 40, "to": 20}


@pytest.mark.slow
async def test_the_best_of_other_models_that_can_run_takes_the_task(
    world: World, swell: Commands
) -> None:
    worker = await measured(world, 10)
    await measured(world, 2, QUICK)
    await world.admin("POST", f"/v1/workers/{worker}/drain")
    others = ("--degrade-models", "demo/none", "--degrade-models", "demo/quick")
    refused = await swell.run("tasks", "submit", *PAINTED)
    assert refused.exit_code == 4
    task = await swell.json("tasks", "submit", *PAINTED, *others)
    assert task["model"] == "demo/quick"
    shown = (await swell.ok("tasks", "show", task["id"])).stdout
    assert lines(shown)["changed"] == "model demo/paint → demo/quick"


@pytest.mark.slow
async def test_a_class_is_named(world: World, swell: Commands) -> None:
    await world.register(UPPER)
    asked = ("demo/upper", "-i", "text=a", "--class", "free")
    assert (await swell.json("tasks", "submit", "--estimate", *asked))["priority"] == 5
    await swell.ok("tasks", "submit", *asked)
    [queue] = (await world.admin("GET", "/v1/queues")).json["queues"]
    assert {each["name"]: each["ready"] for each in queue["classes"]} == {"paid": 0, "free": 1}


# ---- estimates


@pytest.mark.slow
async def test_an_estimate_is_told_in_words_and_makes_nothing(
    world: World, swell: Commands
) -> None:
    worker = await measured(world, 10)
    await swell.ok("tasks", "submit", *PAINTED)
    await drawn(world, worker, "x", 10.0, 10.0)
    await swell.ok("tasks", "submit", *PAINTED)
    told = lines((await swell.ok("tasks", "submit", "--estimate", *PAINTED)).stdout)
    assert told["accepted"] == "yes"
    assert (told["model"], told["position"], told["workers"]) == ("demo/paint:1", "2", "1")
    assert re.fullmatch(r"about .+ s \(.+ s to .+ s\)", told["starts in"])
    assert re.fullmatch(r"about .+ s \(.+ s to .+ s\)", told["ends in"])
    assert told["cost"] == "$0.01"
    assert len(await swell.json("tasks", "ls", "--state", "queued")) == 1


@pytest.mark.slow
async def test_an_estimate_tells_what_would_be_changed(world: World, swell: Commands) -> None:
    await measured(world, 10)
    asked = (*PAINTED, "--finish-by-s", "6", "--degrade-steps", "10")
    told = lines((await swell.ok("tasks", "submit", "--estimate", *asked)).stdout)
    assert told["starts in"] == "0 s"
    assert told["accepted"] == "yes, with changes"
    assert told["changed"] == "steps 40 → 22"


@pytest.mark.slow
async def test_an_estimate_that_would_be_refused_says_why_and_exits_as_submit_would(
    world: World, swell: Commands
) -> None:
    await measured(world, 10)
    late = (*PAINTED, "--finish-by-s", "4")
    done = await swell.run("tasks", "submit", "--estimate", *late)
    assert done.exit_code == (await swell.run("tasks", "submit", *late)).exit_code == 4
    told = lines(done.stdout)
    assert told["accepted"] == "no"
    assert "later than finish_by_s = 4" in told["refusal"]
    assert told["retry in"] == "6 s"
    as_json = await swell.run("tasks", "submit", "--estimate", *late, "--json")
    assert as_json.exit_code == 4
    assert '"would_expire"' in as_json.stdout


def test_a_month_until_it_is_worth_asking_again_is_told_in_seconds() -> None:
    refusal = {"title": "No", "detail": "not today", "retry_after_s": 2_678_400}
    told = {"is_accepted": False, "refusal": refusal, "model": "a/b", "version": "1"}
    lines_told = dict(estimate_lines(told | {"position": 1, "workers": 0}))
    assert lines_told["retry in"] == "2,678,400 s"


@pytest.mark.slow
async def test_what_was_never_measured_is_said_not_to_be(world: World, swell: Commands) -> None:
    await world.register(PAINT)
    told = lines((await swell.ok("tasks", "submit", "--estimate", *PAINTED)).stdout)
    assert (told["starts in"], told["ends in"]) == ("not measured yet", "not measured yet")
    assert told["cost"] == "unknown"


# ---- pipelines


@pytest.mark.slow
async def test_each_stage_says_its_time_and_its_cost(world: World, swell: Commands) -> None:
    upper, painter = await world.register(UPPER), await world.register(PAINT)

    async def work() -> None:
        await drawn(world, upper, "A", 0.5, 0.25)
        await drawn(world, painter, "a poster", 2.0, 1.0)

    asked = ("demo/poster", "-i", "prompt=a", "--watch")
    done, _ = await asyncio.gather(swell.ok("tasks", "submit", *asked), work())
    assert done.stdout == '"a poster"\n'
    said = [line.strip() for line in done.stderr.splitlines()]
    first, second, third = (line for line in said if line.startswith("stage "))
    assert first.startswith("stage upper (demo/upper) succeeded: queue ")
    assert "· run 0.5 s ·" in first
    assert first.endswith("· $0.00025")
    assert "draw (demo/paint) succeeded: " in second
    assert second.endswith("· $0.001")
    assert third == "stage again (demo/upper) skipped"
    assert any("run 2.5 s" in line and line.endswith("· $0.00125") for line in said)
    [task] = await swell.json("tasks", "ls")
    shown = (await swell.ok("tasks", "show", task["id"])).stdout.splitlines()
    assert [line.split()[:3] for line in shown if line.startswith("stage ")] == [
        ["stage", "upper", "(demo/upper)"],
        ["stage", "draw", "(demo/paint)"],
        ["stage", "again", "(demo/upper)"],
    ]
    told = await swell.json("tasks", "show", task["id"])
    assert [each["cost_micros"] for each in told["stages"]] == [250, 1000, None]


# ---- mistakes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--degrade-steps", "10"), 2, "--degrade-steps: without a deadline"),
        (("--degrade-size-px", "64", "--start-by-s", "5"), 2, "add --finish-by-s"),
        (("--degrade-steps", "0", "--finish-by-s", "5"), 2, "--degrade-steps"),
        (("--degrade-size-px", "many", "--finish-by-s", "5"), 2, "--degrade-size-px"),
        (("--class", "free", "--priority", "3"), 2, "give --class or --priority"),
        (("--class", "gold"), 4, "there are: paid, free"),
        (("--degrade-models", ""), 4, "/degrade/models/0"),
        (tuple(["--degrade-models", "demo/quick"] * 11), 4, "/degrade/models"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--estimate",)])
async def test_options_that_cannot_be_meant_say_what_to_do(
    world: World,
    swell: Commands,
    flags: tuple[str, ...],
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    await measured(world, 10)
    done = await swell.run("tasks", "submit", *flags, *PAINTED, *options)
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in " ".join(done.stderr.split())
    assert (await world.anna("GET", "/v1/tasks?state=queued")).json["tasks"] == []


@pytest.mark.slow
async def test_an_estimate_asks_for_no_idempotency_key(world: World, swell: Commands) -> None:
    await measured(world, 10)
    done = await swell.run("tasks", "submit", "--estimate", *PAINTED, "--idempotency-key", "k")
    assert done.exit_code == 2
    assert "--idempotency-key" in done.stderr
