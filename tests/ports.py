"""Ports for servers that die and come back."""

import contextlib
import random
import socket
from typing import Final

__all__ = ["free_port"]


#: Not the one that tests seed: two processes of tests would be given the same ports.
_CHANCE: Final = random.SystemRandom()

_given: set[int] = set()


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now, and that was not given before.

    Below the range from which the kernel takes ports for outgoing connections: while a server is
    dead, a client that connects must not be given the server's own port and talk to itself.

    Raises:
        RuntimeError: None was found.
    """
    for _ in range(200):
        port = _CHANCE.randint(20_000, 30_000)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
    raise RuntimeError("no port is free")
