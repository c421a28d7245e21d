"""Adds up the metrics of several backend processes on one port.

A request for `/metrics` reaches one of the processes. So each process writes its metrics to a file
every two seconds, or less often if that takes long or no client scrapes them. The process that gets
the request adds the files of the others to its metrics.

Counters, histograms and the gauge of open event streams are added. For open files the largest value
counts, for the start time the earliest. Other gauges are the same in all processes, or belong to
one process. Files of ended processes still count, so that no counter decreases.
"""

import contextlib
import fcntl
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import psutil

from swell.core.clock import Clock

_EVERY_S: Final = 2.0

#: Writing takes at most 1/`_PARTS` of a process's time, but happens every `_RARELY_S` seconds at
#: least.
_PARTS: Final = 100
_RARELY_S: Final = 5.0

#: Metrics are written rarely if the last request for them is older, in seconds.
_ASKED_S: Final = 120.0

#: A file that is older belongs to a process that hangs or has ended, in seconds.
_STALE_S: Final = 10.0

_TYPE: Final = re.compile(r"# TYPE (\S+) (\S+)")

#: Gauges of one process → how to combine those of all live processes. Each process has a separate
#: limit of open files, so the largest number counts.
_OF_ALL_LIVE: Final[Mapping[str, Callable[[float, float], float]]] = {
    "swell_event_streams": operator.add,
    "process_open_fds": max,
}

#: Start time; the earliest counts, also of an ended process.
_SINCE: Final = "process_start_time_seconds"


class Tally:
    """The metrics files of all processes.

    Args:
        folder: The folder of the files.
        clock: The time.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._own = folder / f"{os.getpid()}.prom"
        #: Its modification time is the time of the last request.
        self._asked = folder / "asked"

    def clear(self) -> None:
        """Delete all files at the start of the service."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (*self._folder.glob("*.prom"), self._asked):
            path.unlink(missing_ok=True)

    def fold(self) -> None:
        """Merge the files of ended processes into one."""
        with self._locked(fcntl.LOCK_EX):
            gone = self._folder / "0.prom"
            ended = [
                path
                for path in self._folder.glob("*.prom")
                if path != gone and not psutil.pid_exists(int(path.stem))
            ]
            if ended:
                texts = [path.read_text() for path in (*ended, gone) if path.exists()]
                self._write(gone, added_up(texts[0], texts[1:], []))
                for path in ended:
                    path.unlink()

    async def keep(self, text: Callable[[], bytes]) -> None:
        """Write this process's metrics to its file repeatedly."""
        while True:
            began_s = self._clock.monotonic_s()
            self.write(text())
            took_s = self._clock.monotonic_s() - began_s
            often_s = max(_EVERY_S, _PARTS * took_s) if self._is_asked() else _RARELY_S
            await self._clock.sleep(min(often_s, _RARELY_S))

    def _is_asked(self) -> bool:
        with contextlib.suppress(OSError):
            return self._asked.stat().st_mtime > self._clock.now().timestamp() - _ASKED_S
        return False

    def write(self, text: bytes) -> None:
        """Write this process's metrics to its file."""
        with contextlib.suppress(OSError):  # a full disk must not stop the process
            self._write(self._own, text.decode())

    def together(self, text: bytes) -> bytes:
        """Return this process's metrics with those of the others added."""
        now_s = self._clock.now().timestamp()
        with contextlib.suppress(OSError):
            self._asked.touch()
            os.utime(self._asked, (now_s, now_s))
        with self._locked(fcntl.LOCK_SH):
            others = [path for path in self._folder.glob("*.prom") if path != self._own]
            oldest = now_s - _STALE_S
            fresh: list[str] = []
            stale: list[str] = []
            for path in others:
                with contextlib.suppress(FileNotFoundError):
                    is_fresh = path.stat().st_mtime > oldest
                    (fresh if is_fresh else stale).append(path.read_text())
        return added_up(text.decode(), stale, fresh).encode()

    def _write(self, path: Path, text: str) -> None:
        draft = path.with_suffix(".new")
        draft.write_text(text)
        draft.replace(path)

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with (self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, how)
            yield


def added_up(own: str, ended: Iterable[str], live: Iterable[str]) -> str:
    """Add up metrics in the text format of Prometheus. Pure.

    Args:
        own: Metrics of this process; most gauges are taken from here.
        ended: Metrics of processes that have ended or hang.
        live: Metrics of live processes; some of their gauges count too.
    """
    parts = _parse(own)
    for texts, is_live in ((ended, False), (live, True)):
        for text in texts:
            for name, (head, kind, values) in _parse(text).items():
                together = _together(name, kind, is_live)
                if together is None:
                    continue
                mine = parts.setdefault(name, (head, kind, {}))[2]
                for sample, value in values.items():
                    mine[sample] = together(mine[sample], value) if sample in mine else value
    lines: list[str] = []
    for head, _, values in parts.values():
        lines += head
        lines += [f"{sample} {value!r}" for sample, value in values.items()]
    return "\n".join(lines) + "\n"


def _together(name: str, kind: str, is_live: bool) -> Callable[[float, float], float] | None:
    """Return the function that combines two processes' values; None to keep the own value."""
    if kind in ("counter", "histogram"):
        return operator.add
    if name == _SINCE:
        return min
    return _OF_ALL_LIVE.get(name) if is_live else None


#: A metric: its comments, its type, and the values of its samples by name and labels.
_Family = tuple[list[str], str, dict[str, float]]


def _parse(text: str) -> dict[str, _Family]:
    """Parse the text format into metrics by name, in order."""
    found: dict[str, _Family] = {}
    comments: list[str] = []
    current: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            comments.append(line)
            told = _TYPE.match(line)
            if told is not None:
                current = {}
                found[told[1]] = (comments, told[2], current)
                comments = []
        elif line:
            sample, _, value = line.rpartition(" ")
            current[sample] = float(value)
    return found
