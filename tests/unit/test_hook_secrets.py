"""The secrets that sign webhooks, as several ask for them at once."""

import asyncio

from manual_clock import ManualClock
from sqlite_rig import SqliteRig
from swell.db.registry import Registry
from swell.server.webhooks.webhook_secrets import HookSecrets


class Slow(Registry):
    """Others run between what is read and what is written, as with a server elsewhere."""

    async def note(self, name: str) -> bytes | None:
        kept = await super().note(name)
        await asyncio.sleep(0)
        return kept


async def test_all_who_ask_for_the_first_secret_at_once_are_told_the_same() -> None:
    clock = ManualClock()
    secrets = HookSecrets(Slow(SqliteRig(clock).database), clock)
    found = await asyncio.gather(*(secrets.of("k1") for _ in range(5)))
    kept = await secrets.of("k1")
    assert kept is not None
    assert kept.old is None
    assert {each.secret for each in found if each is not None} == {kept.secret}


async def test_a_secret_that_nobody_made_is_none_unless_it_is_the_default() -> None:
    clock = ManualClock()
    secrets = HookSecrets(SqliteRig(clock).registry, clock)
    assert await secrets.of("k1", "billing") is None
    made = await secrets.rotate("k1", "billing", 0.0)
    assert await secrets.of("k1", "billing") == made
