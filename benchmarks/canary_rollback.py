"""How soon is a canary rolled back that is worse, and is one that is not?

    python benchmarks/canary_rollback.py [--runs 20] [--tasks 2000]

A real server with two real workers, each with a version of one model, over HTTP. Three times a
version is planted that is worse, gets a quarter of the traffic, and has to be rolled back by the
service itself: it fails in 20 % of its attempts in place of 1 %, takes twice as long, or takes one
and a half times as long. Tasks come at a fixed pace until that is done; all that the canary has run
by then are counted, those that ended while the verdict was on its way included. Then a version that
is as good as the live one is the canary for 20 runs of 2,000 tasks each.

Value: the most tasks of a canary until it was rolled back, over 200; and 1 more for each run in
which one was rolled back that is no worse. The detail tells the tasks of both versions too.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
from machine import ROOT, folder, quiet, report, say
from swell_system import READY_S, Swell, program, started, worker_key

MODEL = "bench/adopted"
SHARE = 0.25
MOST = 200

#: Tasks per second while a regression is looked for, and how many of them at once.
PACE = 60
AT_ONCE = 6

#: How often the live version fails.
FAILS = 0.01

#: How long it takes, in seconds: while regressions are looked for, so long that they stand out from
#: what else the machine does; and in the many runs without one.
TAKES_S = 0.012
QUICK_S = 0.002

SOURCE = '''"""A model that fails and takes as it is told; {note}."""

import random
import time

import swell


@swell.model("{model}")
def adopted(text: str) -> str:
    """Gives the text back, or fails."""
    time.sleep({takes_s} * random.lognormvariate(0.0, 0.25))
    if random.random() < {fails}:
        raise RuntimeError("planted")
    return text
'''

#: Regression → how often the canary fails, and how long it takes in times of the live version.
PLANTED = {
    "fails 20 % in place of 1 %": (0.2, 1.0),
    "takes twice as long": (FAILS, 2.0),
    "takes 1.5 times as long": (FAILS, 1.5),
}


@contextlib.contextmanager
def serving(server: Swell, data: Path, note: str, fails: float, takes_s: float) -> Iterator[str]:
    """One worker with a version of its own; gives the version."""
    before = versions(server)
    file = data / f"{len(before)}-{note.replace(' ', '-').replace('%', 'percent')}.py"
    told = {"note": note, "model": MODEL, "fails": fails, "takes_s": takes_s}
    file.write_text(SOURCE.format(**told))
    place = ["--url", f"http://127.0.0.1:{server.port}", "--models", str(file)]
    environment = {"SWELL_WORKER__TOKEN": worker_key(server), "SWELL_WORKER__MODELS": str(file)}
    log = data / f"{file.stem}.log"
    with processes.running([program(), "worker", *place], log, environment, cwd=ROOT):
        processes.until(lambda: len(versions(server)) > len(before), READY_S, file.stem, log)
        (made,) = set(versions(server)) - set(before)
        processes.until(lambda: versions(server)[made] > 0, READY_S, file.stem, log)
        yield made


def versions(server: Swell) -> dict[str, int]:
    """Version → how many live workers have it."""
    try:
        shown = adoption(server)
    except RuntimeError:
        return {}
    return {each["version"]: each["workers"] for each in shown["versions"]}


def adoption(server: Swell) -> Any:
    return server.ask("GET", f"/v1/models/{MODEL}/adoption")


def stage(server: Swell, what: str, **body: Any) -> Any:
    return server.ask("POST", f"/v1/models/{MODEL}/{what}", body)


class Crowd:
    """Sends tasks of ever new users, and knows by which version each was run."""

    def __init__(self, server: Swell, name: str = "user") -> None:
        self._server = server
        self._name = name
        self._sent = 0
        self._ids: list[str] = []

    def send(self, n: int) -> None:
        tasks = []
        for _ in range(n):
            self._sent += 1
            user = f"{self._name}-{self._sent}"
            task = {"model": MODEL, "user": user, "input": {"text": user}, "max_attempts": 1}
            tasks.append(task)
        made = self._server.ask("POST", "/v1/tasks/batch", {"tasks": tasks})
        self._ids += [task["id"] for task in made["tasks"]]

    def wait(self) -> None:
        """Wait until nothing of them is queued or running."""
        processes.until(lambda: not self._open(), 120, "the end of all tasks")

    def by_version(self) -> dict[str, int]:
        """Version → how many tasks it was given, of all that were sent."""
        counts: dict[str, int] = {}
        for task_id in self._ids:
            version = self._server.ask("GET", f"/v1/tasks/{task_id}")["version"]
            counts[version] = counts.get(version, 0) + 1
        return counts

    def _open(self) -> bool:
        queues = self._server.ask("GET", "/v1/queues")["queues"]
        return any(each["ready"] + each["delayed"] + each["running"] for each in queues)


def until_rolled_back(server: Swell, version: str, most: int) -> dict[str, Any]:
    """Send tasks at a pace until a canary is rolled back; return what it took."""
    crowd, sent = Crowd(server), 0
    stage(server, "canary", version=version, share=SHARE)
    while sent < most and adoption(server)["canary"] is not None:
        due_s = time.monotonic() + AT_ONCE / PACE
        crowd.send(AT_ONCE)
        sent += AT_ONCE
        time.sleep(max(0.0, due_s - time.monotonic()))
    shown = adoption(server)
    crowd.wait()
    counts = crowd.by_version()
    if shown["canary"] is not None:
        stage(server, "rollback")
    return {
        "was_rolled_back": shown["canary"] is None,
        "canary_tasks": counts.get(version, 0),
        "all_tasks": sent,
        "why": shown["history"][0]["reason"],
    }


def clean_run(server: Swell, version: str, tasks: int, number: int) -> dict[str, Any]:
    """Have a canary that is no worse for so many tasks; return what was made of it."""
    crowd = Crowd(server, f"run-{number}")
    stage(server, "canary", version=version, share=SHARE)
    for begun in range(0, tasks, 500):
        crowd.send(min(500, tasks - begun))
        crowd.wait()

    def is_weighed() -> bool:
        canary = adoption(server)["canary"]
        if canary is None:
            return True
        seen = canary["evidence"]
        return bool(seen["canary"]["attempts"] + seen["live"]["attempts"] >= tasks)

    processes.until(is_weighed, 20, "the verdict")
    canary = adoption(server)["canary"]
    if canary is None:
        return {"was_rolled_back": True, "evidence": None}
    seen = canary["evidence"]
    stage(server, "rollback")
    return {
        "was_rolled_back": False,
        "evidence": max(seen["failures_evidence"], seen["slowness_evidence"]),
        "canary_tasks": seen["canary"]["attempts"],
    }


def with_regressions(server: Swell, data: Path, tasks: int) -> dict[str, Any]:
    planted = {}
    with serving(server, data, "the live version", FAILS, TAKES_S) as live:
        stage(server, "promote", version=live)
        for name, (fails, slower) in PLANTED.items():
            with serving(server, data, name, fails, TAKES_S * slower) as version:
                planted[name] = until_rolled_back(server, version, tasks)
                say(f"{name}: {planted[name]}")
    return planted


def without(server: Swell, data: Path, runs: int, tasks: int) -> list[dict[str, Any]]:
    clean: list[dict[str, Any]] = []
    with (
        serving(server, data, "the live version but quick", FAILS, QUICK_S) as live,
        serving(server, data, "as good as the live one", FAILS, QUICK_S) as version,
    ):
        stage(server, "promote", version=live)
        for number in range(runs):
            clean.append(clean_run(server, version, tasks, number))
            say(f"clean run {number + 1}: {clean[-1]}")
    return clean


def measured(runs: int, tasks: int) -> dict[str, Any]:
    with folder("canary") as data, started("serve", data) as server:
        planted = with_regressions(server, data, tasks)
        clean = without(server, data, runs, tasks)
    evidence = [each["evidence"] for each in clean if each["evidence"] is not None]
    return {
        "planted": planted,
        "clean_runs": len(clean),
        "clean_tasks_each": tasks,
        "clean_rolled_back": sum(each["was_rolled_back"] for each in clean),
        "most_evidence_of_clean_runs": round(max(evidence, default=0.0), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=2000)
    chosen = parser.parse_args()
    with quiet():
        found = measured(chosen.runs, chosen.tasks)
    planted = found["planted"].values()
    value = max(each["canary_tasks"] for each in planted) / MOST + found["clean_rolled_back"]
    report(value, found, ok=all(each["was_rolled_back"] for each in planted))


if __name__ == "__main__":
    main()
