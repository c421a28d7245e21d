"""A world over HTTP on loopback, for clients that open connections; and the command line on it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from api_harness import World
from typer.testing import CliRunner, Result

from swell.cli import app

__all__ = ["Commands", "served"]


@contextlib.asynccontextmanager
async def served(world: World) -> AsyncIterator[str]:
    """Serve a world that has started, and yield its URL."""
    config = uvicorn.Config(
        world.app, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    # Signals are the test's.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    # Whoever connects before the server has started waits in the socket's line.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@dataclass(frozen=True)
class Commands:
    """`swell` against a server, in a folder of its own."""

    url: str
    key: str
    folder: Path

    async def run(self, *words: str) -> Result:
        where = ("--url", self.url, "--key", self.key, "--data", str(self.folder))
        return await asyncio.to_thread(CliRunner().invoke, app, [*words, *where])

    async def ok(self, *words: str) -> Result:
        done = await self.run(*words)
        assert done.exit_code == 0, done.output
        return done

    async def json(self, *words: str) -> Any:
        return json.loads((await self.ok(*words, "--json")).stdout)
