"""The commands' way to a server, and the options that all of them have for it."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import uvloop

from swell.cli.options import Config, Data, Json, Key, Url, settings_from
from swell.client.access import find_access
from swell.client.connection import Connection as Remote
from swell.client.messages import Event as ServerEvent
from swell.config import Settings

__all__ = ["Remote", "Server", "ServerEvent", "asks_server", "call", "talks_to_server"]

T = TypeVar("T")
Work = Callable[[Remote], Awaitable[T]]

#: Option → what it is, in the order in which `--help` shows them, after a command's own.
_USUAL: dict[str, tuple[Any, Any]] = {
    "as_json": (Json, False),
    "url": (Url, None),
    "key": (Key, None),
    "data": (Data, None),
    "config": (Config, None),
}


@dataclass(frozen=True)
class Server:
    """The server that a command asks, and how it shows what comes back."""

    settings: Settings
    as_json: bool

    def call(self, work: Work[T]) -> T:
        """Run `work` against the server."""
        return call(self.settings, work)


def call(settings: Settings, work: Work[T]) -> T:
    """Run a client command against the server that the settings name."""

    async def run() -> T:
        async with Remote(find_access(settings), settings.client.timeout_s) as remote:
            return await work(remote)

    return uvloop.run(run())


def asks_server(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command `--json --url --key --data --config` in place of its parameter `server`."""
    return _with_options(command, list(_USUAL))


def talks_to_server(command: Callable[..., T]) -> Callable[..., T]:
    """As `asks_server`, for a command that has no JSON to print, or its own way to."""
    return _with_options(command, [name for name in _USUAL if name != "as_json"])


def _with_options(command: Callable[..., T], names: list[str]) -> Callable[..., T]:
    @functools.wraps(command)
    def with_options(*own: Any, **given: Any) -> T:
        usual = {name: given.pop(name, _USUAL[name][1]) for name in names}
        return command(_server(**usual), *own, **given)

    annotations = get_type_hints(command, include_extras=True)
    its_own = [
        each.replace(annotation=annotations[name], kind=each.KEYWORD_ONLY)
        for name, each in inspect.signature(command).parameters.items()
        if name != "server"
    ]
    usual = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _USUAL.items()
        if name in names
    ]
    with_options.__signature__ = inspect.Signature([*its_own, *usual])  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in [*its_own, *usual]}
    return with_options


def _server(url: Any, key: Any, data: Any, config: Any, as_json: bool = False) -> Server:
    loaded = settings_from(config, data, client__url=url, client__key=key)
    return Server(loaded.settings, as_json)
