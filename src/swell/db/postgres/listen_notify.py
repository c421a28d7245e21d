"""Notifications between the backends of one database: queues that have ready tasks.

They have a separate connection, since a commit with a notification waits for all other such
commits of the database. So a notification may be lost; backends also poll every second.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
import structlog

from swell.core.task import new_token
from swell.db.postgres.postgres_transaction import QUERIES

_log = structlog.get_logger("swell.postgres")

_CHANNEL: Final = "swell_tasks"

#: How often a backend sends a sign of life, and polls the queues that workers wait for, in seconds.
POLL_S: Final = 1.0

#: A backend that was silent for this long has gone, in seconds.
_FORGET_S: Final = 10.0

#: Least pause between notifications of one backend, in seconds.
_PAUSE_S: Final = 0.02

#: A notification that takes longer has lost its server, in seconds.
_NOTIFY_S: Final = 5.0

#: How long a backend that stops tries to send its last notifications, in seconds.
_LAST_S: Final = 0.5

#: Pause before connecting to the server again, in seconds.
_RETRY_S: Final = 0.5

#: Bytes of a notification; PostgreSQL takes less than 8,000.
_MAX_BYTES: Final = 7_000


class _Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One notification: the sender, and queues with ready tasks."""

    who: str
    queues: list[str] = []


class Peers:
    """The other backends of the database.

    Args:
        connect: Opens a connection.
        on_ready: Called with queues that have ready tasks of other backends.
        poll: Called every second, with or without a connection.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        on_ready: Callable[[list[str]], None],
        poll: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._on_ready = on_ready
        self._poll = poll
        self._name = new_token()
        self._loop = asyncio.get_running_loop()
        #: Backend → time of its last notification.
        self._seen: dict[str, float] = {}
        self._unsent: set[str] = set()
        self._has_unsent = asyncio.Event()
        self._has_sent_all = asyncio.Event()
        self._has_tried = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    @property
    def exist(self) -> bool:
        """Whether another backend sent something lately, or could not have."""
        if self._seen:
            oldest = self._loop.time() - _FORGET_S
            self._seen = {who: at for who, at in self._seen.items() if at > oldest}
        return bool(self._seen)

    def assume(self) -> None:
        """Assume for a while that there is another backend."""
        self._seen[""] = self._loop.time()

    def notify(self, queues: Iterable[str]) -> None:
        """Notify the others soon that tasks are ready in these queues."""
        self._unsent.update(queues)
        if self._unsent:
            self._has_sent_all.clear()
            self._has_unsent.set()

    async def start(self) -> None:
        """Begin to listen, and send the first sign of life."""
        self._running = [
            self._loop.create_task(self._listen(), name="swell-postgres-peers"),
            self._loop.create_task(self._keep_polling(), name="swell-postgres-poll"),
        ]
        await self._has_tried.wait()

    async def stop(self) -> None:
        """Send the last notifications, if that is quick, and stop listening. Idempotent."""
        if self._running and self._unsent:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_sent_all.wait(), _LAST_S)
        running, self._running = self._running, []
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _keep_polling(self) -> None:
        while True:
            try:
                self._poll()
            except Exception:
                _log.exception("postgres: polling for ready tasks failed, retrying")
            await asyncio.sleep(POLL_S)

    async def _listen(self) -> None:
        while True:
            connection = None
            try:
                connection = await self._connect()
                await connection.add_listener(_CHANNEL, self._on_message)
                await self._keep_sending(connection)
            except Exception as error:
                _log.info("postgres: notifications interrupted", reason=str(error) or repr(error))
                self.assume()
            finally:
                self._has_tried.set()
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(_RETRY_S)

    async def _keep_sending(self, connection: Any) -> None:
        while True:
            await self._send(connection, _Message(self._name))
            ends_s = self._loop.time() + POLL_S
            while (left_s := ends_s - self._loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._has_unsent.wait(), left_s)
                    await self._send_queues(connection)
                    await asyncio.sleep(_PAUSE_S)

    async def _send_queues(self, connection: Any) -> None:
        self._has_unsent.clear()
        queues, self._unsent = sorted(self._unsent), set()
        try:
            for message in _messages(self._name, queues):
                await self._send(connection, message)
        except BaseException:
            self.notify(queues)
            raise
        if not self._unsent:
            self._has_sent_all.set()

    async def _send(self, connection: Any, message: _Message) -> None:
        text = msgspec.json.encode(message).decode()
        await connection.execute(QUERIES["notify"], text, timeout=_NOTIFY_S)
        self._has_tried.set()

    def _on_message(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        try:
            message = msgspec.json.decode(payload, type=_Message)
        except msgspec.DecodeError:
            return
        if message.who == self._name:
            return
        if message.who not in self._seen:
            # It may not know of this one yet.
            self._has_unsent.set()
        self._seen[message.who] = self._loop.time()
        if message.queues:
            self._on_ready(message.queues)


def _messages(who: str, queues: list[str]) -> list[_Message]:
    """Return notifications that name these queues; at least one."""
    parts: list[list[str]] = [[]]
    left = _MAX_BYTES
    for queue in queues:
        left -= len(queue) + 16
        if left < 0:
            parts.append([])
            left = _MAX_BYTES - len(queue) - 16
        parts[-1].append(queue)
    return [_Message(who, part) for part in parts]
