"""Tells whoever manages services, such as systemd, that this one is ready.

Source: sd_notify(3), "Standalone implementations".
"""

import contextlib
import socket

from swell.settings.environment import notify_socket


def tell_ready() -> None:
    """Say that requests are taken, if somebody has asked to be told; whoever is away is not."""
    address = notify_socket()
    if address is None:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kind) as told, contextlib.suppress(OSError):
        told.connect(address)
        told.sendall(b"READY=1")
