"""NATS as the wire of the event bus: one core subject, which keeps no messages.

Every backend publishes to the subject and subscribes to it.

Source:
    https://docs.nats.io/nats-concepts/core-nats/pubsub
"""

from collections.abc import Callable
from typing import Final

from nats.aio.msg import Msg

from swell.core.errors import Unavailable
from swell.net.nats_connection import NatsConnection, nats_errors

#: The server is asked this often whether it is alive, in seconds.
_PING_S: Final = 2


class NatsWire:
    """See `Wire`.

    Args:
        url: See `NatsAddress.read`; NAME separates installations that share a server.

    Raises:
        InvalidRequest: The URL cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._reconnected: Callable[[], None] = lambda: None
        self._connection = NatsConnection(
            url,
            on_reconnect=lambda: self._reconnected(),
            # Own messages do not come back.
            no_echo=True,
            ping_interval=_PING_S,
        )
        self._subject = f"{self._connection.address.stream}.bus"

    async def open(self, receive: Callable[[bytes], None], reconnected: Callable[[], None]) -> None:
        """Connect and subscribe. The client library subscribes again after a reconnect.

        Raises:
            Unavailable: No server answers.
        """
        self._reconnected = reconnected

        async def on_message(message: Msg) -> None:
            receive(message.data)

        try:
            client = await self._connection.client()
            with nats_errors("NATS does not answer"):
                await client.subscribe(self._subject, cb=on_message)
                await client.flush(2)
        except Unavailable as error:
            await self.close()
            raise Unavailable(f"{error.detail}: start it, or correct bus.url") from error

    async def send(self, data: bytes) -> None:
        """Publish.

        Raises:
            Unavailable: There is no connection now, or the message is too large.
        """
        client = await self._connection.client()
        with nats_errors("NATS did not take a message"):
            await client.publish(self._subject, data)

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._connection.close()
