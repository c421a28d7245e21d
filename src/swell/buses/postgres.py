"""Backends tell each other by PostgreSQL's notifications, on a connection of their own.

A notification has less than 8,000 bytes, so longer messages go in parts, all in one transaction.
Each transaction that notifies gets an id and so a record in the write-ahead log; nothing is lost
with it, so nobody waits for the disk (`synchronous_commit = off`).

Source:
    https://www.postgresql.org/docs/current/sql-notify.html
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import asyncpg
import structlog

from swell.addresses.database_urls import database_place, unreadable_url
from swell.buses.wired import WiredBus
from swell.clock import Clock
from swell.errors import Unavailable

_log = structlog.get_logger("swell.buses")

_CHANNEL: Final = "swell_bus"

#: PostgreSQL takes less than 8,000.
_MOST_BYTES: Final = 7900

_CONNECT_S: Final = 5.0
#: A notification that takes longer has lost its server, in seconds.
_SEND_S: Final = 5.0
#: Pauses between two attempts to connect again, in seconds; the last is repeated.
_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5)

_NOTIFY: Final = "SELECT pg_notify($1, part) FROM unnest($2::text[]) AS part"

_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

_Connection = Any  # asyncpg is not typed


class PostgresWire:
    """One channel of a database.

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
        self._take: Callable[[bytes], None] = lambda data: None
        self._linked: Callable[[], None] = lambda: None
        self._seeking: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def limit_bytes(self) -> int:
        """The largest message."""
        return _MOST_BYTES

    async def open(self, take: Callable[[bytes], None], linked: Callable[[], None]) -> None:
        """Connect and listen.

        Raises:
            Unavailable: No server answers.
        """
        self._take, self._linked = take, linked
        try:
            await self._connect()
        except _FAILURES as error:
            why = str(error) or type(error).__name__
            raise Unavailable(
                f"PostgreSQL at {self._place} does not answer ({why}): start it, or correct bus.url"
            ) from error
        except ValueError:
            # The library's own words would tell a part of the address.
            raise unreadable_url("bus.url") from None

    async def send(self, messages: Sequence[bytes]) -> None:
        """Notify.

        Raises:
            Unavailable: There is no connection now.
        """
        connection = self._connection
        if connection is None:
            raise Unavailable("there is no connection to PostgreSQL now")
        parts = [each.decode() for each in messages]
        try:
            await connection.execute(_NOTIFY, _CHANNEL, parts, timeout=_SEND_S)
        except _FAILURES as error:
            connection.terminate()
            why = str(error) or type(error).__name__
            raise Unavailable(f"PostgreSQL takes no notification: {why}") from error

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        self._is_closed = True
        if self._seeking is not None:
            self._seeking.cancel()
            await asyncio.gather(self._seeking, return_exceptions=True)
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
            await connection.add_listener(_CHANNEL, self._arrive)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        connection.add_termination_listener(self._lose)

    def _arrive(self, connection: _Connection, sender: int, channel: str, payload: str) -> None:
        if sender != connection.get_server_pid():
            self._take(payload.encode())

    def _lose(self, connection: _Connection) -> None:
        if self._is_closed or connection is not self._connection:
            return
        self._connection = None
        _log.warning("the bus has lost PostgreSQL, and seeks it", server=self._place)
        self._seeking = asyncio.create_task(self._seek(), name="bus-seek")

    async def _seek(self) -> None:
        attempt = 0
        while True:
            await self._clock.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            attempt += 1
            try:
                await self._connect()
            except _FAILURES:
                continue
            except Exception:
                _log.exception("the bus cannot connect to PostgreSQL", server=self._place)
                continue
            _log.info("the bus has found PostgreSQL again", server=self._place)
            self._linked()
            return


class PostgresBus(WiredBus):
    """A bus whose wire is PostgreSQL."""

    @classmethod
    async def start(cls, url: str, clock: Clock) -> "PostgresBus":
        """Return a bus that is connected.

        Raises:
            Unavailable: No server answers.
        """
        bus = cls(PostgresWire(url, clock), clock)
        await bus.open()
        return bus
