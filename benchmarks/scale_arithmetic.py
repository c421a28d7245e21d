"""What would a million users need? Costs per task are measured here; the rest is multiplication.

Measures CPU time, write-ahead log, table growth and commits per no-op task, with one and with two
backends on PostgreSQL, and memory per event stream. Then computes from the assumptions below, which
are arguments: nothing of it was run at that size. docs/what-it-costs.md explains the numbers.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import load
from machine import quiet, report, say
from scaled_system import Scaled, scaled
from service_streams_15k import measured as measured_streams

DAY_S = 86_400
#: Of a process's time, what is planned to be used; the rest is for bursts and for one that is gone.
BUSY = 0.5
#: A million users, one picture each in two minutes; all have a page open that follows a task.
USERS = 1_000_000
PICTURE_EVERY_S = 120.0
#: What one picture weighs, how often it is looked at, and for how long it is kept.
PICTURE_BYTES = 300_000
VIEWS = 2.0
KEPT_DAYS = 30.0
#: Of a GPU, for one picture.
GPU_S = 2.0
#: Words of a prompt and what goes with it, beyond the input of a no-op task.
INPUT_BYTES = 400

#: US dollars, US East (N. Virginia), list prices; sources in docs/what-it-costs.md.
USD = {
    "core_hour": 0.1008 / 2,
    "database_core_hour": 0.478 / 4,
    "database_gb_month": 0.115,
    "bucket_put": 0.005 / 1000,
    "bucket_get": 0.0004 / 1000,
    "bucket_gb_month": 0.023,
    "egress_gb": 0.05,
    "gpu_hour": 6.88,
}


def numbers(server: Scaled) -> dict[str, float]:
    """Counters of the database that only grow."""
    (wal,) = server.ask_database("SELECT wal_bytes::float8 FROM pg_stat_wal")
    (size,) = server.ask_database("SELECT pg_total_relation_size('tasks')::float8")
    (rows,) = server.ask_database("SELECT count(*)::float8 FROM tasks")
    (commits,) = server.ask_database(
        "SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database()"
    )
    return {"wal": wal[0], "bytes": size[0], "tasks": rows[0], "commits": commits[0]}


def per_task(backends: int, seconds: float) -> dict[str, float]:
    """What a no-op task costs at 64 clients for each backend."""
    with scaled(backends=backends, workers=2) as server:
        target, clients = server.target(), 64 * backends
        load.check(target)
        load.drive(target, clients, 2)
        server.ask_database("CHECKPOINT")
        before, used = numbers(server), server.cpu_s()
        load.drive(target, clients, seconds)
        spent = {name: now - used[name] for name, now in server.cpu_s().items()}
        load.check(target)
        after = numbers(server)
    tasks = after["tasks"] - before["tasks"]
    worker_s = sum(took for name, took in spent.items() if name.startswith("worker"))
    return {
        "tasks_per_s": round(tasks / seconds),
        "backend_ms": round(1000 * spent["backends"] / tasks, 4),
        "postgres_ms": round(1000 * spent["postgres"] / tasks, 4),
        "worker_ms": round(1000 * worker_s / tasks, 4),
        "wal_bytes": round((after["wal"] - before["wal"]) / tasks),
        "table_bytes": round((after["bytes"] - before["bytes"]) / tasks),
        "commits": round((after["commits"] - before["commits"]) / tasks, 3),
    }


def needs(cost: dict[str, float], stream_kib: float, asked: argparse.Namespace) -> dict[str, Any]:
    """Multiply."""
    rate = asked.users / asked.picture_every_s
    # Versions of a row: accepted, started, ended. The input is written with the first.
    wal = cost["wal_bytes"] + 2 * INPUT_BYTES
    row = cost["table_bytes"] + INPUT_BYTES
    gb_out = rate * PICTURE_BYTES * VIEWS / 1e9
    kept_gb = rate * DAY_S * KEPT_DAYS * PICTURE_BYTES / 1e9
    processes = max(
        math.ceil(rate * cost["backend_ms"] / 1000 / BUSY),
        math.ceil(asked.users / asked.streams_per_process),
    )
    return {
        "pictures_per_s": round(rate),
        "backend_cores_busy": round(rate * cost["backend_ms"] / 1000, 2),
        "backend_processes_for_tasks": math.ceil(rate * cost["backend_ms"] / 1000 / BUSY),
        "backend_processes_for_streams": math.ceil(asked.users / asked.streams_per_process),
        "backend_processes": processes,
        "tasks_per_s_and_process": round(rate / processes),
        "stream_gib": round(asked.users * stream_kib / 2**20, 1),
        "database_cores_busy": round(rate * cost["postgres_ms"] / 1000, 2),
        "database_row_versions_per_s": round(3 * rate),
        # Where every process is so idle that no two tasks share a commit.
        "database_commits_per_s_at_most": round(3 * rate),
        "wal_mb_per_s": round(rate * wal / 1e6, 1),
        "wal_tb_per_day": round(rate * wal * DAY_S / 1e12, 2),
        "rows_million_per_day": round(rate * DAY_S / 1e6),
        "table_tb_per_day": round(rate * row * DAY_S / 1e12, 2),
        "bus_messages_mb_per_s_to_each_backend": round(rate * 2 * 150 / 1e6, 1),
        "bucket_puts_per_s": round(rate),
        "bucket_gets_per_s": round(rate * VIEWS),
        "bucket_gb_per_s_in": round(rate * PICTURE_BYTES / 1e9, 2),
        "egress_gbit_per_s": round(8 * gb_out, 1),
        "bucket_tb_kept": round(kept_gb / 1000),
        "gpus": math.ceil(rate * GPU_S),
        "usd_per_day": dollars(rate, processes, cost, row, kept_gb, gb_out),
    }


def dollars(
    rate: float, processes: int, cost: dict[str, float], row: float, kept_gb: float, gb_out: float
) -> dict[str, int]:
    """List prices per day."""
    database_cores = max(8.0, rate * cost["postgres_ms"] / 1000 / BUSY)
    days = {
        "gpus": rate * GPU_S * 24 * USD["gpu_hour"],
        "egress": gb_out * DAY_S * USD["egress_gb"],
        "bucket_kept": kept_gb * USD["bucket_gb_month"] / 30,
        "bucket_requests": rate * DAY_S * (USD["bucket_put"] + VIEWS * USD["bucket_get"]),
        # Two servers, of which one follows synchronously; rows are kept for a week.
        "database": 2
        * (
            database_cores * 24 * USD["database_core_hour"]
            + 7 * rate * DAY_S * row / 1e9 * USD["database_gb_month"] / 30
        ),
        "backends": processes * 24 * USD["core_hour"],
    }
    return {name: round(value) for name, value in days.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=float, default=USERS)
    parser.add_argument("--picture-every-s", type=float, default=PICTURE_EVERY_S)
    parser.add_argument("--streams-per-process", type=int, default=15_000)
    parser.add_argument("--seconds", type=float, default=6)
    asked = parser.parse_args()
    with quiet():
        measured = {name: per_task(n, asked.seconds) for name, n in {"one": 1, "two": 2}.items()}
        say(str(measured))
        streams = measured_streams(6_000, 4_000)
        say(str(streams))
    # Two backends share a database, as many do: their cost is the one to multiply.
    cost = measured["two"]
    detail = {
        "measured": {**measured, "kib_per_stream": streams["kib_per_stream"]},
        "assumed": {
            "users": asked.users,
            "picture_every_s": asked.picture_every_s,
            "streams_per_process": asked.streams_per_process,
            "busy": BUSY,
            "picture_bytes": PICTURE_BYTES,
            "views": VIEWS,
            "kept_days": KEPT_DAYS,
            "gpu_s": GPU_S,
            "input_bytes": INPUT_BYTES,
            "usd": USD,
        },
        "needed": needs(cost, streams["kib_per_stream"], asked),
    }
    report(detail["needed"]["pictures_per_s"], detail)


if __name__ == "__main__":
    main()
