"""Of startups that one backend replaces while another forgets them, none waits in a circle."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import asyncpg
import pytest

from conformance.startups import a_startup
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.core.records import KeptStartup
from swell.core.startup_phases import STARTUPS_TTL, StartupState
from swell.db.postgres import PostgresDatabase
from swell.db.registry import Registry

R = TypeVar("R")

PATIENCE_S = 30.0
NOW = datetime(2030, 1, 1, tzinfo=UTC)

_HOLD = "SELECT 1 FROM startups WHERE id = $1 FOR UPDATE"


class World:
    """A registry, and somebody else who may hold rows of its database."""

    def __init__(self, registry: Registry, other: Any) -> None:
        self.registry = registry
        self.other = other

    async def hold(self, startup_id: str) -> None:
        """As another backend does that is replacing this one, or forgetting it."""
        await self.other.execute("BEGIN")
        await self.other.execute(_HOLD, startup_id)


@pytest.fixture
async def world(postgres_databases: PostgresDatabases) -> AsyncIterator[World]:
    url = await postgres_databases.new()
    database = await PostgresDatabase.open(url, ManualClock())
    other = await asyncpg.connect(url)
    yield World(Registry(database), other)
    await other.close()
    await database.close()


async def patient(call: Awaitable[R]) -> R:
    async with asyncio.timeout(PATIENCE_S):
        return await call


async def test_a_startup_that_is_forgotten_while_it_is_told_of_again_is_kept_anew(
    world: World,
) -> None:
    await world.registry.put_startup(a_startup(state=StartupState.READY))
    done = a_startup(state=StartupState.DONE)
    await world.hold(done.id)
    putting = asyncio.ensure_future(world.registry.put_startup(done))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with asyncio.timeout(PATIENCE_S):
        while not await world.other.fetchval(waiting):
            await asyncio.sleep(0)
    await world.other.execute("DELETE FROM startups WHERE id = $1", done.id)
    await world.other.execute("COMMIT")
    assert await patient(putting) == KeptStartup(None)
    assert await world.registry.startups() == [done]


async def test_nobody_waits_to_forget_what_another_holds(world: World) -> None:
    old = a_startup("old", state=StartupState.DONE, begun_at=NOW - STARTUPS_TTL)
    await world.registry.put_startup(old)
    await world.hold(old.id)
    later = a_startup("later", begun_at=NOW + timedelta(seconds=1))
    await patient(world.registry.put_startup(later))
    await world.other.execute("COMMIT")
    assert await world.registry.startups() == [old, later]
    # It is forgotten the next time.
    await world.registry.put_startup(later)
    assert await world.registry.startups() == [later]
