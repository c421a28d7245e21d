"""The local key of a backend on a shared store has an end, which a running backend puts off."""

import asyncio
import hashlib
from pathlib import Path

from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.cli.keyring import OUTLIVES_S, open_keyring
from swell.cli.parts import examine
from swell.cli.service import open_service
from swell.settings.load import load

PATIENCE_S = 30.0


async def test_commands_beside_a_backend_are_let_in_for_as_long_as_it_runs(
    postgres_databases: PostgresDatabases, tmp_path: Path
) -> None:
    clock = ManualClock()
    url = await postgres_databases.new()
    flags = {"data_dir": tmp_path, "server.port": 0, "store.url": url, "objects.url": "memory:"}
    settings = load(flags, environment={}, folder=tmp_path).settings
    async with (
        open_service(settings, clock, hurry=asyncio.Event()) as service,
        open_keyring(service.backend, tmp_path, service.url, service.local_url) as keyring,
        asyncio.timeout(PATIENCE_S),
    ):
        digest = hashlib.sha256(keyring.access.key.encode()).digest()
        for _ in range(4):
            clock.advance(OUTLIVES_S * 0.6)
            left_s = 0.0
            while left_s < OUTLIVES_S * 0.9:
                key = await service.backend.registry.key_by_digest(digest)
                assert key is not None
                assert key.expires_at is not None
                left_s = (key.expires_at - clock.now()).total_seconds()
        # Nobody is asked to do by hand what the backend does.
        [keys] = [each for each in await examine(settings, clock) if each.name == "keys"]
        assert keys.grade == "ok", keys.detail
