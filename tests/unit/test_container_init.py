"""The first process of a container, as the reaper of its own descendants."""

import ctypes
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from swell.core.clock import since_boot_s

PATIENCE_S = 20.0

#: Beneath a process with this flag orphans are given to it, as to the first one of a container.
_SUBREAPER = 36


def _prepare() -> None:
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` would have it ignored.


@contextmanager
def first_process(*command: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "swell.containers.init", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_prepare,
    ) as process:
        try:
            yield process
        finally:
            # Killed at once it would leave its command behind.
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()


def until(condition: Callable[[], bool], what: str) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_s, what
        time.sleep(0.01)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_it_ends_as_its_command_ends(script: str, code: int) -> None:
    with first_process("sh", "-c", script) as process:
        assert process.wait(PATIENCE_S) == code


def test_a_command_that_is_not_there_is_told() -> None:
    with first_process("/nothing/like/this") as process:
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 127
        assert said == "/nothing/like/this cannot be run: No such file or directory\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_command(number: signal.Signals) -> None:
    script = f"trap 'echo heard; exit 3' {number.value}; echo ready; while :; do sleep 0.05; done"
    with first_process("sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "heard\n"
        assert process.wait(PATIENCE_S) == 3


#: Counts SIGINT, and ends with SIGUSR1; says whether the terminal is its own.
_COUNTS = """
import os, signal
seen = {signal.SIGINT, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, seen)
mine = os.tcgetpgrp(0) == os.getpgrp() == os.getpid()
print(f"ready {mine}", flush=True)
heard = 0
while signal.sigwait(seen) == signal.SIGINT:
    heard += 1
    print(f"heard {heard}", flush=True)
print(f"in all {heard}", flush=True)
"""


def line_of(terminal: int) -> str:
    """The next line that a terminal shows."""
    said = b""
    while not said.endswith(b"\n"):
        assert select.select([terminal], [], [], PATIENCE_S)[0], said
        said += os.read(terminal, 1)
    return said.decode().strip()


def test_ctrl_c_at_a_terminal_reaches_the_command_once() -> None:
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - another process
        words = ["-m", "swell.containers.init", sys.executable, "-c", _COUNTS]
        os.execv(sys.executable, [sys.executable, *words])
    try:
        assert line_of(terminal) == "ready True"
        os.write(terminal, b"\x03")
        # The terminal shows what is typed.
        assert line_of(terminal) == "^Cheard 1"
        # Whatever was passed on comes before this.
        os.kill(pid, signal.SIGUSR1)
        assert line_of(terminal) == "in all 1"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)


@pytest.mark.slow
def test_orphans_are_buried_and_the_command_goes_on() -> None:
    # A child that starts a grandchild and ends at once, so that nobody waits for the grandchild.
    script = "(sleep 0.2 & echo $!); echo ready; read line; exit 5"
    with first_process("sh", "-c", script) as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        until(lambda: not psutil.pid_exists(orphan), "the orphan stays as a zombie")
        assert process.poll() is None
        assert process.communicate("go on\n", timeout=PATIENCE_S) == ("", "")
        assert process.returncode == 5


def test_it_notes_when_the_container_began(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f"import json, os; open({str(told)!r}, 'w').write(json.dumps(dict(os.environ)))"
    before_s = since_boot_s()
    assert before_s is not None
    with first_process(sys.executable, "-c", script) as process:
        assert process.wait(PATIENCE_S) == 0
    variables, after_s = json.loads(told.read_text()), since_boot_s()
    assert after_s is not None
    assert before_s - 1e-6 <= float(variables["SWELL_WORKER__BEGAN_BOOT_S"]) <= after_s
    # No wall clock is passed on, which may be set at any moment.
    assert "SWELL_WORKER__BEGAN_AT" not in variables


def test_what_an_environment_says_of_another_container_is_written_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "SWELL_WORKER__BEGAN_BOOT_S", "1.5")
    with first_process("printenv", "SWELL_WORKER__BEGAN_BOOT_S") as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert float(said) > 1.5
