"""How long after its commit does the end of a task reach whoever streams it, with 15,000 streams?

One backend process holds 15,000 event streams, on PostgreSQL: one on each of 10,000 tasks, and a
second one on every other task. Then a worker comes and runs the 10,000. Each stream must get its
end. How long that took is counted from the `finished_at` of the task, which the backend notes
before the commit; the value is the 99th percentile. Two client processes hold the streams, since a
process may have 20,000 files; they share the machine's cores with everything else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import processes
import swell_system
from machine import quiet, report, say
from scaled_system import Scaled, scaled
from waiting_clients import raise_file_limit

CLIENT = Path(__file__).resolve().with_name("stream_clients.py")
CLIENTS = 2
FINISHED = "SELECT id, extract(epoch FROM finished_at)::float8 FROM tasks WHERE state = 'succeeded'"


@contextlib.contextmanager
def client(server: Scaled, task_ids: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that holds one stream for each of these, and has been told to begin."""
    holder = subprocess.Popen(
        [sys.executable, str(CLIENT), "--port", str(server.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    asked = {
        "paths": [f"/v1/tasks/{task_id}/events" for task_id in task_ids],
        "headers": [f"authorization: Bearer {server.key}", "accept: text/event-stream"],
    }
    try:
        assert holder.stdin is not None
        holder.stdin.write(json.dumps(asked) + "\n")
        holder.stdin.flush()
        yield holder
    finally:
        processes.end(holder)  # type: ignore[arg-type]


def said(holder: subprocess.Popen[str]) -> dict[str, Any]:
    assert holder.stdout is not None
    line: dict[str, Any] = json.loads(holder.stdout.readline())
    return line


def measured(streams: int, tasks: int) -> dict[str, Any]:
    with scaled(workers=0) as server, contextlib.ExitStack() as started:
        ids = swell_system.submit(server, tasks)
        watched = [*ids, *ids[:: max(1, tasks // max(1, streams - tasks))]][:streams]
        share = -(-len(watched) // CLIENTS)
        parts = [watched[at : at + share] for at in range(0, len(watched), share)]
        backend = processes.listener(server.port, server.pid)
        before = processes.resident_bytes(backend)
        holders = [started.enter_context(client(server, part)) for part in parts]
        opened = [said(holder) for holder in holders]
        after = processes.resident_bytes(backend)
        say(f"opened: {opened}")
        used_s = processes.cpu_s(backend)
        started.enter_context(swell_system.worker(server))
        ended = [moment for holder in holders for moment in said(holder)["ended_at"]]
        used_s = processes.cpu_s(backend) - used_s
        finished = dict(server.ask_database(FINISHED))
    waits = sorted(
        at - finished[task_id]
        for task_id, at in zip(watched, ended, strict=True)
        if at is not None and task_id in finished
    )
    return {
        "streams": len(watched),
        "opened": sum(each["opened"] for each in opened),
        "tasks": tasks,
        "succeeded": len(finished),
        "reached": len(waits),
        "tasks_per_s": round(tasks / (max(finished.values()) - min(finished.values()))),
        "p50_s": round(waits[len(waits) // 2], 4),
        "p99_s": round(waits[int(0.99 * (len(waits) - 1))], 4),
        "max_s": round(waits[-1], 4),
        "backend_cpu_ms_per_task": round(1000 * used_s / tasks, 3),
        "kib_per_stream": round((after - before) / 1024 / len(watched), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=15_000)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    raise_file_limit()
    rounds = []
    with quiet():
        for _ in range(asked.rounds):
            rounds.append(measured(asked.streams, asked.tasks))
            say(str(rounds[-1]))
    complete = all(
        seen["opened"] == seen["reached"] == asked.streams and seen["succeeded"] == asked.tasks
        for seen in rounds
    )
    report(sorted(seen["p99_s"] for seen in rounds)[len(rounds) // 2], {"rounds": rounds}, complete)


if __name__ == "__main__":
    main()
