"""Connections to the database, and their errors."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import asyncpg

from swell.core.errors import Internal, InvalidRequest, SwellError, Unavailable
from swell.net.database_urls import database_place, unreadable_url

#: How long the server may take to accept a connection, in seconds.
CONNECT_S: Final = 5.0

#: How long a reader waits for an answer before it takes the server for lost, in seconds.
READ_S: Final = 20.0

#: Of all connections: compiling a short statement takes longer than running it.
SETTINGS: Final = {"application_name": "swell", "jit": "off"}

#: Of connections that read and write tasks. Plans use indexes even if the tables were small when
#: a statement was planned, since plans are kept until the server has analyzed the table again.
BY_INDEX: Final = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
}

#: Errors after which the server, or the way to it, is gone.
LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
)


async def connect(url: str, settings: dict[str, str], limit_s: float | None = None) -> Any:
    """Connect; a statement that takes longer than `limit_s` seconds fails."""
    return await asyncpg.connect(
        url,
        timeout=CONNECT_S,
        command_timeout=limit_s,
        statement_cache_size=256,
        server_settings=settings,
    )


@contextmanager
def explaining(url: str, setting: str) -> Iterator[None]:
    """Explain the errors of connecting.

    Raises:
        InvalidRequest: The URL cannot be read.
        Unavailable: The server cannot be reached, or refuses.
    """
    place = database_place(url, setting)
    try:
        yield
    except (*LOST, asyncpg.PostgresError) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(
            f"PostgreSQL at {place} cannot be used ({why}): start it, or correct {setting}"
        ) from error
    except ValueError:
        # The library's own words would show a part of the address.
        raise unreadable_url(setting) from None


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """Connect to `store.url`; explain the errors of the body too, as `explaining` does."""
    with explaining(url, "store.url"):
        connection = await connect(url, SETTINGS)
        try:
            yield connection
        finally:
            connection.terminate()


async def open_pool(url: str, size: int) -> Any:
    """Return a pool of connections that read."""
    return await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        timeout=CONNECT_S,
        command_timeout=READ_S,
        statement_cache_size=256,
        server_settings=SETTINGS | BY_INDEX,
        reset=_no_reset,
    )


async def _no_reset(connection: Any) -> None:
    """Save a round trip: readers change no settings of their session."""


def translated(error: BaseException) -> SwellError:
    """Return the error of Swell for an error of the client library."""
    if isinstance(error, SwellError):
        return error
    if isinstance(error, LOST):
        why = str(error) or type(error).__name__
        result: SwellError = Unavailable(f"the database does not answer ({why}); try again")
    elif isinstance(error, asyncpg.LockNotAvailableError):
        result = Unavailable("another session holds a lock on the rows to write; try again")
    elif isinstance(error, asyncpg.DataError):
        result = InvalidRequest(
            "the database cannot keep a value: a text with U+0000 or half of a pair of surrogates, "
            "or too large a number; send it without"
        )
    else:
        result = Internal(f"the database failed: {error}")
    result.__cause__ = error
    return result
