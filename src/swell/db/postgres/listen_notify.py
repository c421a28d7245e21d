"""LISTEN and NOTIFY: a channel between processes.

A channel has a separate connection, since a commit with a notification waits for all other such
commits of the database. Its messages need no durability, so they do not wait for the disk
(`synchronous_commit = off`), and may be lost.

Source:
    https://www.postgresql.org/docs/current/sql-notify.html
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import structlog

from swell.core.errors import Unavailable
from swell.db.postgres.connection_pool import SETTINGS, connect, explaining
from swell.db.postgres.postgres_transaction import QUERIES
from swell.net.database_urls import database_place

_log = structlog.get_logger("swell.postgres")

_CHANNEL: Final = "swell_bus"

#: The largest part of a message, in bytes. PostgreSQL accepts less than 8,000 with the part's mark.
_PART_BYTES: Final = 7900

#: A notification that takes longer has lost its server, in seconds.
_NOTIFY_S: Final = 5.0

#: The pause before each attempt to reconnect, in seconds.
_RETRY_S: Final = 0.2

_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class NotifyChannel:
    """Carries messages to all other processes that have opened the channel.

    A notification has less than 8,000 bytes, so longer messages go in parts, all in one
    transaction, which the server delivers together and in order.

    Args:
        url: `postgresql://USER@HOST:PORT/DATABASE`. A pooler that shares sessions cannot listen.

    Raises:
        InvalidRequest: The URL cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._place = database_place(url, "bus.url")
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
        with explaining(self._url, "bus.url"):
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
                QUERIES["notify"], _CHANNEL, _parts_of(data), timeout=_NOTIFY_S
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
            await connection.add_listener(_CHANNEL, self._on_notify)
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
