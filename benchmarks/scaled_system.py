"""Swell as it runs at scale, on one machine: backends and workers apart, on PostgreSQL and NATS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import asyncpg
import nats
from nats.js.errors import NotFoundError

import processes
import services
import swell_system
from machine import folder
from swell.simulator.pools import MODEL
from swell_system import READY_S, Swell


@dataclass(frozen=True)
class Scaled(Swell):
    """A running Swell with a database server of its own, and the processes that it consists of."""

    #: URL of its database; empty for SQLite.
    database: str = ""
    #: URL of its queue server; empty where there is none.
    nats: str = ""
    #: What was started, by name, and its process, which may have started more.
    parts: dict[str, int] = field(default_factory=dict)

    def ask_database(self, query: str) -> list[Any]:
        """The rows that a query finds, on a connection of its own."""
        return asyncio.run(_rows(self.database, query))

    def states(self) -> dict[str, int]:
        """How many tasks the store holds in each state."""
        if not self.database:
            return super().states()
        return dict(self.ask_database("SELECT state, count(*)::integer FROM tasks GROUP BY state"))

    def ids_sent(self) -> int:
        """How many messages have ever come into the stream in which ids of tasks lie."""
        return asyncio.run(_messages(self.nats))

    def cpu_s(self) -> dict[str, float]:
        """The CPU time that each part has used so far."""
        return {name: processes.family_cpu_s(pid) for name, pid in self.parts.items()}


async def _rows(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def _messages(url: str) -> int:
    client = await nats.connect(url)
    try:
        stream = await client.jetstream().stream_info("swell")
        return int(stream.state.last_seq)
    except NotFoundError:
        return 0  # It is made for the first id.
    finally:
        await client.close()


@contextlib.contextmanager
def scaled(
    *,
    store: str = "postgres",
    with_nats: bool = False,
    backends: int = 1,
    workers: int = 1,
    postgres_settings: Sequence[str] = (),
) -> Iterator[Scaled]:
    """Backends on one port and workers apart, in a fresh folder, once there is a worker.

    Args:
        store: `postgres` or `sqlite`.
        with_nats: Ids of tasks and events go through NATS; otherwise through the store.
        backends: How many processes serve HTTP.
        workers: How many there are. Of none it is known what they would serve.
        postgres_settings: Of the database server, `name=value` each, besides its defaults.
    """
    with folder("swell") as place, contextlib.ExitStack() as started:
        settings: dict[str, str] = {}
        parts: dict[str, int] = {}
        database = queues = ""
        for name in ("postgres", "nats"):
            (place / name).mkdir()
        place.chmod(0o755)
        if store == "postgres":
            server = services.postgres_server(place / "postgres", postgres_settings)
            postgres = started.enter_context(server)
            database = settings["SWELL_STORE__URL"] = postgres.url
            parts["postgres"] = postgres.pid
        if with_nats:
            server = services.nats_server(place / "nats")
            nats_server = started.enter_context(server)
            queues = nats_server.url
            settings |= {"SWELL_BROKER__URL": queues, "SWELL_BUS__URL": queues}
            parts["nats"] = nats_server.pid
        shared = ["--workers", str(backends)] if backends > 1 else []
        serving = swell_system.started("serve", place, *shared, settings=settings)
        swell = started.enter_context(serving)
        parts["backends"] = swell.pid
        for number in range(workers):
            parts[f"worker_{number}"] = started.enter_context(swell_system.worker(swell))
        are_there = lambda: len(swell.ask("GET", "/v1/workers")["workers"]) == workers  # noqa: E731
        processes.until(are_there, READY_S, MODEL, place / "worker.log")
        if not workers:
            started.enter_context(swell_system.without_worker(swell))
        yield Scaled(**asdict(swell), database=database, nats=queues, parts=parts)
