"""What do 10,000 open event streams cost one backend process each, and does an event reach all?

Twice, on a fresh server each time: all streams watch one task, which is then canceled; and each
stream watches a task of its own, which one worker then runs. Memory is the growth of the resident
set of the process that listens, from before the first stream to when all are open. The larger of
the two is the figure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import swell_system
from machine import quiet, report, say
from swell_system import Swell
from waiting_clients import raise_file_limit

CLIENT = Path(__file__).resolve().with_name("waiting_clients.py")
SETTLE_S = 1.0


def watch(
    server: Swell, task_ids: list[str], ends: list[str], happen: Callable[[], Any]
) -> dict[str, Any]:
    """Opens a stream per id, lets the event happen, and says what it cost and whom it reached."""
    asked = {
        "paths": [f"/v1/tasks/{task_id}/events" for task_id in task_ids],
        "headers": [f"authorization: Bearer {server.key}", "accept: text/event-stream"],
        "ends": [f"event: {end}" for end in ends],
    }
    backend = processes.listener(server.port, server.pid)
    before = processes.resident_bytes(backend)
    client = subprocess.Popen(
        [sys.executable, str(CLIENT), "--port", str(server.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(json.dumps(asked) + "\n")
        client.stdin.flush()
        opened = json.loads(client.stdout.readline())
        time.sleep(SETTLE_S)
        after = processes.resident_bytes(backend)
        happened_at = time.time()
        happen()
        reached = json.loads(client.stdout.readline())
    finally:
        processes.end(client)  # type: ignore[arg-type]
    return {
        "kib_per_stream": round((after - before) / 1024 / len(task_ids), 2),
        "opened": opened["opened"],
        "opened_per_s": round(opened["opened"] / opened["opening_s"]),
        "reached": reached["reached"],
        "last_reached_s": round(reached["last_at"] - happened_at, 3),
        "rss_before_mib": round(before / 2**20, 1),
        "rss_after_mib": round(after / 2**20, 1),
    }


def one_task(streams: int) -> dict[str, Any]:
    """All streams watch one task, which is then canceled."""
    with swell_system.serve() as server:
        task_id = server.ask("POST", "/v1/tasks", swell_system.task())["id"]
        cancel = f"/v1/tasks/{task_id}/cancel"
        happen = lambda: server.ask("POST", cancel, {})  # noqa: E731
        return watch(server, [task_id] * streams, ["canceled"], happen)


def own_tasks(streams: int) -> dict[str, Any]:
    """Each stream watches a task of its own; then a worker comes and runs them all."""
    with swell_system.serve() as server, contextlib.ExitStack() as started:
        ids = swell_system.submit(server, streams)
        happen = lambda: started.enter_context(swell_system.worker(server))  # noqa: E731
        return watch(server, ids, ["succeeded"], happen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=10_000)
    asked = parser.parse_args()
    raise_file_limit()
    detail: dict[str, Any] = {"streams": asked.streams}
    with quiet():
        for name, way in {"one_task": one_task, "own_tasks": own_tasks}.items():
            detail[name] = way(asked.streams)
            say(f"{name}: {detail[name]}")
    ways = [detail["one_task"], detail["own_tasks"]]
    complete = all(way["opened"] == way["reached"] == asked.streams for way in ways)
    report(max(way["kib_per_stream"] for way in ways), detail, ok=complete)


if __name__ == "__main__":
    main()
