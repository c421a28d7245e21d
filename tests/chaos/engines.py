"""What a Swell stands on while it is tried: which store, broker and objects, and their servers."""

import asyncio
import contextlib
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar, Final

from chaos.proxy import Link
from chaos.remains import is_sound, read_pages, read_store
from conformance.history import Final as FinalTask
from ports import free_port
from servers import MotoServer, NatsServer, PostgresServer, Server
from swell.core.clock import SystemClock
from swell.core.retry import RetryPolicy

__all__ = ["ENGINES", "Engine", "NatsEngine", "PostgresEngine", "SqliteEngine", "SqsEngine"]

_REGION: Final = "us-east-1"

#: What moto takes, as everybody else.
_CLOUD_KEYS: Final = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": _REGION,
    "AWS_REGION": _REGION,
}


#: IDs that a queue service lost are sent again after about as long as a lease lasts here.
_REPAIR: Final = {"broker.repair_s": "1.5"}


class Engine:
    """The embedded store: one backend and one file.

    Args:
        folder: An empty one for everything that is kept.
    """

    name: ClassVar[str] = "sqlite"
    #: How many backends share it.
    backends: ClassVar[int] = 1
    #: Whether there is a server that may be killed and frozen.
    has_server: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: That server. It starts again on what it had written, if it keeps it.
        self.server: Server | None = None

    def start(self) -> None:
        """Start the servers."""

    def stop(self) -> None:
        """End them."""

    def links(self) -> list[Link]:
        """Ways to servers that lead through the proxy."""
        return []

    def settings(self) -> dict[str, str]:
        """Settings of backends by their dotted keys."""
        return {}

    def environment(self) -> dict[str, str]:
        """Variables of backends and workers that are no settings."""
        return {}

    def queues_url(self) -> str:
        """Return the queue service that every other worker polls; empty for none."""
        return self.settings().get("broker.url", "")

    async def finals(self, data: Path) -> list[FinalTask]:
        """Return what the store holds."""
        return await asyncio.to_thread(read_store, data / "swell.db")

    async def is_sound(self, data: Path) -> str:
        """Return `ok`, or what is broken in what the store has written."""
        return await asyncio.to_thread(is_sound, data / "swell.db")


class SqliteEngine(Engine):
    """SQLite on a disk of its own, so that it can be full: a file with ext4, where we are root."""

    DISK_BYTES: Final = 768 * 1024**2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.disk = folder / "data"
        self._is_mounted = False

    def start(self) -> None:
        """Mount the disk. Without the right to do so, the folder lies on the disk of all."""
        image = self.folder / "disk.img"
        self.disk.mkdir()
        with image.open("wb") as file:
            file.truncate(self.DISK_BYTES)
        steps = (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, self.disk])
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            for step in steps:
                subprocess.run(step, check=True, capture_output=True)
            self._is_mounted = True

    def stop(self) -> None:
        """Unmount it, as soon as the kernel has let go of those that were killed."""
        for _ in range(100):
            if not self._is_mounted:
                return
            ran = subprocess.run(["umount", self.disk], check=False, capture_output=True)
            self._is_mounted = ran.returncode != 0
            if self._is_mounted:
                time.sleep(0.1)
        raise RuntimeError(f"{self.disk} is still in use")

    @property
    def may_be_full(self) -> bool:
        """Whether the disk is one of its own."""
        return self._is_mounted


class PostgresEngine(Engine):
    """PostgreSQL as store, broker and bus of two backends; files in a folder."""

    name = "postgres"
    backends = 2
    has_server = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.database = PostgresServer()
        self.database.port = free_port()
        self.server = self.database

    def start(self) -> None:
        """Start PostgreSQL."""
        self.database.start()

    def stop(self) -> None:
        """End it."""
        self.database.kill()

    def settings(self) -> dict[str, str]:
        """The database, and one folder of objects for both backends."""
        return {"store.url": self.database.url, "objects.url": f"file:{self.folder / 'objects'}"}

    async def finals(self, data: Path) -> list[FinalTask]:
        """Return what the database holds, read by a store of our own."""
        from swell.db.postgres import PostgresDatabase  # noqa: PLC0415 - an extra
        from swell.db.task_store import Store  # noqa: PLC0415 - an extra

        del data
        database = await PostgresDatabase.open(self.database.url, SystemClock())
        store = Store(database, RetryPolicy())
        try:
            return await read_pages(store)
        finally:
            await store.close()

    async def is_sound(self, data: Path) -> str:
        """Return `ok` where every row of every index is in its table, by `amcheck`."""
        import asyncpg  # noqa: PLC0415 - an extra

        del data
        connection = await asyncpg.connect(self.database.url)
        try:
            await connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
            await connection.fetch(_CHECK_INDEXES)
        except asyncpg.PostgresError as error:
            return str(error)
        finally:
            await connection.close()
        return "ok"


_CHECK_INDEXES = """
SELECT bt_index_check(index.oid, true)
FROM pg_class AS index
JOIN pg_am ON pg_am.oid = index.relam AND pg_am.amname = 'btree'
JOIN pg_namespace ON pg_namespace.oid = index.relnamespace
WHERE index.relkind = 'i' AND nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
"""


class NatsEngine(PostgresEngine):
    """NATS JetStream as broker and NATS as bus of two backends on PostgreSQL."""

    name = "nats"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.broker = NatsServer(folder / "nats")
        self.broker.port = free_port()
        self.server = self.broker

    def start(self) -> None:
        """Start both servers."""
        super().start()
        self.broker.start()

    def stop(self) -> None:
        """End them."""
        self.broker.kill()
        super().stop()

    def settings(self) -> dict[str, str]:
        """The store's, with broker and bus."""
        return (
            super().settings()
            | _REPAIR
            | {"broker.url": f"{self.broker.url}/chaos", "bus.url": f"{self.broker.url}/chaos"}
        )


class SqsEngine(PostgresEngine):
    """Amazon SQS as broker and S3 for files, both as moto imitates them, on PostgreSQL.

    moto keeps nothing: an SQS that was killed is empty when it is back. The one that keeps the
    files is another, which lives on, and is reached through the proxy.
    """

    name = "sqs"
    #: Of S3, through the proxy.
    LINK: Final = "objects"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.broker = MotoServer(folder / "sqs")
        self.broker.port = free_port()
        self.objects = MotoServer(folder / "s3")
        self.objects.port = free_port()
        self.server = self.broker
        self._link = Link(name=self.LINK, port=free_port(), targets=(self.objects.port,))

    def start(self) -> None:
        """Start all servers, and make the bucket."""
        import boto3  # noqa: PLC0415 - an extra

        super().start()
        self.broker.start()
        self.objects.start()
        keys: dict[str, Any] = {
            "region_name": _REGION,
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }
        boto3.client("s3", endpoint_url=self.objects.url, **keys).create_bucket(Bucket="chaos")

    def stop(self) -> None:
        """End them."""
        self.broker.kill()
        self.objects.kill()
        super().stop()

    def links(self) -> list[Link]:
        """The way to S3."""
        return [self._link]

    def settings(self) -> dict[str, str]:
        """The store's, with broker and bucket."""
        return (
            super().settings()
            | _REPAIR
            | {
                "broker.url": f"sqs://{_REGION}/chaos?endpoint={self.broker.url}",
                "objects.url": "s3://chaos/files",
                "objects.endpoint": f"http://127.0.0.1:{self._link.port}",
                "objects.region": _REGION,
                # moto is slow: what takes Amazon milliseconds takes it long beside two seconds.
                "delivery.lease_s": "4",
                "delivery.heartbeat_s": "1.2",
                "objects.key_id": "test",
                "objects.secret": "test",
            }
        )

    def environment(self) -> dict[str, str]:
        """Keys that moto takes."""
        return dict(_CLOUD_KEYS)


ENGINES: Final[dict[str, type[Engine]]] = {
    each.name: each for each in (SqliteEngine, PostgresEngine, SqsEngine, NatsEngine)
}
