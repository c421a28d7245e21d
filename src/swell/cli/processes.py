"""`swell serve --workers N`: a supervisor with backend processes that share one port.

The supervisor opens the socket once, and the processes inherit it. A pending connection belongs to
all of them, so none is refused when a process ends or restarts. The process with the fewest
connections accepts most of the new ones (`server.paced_accept`). The supervisor itself answers no
requests. If it dies, the processes read the end of their standard input, and end too.

| signal | effect |
|---|---|
| SIGTERM, SIGINT | all processes finish open requests and end; a second signal hangs up |
| SIGHUP | processes are replaced one by one, with new settings and a new certificate |
| SIGHUP to a process | it loads its certificate again |
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import structlog

from swell.bootstrap.autoscaler import check_token
from swell.bootstrap.backend import build_backend, close_backend
from swell.bootstrap.extras import Unusable
from swell.bootstrap.storage import is_shared
from swell.cli.keyring import Keyring, open_keyring
from swell.cli.output import CommandFailed
from swell.cli.output import data as stdout
from swell.cli.scaling import scaled
from swell.cli.service import (
    Interrupts,
    listen,
    local_url_of,
    locked_folder,
    open_service,
    url_of,
)
from swell.cli.tally import Tally
from swell.cli.tls import open_tls, read_again_at_hangup, tell_fingerprint
from swell.core.clock import Clock
from swell.settings.load import Settings

_log = structlog.get_logger("swell.processes")

#: Longest time for a process to become ready, in seconds.
_START_S: Final = 60.0
#: A process is killed if it has not ended this long after `server.drain_s`, in seconds.
_STOP_S: Final = 15.0
#: A process that ends sooner is restarted after a pause, in seconds.
_STEADY_S: Final = 10.0
_PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
#: Interval for repeating the second SIGTERM until all have ended, in seconds.
_INSIST_S: Final = 0.5


def check_shareable(settings: Settings) -> None:
    """Check that several processes can share the configured database and files.

    Raises:
        Unusable: The database or the files belong to one process.
    """
    if not is_shared(settings):
        raise Unusable(
            f"{settings.server.processes} backend processes need a store that they can share: set "
            "store.url to postgresql://USER@HOST/DATABASE, or start one process (--workers 1)"
        )
    if settings.objects.url == "memory:":
        raise Unusable(
            "objects.url memory: lives in one process: take a folder or a bucket, or start one "
            "process (--workers 1)"
        )


async def run_processes(
    settings: Settings,
    clock: Clock,
    command: Sequence[str],
    on_ready: Callable[[Keyring], Awaitable[object]],
) -> None:
    """Run the backend in several processes until a signal comes.

    Args:
        settings: The settings.
        clock: The time.
        command: Command that starts a process; the option for the socket is added.
        on_ready: Called once when all processes are ready.

    Raises:
        Unusable: Several processes cannot share the database or the files.
        Conflict: Another backend runs on the same data folder.
        CommandFailed: The port is taken, or a process does not start.
    """
    check_shareable(settings)
    check_token(settings)
    interrupts = Interrupts()
    interrupts.install()
    reload = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)
    with locked_folder(settings), contextlib.closing(listen(settings)) as listener:
        tally_of(settings, clock).clear()
        # Apply migrations, and create keys and certificate, before the processes start.
        tls = await open_tls(settings, clock)
        ca_file = "" if tls is None else str(tls.cert.absolute())
        local_url = local_url_of(listener, is_tls=tls is not None)
        url = url_of(settings, local_url)
        members = Members(settings, clock, command, listener.fileno())
        try:
            backend = await build_backend(settings, clock)
            try:
                async with open_keyring(
                    backend, settings.data_dir, url, local_url, ca_file=ca_file
                ) as keyring:
                    await members.start()
                    tell_fingerprint(tls)
                    await on_ready(keyring)
            finally:
                await close_backend(backend)
            await members.keep(interrupts, reload)
        finally:
            await members.stop(interrupts.second)


class Members:
    """The processes on one port."""

    def __init__(
        self, settings: Settings, clock: Clock, command: Sequence[str], descriptor: int
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._command = command
        self._descriptor = descriptor
        self._members: list[_Member] = []
        #: Replaced processes that have not ended yet.
        self._leaving: set[_Member] = set()

    def _new_member(self) -> "_Member":
        return _Member(self._clock, self._command, self._descriptor)

    async def start(self) -> None:
        """Start all processes, and wait until they are ready.

        Raises:
            CommandFailed: A process does not become ready.
        """
        self._members = [self._new_member() for _ in range(self._settings.server.processes)]
        for member in self._members:
            await member.start()
        for member in self._members:
            if not await member.is_ready():
                raise CommandFailed("a backend process does not start: its log above says why")

    async def keep(self, interrupts: Interrupts, reload: asyncio.Event) -> None:
        """Restart processes that end, and replace all on SIGHUP, until a stop signal."""
        stop = asyncio.create_task(interrupts.first.wait())
        keeping = [asyncio.create_task(self._keep_one(n)) for n in range(len(self._members))]
        keeping.append(asyncio.create_task(self._replace_when_asked(reload)))
        try:
            await asyncio.wait({stop, *keeping}, return_when=asyncio.FIRST_COMPLETED)
            for each in keeping:
                if each.done():
                    each.result()
        finally:
            for task in (stop, *keeping):
                task.cancel()
            await asyncio.gather(stop, *keeping, return_exceptions=True)

    async def stop(self, hurry: asyncio.Event) -> None:
        """End all processes; they hang up on clients when `hurry` is set."""
        members = {*self._members, *self._leaving}
        stopping = asyncio.gather(*(member.stop(self._patience_s) for member in members))
        insisting = asyncio.create_task(self._insist(members, hurry))
        try:
            await stopping
        finally:
            insisting.cancel()
            await asyncio.gather(insisting, return_exceptions=True)

    async def _insist(self, members: "Iterable[_Member]", hurry: asyncio.Event) -> None:
        """Send SIGTERM repeatedly once `hurry` is set, because close signals may merge into one."""
        await hurry.wait()
        while True:
            for member in members:
                member.terminate()
            await self._clock.sleep(_INSIST_S)

    @property
    def _patience_s(self) -> float:
        return self._settings.server.drain_s + _STOP_S

    async def _keep_one(self, place: int) -> None:
        """Restart the process at a place whenever it ends by itself."""
        failures = 0
        while True:
            member = self._members[place]
            code = await member.wait()
            if member is not self._members[place]:
                continue  # it was replaced
            failures = 0 if member.lived_s() > _STEADY_S else failures + 1
            pause_s = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
            _log.error("a backend process has ended", pid=member.pid, code=code, again_in_s=pause_s)
            await self._clock.sleep(pause_s)
            if member is not self._members[place]:
                continue
            await self._start_again(place)

    async def _start_again(self, place: int) -> None:
        """Start a new process at a place; retry while the system cannot start one."""
        before = self._members[place]
        fresh = self._new_member()
        failures = 0
        while self._members[place] is before:
            try:
                await fresh.start()
            except OSError as error:
                failures += 1
                pause_s = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
                _log.error(
                    "a backend process cannot be started", reason=str(error), again_in_s=pause_s
                )
                await self._clock.sleep(pause_s)
                continue
            if self._members[place] is before:
                self._members[place] = fresh
                return
        # `_replace_all` has put another process there.
        await fresh.stop(0.0)

    async def _replace_when_asked(self, reload: asyncio.Event) -> None:
        """Replace all processes at each SIGHUP, also one that arrives during a replacement."""
        while True:
            await reload.wait()
            reload.clear()
            try:
                await self._replace_all()
            except OSError as error:
                _log.error("a new backend process cannot be started", reason=str(error))

    async def _replace_all(self) -> None:
        """Replace the processes one by one; an old one ends when the new one is ready."""
        for place in range(len(self._members)):
            fresh = self._new_member()
            await fresh.start()
            try:
                if not await fresh.is_ready():
                    _log.error("a new backend process does not start: the old ones keep running")
                    return
                before, self._members[place] = self._members[place], fresh
            except BaseException:
                await fresh.stop(0.0)
                raise
            self._leaving.add(before)
            await before.stop(self._patience_s)
            self._leaving.discard(before)
        _log.info("all backend processes were replaced", n=len(self._members))


class _Member:
    """One backend process."""

    def __init__(self, clock: Clock, command: Sequence[str], descriptor: int) -> None:
        self._clock = clock
        self._command = command
        self._descriptor = descriptor
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[bool] | None = None
        self._started_s = 0.0
        self._is_asked = False

    @property
    def pid(self) -> int:
        """Process id."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process, which inherits the shared socket.

        Raises:
            OSError: The system cannot start a process.
        """
        self._started_s = self._clock.monotonic_s()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            "--fd",
            str(self._descriptor),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[self._descriptor],
            # Ctrl-C reaches only the supervisor, which forwards it.
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read())

    async def is_ready(self) -> bool:
        """Wait until the process serves; False if it ends or takes too long."""
        assert self._reading is not None, "it was started"
        done, _ = await asyncio.wait({self._reading}, timeout=_START_S)
        if not done:
            self.terminate()
        return bool(done) and self._reading.result()

    async def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        assert self._process is not None, "it was started"
        return await self._process.wait()

    def lived_s(self) -> float:
        """Return the seconds since the start."""
        return self._clock.monotonic_s() - self._started_s

    def terminate(self) -> None:
        """Send SIGTERM; at the second one, the process hangs up on clients."""
        self._is_asked = True
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def stop(self, patience_s: float) -> None:
        """Send the first SIGTERM if none was sent, wait, and kill the process after a timeout."""
        if self._process is None:
            return
        if not self._is_asked:
            self.terminate()
        try:
            async with asyncio.timeout(patience_s):
                await self._process.wait()
        except TimeoutError:
            _log.error("a backend process did not end, and is killed", pid=self.pid)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> bool:
        """Wait for the ready line; False if the process ends before."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        return bool(line)


async def run_member(settings: Settings, clock: Clock, descriptor: int) -> None:
    """Serve on an inherited socket until a signal arrives or the supervisor ends.

    Args:
        settings: The settings.
        clock: The time.
        descriptor: The file descriptor of the shared socket.
    """
    structlog.contextvars.bind_contextvars(process=os.getpid())
    interrupts = Interrupts()
    interrupts.install()
    shared = socket.socket(fileno=descriptor)
    shared.setblocking(False)
    tally = tally_of(settings, clock)
    tally.fold()
    async with (
        open_service(
            settings, clock, hurry=interrupts.second, shared=shared, tally=tally
        ) as service,
        scaled(settings, clock, service, "", interrupts) as scaling,
    ):
        read_again_at_hangup(service.tls)
        api = service.app.service

        def numbers() -> bytes:
            return api.metrics.text({"swell_event_streams": {(): len(api.streams)}})

        stdout.print(json.dumps({"ready": True}), markup=False)
        stdout.file.flush()
        stop = asyncio.create_task(interrupts.first.wait())
        orphaned = asyncio.create_task(_input_ends())
        counting = asyncio.create_task(tally.keep(numbers))
        await asyncio.wait(
            {stop, orphaned, scaling, service.serving}, return_when=asyncio.FIRST_COMPLETED
        )
        stop.cancel()
        orphaned.cancel()
        counting.cancel()
        if scaling.done():
            scaling.result()
        if service.serving.done():
            raise CommandFailed("the HTTP service ended by itself: its log above says why")
    tally.write(numbers())


def tally_of(settings: Settings, clock: Clock) -> Tally:
    """Return the metrics files of the processes on this machine."""
    return Tally(settings.data_dir / "metrics", clock)


async def _input_ends() -> None:
    """Wait until stdin is closed, which happens when the supervisor ends."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            ended.set()

    loop.add_reader(sys.stdin.fileno(), look)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
