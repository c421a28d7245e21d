"""Backends tell each other over NATS: core subjects, which keep nothing.

Every backend publishes to one subject and listens to it. What it says itself does not come back
(`no_echo`). The client library seeks a lost server for ever and subscribes again.

Source:
    https://docs.nats.io/nats-concepts/core-nats/pubsub
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from swell.addresses.nats_address import NatsAddress
from swell.buses.wired import WiredBus
from swell.clock import Clock
from swell.errors import Unavailable

_log = structlog.get_logger("swell.buses")

#: Largest message, though servers allow 1 MiB: a small one waits for no large one for long.
_MOST_BYTES: Final = 128 * 1024

#: How long the server may take to answer at the start, in seconds.
_CONNECT_S: Final = 5.0


class NatsWire:
    """One subject of a NATS server.

    Args:
        url: See `NatsAddress.read`; NAME is the installation, where several share the server.

    Raises:
        InvalidRequest: It cannot be read.
    """

    def __init__(self, url: str) -> None:
        address = NatsAddress.read(url)
        self._servers = list(address.servers)
        self._options = address.options()
        self._place = address.place
        self._subject = f"{address.stream}.bus"
        #: What the client told last of why it cannot connect.
        self._trouble: Exception | None = None
        self._client: Client | None = None
        self._linked: Callable[[], None] = lambda: None

    @property
    def limit_bytes(self) -> int:
        """The largest message."""
        most = _MOST_BYTES if self._client is None else self._client.max_payload
        return min(_MOST_BYTES, most)

    async def open(self, take: Callable[[bytes], None], linked: Callable[[], None]) -> None:
        """Connect and listen.

        Raises:
            Unavailable: No server answers.
        """
        self._linked = linked

        async def arrive(message: Msg) -> None:
            take(message.data)

        options: dict[str, Any] = {
            "name": "swell",
            "no_echo": True,
            "connect_timeout": 2,
            "max_reconnect_attempts": -1,
            # Takes fractions, whatever its type says.
            "reconnect_time_wait": 0.2,
            "ping_interval": 2,
            "error_cb": self._fail,
            "disconnected_cb": self._lose,
            "reconnected_cb": self._find,
            **self._options,
        }
        self._client = client = Client()
        try:
            async with asyncio.timeout(_CONNECT_S):
                await client.connect(self._servers, **options)
            await client.subscribe(self._subject, cb=arrive)
            await client.flush(2)
        except (OSError, TimeoutError, nats.errors.Error) as error:
            await self.close()
            # It tries again and again, whatever the server has against it.
            trouble = self._trouble or error
            why = str(trouble) or type(trouble).__name__
            raise Unavailable(
                f"the NATS server at {self._place} does not answer ({why}): "
                "start it, or correct bus.url"
            ) from error

    async def send(self, messages: Sequence[bytes]) -> None:
        """Publish.

        Raises:
            Unavailable: There is no connection now.
        """
        client = self._client
        if client is None or not client.is_connected:
            raise Unavailable("there is no connection to NATS now")
        try:
            for message in messages:
                await client.publish(self._subject, message)
        except (OSError, nats.errors.Error) as error:
            why = str(error) or type(error).__name__
            raise Unavailable(f"NATS takes nothing: {why}") from error

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            if client.is_connected:
                await client.flush(1)
        except (OSError, TimeoutError, nats.errors.Error):
            pass
        finally:
            await client.close()

    async def _lose(self) -> None:
        if self._client is not None:
            _log.warning("the bus has lost NATS, and seeks it", server=self._place)

    async def _find(self) -> None:
        _log.info("the bus has found NATS again", server=self._place)
        self._linked()

    async def _fail(self, error: Exception) -> None:
        # What the server said tells more than that it hung up after it.
        if self._trouble is None or isinstance(error, nats.errors.Error):
            self._trouble = error
        # If it means that messages were dropped here, the next one's number shows it.
        _log.debug("NATS: the server reports an error", error=str(error))


class NatsBus(WiredBus):
    """A bus whose wire is NATS."""

    @classmethod
    async def start(cls, url: str, clock: Clock) -> "NatsBus":
        """Return a bus that is connected.

        Raises:
            Unavailable: No server answers.
        """
        bus = cls(NatsWire(url), clock)
        await bus.open()
        return bus
