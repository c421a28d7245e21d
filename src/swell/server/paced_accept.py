"""Accept connections from a socket that several processes share, at a pace that balances them.

Left to the kernel, the process that wakes first takes all waiting connections. Here each process
waits longer the more connections it has, then takes one, so the process with the fewest takes most.
The processes share nothing but the socket (docs/decisions/0085).
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_log = structlog.get_logger("swell.server")

#: The wait before accepting, for each connection that the process has, in seconds.
_WAIT_EACH_S: Final = 0.0002
#: The longest wait. Beyond 20 connections, processes take about equally many of the new ones.
_MAX_WAIT_S: Final = 0.004

#: The pause after the system refused another connection, such as without room for it, in seconds.
_NO_ROOM_S: Final = 1.0

#: How long connections may take to be set up when the process stops, in seconds.
_LAST_S: Final = 1.0


class PacedServer:
    """Accepts connections one by one. uvicorn uses it as a server of asyncio.

    Args:
        listener: The shared socket. It is not closed here.
        protocol: Makes the protocol of a connection.
        n_open: Returns the number of open connections.
        tls: The TLS context; None for plain TCP.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], HttpToolsProtocol],
        n_open: Callable[[], int],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._n_open = n_open
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        #: Connections that are being set up.
        self._arriving: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._watch()

    def close(self) -> None:
        """Accept no more connections."""
        self._is_closed = True
        self._loop.remove_reader(self._listener)
        if self._later is not None:
            self._later.cancel()

    async def wait_closed(self) -> None:
        """Wait a little for connections that are being set up."""
        if self._arriving:
            await asyncio.wait(self._arriving, timeout=_LAST_S)
        for task in self._arriving:
            task.cancel()

    def _watch(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener, self._wait)

    def _wait(self) -> None:
        """Leave the waiting connections to other processes for a moment."""
        self._loop.remove_reader(self._listener)
        n = self._n_open() + len(self._arriving)
        self._later = self._loop.call_later(min(n * _WAIT_EACH_S, _MAX_WAIT_S), self._accept)

    def _accept(self) -> None:
        try:
            connection, _address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            self._watch()
            return
        except OSError as error:
            _log.error("no room for another connection", reason=str(error))
            self._later = self._loop.call_later(_NO_ROOM_S, self._watch)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._set_up(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        self._watch()

    async def _set_up(self, connection: socket.socket) -> None:
        try:
            _, protocol = await self._loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._tls
            )
        except (OSError, TimeoutError) as error:
            # The client has hung up, or does not speak TLS.
            connection.close()
            _log.debug("a connection was not set up", reason=str(error))
            return
        if self._is_closed:
            protocol.shutdown()
