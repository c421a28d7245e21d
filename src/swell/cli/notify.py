"""Notifies a service manager such as systemd that the service is ready.

Source: sd_notify(3), "Standalone implementations".
"""

import contextlib
import socket

from swell.settings.environment import notify_socket


def tell_ready() -> None:
    """Send `READY=1` to the notify socket, if there is one; ignore errors."""
    address = notify_socket()
    if address is None:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kind) as told, contextlib.suppress(OSError):
        told.connect(address)
        told.sendall(b"READY=1")
