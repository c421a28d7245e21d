"""Opens the database, the queues and the bus that the settings name.

The modules of an adapter are imported when a setting selects it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from swell.bootstrap.extras import installed, opening
from swell.core.clock import Clock
from swell.core.errors import InvalidRequest
from swell.settings.load import Settings

if TYPE_CHECKING:
    from swell.db.task_store import TaskDatabase
    from swell.pubsub.local_bus import MemoryBus
    from swell.queues.external_queue import ExternalQueues

_POSTGRES: Final = ("postgresql:", "postgres:")


def is_shared(settings: Settings) -> bool:
    """Whether several backends can use the store: an embedded database belongs to one process."""
    return settings.store.url.startswith(_POSTGRES)


def store_file(settings: Settings) -> Path | None:
    """Return the SQLite file of the store; None if the store is not SQLite."""
    url = settings.store.url
    if not url:
        return settings.data_dir / "swell.db"
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


async def open_database(settings: Settings, clock: Clock) -> "TaskDatabase":
    """Open the database of `store.url`.

    Raises:
        InvalidRequest: The URL names no known adapter.
        Unusable: It cannot be opened.
    """
    file = store_file(settings)
    if file is not None:
        from swell.db.sqlite import SqliteDatabase

        with opening(f"the database {file}", "store.url or data_dir"):
            return SqliteDatabase.open(file, clock)
    url = settings.store.url
    if is_shared(settings):
        with installed("postgres", "store.url"):
            from swell.db.postgres import PostgresDatabase
        return await PostgresDatabase.open(url, clock, connections=settings.store.connections)
    raise InvalidRequest(
        f"store.url {url.partition(':')[0]!r}: use sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    )


async def migration_status(settings: Settings) -> dict[str, Any]:
    """Return the applied and the missing migrations of the database, without changing it.

    Raises:
        InvalidRequest: The store is not PostgreSQL.
        Unavailable: The database cannot be reached.
    """
    url = _postgres_url(settings)
    with installed("postgres", "store.url"):
        from swell.db.postgres.migrate import status_of
    status: dict[str, Any] = msgspec.to_builtins(await status_of(url))
    return status


async def upgrade_store(settings: Settings, clock: Clock) -> list[str]:
    """Apply the missing migrations of the database, and return their names.

    Raises:
        InvalidRequest: The store is not PostgreSQL.
        Unavailable: The database cannot be reached.
        Conflict: A newer version of Swell has changed it in a way that this version cannot read.
    """
    url = _postgres_url(settings)
    with installed("postgres", "store.url"):
        from swell.db.postgres.migrate import upgrade
    return await upgrade(url, clock)


def _postgres_url(settings: Settings) -> str:
    if not is_shared(settings):
        raise InvalidRequest(
            "store.url names no PostgreSQL: set it to postgresql://USER@HOST/DATABASE. An embedded "
            "database is brought up to date by the backend that opens it"
        )
    return settings.store.url


def back_up(settings: Settings, target: Path) -> int:
    """Copy the embedded database to a new file; return its size, in bytes. Blocks.

    Raises:
        InvalidRequest: The store is not a SQLite file.
        NotFound, Conflict, Unavailable: See `swell.db.sqlite.backup`.
    """
    from swell.db.sqlite.backup import back_up

    file = store_file(settings)
    if file is None:
        raise InvalidRequest(
            "this copies SQLite databases, and store.url names another one: use that one's own "
            "tools, such as pg_dump or the archive of PostgreSQL's write-ahead log"
        )
    return back_up(file, target)


def external_queues(url: str, setting: str = "broker.url") -> "ExternalQueues":
    """Return the queues of a service; they connect when they are first used.

    Args:
        url: Of the service.
        setting: The setting that holds the URL, for errors.

    Raises:
        InvalidRequest: The URL names no known adapter.
        Unusable: Its client library is not installed.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("nats", "tls"):
        with installed("nats", setting):
            from swell.queues.nats_queue import NatsQueues
        return NatsQueues(url)
    if scheme == "sqs":
        with installed("sqs", setting):
            from swell.queues.sqs_queue import SqsQueues
        return SqsQueues(url)
    raise InvalidRequest(
        f"{setting} {url.partition(':')[0]!r}: use nats://HOST:PORT/NAME or sqs://REGION/PREFIX"
    )


async def open_bus(settings: Settings, clock: Clock) -> "MemoryBus":
    """Open a new connection to the bus.

    Raises:
        InvalidRequest: The URL names no known adapter.
        Unusable: Its client library is not installed.
    """
    url = settings.bus.url or (settings.store.url if is_shared(settings) else "")
    if not url:
        from swell.pubsub.local_bus import MemoryBus

        return MemoryBus(clock)
    if url.partition(":")[0] in ("nats", "tls"):
        with installed("nats", "bus.url"):
            from swell.pubsub.cluster_bus import WiredBus
            from swell.pubsub.nats_wire import NatsWire
        return await WiredBus(NatsWire(url), clock).open()
    if url.startswith(_POSTGRES):
        with installed("postgres", "bus.url"):
            from swell.db.postgres.listen_notify import NotifyChannel
            from swell.pubsub.cluster_bus import WiredBus
        return await WiredBus(NotifyChannel(url), clock).open()
    raise InvalidRequest(
        f"bus.url {url.partition(':')[0]!r}: use nats://HOST:PORT or postgresql://USER@HOST/DATABASE"
    )
