"""Cold starts of real workers, by the commands that people use, against what the clock says."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop
from conformance.startups import an_entry
from swell.core.clock import SystemClock
from swell.core.startup_phases import Span, covered_s
from swell.db.registry import Registry
from swell.db.sqlite import SqliteDatabase

#: Notes by the machine's monotonic clock when each of its methods begins and ends.
MODEL = '''
import json, os, time
from pydantic import BaseModel
import swell
from swell.core.startup_phases import fetching

time.sleep(0.3)

def note(what):
    with open("seen.jsonl", "a") as file:
        file.write(json.dumps([what, time.monotonic(), os.getpid()]) + "\\n")

note("imported")

class Slow(swell.Model):
    """Takes its time."""

    name = "tests/slow"

    class Input(BaseModel):
        text: str = ""

    Output = str

    def load(self, device):
        note("load")
        with fetching("disk"):
            time.sleep(0.4)
        note("fetched")
        while os.path.exists("hang"):
            note("hangs")
            time.sleep(0.05)
        time.sleep(0.2)
        note("loaded")

    def warmup(self):
        time.sleep(0.3)
        note("warm")

    def run(self, items):
        time.sleep(0.2)
        note("ran")
        return [item.input.text for item in items]
'''

PUSHED = '''
import time

from pydantic import BaseModel

import swell
from swell.weights.declared_weights import provided

WEIGHTS = provided(__file__)

#: As long as a real model's libraries take.
time.sleep(1.0)

class Pushed(swell.Model):
    """Says how large its weights are."""

    name = "tests/pushed"
    Output = int

    class Input(BaseModel):
        pass

    def load(self, device):
        self.size = WEIGHTS.path("w.safetensors").stat().st_size

    def run(self, items):
        return [self.size for _ in items]
'''

CONFIG = """
[delivery]
heartbeat_s = 0.4
lease_s = 1.2

[pool]
hour_micros = 3600000
"""

#: How far a phase may be from what was measured, in seconds: processes take turns on two cores.
NEAR_S = 0.25

#: The same of what ends in another process than where it was measured.
FAR_S = 0.8


def seen(folder: Path) -> dict[str, float]:
    """Return what was noted last of each."""
    path = folder / "seen.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {what: at_s for what, at_s, _ in map(json.loads, lines)}


def wait_for(what: Callable[[], Any]) -> Any:
    until_s = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < until_s, what
        time.sleep(0.02)
    return found


def end(process: "subprocess.Popen[Any]") -> None:
    process.kill()
    process.wait(PATIENCE_S)


@pytest.fixture
def swell(tmp_path: Path) -> Swell:
    (tmp_path / "slow.py").write_text(MODEL)
    (tmp_path / "swell.toml").write_text(CONFIG)
    return Swell(tmp_path)


@pytest.fixture
def served(swell: Swell) -> Iterator[dict[str, str]]:
    """A backend alone; what a worker for it finds in its environment."""
    process = swell.start("serve", "--json", "--port", "0")
    try:
        url = ready_line(process, swell.folder)["url"]
        made = swell.json("keys", "create", "w", "--scope", "worker")
        yield {"SWELL_WORKER__URL": url, "SWELL_WORKER__TOKEN": made["key"]}
    finally:
        assert stop(process) == 0


def start_worker(
    swell: Swell, environment: dict[str, str], model: str = "slow.py"
) -> "subprocess.Popen[bytes]":
    with (swell.folder / "worker.txt").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "swell", "worker", "-m", model],
            cwd=swell.folder,
            env=clean_environment() | environment,
            stdout=log,
            stderr=log,
        )


def registered(swell: Swell) -> list[dict[str, Any]]:
    """Return the workers, once what they told when they registered is kept of all of them."""
    known: list[dict[str, Any]] = swell.json("workers")
    is_told = all(each["startup"]["state"] != "starting" for each in known)
    return known if is_told else []


def spans_of(startup: dict[str, Any]) -> dict[str, Span]:
    """Return the phases; of the imports the one that ended last."""
    found: dict[str, Span] = {}
    for each in startup["spans"]:
        span = Span(
            phase=each["phase"],
            start_s=each["start_s"],
            end_s=each["end_s"],
            source=each["from"],
        )
        known = found.get(span.phase)
        if known is None or (known.end_s or 0) < (span.end_s or 0):
            found[span.phase] = span
    return found


@pytest.mark.alone
def test_every_phase_is_as_long_as_the_clock_says(swell: Swell, served: dict[str, str]) -> None:
    asked_s, asked_at = time.monotonic(), datetime.now(UTC)
    pretended = timedelta(seconds=20)
    environment = served | {
        "SWELL_WORKER__ASKED_AT": (asked_at - pretended).isoformat(),
        "SWELL_WORKER__PULL_S": "5",
    }
    worker = start_worker(swell, environment)
    try:
        [first] = wait_for(lambda: registered(swell))
        done = swell.run("tasks", "submit", "tests/slow", "-i", "text=a", "--watch")
        assert done.returncode == 0, done.stderr
        told = wait_for(
            lambda: next(
                (w["startup"] for w in swell.json("workers") if w["startup"]["whole_s"]), None
            )
        )
    finally:
        end(worker)
    assert told["id"] == first["startup"]["id"]
    spans, noted = spans_of(told), seen(swell.folder)
    # Seconds since the beginning, which was 20 s before it was asked for.
    measured = {what: at_s - asked_s + 20 for what, at_s in noted.items()}
    near = pytest.approx
    assert spans["boot"].end_s == near(20, abs=NEAR_S)
    assert (spans["pull"].start_s, spans["pull"].end_s) == near((15, 20), abs=NEAR_S)
    assert spans["import"].start_s == spans["boot"].end_s
    assert spans["load"].start_s == near(measured["load"], abs=NEAR_S)
    assert spans["fetch"].source == "disk"
    assert spans["fetch"].end_s == near(measured["fetched"], abs=NEAR_S)
    assert spans["load"].end_s == near(measured["loaded"], abs=NEAR_S)
    assert spans["warm"].end_s == near(measured["warm"], abs=NEAR_S)
    assert spans["first_task"].end_s == near(measured["ran"], abs=FAR_S)
    assert measured["imported"] <= (spans["import"].end_s or 0) + NEAR_S
    # What the phases cover is what it took, but for what lies between two of them.
    every = [
        Span(phase=each["phase"], start_s=each["start_s"], end_s=each["end_s"])
        for each in told["spans"]
    ]
    assert covered_s(every, 1e9) == near(told["whole_s"], abs=FAR_S)
    assert told["ready_s"] == near(measured["warm"], abs=FAR_S)
    check_what_operators_see(swell, told)


def cold_starts(swell: Swell) -> list[Any]:
    """Return the cold starts in the ledger."""
    return [each for each in swell.json("costs", "--ledger") if each["kind"] == "cold_start"]


def check_what_operators_see(swell: Swell, told: dict[str, Any]) -> None:
    [pool] = swell.json("pools")
    times = {each["phase"]: each for each in pool["times"]}
    assert times["ready"]["p50_s"] == pytest.approx(told["ready_s"], abs=0.01)
    assert times["whole"]["p99_s"] == pytest.approx(told["whole_s"], abs=0.01)
    assert times["pull"]["p90_s"] == pytest.approx(5, abs=0.01)
    [entry] = cold_starts(swell)
    assert entry["seconds"] == pytest.approx(told["ready_s"], abs=0.01)
    assert entry["cost_micros"] == pytest.approx(told["ready_s"] * 1000, abs=10)
    assert "first_task" in swell.ok("workers", "--phases")
    assert "tests/slow" in swell.ok("pools", "--phases")
    assert "cold_start" in swell.ok("costs", "--ledger")
    costs = swell.json("costs", "--by", "pool")
    assert costs["total"]["seconds"]["cold"] == pytest.approx(told["ready_s"], abs=0.01)
    shown = swell.ok("costs")
    assert "tests/slow" in shown
    assert "USD/IMAGE" in shown


def test_the_ledger_is_told_beyond_one_page(swell: Swell) -> None:
    async def fill(n: int) -> None:
        database = SqliteDatabase.open(swell.folder / ".swell" / "swell.db", SystemClock())
        await Registry(database).charge([an_entry(f"entry-{each}") for each in range(n)])
        await database.close()

    (swell.folder / ".swell").mkdir()
    asyncio.run(fill(503))
    process = swell.start("serve", "--json", "--port", "0")
    try:
        ready_line(process, swell.folder)
        entries = swell.json("costs", "--ledger", "--limit", "502")
        assert [each["id"] for each in entries] == [f"entry-{n}" for n in range(502, 0, -1)]
    finally:
        assert stop(process) == 0


def died(swell: Swell) -> Any:
    """Return what is known of loads where one has died; nothing before."""
    [pool] = swell.json("pools") or [{"starting": 1}]
    if pool["starting"]:
        return None
    return {each["phase"]: each for each in pool["times"]}


def test_a_worker_killed_while_it_loads_dies_in_that_phase(
    swell: Swell, served: dict[str, str]
) -> None:
    (swell.folder / "hang").touch()
    worker = start_worker(swell, served)
    try:
        wait_for(lambda: "hangs" in seen(swell.folder))
        # By now the backend has heard of the phase that goes on.
        wait_for(lambda: "load" in swell.ok("workers", "--phases"))
        [starting] = swell.json("pools")
        assert starting["starting"] == 1
        [shown] = swell.json("workers", "--phases")
        assert (shown["state"], shown["pid"]) == ("starting", worker.pid)
        assert "starting" in swell.ok("workers")
    finally:
        end(worker)
    times = wait_for(lambda: died(swell))
    assert (times["load"]["observed"], times["load"]["not_over"]) == (0, 1)
    assert times["load"]["at_least"] == ["p50", "p90", "p99"]
    assert (times["ready"]["observed"], times["ready"]["not_over"]) == (0, 1)
    assert times["import"]["observed"] == 1
    [entry] = cold_starts(swell)
    assert (entry["outcome"], entry["kind"]) == ("died", "cold_start")
    assert swell.json("workers") == []


def test_a_model_process_killed_while_it_loads_is_told_at_once(
    swell: Swell, served: dict[str, str]
) -> None:
    (swell.folder / "hang").touch()
    worker = start_worker(swell, served)
    try:
        wait_for(lambda: "hangs" in seen(swell.folder))
        lines = (swell.folder / "seen.jsonl").read_text().splitlines()
        os.kill(json.loads(lines[-1])[2], signal.SIGKILL)
        assert worker.wait(PATIENCE_S) != 0
    finally:
        end(worker)
    times = died(swell)
    assert times is not None, "it was told before the worker had ended"
    assert (times["load"]["observed"], times["load"]["not_over"]) == (0, 1)


def test_a_restart_of_a_model_process_is_no_cold_start(
    swell: Swell, served: dict[str, str]
) -> None:
    worker = start_worker(swell, served)
    try:
        wait_for(lambda: registered(swell))
        lines = (swell.folder / "seen.jsonl").read_text().splitlines()
        os.kill(json.loads(lines[-1])[2], signal.SIGKILL)
        done = swell.run("tasks", "submit", "tests/slow", "-i", "text=a", "--watch")
        assert done.returncode == 0, done.stderr

        def restarts() -> Any:
            [pool] = swell.json("pools")
            return [each for each in pool["times"] if each["kind"] == "restart"]

        phases = {each["phase"] for each in wait_for(restarts)}
    finally:
        end(worker)
    assert phases == {"import", "fetch", "load", "warm"}
    [pool] = swell.json("pools")
    cold = [each for each in pool["times"] if each["kind"] == "cold"]
    assert {each["observed"] for each in cold} == {1}
    assert len(cold_starts(swell)) == 1


def test_what_was_started_by_swell_up_has_a_boot_and_outlives_a_restart(swell: Swell) -> None:
    for n in (1, 2):
        process = swell.start("up", "--json", "--port", "0", "-m", "slow.py")
        try:
            ready_line(process, swell.folder)
            [pool] = swell.json("pools")
            times = {each["phase"]: each for each in pool["times"] if each["kind"] == "cold"}
            assert times["boot"]["observed"] == n
            assert times["boot"]["p99_s"] < 5
            assert times["ready"]["observed"] == n
        finally:
            assert stop(process) == 0


def safetensors(size_bytes: int) -> bytes:
    """Return a file of weights with one tensor."""
    tensor = {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}
    header = json.dumps({"w": tensor}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + os.urandom(size_bytes)


def test_weights_that_were_pushed_are_fetched_while_the_model_is_imported(
    swell: Swell, served: dict[str, str]
) -> None:
    content = safetensors(3 << 20)
    (swell.folder / "w.safetensors").write_bytes(content)
    (swell.folder / "pushed.py").write_text(PUSHED)
    (swell.folder / "weights.toml").write_text(
        f'model = "tests/pushed"\nversion = "v1"\nbase = "{swell.folder}"\n'
        f'[weights]\n"w.safetensors" = "{hashlib.sha256(content).hexdigest()}"\n'
    )
    swell.json("models", "push", "weights.toml")
    (swell.folder / "w.safetensors").unlink()
    environment = served | {"SWELL_DATA_DIR": str(swell.folder / "elsewhere")}
    worker = start_worker(swell, environment, "pushed.py")
    try:
        [shown] = wait_for(lambda: registered(swell))
        done = swell.run("tasks", "submit", "tests/pushed", "--watch")
        assert str(len(content)) in done.stdout, done.stderr
    finally:
        end(worker)
    spans = spans_of(shown["startup"])
    assert spans["fetch"].source == "bucket"
    # A file can be had before the worker has tidied up behind its fetch: the ends say nothing.
    # A model that waits for it says that it fetches, too.
    began_s = min(s["start_s"] for s in shown["startup"]["spans"] if s["phase"] == "fetch")
    assert began_s < (spans["import"].end_s or 0)
    [pool] = swell.json("pools")
    assert "fetch" in {each["phase"] for each in pool["times"]}
