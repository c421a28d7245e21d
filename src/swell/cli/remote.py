"""The commands' way to a server."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop

from swell.client.access import find_access
from swell.client.connection import Connection as Remote
from swell.client.messages import Event as ServerEvent
from swell.config import Settings

__all__ = ["Remote", "ServerEvent", "call"]

T = TypeVar("T")


def call(settings: Settings, work: Callable[[Remote], Awaitable[T]]) -> T:
    """Run a client command against the server that the settings name."""

    async def run() -> T:
        async with Remote(find_access(settings), settings.client.timeout_s) as remote:
            return await work(remote)

    return uvloop.run(run())
