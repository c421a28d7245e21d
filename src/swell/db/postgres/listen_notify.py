"""LISTEN and NOTIFY: a channel between processes, and what the backends of a database send there.

A channel has a separate connection, since a commit with a notification waits for all other such
commits of the database. Its messages need no durability, so they do not wait for the disk
(`synchronous_commit = off`), and may be lost.

Source:
    https://www.postgresql.org/docs/current/sql-notify.html
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Final

import asyncpg
import msgspec
import structlog

from swell.core.errors import Unavailable
from swell.db.postgres.connection_pool import SETTINGS, connect, explaining
from swell.db.postgres.postgres_transaction import QUERIES
from swell.net.database_urls import database_place

_log = structlog.get_logger("swell.postgres")

#: The largest part of a message, in bytes. PostgreSQL accepts less than 8,000 with the part's mark.
_PART_BYTES: Final = 7900

#: A notification that takes longer has lost its server, in seconds.
_NOTIFY_S: Final = 5.0

#: The pause before each attempt to reconnect, in seconds.
_RETRY_S: Final = 0.2

_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

#: How often a backend polls the queues that workers wait for, in seconds.
POLL_S: Final = 1.0

#: Least pause between messages of one backend, in seconds.
_PAUSE_S: Final = 0.02

#: How long a backend that stops tries to send its last message, in seconds.
_LAST_S: Final = 0.5


class NotifyChannel:
    """Carries messages to all other processes that have opened the channel.

    A notification has less than 8,000 bytes, so longer messages go in parts, all in one
    transaction, which the server delivers together and in order.

    Args:
        url: `postgresql://USER@HOST:PORT/DATABASE`. A pooler that shares sessions cannot listen.
        name: Of the channel.
        setting: The setting with the URL, for errors.

    Raises:
        InvalidRequest: The URL cannot be read.
    """

    def __init__(self, url: str, name: str, setting: str) -> None:
        self._url = url
        self._name = name
        self._setting = setting
        self._place = database_place(url, setting)
        self._connection: Any = None
        self._receive: Callable[[bytes], None] = lambda data: None
        self._reconnected: Callable[[], None] = lambda: None
        self._reconnecting: asyncio.Task[None] | None = None
        #: The parts so far of a message.
        self._parts: list[str] = []
        self._is_closed = False

    async def open(self, receive: Callable[[bytes], None], reconnected: Callable[[], None]) -> None:
        """Connect and listen; after a lost connection, connect again and again.

        Args:
            receive: Called with each message of other processes.
            reconnected: Called after each new connection except the first.

        Raises:
            Unavailable: No server answers.
        """
        self._receive, self._reconnected = receive, reconnected
        with explaining(self._url, self._setting):
            await self._connect()

    async def send(self, data: bytes) -> None:
        """Send a message in UTF-8.

        Raises:
            Unavailable: There is no connection now.
        """
        connection = self._connection
        if connection is None:
            raise Unavailable("there is no connection to PostgreSQL now")
        try:
            await connection.execute(
                QUERIES["notify"], self._name, _parts_of(data), timeout=_NOTIFY_S
            )
        except _FAILURES as error:
            connection.terminate()
            why = str(error) or type(error).__name__
            raise Unavailable(f"PostgreSQL did not take a message: {why}") from error

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        self._is_closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()

    async def _connect(self) -> None:
        settings = {"application_name": "swell bus", "synchronous_commit": "off"}
        connection = await connect(self._url, SETTINGS | settings, _NOTIFY_S)
        try:
            await connection.add_listener(self._name, self._on_notify)
        except BaseException:
            connection.terminate()
            raise
        self._parts.clear()
        self._connection = connection
        connection.add_termination_listener(self._on_lost)

    def _on_notify(self, connection: Any, sender: int, channel: str, payload: str) -> None:
        mark, _, part = payload.partition("\n")
        self._parts.append(part)
        if mark == "last":
            data = "".join(self._parts).encode()
            self._parts.clear()
            if sender != connection.get_server_pid():
                self._receive(data)

    def _on_lost(self, connection: Any) -> None:
        if self._is_closed or connection is not self._connection:
            return
        self._connection = None
        _log.warning(
            "postgres: connection for notifications lost, reconnecting", server=self._place
        )
        self._reconnecting = asyncio.create_task(self._reconnect(), name="swell-postgres-reconnect")

    async def _reconnect(self) -> None:
        while self._connection is None:
            await asyncio.sleep(_RETRY_S)
            try:
                await self._connect()
            except _FAILURES:
                continue
            except Exception:
                _log.exception("postgres: cannot connect for notifications", server=self._place)
        _log.info("postgres: notifications reconnected", server=self._place)
        self._reconnected()


def _parts_of(data: bytes) -> list[str]:
    r"""Return a message in parts, each as `NUMBER\n…`; the last one as `last\n…`.

    PostgreSQL drops a notification that is equal to an earlier one of the transaction, so each part
    needs its own mark.
    """
    text = data.decode()
    # A character has up to four bytes.
    step = _PART_BYTES if text.isascii() else _PART_BYTES // 4
    starts = range(0, len(text), step)
    return [
        f"{'last' if start + step >= len(text) else start}\n{text[start : start + step]}"
        for start in starts
    ]


class Peers:
    """The other backends of the database. A message may be lost, so each backend also polls.

    Args:
        url: Of the database.
        on_ready: Called with queues in which another backend left ready tasks.
        poll: Called every second, with or without a connection.
    """

    def __init__(
        self, url: str, on_ready: Callable[[list[str]], None], poll: Callable[[], None]
    ) -> None:
        self._channel = NotifyChannel(url, "swell_tasks", "store.url")
        self._on_ready = on_ready
        self._poll = poll
        self._unsent: set[str] = set()
        self._has_unsent = asyncio.Event()
        self._has_sent_all = asyncio.Event()
        self._has_sent_all.set()
        self._running: list[asyncio.Task[None]] = []

    def notify(self, queues: Iterable[str]) -> None:
        """Notify the others soon that tasks are ready in these queues."""
        self._unsent.update(queues)
        if self._unsent:
            self._has_sent_all.clear()
            self._has_unsent.set()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            Unavailable: The server does not answer.
        """
        await self._channel.open(self._on_message, lambda: None)
        self._running = [
            asyncio.create_task(self._keep_sending(), name="swell-postgres-peers"),
            asyncio.create_task(self._keep_polling(), name="swell-postgres-poll"),
        ]

    async def stop(self) -> None:
        """Send the last message, if that is quick, and stop listening. Idempotent."""
        if self._running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_sent_all.wait(), _LAST_S)
        running, self._running = self._running, []
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._channel.close()

    async def _keep_polling(self) -> None:
        while True:
            try:
                self._poll()
            except Exception:
                _log.exception("postgres: polling for ready tasks failed, retrying")
            await asyncio.sleep(POLL_S)

    async def _keep_sending(self) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            queues, self._unsent = sorted(self._unsent), set()
            try:
                await self._channel.send(msgspec.json.encode(queues))
            except Unavailable as error:
                _log.info("postgres: message to other backends lost", reason=error.detail)
            if not self._unsent:
                self._has_sent_all.set()
            await asyncio.sleep(_PAUSE_S)

    def _on_message(self, data: bytes) -> None:
        self._on_ready(msgspec.json.decode(data, type=list[str]))
