"""Ports for servers that die and come back."""

import contextlib
import random
import socket

__all__ = ["free_port"]


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now.

    Below the range from which the kernel takes ports for outgoing connections: while a server is
    dead, a client that connects must not be given the server's own port and talk to itself.

    Raises:
        RuntimeError: None was found.
    """
    for _ in range(200):
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")
