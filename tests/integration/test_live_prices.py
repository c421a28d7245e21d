"""Prices of now reach the plan, operators and the ledger: pools of EC2 before a front of moto."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from ec2_front import Ec2Front
from servers import MotoServer
from swell.bootstrap.autoscaler import Access, Autoscaler, build_autoscaler
from swell.bootstrap.backend import build_backend, close_backend
from swell.core.billing.price_history import TARIFFS, PoolTariff
from swell.core.clock import SystemClock
from swell.protocol.autoscaler_messages import STATUS, PoolScaling, ScalingStatus
from swell.server.dependencies import Backend
from swell.settings.load import load

PATIENCE_S = 60.0

POOL = """
[pools.gpu]
provider = "aws"
models = ["acme/poster"]
spot = true
most = 2
[pools.gpu.options]
image = "registry.example/poster:1"
region = "us-east-1"
ami = "ami-1"
types = ["g6.xlarge"]
zones = ["us-east-1a"]
endpoint = "{url}"
[autoscale]
token = "k"
deployment = "prices"
"""


async def nobody() -> None:
    pass


@asynccontextmanager
async def scaled(url: str, folder: Path) -> AsyncIterator[tuple[Autoscaler, Backend]]:
    """Have the pool scaled, by hand."""
    (folder / "swell.toml").write_text(POOL.format(url=url))
    chosen = load({"data_dir": folder}, config=folder / "swell.toml", environment={}).settings
    backend = await build_backend(chosen, SystemClock())
    access = Access("http://here", "k")
    autoscaler = build_autoscaler(chosen, SystemClock(), backend, access, wake=nobody)
    try:
        yield autoscaler, backend
    finally:
        await autoscaler.close()
        await close_backend(backend)


async def stands(autoscaler: Autoscaler, backend: Backend, told: str) -> PoolScaling:
    """Look until somebody tells the pool's price, or why there is none."""
    ends_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_s:
        await autoscaler.controller.step()
        note = await backend.registry.note(STATUS)
        if note is not None:
            [pool] = msgspec.json.decode(note, type=ScalingStatus).pools
            if told in f"{pool.price_source} {pool.price_note}":
                return pool
        await asyncio.sleep(0.05)
    raise AssertionError(f"nobody has told {told}")


@pytest.fixture
async def front(
    moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Ec2Front]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    async with Ec2Front(moto_server.url) as made:
        made.spot_prices = [[("g6.xlarge", "us-east-1a", "0.31", 5)]]
        yield made


async def test_a_spot_pool_costs_what_ec2_tells_now(front: Ec2Front, tmp_path: Path) -> None:
    async with scaled(front.url, tmp_path) as (autoscaler, backend):
        assert dict(backend.settings.hour_micros) == {"gpu": 805_000}, "on-demand price"
        pool = await stands(autoscaler, backend, "EC2's spot price history")
        assert (pool.hour_micros, pool.price_note) == (310_000, None)
        assert pool.price_source.startswith("aws/g6.xlarge@us-east-1a/spot: ")
        note = await backend.registry.note(TARIFFS)
        assert note is not None
        tariff = msgspec.json.decode(note, type=dict[str, PoolTariff])["gpu"]
        assert [each.hour_micros for each in tariff.steps] == [310_000]


async def test_a_spot_pool_costs_what_is_listed_where_ec2_tells_nothing(
    front: Ec2Front, tmp_path: Path
) -> None:
    front.refuses_prices = True
    async with scaled(front.url, tmp_path) as (autoscaler, backend):
        pool = await stands(autoscaler, backend, "UnauthorizedOperation")
        assert (pool.hour_micros, pool.price_told_at) == (805_000, None)
        assert pool.price_note.startswith("as listed, since no live price is known: EC2 refuses")
        assert await backend.registry.note(TARIFFS) is not None
