"""Numbers of several backend processes on one port, added up.

Whoever asks for `/metrics` reaches one of them. So each writes its numbers to a file every two
seconds, or less often where that takes long or nobody asks, and the one that is asked adds those of
the others to its own: counters and histograms, and the open event streams. Of open files and of
starts one number stands for all, so that it does not depend on who was asked. Other gauges are the
same for all, or the process's own. A process that has ended still counts, so that no counter goes
back while the service runs.
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

#: It takes no more than one part of so many of a process's time, unless that makes the numbers too
#: old, in seconds.
_PARTS: Final = 100
_RARELY_S: Final = 5.0

#: If nobody has asked for so long, numbers are written rarely, in seconds.
_ASKED_S: Final = 120.0

#: A file that was not written for so long is one of a process that hangs or has ended, in seconds.
_STALE_S: Final = 10.0

_TYPE: Final = re.compile(r"# TYPE (\S+) (\S+)")

#: Gauges that are each process's own and make sense for all that live: their sum, or the most,
#: since each has a limit of its own.
_OF_ALL_LIVE: Final[Mapping[str, Callable[[float, float], float]]] = {
    "swell_event_streams": operator.add,
    "process_open_fds": max,
}

#: When the first process of the service started; it may have ended since.
_SINCE: Final = "process_start_time_seconds"


class Tally:
    """The files of all processes.

    Args:
        folder: Where they lie.
        clock: The time.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._own = folder / f"{os.getpid()}.prom"
        #: Its time is when somebody asked last.
        self._asked = folder / "asked"

    def clear(self) -> None:
        """Forget all that was counted: the service starts."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (*self._folder.glob("*.prom"), self._asked):
            path.unlink(missing_ok=True)

    def fold(self) -> None:
        """Make one file of those of processes that have ended."""
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
        """Write this process's numbers down for the others, again and again."""
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
        """Write this process's numbers down."""
        with contextlib.suppress(OSError):  # A full disk must stop nothing.
            self._write(self._own, text.decode())

    def together(self, text: bytes) -> bytes:
        """Return this process's numbers, with those of the others added."""
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
    """Return numbers in the text format of Prometheus, with those of other processes added. Pure.

    Args:
        own: Whose gauges stand.
        ended: Of processes that have ended or hang.
        live: Of processes whose open event streams and files count too.
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
    """Return what makes one number of two processes'; None where one's own stands."""
    if kind in ("counter", "histogram"):
        return operator.add
    if name == _SINCE:
        return min
    return _OF_ALL_LIVE.get(name) if is_live else None


#: A metric: its comments, its type, and the values of its samples by name and labels.
_Family = tuple[list[str], str, dict[str, float]]


def _parse(text: str) -> dict[str, _Family]:
    """Return metrics by name, in order."""
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
