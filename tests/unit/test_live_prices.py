"""Prices that clouds tell: asked now and then, kept over restarts, and replaced where none come."""

from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest
from fleet_cases import Yard, a_pool

from swell.autoscaler.controller import Controller, Terms
from swell.autoscaler.live_prices import Asking, LivePrices, standing
from swell.autoscaler.observe import Observer
from swell.core.billing.price_book import LivePrice, MachinePrice
from swell.core.billing.price_history import TARIFFS, PoolTariff
from swell.core.errors import Unavailable
from swell.core.provider import Instance, InstanceState
from swell.protocol.autoscaler_messages import STATUS, PoolScaling, ScalingStatus

LISTED = MachinePrice(900_000, "a list")
EVERY_S = 600.0


class Cloud:
    """Tells a price, or that it does not."""

    def __init__(self) -> None:
        self.price: int | None = 500_000
        self.error: Exception | None = None
        self.asked = 0

    async def prices(self) -> Sequence[LivePrice]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return [] if self.price is None else [LivePrice("g6.xlarge", "a", self.price)]


class World(Yard):
    """A controller whose pool has a cloud that tells prices."""

    def start(self, cloud: Cloud, usual: MachinePrice | None = LISTED) -> Controller:
        def price_of(told: Sequence[LivePrice], _: object) -> MachinePrice | None:
            return MachinePrice(told[0].hour_micros, "the cloud")

        self.prices = LivePrices(
            self.registry,
            self.clock,
            {"gpu": Asking(cloud.prices, price_of)},
            {} if usual is None else {"gpu": usual},
            EVERY_S,
        )
        hour_micros = None if usual is None else usual.hour_micros
        pools = [a_pool(self.provider, hour_micros=hour_micros, price_source="a list")]
        self.controller = Controller(
            Observer(self.broker, self.registry, pools, self.clock),
            self.registry,
            pools,
            self.clock,
            self.plan,
            Terms(holder="one", prices=self.prices),
        )
        return self.controller

    async def look(self, passed_s: float = 3.0) -> PoolScaling:
        """Let the controller look, hear what it asked for, and return how its pool stands."""
        self.clock.advance(passed_s)
        await self.tell_workload()
        for _ in range(3):
            await self.controller.step()
            await self.prices.answered()
        note = await self.registry.note(STATUS)
        assert note is not None
        [pool] = msgspec.json.decode(note, type=ScalingStatus).pools
        return pool

    async def tariff(self) -> PoolTariff:
        note = await self.registry.note(TARIFFS)
        assert note is not None
        return msgspec.json.decode(note, type=dict[str, PoolTariff])["gpu"]


@pytest.fixture
async def world() -> World:
    made = World()
    await made.describe()
    return made


async def test_what_the_cloud_tells_is_planned_by_told_and_written_down(world: World) -> None:
    cloud = Cloud()
    world.start(cloud)
    pool = await world.look()
    assert (pool.hour_micros, pool.price_source, pool.price_note) == (500_000, "the cloud", None)
    assert pool.price_told_at == world.clock.now()
    assert pool.price_read_on == world.clock.now().date()
    seen = await world.controller.look()
    assert seen is not None
    assert [view.hour_micros for view in seen[0].observation.pools] == [500_000]
    assert [each.hour_micros for each in (await world.tariff()).steps] == [500_000]


async def test_it_is_asked_again_when_it_is_time_and_only_changes_are_written(
    world: World,
) -> None:
    cloud = Cloud()
    world.start(cloud)
    await world.look()
    await world.look(EVERY_S / 2)
    assert cloud.asked == 1
    await world.look(EVERY_S / 2)
    assert (cloud.asked, len((await world.tariff()).steps)) == (2, 1)
    cloud.price = 700_000
    pool = await world.look(EVERY_S)
    steps = (await world.tariff()).steps
    assert [each.hour_micros for each in steps] == [500_000, 700_000]
    assert steps[1].at == world.clock.now()
    assert pool.hour_micros == 700_000


async def test_whoever_takes_over_goes_on_with_what_was_told_and_asks_when_it_is_due(
    world: World,
) -> None:
    await_first = Cloud()
    world.start(await_first)
    await world.look()
    await world.controller.close()
    second = Cloud()
    second.price = 800_000
    world.start(second)
    pool = await world.look()
    assert (pool.hour_micros, second.asked) == (500_000, 0)
    pool = await world.look(EVERY_S)
    assert (pool.hour_micros, second.asked) == (800_000, 1)


async def test_a_cloud_that_does_not_answer_changes_nothing_for_a_day_and_then_the_list_counts(
    world: World,
) -> None:
    cloud = Cloud()
    world.start(cloud)
    await world.look()
    cloud.error = Unavailable("EC2 is away")
    pool = await world.look(EVERY_S)
    assert pool.hour_micros == 500_000
    assert pool.price_note.startswith("last reported ")
    assert pool.price_note.endswith("EC2 is away")
    await world.look(60)
    assert cloud.asked == 3, "it is asked again soon"
    pool = await world.look(25 * 3600)
    assert (pool.hour_micros, pool.price_source, pool.price_told_at) == (900_000, "a list", None)
    assert pool.price_note == "as listed, since no live price is known: EC2 is away"
    assert [each.hour_micros for each in (await world.tariff()).steps] == [500_000, 900_000]
    cloud.error = None
    pool = await world.look(60)
    assert (pool.hour_micros, pool.price_note) == (500_000, None)


@pytest.mark.parametrize("error", [Unavailable("away"), None, ValueError("a fault of ours")])
async def test_before_the_first_answer_the_list_counts_and_it_is_said_why(
    world: World, error: Exception | None
) -> None:
    cloud = Cloud()
    cloud.error, cloud.price = error, None
    world.start(cloud)
    pool = await world.look()
    assert (pool.hour_micros, pool.price_source) == (900_000, "a list")
    assert pool.price_note.startswith("as listed, since no live price is known: ")
    assert (await world.tariff()).steps == []


async def test_a_pool_that_no_list_knows_has_the_price_that_its_cloud_tells(world: World) -> None:
    cloud = Cloud()
    world.start(cloud, usual=None)
    assert (await world.look()).hour_micros == 500_000
    cloud.error = Unavailable("away")
    assert (await world.look(48 * 3600)).hour_micros == 500_000, "nobody knows a better one"


async def test_a_price_that_the_settings_have_now_ends_what_was_told_before(world: World) -> None:
    world.start(Cloud())
    await world.look()
    await world.controller.close()
    world.start(Cloud(), usual=MachinePrice(650_000, "pools.gpu.hour_micros"))
    world.prices = LivePrices(
        world.registry,
        world.clock,
        {},
        {"gpu": MachinePrice(650_000, "pools.gpu.hour_micros")},
        EVERY_S,
    )
    await world.prices.load()
    world.clock.advance(10)
    await world.prices.step({})
    tariff = await world.tariff()
    assert [each.hour_micros for each in tariff.steps] == [500_000, 650_000]
    assert tariff.told_at is None


async def test_a_registry_that_cannot_be_written_gets_the_price_later(world: World) -> None:
    cloud = Cloud()
    world.start(cloud)
    await world.look()
    cloud.price, put = 700_000, world.registry.put_note

    async def refuse(name: str, data: bytes) -> None:
        if name == TARIFFS:
            raise Unavailable("the store is away")
        await put(name, data)

    world.registry.put_note = refuse  # type: ignore[method-assign]
    assert (await world.look(EVERY_S)).hour_micros == 700_000
    world.registry.put_note = put  # type: ignore[method-assign]
    await world.look()
    assert [each.hour_micros for each in (await world.tariff()).steps] == [500_000, 700_000]


def test_machines_stand_where_they_are_paid_for(world: World) -> None:
    now = world.clock.now()

    def machine(number: int, state: InstanceState, kind: str = "g6.xlarge") -> Instance:
        at = now - timedelta(seconds=number)
        return Instance(
            id=f"i{number}", pool="gpu", state=state, launched_at=at, kind=kind, location="a"
        )

    told = [
        machine(1, InstanceState.RUNNING),
        machine(2, InstanceState.STOPPING),
        machine(3, InstanceState.ENDED),
        machine(4, InstanceState.STARTING, kind=""),
        machine(5, InstanceState.STARTING, kind="g5.xlarge"),
    ]
    assert standing(told) == {("g6.xlarge", "a"): 2, ("g5.xlarge", "a"): 1}
