"""Connects commands to a server, and gives them the options for it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from swell.cli.options import Config, Data, Json, Key, Url, in_place_of, settings_from
from swell.client.access import find_access
from swell.client.connection import Connection as Remote
from swell.client.messages import Event as ServerEvent
from swell.settings.load import Settings

__all__ = ["Remote", "Server", "ServerEvent", "asks_server", "call", "talks_to_server"]

T = TypeVar("T")
Work = Callable[[Remote], Awaitable[T]]

#: Name → option and its default, in the order of `--help`, after a command's own options.
_USUAL: dict[str, tuple[Any, Any]] = {
    "as_json": (Json, False),
    "url": (Url, None),
    "key": (Key, None),
    "data": (Data, None),
    "config": (Config, None),
}


@dataclass(frozen=True)
class Server:
    """The server of a command, and the output format."""

    settings: Settings
    as_json: bool

    def call(self, work: Work[T]) -> T:
        """Run `work` with a connection to the server."""
        return call(self.settings, work)


def call(settings: Settings, work: Work[T]) -> T:
    """Run `work` with a connection to the server of the settings."""

    async def run() -> T:
        async with Remote(find_access(settings), settings.client.timeout_s) as remote:
            return await work(remote)

    return uvloop.run(run())


def asks_server(command: Callable[..., T]) -> Callable[..., T]:
    """Replace a command's parameter `server` with `--json --url --key --data --config`."""
    return in_place_of(command, "server", _USUAL, _server, are_last=True)


def talks_to_server(command: Callable[..., T]) -> Callable[..., T]:
    """Do the same as `asks_server`, but without `--json`."""
    usual = {name: option for name, option in _USUAL.items() if name != "as_json"}
    return in_place_of(command, "server", usual, _server, are_last=True)


def _server(url: Any, key: Any, data: Any, config: Any, as_json: bool = False) -> Server:
    loaded = settings_from(config, data, client__url=url, client__key=key)
    return Server(loaded.settings, as_json)
