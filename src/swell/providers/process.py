"""Provider for processes on this machine that end with the backend.

Each worker leads a process group, so that Ctrl-C in the terminal does not reach it and one signal
ends it with all its children. The kernel kills it when this process dies.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from pydantic import Field

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
from swell.providers.options import Options

#: Limit of listed ended instances.
_REMEMBERED: Final = 100

#: From <sys/prctl.h>: the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG: Final = 1


class ProcessOptions(Options):
    """Options of a pool of processes on this machine."""

    outlives: bool = Field(
        default=False,
        description="Whether workers keep running when the backend exits or is killed, and "
        "the next backend finds them; they need `autoscale.token` then. "
        "Otherwise they end with it.",
    )
    boot_delay_s: float = Field(
        default=0.0, ge=0, description="Pretend that starting one takes so long, in seconds."
    )
    rehearsal: Path | None = Field(
        default=None,
        description="A JSON file of rehearsed incidents: refusals and reclaimed workers.",
    )


class ProcessProvider:
    """Starts workers with a command, and watches them.

    Use it in the main thread only: the kernel treats the end of the starting thread as the parent's
    death.

    Args:
        clock: The clock.
        log_dir: Folder with one log file per instance. Only this user may read the logs, because a
            model may print users' inputs.
        environment: Environment of every process; the request's variables override it.
        boot_delay_s: Delay before a process starts, in seconds, to simulate slow machines.
    """

    def __init__(
        self,
        clock: Clock,
        log_dir: Path,
        environment: Mapping[str, str],
        *,
        boot_delay_s: float = 0.0,
    ) -> None:
        self._clock = clock
        self._log_dir = log_dir
        self._environment = dict(environment)
        self._boot_delay_s = boot_delay_s
        self._numbers = itertools.count(1)
        # The pid alone is not unique: in a container it is the same after each restart.
        self._name = f"{os.getpid()}-{secrets.token_hex(3)}"
        self._instances: dict[str, Instance] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._kill_at_s: dict[str, float] = {}
        self._starters: dict[str, asyncio.Task[None]] = {}
        #: Instances during the creation of their process, which cannot be cancelled.
        self._making: set[str] = set()
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._killers: set[asyncio.Task[None]] = set()

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Start processes.

        Raises:
            Unavailable: The command cannot be run.
        """
        if again := [
            i for i in self._instances.values() if request.token and i.token == request.token
        ]:
            return again
        self._make_log_dir()
        ids = [f"{request.pool}-{self._name}-{next(self._numbers)}" for _ in range(request.n)]
        for each in ids:
            self._instances[each] = Instance(
                id=each,
                pool=request.pool,
                state=InstanceState.STARTING,
                launched_at=self._clock.now(),
                token=request.token,
            )
            # Create the tasks before the first await: `terminate` may be called from then on.
            self._starters[each] = asyncio.create_task(self._start(each, request))
            self._watchers[each] = asyncio.create_task(self._watch(each))
        if self._boot_delay_s <= 0:
            await self._begun(ids)
        self._forget_old()
        return [self._instances[each] for each in ids]

    async def instances(self, pool: str | None = None) -> list[Instance]:
        return [i for i in self._instances.values() if pool is None or i.pool == pool]

    async def notices(self) -> list[Notice]:
        """Return nothing: processes are never reclaimed."""
        return []

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Send SIGTERM, and SIGKILL to the whole process group after `grace_s` seconds.

        A repeated call has an effect only with an earlier deadline: the second SIGTERM makes the
        worker hurry.
        """
        for each in instance_ids:
            instance = self._instances.get(each)
            if instance is None or instance.state is InstanceState.ENDED:
                continue
            kill_at_s = self._clock.monotonic_s() + grace_s
            if kill_at_s >= self._kill_at_s.get(each, float("inf")):
                continue
            self._kill_at_s[each] = kill_at_s
            self._instances[each] = msgspec.structs.replace(instance, state=InstanceState.STOPPING)
            if each in self._processes:
                self._tell_to_end(each)
            elif each not in self._making:
                self._starters[each].cancel()
                self._end(each, None)

    async def wait_ended(self, instance_ids: Sequence[str]) -> None:
        watchers = [self._watchers[each] for each in instance_ids if each in self._watchers]
        if watchers:
            await asyncio.wait(watchers)

    def pid(self, instance_id: str) -> int | None:
        """Return the process id of an instance; None if it has no process."""
        process = self._processes.get(instance_id)
        return None if process is None else process.pid

    def pids(self) -> set[int]:
        """Return the process ids of all living instances."""
        return {process.pid for process in self._processes.values()}

    def log_path(self, instance_id: str) -> Path:
        """Return the log file of an instance."""
        return self._log_dir / f"{instance_id}.log"

    async def close(self) -> None:
        """Kill all process groups, and wait for their ends."""
        for each, starter in self._starters.items():
            if each not in self._making:
                starter.cancel()
        await asyncio.gather(*self._starters.values(), return_exceptions=True)
        for killer in self._killers:
            killer.cancel()
        for each, process in list(self._processes.items()):
            _kill_group(process.pid)
            await asyncio.gather(self._watchers[each], return_exceptions=True)
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        for each, instance in list(self._instances.items()):
            if instance.state is not InstanceState.ENDED:
                self._end(each, None)

    async def _begun(self, ids: Sequence[str]) -> None:
        """Wait until these instances have started or were cancelled."""
        starters = [self._starters[each] for each in ids]
        await asyncio.wait(starters)
        for each in starters:
            if not each.cancelled():
                each.result()

    async def _watch(self, each: str) -> None:
        await asyncio.gather(self._starters[each], return_exceptions=True)
        process = self._processes.get(each)
        if process is None:
            return  # the start failed or was cancelled
        code = await process.wait()
        # The worker's children must not outlive it.
        _kill_group(process.pid)
        del self._processes[each]
        self._end(each, code)

    async def _start(self, each: str, request: LaunchRequest) -> None:
        if self._boot_delay_s > 0:
            await self._clock.sleep(self._boot_delay_s)
        self._making.add(each)
        try:
            self._processes[each] = await self._made(each, request)
        except OSError as error:
            self._end(each, None)
            raise Unavailable(f"cannot run {request.command[:1]}: {error.strerror}") from error
        finally:
            self._making.discard(each)
        if self._instances[each].state is InstanceState.STARTING:
            running = msgspec.structs.replace(self._instances[each], state=InstanceState.RUNNING)
            self._instances[each] = running
        else:
            self._tell_to_end(each)  # `terminate` was called during the start

    async def _made(self, each: str, request: LaunchRequest) -> asyncio.subprocess.Process:
        asked_at = self._instances[each].launched_at.isoformat()
        own = {INSTANCE_ID: each, ASKED_AT: asked_at}
        environment = self._environment | dict(request.environment) | own
        with open(self.log_path(each), "ab", opener=_open_private) as log:
            return await asyncio.create_subprocess_exec(
                *request.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )

    def _tell_to_end(self, each: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._processes[each].send_signal(signal.SIGTERM)
        grace_s = max(0.0, self._kill_at_s[each] - self._clock.monotonic_s())
        killer = asyncio.create_task(self._kill_later(each, grace_s))
        self._killers.add(killer)
        killer.add_done_callback(self._killers.discard)

    def _make_log_dir(self) -> None:
        self._log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Restrict a folder that exists already, unless another user owns it.
        with contextlib.suppress(PermissionError):
            self._log_dir.chmod(0o700)

    async def _kill_later(self, each: str, grace_s: float) -> None:
        await self._clock.sleep(grace_s)
        process = self._processes.get(each)
        if process is not None:
            _kill_group(process.pid)

    def _end(self, each: str, exit_code: int | None) -> None:
        self._instances[each] = msgspec.structs.replace(
            self._instances[each],
            state=InstanceState.ENDED,
            ended_at=self._clock.now(),
            exit_code=exit_code,
        )

    def _forget_old(self) -> None:
        ended = [i.id for i in self._instances.values() if i.state is InstanceState.ENDED]
        for each in ended[:-_REMEMBERED]:
            self.log_path(each).unlink(missing_ok=True)
            del self._instances[each]
            self._starters.pop(each, None)
            self._watchers.pop(each, None)
            self._kill_at_s.pop(each, None)


def _open_private(path: str, flags: int) -> int:
    """Open a file and make it readable by this user only, even if it exists."""
    descriptor = os.open(path, flags, 0o600)
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, 0o600)
    return descriptor


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _die_with_parent(parent_pid: int) -> Callable[[], None] | None:
    """Return the function that the new process runs before the worker; None if not on Linux.

    The C library is loaded here, in the parent, because little is safe after a fork.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the parent died before the call of prctl
            os._exit(1)

    return ask_kernel
