"""PostgreSQL as the wire of the event bus: LISTEN and NOTIFY on a separate connection.

A payload has less than 8,000 bytes, so longer messages go in parts, all in one transaction. The
server delivers the notifications of a transaction together and in order. Each transaction that
notifies writes to the write-ahead log; the messages need no durability, so it does not wait for
the disk (`synchronous_commit = off`).

Source:
    https://www.postgresql.org/docs/current/sql-notify.html
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import structlog

from swell.core.clock import Clock
from swell.core.errors import Unavailable
from swell.net.database_urls import database_place, unreadable_url

_log = structlog.get_logger("swell.buses")

_CHANNEL: Final = "swell_bus"

#: The largest part of a message, in bytes. PostgreSQL accepts less than 8,000 with the part's mark.
_PART_BYTES: Final = 7900

_CONNECT_S: Final = 5.0
#: A notification that takes longer has lost its server, in seconds.
_SEND_S: Final = 5.0
#: The pause before each attempt to reconnect, in seconds.
_PAUSE_S: Final = 0.2

_NOTIFY: Final = "SELECT pg_notify($1, part) FROM unnest($2::text[]) AS part"

_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

_Connection = Any  # asyncpg is not typed


class PostgresWire:
    """See `Wire`.

    Args:
        url: `postgresql://USER@HOST:PORT/DATABASE`. A pooler that shares sessions cannot listen.
        clock: For pauses.

    Raises:
        InvalidRequest: The URL cannot be read.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._place = database_place(url, "bus.url")
        self._connection: _Connection | None = None
        self._receive: Callable[[bytes], None] = lambda data: None
        self._reconnected: Callable[[], None] = lambda: None
        self._reconnecting: asyncio.Task[None] | None = None
        #: The parts so far of a message.
        self._parts: list[str] = []
        self._is_closed = False

    async def open(self, receive: Callable[[bytes], None], reconnected: Callable[[], None]) -> None:
        """Connect and listen.

        Raises:
            Unavailable: No server answers.
        """
        self._receive, self._reconnected = receive, reconnected
        try:
            await self._connect()
        except _FAILURES as error:
            why = str(error) or type(error).__name__
            raise Unavailable(
                f"PostgreSQL at {self._place} does not answer ({why}): start it, or correct bus.url"
            ) from error
        except ValueError:
            # The library's text would show a part of the URL.
            raise unreadable_url("bus.url") from None

    async def send(self, data: bytes) -> None:
        """Notify.

        Raises:
            Unavailable: There is no connection now.
        """
        connection = self._connection
        if connection is None:
            raise Unavailable("there is no connection to PostgreSQL now")
        try:
            await connection.execute(_NOTIFY, _CHANNEL, _parts_of(data), timeout=_SEND_S)
        except _FAILURES as error:
            connection.terminate()
            why = str(error) or type(error).__name__
            raise Unavailable(f"PostgreSQL did not take a notification: {why}") from error

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        self._is_closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=1.0)
            except _FAILURES:
                connection.terminate()

    async def _connect(self) -> None:
        connection = await asyncpg.connect(
            self._url,
            timeout=_CONNECT_S,
            server_settings={"application_name": "swell bus", "synchronous_commit": "off"},
        )
        try:
            await connection.add_listener(_CHANNEL, self._on_notify)
        except BaseException:
            connection.terminate()
            raise
        self._parts.clear()
        self._connection = connection
        connection.add_termination_listener(self._on_lost)

    def _on_notify(self, connection: _Connection, sender: int, channel: str, payload: str) -> None:
        mark, _, part = payload.partition("\n")
        self._parts.append(part)
        if mark == "last":
            data = "".join(self._parts).encode()
            self._parts.clear()
            if sender != connection.get_server_pid():
                self._receive(data)

    def _on_lost(self, connection: _Connection) -> None:
        if self._is_closed or connection is not self._connection:
            return
        self._connection = None
        _log.warning("event bus: PostgreSQL connection lost, reconnecting", server=self._place)
        self._reconnecting = asyncio.create_task(self._reconnect(), name="bus-reconnect")

    async def _reconnect(self) -> None:
        while self._connection is None:
            await self._clock.sleep(_PAUSE_S)
            try:
                await self._connect()
            except _FAILURES:
                continue
            except Exception:
                _log.exception("event bus: cannot connect to PostgreSQL", server=self._place)
        _log.info("event bus: PostgreSQL reconnected", server=self._place)
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
