"""Provider for processes on this machine that outlive the controller.

It behaves like a cloud: a restarted controller finds its instances again, and a repeated request
returns the existing ones. Each instance has small files in a folder, named after its id:

| file | content |
|---|---|
| `.json` | owner and launch time; written before the process starts |
| `.pid` | process id and start time by the kernel, written by the process |
| `.up` | exists once the boot delay has ended and the worker's command runs |
| `.end` | time to kill the process, after `terminate` |
| `.ended` | time and exit code of the end |
| `.log` | output, readable only by this user |
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from swell.core.clock import Clock
from swell.core.errors import Unavailable
from swell.core.provider import (
    ASKED_AT,
    INSTANCE_ID,
    Instance,
    InstanceState,
    LaunchRequest,
    Notice,
)
from swell.providers.marks import Marks

T = TypeVar("T")

#: Limit of listed ended instances.
_REMEMBERED: Final = 100

#: An instance without a process counts as ended after this time, in seconds.
_LOST_S: Final = 10.0

#: Arguments: prefix of the file paths, boot delay, worker's command. Field 22 of `/proc/PID/stat`
#: is the start time; field 2, in brackets, may contain spaces.
_BOOT: Final = """
set -e
base=$1 delay=$2 born=
shift 2
take_born() { shift 19; born=$1; }
if [ -r /proc/$$/stat ]; then
  read -r stat < /proc/$$/stat
  take_born ${stat##*)}
fi
echo $$ $born > "$base.pid.new"
mv "$base.pid.new" "$base.pid"
if [ -e "$base.end" ] || [ -e "$base.ended" ]; then exit 143; fi
if [ "$delay" != 0 ]; then sleep "$delay"; fi
: > "$base.up"
exec "$@"
"""


class _Record(msgspec.Struct, frozen=True):
    id: str
    deployment: str
    pool: str
    token: str
    asked_at: datetime


class _Process(NamedTuple):
    pid: int
    #: Start time in kernel ticks; empty if unknown. It detects a reused process id.
    born: str = ""


class _Ended(msgspec.Struct, frozen=True):
    at: datetime
    exit_code: int | None = None


class DetachedProvider:
    """Starts processes that lead their own sessions, and finds them again by their files.

    Args:
        clock: The clock.
        folder: Folder of the files. Other providers with the same folder and deployment share them.
        environment: Environment of every process; the request's variables override it.
        deployment: Name of the deployment that owns the processes.
        boot_delay_s: Delay before a process becomes the worker, in seconds.
    """

    def __init__(
        self,
        clock: Clock,
        folder: Path,
        environment: Mapping[str, str],
        *,
        deployment: str = "swell",
        boot_delay_s: float = 0.0,
    ) -> None:
        self._clock = clock
        self._folder = folder
        self._environment = dict(environment)
        self._deployment = deployment
        self._boot_delay_s = boot_delay_s
        #: Instance id to the pid of a running child process.
        self._children: dict[str, int] = {}
        #: Exit codes of ended children without an `.ended` file.
        self._codes: dict[str, int] = {}
        self._killers: set[asyncio.Task[None]] = set()
        self.tidies = True
        # Held by threads that list, launch or terminate.
        self._lock = threading.Lock()

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Start processes.

        Raises:
            Unavailable: The command cannot be run.
        """
        now = self._clock.now()
        return await asyncio.to_thread(self._launch, request, now)

    async def instances(self, pool: str | None = None) -> list[Instance]:
        found = await asyncio.to_thread(self._list, self._clock.now())
        return [each for each in found if pool is None or each.pool == pool]

    async def notices(self) -> list[Notice]:
        """Return nothing: processes are never reclaimed."""
        return []

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Send SIGTERM, and SIGKILL to the whole process group after `grace_s` seconds.

        A repeated call has an effect only with an earlier deadline: the second SIGTERM makes the
        worker hurry. A process that is still booting is killed at once.
        """
        now = self._clock.now()
        told = await asyncio.to_thread(self._terminate, instance_ids, now, grace_s)
        if told:
            killer = asyncio.create_task(self._kill_later(grace_s))
            self._killers.add(killer)
            killer.add_done_callback(self._killers.discard)

    async def close(self) -> None:
        """Stop the timers. The processes keep running."""
        for killer in self._killers:
            killer.cancel()
        await asyncio.gather(*self._killers, return_exceptions=True)

    def log_path(self, instance_id: str) -> Path:
        """Return the log file of an instance."""
        return self._file(instance_id, "log")

    def pid(self, instance_id: str) -> int | None:
        """Return the process id of a running instance."""
        process = self._process(instance_id)
        return process.pid if process is not None and _lives(process, instance_id) else None

    # The methods below run in threads.

    def _launch(self, request: LaunchRequest, now: datetime) -> list[Instance]:
        marks = Marks.of(self._deployment, request, now)
        name = marks.name()
        with self._lock:
            self._make_folder()
            for number in range(request.n):
                self._start(_Record(f"{name}-{number}", *_whose(marks), now), request)
        wanted = {f"{name}-{number}" for number in range(request.n)}
        return [each for each in self._list(now) if each.id in wanted]

    def _start(self, record: _Record, request: LaunchRequest) -> None:
        try:
            descriptor = os.open(
                self._file(record.id, "json"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
            )
        except FileExistsError:
            return  # a repeated request
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(record))
        own = {INSTANCE_ID: record.id, ASKED_AT: record.asked_at.isoformat()}
        delay = f"{self._boot_delay_s:g}"
        base = str(self._folder.absolute() / record.id)
        log, flags = f"{base}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _BOOT, "sh", base, delay, *request.command],
                self._environment | dict(request.environment) | own,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
        except OSError as error:
            self._file(record.id, "json").unlink(missing_ok=True)
            raise Unavailable(f"cannot run a shell: {error.strerror}") from error
        self._children[record.id] = pid

    def _list(self, now: datetime) -> list[Instance]:
        with self._lock:
            self._reap()
            found = [self._seen(each, now) for each in self._records()]
            if self.tidies:
                self._forget_old(found)
        return sorted(found, key=lambda each: (each.launched_at, each.id))

    def _seen(self, record: _Record, now: datetime) -> Instance:
        instance = Instance(
            id=record.id,
            pool=record.pool,
            state=InstanceState.STARTING,
            launched_at=record.asked_at,
            token=record.token,
        )
        ended = self._read(record.id, "ended", _Ended)
        if ended is None and self._has_ended(record, now):
            ended = _Ended(max(now, record.asked_at), self._codes.get(record.id))
            if self.tidies:
                self._codes.pop(record.id, None)
                self._write(record.id, "ended", ended)
                self._kill(record)  # a process that started late, before it could read `.ended`
        if ended is not None:
            return msgspec.structs.replace(
                instance, state=InstanceState.ENDED, ended_at=ended.at, exit_code=ended.exit_code
            )
        kill_at = self._read(record.id, "end", datetime)
        if kill_at is not None:
            if now >= kill_at and self.tidies:
                self._kill(record)
            return msgspec.structs.replace(instance, state=InstanceState.STOPPING)
        if self._file(record.id, "up").exists():
            return msgspec.structs.replace(instance, state=InstanceState.RUNNING)
        return instance

    def _has_ended(self, record: _Record, now: datetime) -> bool:
        if record.id in self._children:
            return False  # `_reap` has not seen its end
        process = self._process(record.id)
        if process is None:
            return now >= record.asked_at + timedelta(seconds=_LOST_S)
        return not _lives(process, record.id)

    def _kill(self, record: _Record) -> None:
        process = self._process(record.id)
        if process is not None and _lives(process, record.id):
            _signal_group(process.pid)

    def _terminate(self, ids: Sequence[str], now: datetime, grace_s: float) -> bool:
        with self._lock:
            living = [each for each in self._records() if each.id in ids and self._may_live(each)]
            told = [self._tell_to_end(each, now, grace_s) for each in living]
        return any(told)

    def _may_live(self, record: _Record) -> bool:
        if self._read(record.id, "ended", _Ended) is None:
            return True
        if self.pid(record.id) is None:
            return False
        # The process runs in spite of the file, and its real end must be recorded.
        self._file(record.id, "ended").unlink(missing_ok=True)
        return True

    def _tell_to_end(self, record: _Record, now: datetime, grace_s: float) -> bool:
        known = self._read(record.id, "end", datetime)
        has_begun = self._file(record.id, "up").exists()
        kill_at = now + timedelta(seconds=grace_s if has_begun else 0.0)
        if known is not None and known <= kill_at:
            return False
        self._write(record.id, "end", kill_at)
        # Read after the write: a process that starts later sees the `.end` file.
        pid = self.pid(record.id)
        if pid is None:
            return False
        if not has_begun:
            _signal_group(pid)
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
        return True

    def _reap(self) -> None:
        """Reap ended children, and keep their exit codes."""
        for each, pid in list(self._children.items()):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                self._children.pop(each)
                continue
            if ended:
                # The worker's children must not outlive it.
                _signal_group(pid)
                self._codes[each] = os.waitstatus_to_exitcode(status)
                self._children.pop(each)

    def _records(self) -> list[_Record]:
        found = []
        for path in self._folder.glob("*.json"):
            record = self._read(path.stem, "json", _Record)
            if record is not None and record.deployment == self._deployment:
                found.append(record)
        return found

    def _forget_old(self, found: list[Instance]) -> None:
        ended = sorted(
            (each for each in found if each.ended_at is not None),
            key=lambda each: each.ended_at or each.launched_at,
        )
        for each in ended[:-_REMEMBERED]:
            for path in self._folder.glob(f"{each.id}.*"):
                path.unlink(missing_ok=True)
            found.remove(each)

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{self._folder} cannot be made: {error.strerror}") from error

    def _file(self, instance_id: str, kind: str) -> Path:
        return self._folder / f"{instance_id}.{kind}"

    def _process(self, instance_id: str) -> _Process | None:
        try:
            pid, *born = self._file(instance_id, "pid").read_text().split()
            return _Process(int(pid), *born[:1])
        except (OSError, ValueError):
            return None

    def _read(self, instance_id: str, kind: str, what: type[T]) -> T | None:
        try:
            return msgspec.json.decode(self._file(instance_id, kind).read_bytes(), type=what)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, instance_id: str, kind: str, value: object) -> None:
        fresh = self._file(instance_id, f"{kind}.new")
        fresh.write_bytes(msgspec.json.encode(value))
        fresh.rename(self._file(instance_id, kind))

    async def _kill_later(self, grace_s: float) -> None:
        await self._clock.sleep(grace_s)
        await self.instances()  # kills the processes past their deadline


def _whose(marks: Marks) -> tuple[str, str, str]:
    return marks.deployment, marks.pool, marks.token


def _lives(process: _Process, instance_id: str) -> bool:
    """Return whether a process runs and belongs to this instance.

    The start time decides. Without one, the environment does, which is less reliable: it is empty
    during `exec`, and some programs overwrite it.
    """
    if not Path("/proc/self").exists():
        return _is_there(process.pid)
    born = _born(process.pid)
    if born is None or process.born:
        return born == process.born
    try:
        told = Path(f"/proc/{process.pid}/environ").read_bytes()
    except OSError:
        return False  # owned by another user, or ended
    return not told or f"{INSTANCE_ID}={instance_id}".encode() in told.split(b"\0")


def _born(pid: int) -> str | None:
    """Return the start time of a process in kernel ticks; None if it has ended."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *more = told.rpartition(")")[2].split()
    return None if state in "ZX" else more[18]


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _signal_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
