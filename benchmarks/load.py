"""Closed-loop HTTP load: N keep-alive connections POST one body for T seconds, through wrk.

wrk spends a few microseconds per request, which matters where it shares the cores with the
system under load. Answers are read for their status only; `check` reads them in full, and runs
outside the timed loop.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from services import need

SCRIPT = """
wrk.method = "POST"
wrk.body = %(body)s
%(headers)s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nwrk:{"requests":%%d,"duration_us":%%d,"p50_us":%%d,"p99_us":%%d,"max_us":%%d,'
    .. '"status":%%d,"connect":%%d,"read":%%d,"write":%%d,"timeout":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, e.status, e.connect, e.read, e.write, e.timeout))
end
"""


@dataclass(frozen=True)
class Target:
    """Where one no-op task is posted, and how its answer shows that it ran.

    `states` counts the tasks in the system's own store, where it has one that can be asked.
    """

    port: int
    path: str
    body: Mapping[str, Any]
    answer: Callable[[int, Any], bool]
    headers: Mapping[str, str] = field(default_factory=dict)
    states: Callable[[], Mapping[str, int]] | None = None

    def all_headers(self) -> dict[str, str]:
        return {"content-type": "application/json", **self.headers}


@dataclass(frozen=True)
class Load:
    """What one run of load saw; `bad` counts answers of 400 and above and socket errors."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    bad: int

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds


def drive(target: Target, connections: int, seconds: float) -> Load:
    """Loads a target from one thread for a bounded time.

    Raises:
      RuntimeError: when wrk printed no summary.
    """
    headers = "\n".join(
        f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in target.all_headers().items()
    )
    script = SCRIPT % {"body": json.dumps(json.dumps(target.body)), "headers": headers}
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        size = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
        url = f"http://127.0.0.1:{target.port}{target.path}"
        ran = subprocess.run(
            [str(need("wrk")), *size, "-s", file.name, url],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=False,
        )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("wrk:")]
    if not lines:
        raise RuntimeError(f"wrk printed no summary: {ran.stdout[-500:]} {ran.stderr[-500:]}")
    return _load(json.loads(lines[0].removeprefix("wrk:")))


def check(target: Target, requests: int = 100, connections: int = 8) -> int:
    """Posts over a few connections, reads every answer, and says how many there were.

    Raises:
      ValueError: at the first answer that does not contain the task's result.
    """
    body = json.dumps(target.body)

    def several(count: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=40)
        for _ in range(count):
            connection.request("POST", target.path, body, target.all_headers())
            response = connection.getresponse()
            text = response.read()
            if response.status >= 400 or not target.answer(response.status, json.loads(text)):
                raise ValueError(f"{response.status} {text[:500]!r} is not the task's result")
        connection.close()

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(several, [requests // connections] * connections))
    return requests // connections * connections


def _load(seen: dict[str, int]) -> Load:
    return Load(
        requests=seen["requests"],
        seconds=seen["duration_us"] / 1e6,
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        max_ms=seen["max_us"] / 1e3,
        bad=sum(seen[kind] for kind in ("status", "connect", "read", "write", "timeout")),
    )
