"""A connection to NATS that reconnects by itself and raises Swell's errors."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from swell.core.errors import Unavailable
from swell.net.nats_address import NatsAddress

_log = structlog.get_logger("swell.nats")

#: The server must accept the connection within this time, in seconds.
CONNECT_S: Final = 5.0

#: A client that has not closed within this time is left behind, in seconds.
CLOSE_S: Final = 1.0


class NatsConnection:
    """Opens when it is first used. After that, the client library reconnects.

    Args:
        url: See `NatsAddress.read`.
        on_reconnect: Called after each new connection except the first.
        options: More options of the client library.
    """

    def __init__(
        self,
        url: str,
        *,
        on_reconnect: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        self.address = NatsAddress.read(url)
        self._options = self.address.options | options
        self._on_reconnect = on_reconnect
        self._opening: asyncio.Task[Client] | None = None
        #: The last error of the connection.
        self._error: BaseException | None = None
        self._is_closed = False

    async def client(self) -> Client:
        """Return the connected client.

        Raises:
            Unavailable: There is no connection now.
        """
        if self._is_closed:
            raise Unavailable("the connection to NATS is closed")
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._connect())
        client = await asyncio.shield(self._opening)
        if not client.is_connected:
            raise self._unreachable()
        return client

    async def close(self) -> None:
        """Send buffered messages and disconnect. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._opening is None:
            return
        (client,) = await asyncio.gather(self._opening, return_exceptions=True)
        if isinstance(client, Client):
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                if client.is_connected:
                    await client.flush(1)
            await _close(client)

    async def _connect(self) -> Client:
        client = Client()
        options: dict[str, Any] = {
            "name": "swell",
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.2,
            # While disconnected, publishing fails at once.
            "pending_size": 0,
            "connect_timeout": 2,
            "error_cb": self._on_client_error,
            "disconnected_cb": self._on_client_disconnect,
            "reconnected_cb": self._on_client_reconnect,
            **self._options,
        }
        try:
            async with asyncio.timeout(CONNECT_S):
                await client.connect(list(self.address.servers), **options)
        except (NatsError, OSError, TimeoutError) as error:
            await _close(client)
            self._error = self._error or error
            raise self._unreachable() from error
        except BaseException:
            await _close(client)
            raise
        self._error = None
        return client

    def _unreachable(self) -> Unavailable:
        why = "" if self._error is None else f": {why_of(self._error)}"
        return Unavailable(f"NATS cannot be reached at {self.address.place}{why}")

    async def _on_client_error(self, error: Exception) -> None:
        # The server's own words, such as a refused password, say more than a timeout.
        if self._error is None or isinstance(error, NatsError):
            self._error = error

    async def _on_client_disconnect(self) -> None:
        if not self._is_closed:
            _log.warning("NATS: connection lost, reconnecting", server=self.address.place)

    async def _on_client_reconnect(self) -> None:
        self._error = None
        _log.info("NATS: reconnected", server=self.address.place)
        self._on_reconnect()


async def _close(client: Client) -> None:
    """Close a client, in bounded time: TLS that was cut short never reports that it has closed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await client.close()


@contextlib.contextmanager
def nats_errors(what: str) -> Iterator[None]:
    """Raise the client's errors as `Unavailable`."""
    try:
        yield
    except (NatsError, OSError, TimeoutError) as error:
        raise Unavailable(f"{what}: {why_of(error)}") from error


def why_of(error: BaseException) -> str:
    """Return the text of an error, or its type."""
    return str(error).removeprefix("nats: ") or type(error).__name__
