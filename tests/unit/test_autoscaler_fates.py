"""Each machine has one end, told once, whatever is known of it and whoever scales by then."""

from datetime import timedelta

import msgspec
import pytest
from fleet_cases import Yard, a_pool, a_worker

from manual_clock import ManualClock
from swell.autoscaler.decide import Limits
from swell.autoscaler.fates import fate_of
from swell.core.errors import Unavailable
from swell.core.provider import Instance, InstanceState, Notice
from swell.core.records import WorkerInfo
from swell.protocol.autoscaler_messages import (
    CANCELLED,
    CUT_SHORT,
    DRAINED,
    ENDS,
    FAILED,
    LOST,
    TAKEN_BACK,
)
from swell.providers.memory import MemoryProvider


def an_end(exit_code: int | None = None) -> Instance:
    now = ManualClock().now()
    return Instance(
        id="m", pool="gpu", state=InstanceState.ENDED, launched_at=now, exit_code=exit_code
    )


def one(**fields: bool) -> WorkerInfo:
    clock = ManualClock()
    gone_at = clock.now() if fields.pop("has_gone", False) else None
    return a_worker(clock, instance="m", gone_at=gone_at, **fields)


@pytest.mark.parametrize(
    ("fate", "worker", "exit_code", "known"),
    [
        # nobody had registered
        (FAILED, None, None, {}),
        (CANCELLED, None, None, {"order": CANCELLED}),
        (CANCELLED, None, -15, {"order": ""}),
        (FAILED, None, None, {"order": FAILED}),
        (TAKEN_BACK, None, None, {"order": TAKEN_BACK}),
        # somebody said goodbye
        (DRAINED, one(said_goodbye=True, has_gone=True, draining=True), None, {}),
        (DRAINED, one(said_goodbye=True, has_gone=True), None, {}),
        (DRAINED, one(said_goodbye=True, has_gone=True), -9, {"order": ""}),
        (LOST, one(said_goodbye=True, has_gone=True), -9, {}),
        # nobody did
        (LOST, one(), None, {}),
        (LOST, one(), -9, {}),
        (LOST, one(has_gone=True), None, {}),
        (LOST, one(draining=True), None, {}),
        (LOST, one(draining=True), -9, {"may_hold": False}),
        (LOST, one(draining=True), None, {"order": "", "is_overdue": False}),
        (LOST, one(), None, {"order": LOST}),
        (DRAINED, one(), 0, {}),
        (DRAINED, one(draining=True), None, {"may_hold": False}),
        (CUT_SHORT, one(draining=True), -9, {"order": "", "is_overdue": True}),
        (TAKEN_BACK, one(draining=True), -9, {"order": TAKEN_BACK, "is_overdue": True}),
    ],
)
def test_how_a_machine_has_ended(
    fate: str, worker: WorkerInfo | None, exit_code: int | None, known: dict[str, object]
) -> None:
    assert fate in ENDS
    assert fate_of(an_end(exit_code), worker, **known) == fate


class Nameless(MemoryProvider):
    """Tells nobody's exit code, as whoever did not start a process cannot; fails if told to."""

    is_down = False

    async def instances(self, pool: str | None = None) -> list[Instance]:
        if self.is_down:
            raise Unavailable("it does not answer")
        found = await super().instances(pool)
        return [msgspec.structs.replace(each, exit_code=None) for each in found]


async def at_work(n: int, **fields: object) -> Yard:
    clock = ManualClock()
    provider = Nameless(clock, boot_s=5.0)
    yard = Yard(clock, pools=(a_pool(provider, **fields),), limits=Limits(boot_limit_s=120.0))
    yard.provider = provider
    await yard.describe()
    await yard.submit(n)
    await yard.step()
    clock.advance(10)
    await yard.come_up()
    await yard.step()
    return yard


async def ends(yard: Yard) -> dict[str, int]:
    [pool] = (await yard.status()).pools
    return dict(pool.ends)


async def told(yard: Yard, what: str) -> int:
    return sum(each.n for each in await yard.decisions() if each.what == what)


async def test_a_killed_worker_that_backends_took_off_the_list_before_is_lost_all_the_same() -> (
    None
):
    yard = await at_work(2)
    victim = (await yard.registry.workers())[0]
    # Its backend was started again, and saw that its process is gone, before anybody scaled.
    yard.provider.end(victim.instance)
    await yard.registry.remove_worker(victim.id, yard.clock.now())
    yard.controller = yard.another("two")
    yard.clock.advance(11)
    for _ in range(3):
        await yard.step()
    assert await ends(yard) == {LOST: 1}
    assert await told(yard, "lost") == 1


async def test_a_worker_that_is_killed_on_its_way_out_is_lost_and_told_so() -> None:
    yard = await at_work(2)
    victim = (await yard.registry.workers())[0]
    await yard.registry.drain_worker(victim.id)
    yard.held = {victim.id: 1}
    await yard.step()
    yard.provider.end(victim.instance)
    for _ in range(3):
        await yard.step()
    assert await ends(yard) == {LOST: 1}
    [decision] = [each for each in await yard.decisions() if each.what == "lost"]
    assert "1 of them draining" in decision.why[0]


async def test_a_worker_that_finished_and_went_is_drained_and_not_lost() -> None:
    yard = await at_work(2)
    await yard.finish()
    yard.clock.advance(60)
    await yard.step()
    for each in await yard.registry.workers():
        assert each.draining
        parting = msgspec.structs.replace(each, said_goodbye=True)
        await yard.registry.put_worker(parting)
        await yard.registry.remove_worker(each.id, yard.clock.now())
        yard.provider.end(each.instance)
    await yard.step()
    assert await ends(yard) == {DRAINED: 2}
    assert await told(yard, "lost") == 0


async def test_boots_that_were_cancelled_or_failed_or_took_too_long() -> None:
    yard = await at_work(0)
    await yard.submit(3)
    await yard.step()
    first, second, third = [each.id for each in await yard.provider.instances()]
    yard.provider.end(first)
    await yard.finish()
    await yard.step()
    yard.clock.advance(4000)
    for _ in range(3):
        await yard.step()
    assert second != third
    assert await ends(yard) == {FAILED: 1, CANCELLED: 2}
    await yard.submit(1)
    yard.clock.advance(700)
    await yard.step()
    for _ in range(3):
        yard.clock.advance(130)
        await yard.step()
    assert await told(yard, "failed") >= 2
    # Only what has ended is counted: the late one may still finish.
    assert (await ends(yard))[FAILED] == 1


async def test_a_machine_that_was_taken_back_is_neither_drained_nor_lost() -> None:
    yard = await at_work(2)
    [victim, _] = await yard.registry.workers()
    at = yard.clock.now() + timedelta(seconds=30)
    yard.provider.warn(Notice(instance_id=victim.instance, at=at))
    for _ in range(15):
        await yard.step()
    assert await ends(yard) == {TAKEN_BACK: 1}


async def test_a_worker_whose_time_to_finish_was_over_is_cut_short() -> None:
    yard = await at_work(1, drain_s=20.0)
    await yard.submit(1)
    await yard.step()
    [booting] = [each for each in await yard.provider.instances() if not each.exit_code][1:]
    await yard.finish()
    await yard.step()  # it is cancelled, and registers all the same
    late = a_worker(yard.clock, "late", instance=booting.id)
    await yard.registry.put_worker(late)
    yard.held = {"late": 1}
    for _ in range(10):
        await yard.step()
    assert (await ends(yard)).get(CUT_SHORT) == 1


async def test_a_provider_that_says_nothing_for_a_while_tells_no_end_twice() -> None:
    yard = await at_work(2)
    yard.provider.end((await yard.registry.workers())[0].instance)
    await yard.step()
    assert await ends(yard) == {LOST: 1}
    # Another takes over just when the provider does not answer.
    yard.provider.is_down = True
    yard.controller = yard.another("two")
    yard.clock.advance(11)
    for _ in range(2):
        await yard.step()
    yard.provider.is_down = False
    for _ in range(3):
        await yard.step()
    assert await ends(yard) == {LOST: 1}
    assert await told(yard, "lost") == 1


async def test_a_goodbye_that_comes_between_two_questions_is_heard() -> None:
    """Workers are looked at after machines: who has ended by then has said what it had to."""
    yard = await at_work(1)
    [worker] = await yard.registry.workers()
    listed = yard.provider.instances

    async def and_goes(pool: str | None = None) -> list[Instance]:
        parting = msgspec.structs.replace(worker, said_goodbye=True)
        await yard.registry.put_worker(parting)
        await yard.registry.remove_worker(worker.id, yard.clock.now())
        yard.provider.end(worker.instance)
        return await listed(pool)

    yard.provider.instances = and_goes
    await yard.step()
    yard.provider.instances = listed
    await yard.step()
    assert await ends(yard) == {DRAINED: 1}
