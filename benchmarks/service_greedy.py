"""By how much does one key that sends the largest bodies delay the tasks of another key?

    python benchmarks/service_greedy.py [--rounds 5] [--seconds 6]

`swell up` with one worker. One key sends bodies of up to 10 MiB as fast as it can, on 10
connections: more values than are read, and as many as are; strings of megabytes where a number
belongs, and where they belong; over the API and over every façade. Meanwhile another key asks for
no-op tasks, one after another, and waits for each. Both are measured in turns, alone and under
attack. Value: the p95 of the other key under attack, in times of its p95 alone; medians of all
rounds. It fails if `/health/live` took more than 0.5 s once, or nothing of the attack was answered.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from machine import folder, quiet, report, say
from open_load import percentile
from swell.simulator.pools import MODEL
from swell_system import Swell, started, task

CONNECTIONS = 10
BODY_BYTES = 10 * 1024 * 1024 - 1000
MAX_VALUES = 50_000
MOST_LIVE_S = 0.5
#: The sender yields to the server where both want the same core: it stands for another machine.
NICENESS = 10


def bodies() -> list[tuple[str, bytes]]:
    """What the greedy key sends, by path."""
    model = MODEL.encode()
    text = b"x" * (BODY_BYTES - 1000)
    found = []
    for n in (MAX_VALUES - 100, BODY_BYTES // 12):
        fields = b",".join(b'"%d":1' % number for number in range(n))
        given = b"{%s}" % fields
        found += [
            ("/v1/tasks", b'{"model":"%s","input":%s}' % (model, given)),
            ("/v1/tasks/batch", b'{"tasks":[{"model":"%s","input":%s}]}' % (model, given)),
            ("/v1/estimate", b'{"model":"%s","input":%s}' % (model, given)),
            ("/fal/queue/" + MODEL, b'{"a":%s}' % given),
            ("/replicate/v1/predictions", b'{"version":"%s","input":%s}' % (model, given)),
            ("/openai/v1/images/generations", b'{"model":"%s","a":%s}' % (model, given)),
            ("/v1/tasks", b'{"model":"%s","input":{"text":[%s1]}}' % (model, b"1," * n)),
        ]
    return [
        *found,
        ("/v1/tasks", b'{"model":"%s","input":{"text":"%s"}}' % (model, text)),
        ("/v1/tasks", b'{"model":"%s","input":{"text":"a"},"count":"%s"}' % (model, text)),
        ("/v1/tasks", b'{"model":"%s","input":{"text":"a","%s":1}}' % (model, text)),
        ("/v1/tasks", b'{"model":"%s","input":%s}' % (model, b"[" * len(text))),
    ]


def attack(port: int, key: str) -> None:
    """Sends them until its input ends, then says how often which status came."""
    os.nice(NICENESS)
    kinds = bodies()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    statuses: collections.Counter[str] = collections.Counter()
    over = threading.Event()

    def send(place: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not over.is_set():
            path, body = kinds[place % len(kinds)]
            place += CONNECTIONS // 3
            try:
                connection.request("POST", path, body, headers)
                response = connection.getresponse()
                response.read()
                statuses[str(response.status)] += 1
            except (OSError, http.client.HTTPException):
                statuses["broken"] += 1
                connection.close()

    threads = [threading.Thread(target=send, args=(n,), daemon=True) for n in range(CONNECTIONS)]
    print("ready", flush=True)
    sys.stdin.readline()
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join(60)
    print(json.dumps(statuses), flush=True)


@contextlib.contextmanager
def attacked(server: Swell, key: str) -> Iterator[collections.Counter[str]]:
    """Attacks a server meanwhile; the statuses are there afterwards."""
    statuses: collections.Counter[str] = collections.Counter()
    command = [sys.executable, __file__, "--attack", str(server.port), key]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdout.readline()
        sender.stdin.write("go\n")
        sender.stdin.flush()
        try:
            yield statuses
        finally:
            sender.stdin.close()
            statuses.update(json.loads(sender.stdout.readline() or "{}"))


def asked(server: Swell, seconds: float) -> list[float]:
    """How long tasks took until they were done, one after another, in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {**server.headers, "prefer": "wait=30"}
    body = json.dumps(task())
    took = []
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        began_s = time.monotonic()
        connection.request("POST", "/v1/tasks", body, headers)
        response = connection.getresponse()
        said = json.loads(response.read())
        took.append(time.monotonic() - began_s)
        if said.get("state") != "succeeded":
            raise RuntimeError(f"a no-op task: {response.status} {said}")
    connection.close()
    return took


class Alive:
    """Asks for `/health/live` twenty times a second."""

    def __init__(self, port: int) -> None:
        self.took_s: list[float] = []
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Alive:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.wait(0.05):
            began_s = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            connection.close()
            self.took_s.append(time.monotonic() - began_s)


def measured(rounds: int, seconds: float) -> dict[str, Any]:
    seen: dict[str, list[float]] = {"alone": [], "attacked": []}
    statuses: collections.Counter[str] = collections.Counter()
    live: dict[str, float] = {}
    with folder("greedy") as data, started("up", data, "--workers", "1") as server:
        keys = [
            server.ask("POST", "/v1/keys", {"name": name, "scopes": ["client"]})["key"]
            for name in ("greedy", "other")
        ]
        other = dataclasses.replace(server, key=keys[1])
        asked(other, 2)
        for number in range(rounds):
            with Alive(server.port) as alive:
                alone = asked(other, seconds)
            live["alone"] = max([live.get("alone", 0), *alive.took_s])
            with attacked(server, keys[0]) as answered, Alive(server.port) as alive:
                # Until the first bodies are there.
                asked(other, 1)
                under = asked(other, seconds)
            live["attacked"] = max([live.get("attacked", 0), *alive.took_s])
            statuses += answered
            for name, took in (("alone", alone), ("attacked", under)):
                seen[name].append(percentile(took, 0.95))
            say(f"round {number}: {len(alone)} and {len(under)} tasks, {seen}, {live}, {answered}")
    times = [under / alone for alone, under in zip(seen["alone"], seen["attacked"], strict=True)]
    return {
        "times": round(statistics.median(times), 2),
        "each": [round(each, 2) for each in times],
        "p95_ms": {name: round(statistics.median(each) * 1e3, 2) for name, each in seen.items()},
        "live_max_s": {name: round(each, 3) for name, each in live.items()},
        "answers": dict(sorted(statuses.items())),
        "connections": CONNECTIONS,
        "largest_bytes": max(len(body) for _, body in bodies()),
        "sender": f"another process on the same machine, niceness {NICENESS}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--attack", nargs=2, metavar=("PORT", "KEY"))
    chosen = parser.parse_args()
    if chosen.attack:
        attack(int(chosen.attack[0]), chosen.attack[1])
        return
    with quiet():
        found = measured(chosen.rounds, chosen.seconds)
    is_alive = found["live_max_s"]["attacked"] <= MOST_LIVE_S
    is_attacked = sum(count for status, count in found["answers"].items() if status != "broken")
    report(found["times"], found, ok=is_alive and is_attacked >= chosen.rounds)


if __name__ == "__main__":
    main()
