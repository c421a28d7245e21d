"""What a worker says of itself in its health file, from its start to its end."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from commandline import PATIENCE_S, Swell, ready_line, stop

pytestmark = pytest.mark.slow

#: Goes on until there is a file.
MODEL = """
import time
from pathlib import Path

import swell


@swell.model("acme/gate")
def gate(file: str) -> str:
    ends_s = time.monotonic() + 60
    while not Path(file).exists() and time.monotonic() < ends_s:
        time.sleep(0.01)
    return "open"
"""


def until(condition: Callable[[], bool], what: str) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_s, what
        time.sleep(0.05)


def test_a_worker_that_drains_says_so(tmp_path: Path) -> None:
    (tmp_path / "gate.py").write_text(MODEL)
    gate, file = tmp_path / "open", tmp_path / "health"
    (tmp_path / "swell.toml").write_text(f'[worker]\nhealth_file = "{file}"\n')
    swell = Swell(tmp_path)
    serving = swell.start("serve", "--json", "--port", "0")
    try:
        url = ready_line(serving, tmp_path)["url"]
        key = swell.json("keys", "create", "worker", "--scope", "worker")["key"]
        working = swell.start("worker", "--url", url, "--token", key, "--models", "gate.py")
        try:
            until(lambda: bool(swell.json("workers")), "the worker does not join")
            task_id = swell.ok("tasks", "submit", "acme/gate", "-i", f"file={gate}").strip()

            def is_running() -> bool:
                return bool(swell.json("tasks", "show", task_id)["state"] == "running")

            until(is_running, "the task does not run")
            until(lambda: swell.json("health")["state"] == "working", "it does not work")
            working.send_signal(signal.SIGTERM)
            until(lambda: swell.json("health")["state"] == "draining", "it does not say so")
            gate.touch()
            assert working.wait(PATIENCE_S) == 0
            assert swell.json("tasks", "show", task_id)["state"] == "succeeded"
            ended = swell.run("health")
            assert ended.returncode == 1
            assert "it has ended" in ended.stderr
        finally:
            stop(working)
    finally:
        stop(serving)
