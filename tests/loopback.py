"""A web application on this machine, for as long as a block runs."""

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

__all__ = ["listening"]


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, *, port: int = 0, patience_s: float = 60.0
) -> AsyncIterator[str]:
    """Serve an application on loopback, and yield its URL, without a slash at its end.

    Args:
        app: Whose routes answer.
        port: To listen on; 0 for a free one.
        patience_s: How long requests that are open at the end may go on.
    """
    runner = web.AppRunner(app, shutdown_timeout=patience_s)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
