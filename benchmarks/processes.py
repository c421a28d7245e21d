"""Processes that a benchmark starts: each in its own session, ended by its pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

GRACE_S = 4.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    env: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command while the block lasts, its output in `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=options.pop("stdout", output),
            stderr=output,
            start_new_session=True,
            **options,
        )
    try:
        yield process
    finally:
        end(process, stop)


def end(process: subprocess.Popen[bytes], stop: signal.Signals = signal.SIGTERM) -> None:
    """Asks the process to stop, then ends whatever is left of the session it started."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(stop)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def pause(started: int) -> None:
    """Stops a process and its descendants where they are, until `resume`."""
    for pid in family(started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def resume(started: int) -> None:
    """Lets them go on, the youngest first: whoever watches over another one finds it alive."""
    for pid in reversed(family(started)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def until(ready: Callable[[], bool], limit_s: float, what: str, log: Path | None = None) -> None:
    """Waits for a condition.

    Raises:
      TimeoutError: with the end of the log, when it did not come true within `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.05)
    said = log.read_text(errors="replace")[-2000:] if log is not None and log.exists() else ""
    raise TimeoutError(f"{what} was not there after {limit_s:.0f} s\n{said}")


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def resident_bytes(pid: int) -> int:
    """The resident memory of one process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """The CPU time that one process has used, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family_cpu_s(started: int) -> float:
    """The CPU time of a process and all that it has started, those that have ended included."""
    total = 0
    for pid in family(started):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # User and system, its own and that of children whose end it has seen.
            total += sum(int(field) for field in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def listener(port: int, started: int) -> int:
    """The process that listens on a port, among one that was started and its descendants.

    Raises:
      LookupError: when none of them does.
    """
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if state == "0A" and int(local.split(":")[1], 16) == port:
            sockets.add(f"socket:[{rest[5]}]")
    for pid in family(started):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(file) in sockets:
                    return pid
    raise LookupError(f"nothing of process {started} listens on {port}")


def family(started: int) -> list[int]:
    """A process and its descendants, oldest generation first."""
    found = [started]
    for pid in found:
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in tasks.read_text().split()]
    return found
