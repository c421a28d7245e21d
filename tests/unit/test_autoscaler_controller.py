import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

import msgspec
import pytest
from fleet_cases import MODEL, Yard, a_pool, a_worker, one_for_each

from manual_clock import ManualClock
from sqlite_rig import turns
from swell.autoscaler.controller import together
from swell.autoscaler.decide import End, Limits
from swell.autoscaler.memory import Memory
from swell.autoscaler.outlook import Observation, Plan, PoolPlan, Relief, State
from swell.core.errors import InvalidInput, Unavailable
from swell.core.provider import Instance, InstanceState, LaunchRequest, Notice, Refused
from swell.core.records import WorkerInfo
from swell.db.instance_notices import Spent, keep_spent
from swell.protocol.autoscaler_messages import WORKLOAD, Workload
from swell.providers.memory import MemoryProvider
from swell.providers.sightings import Sightings


async def a_yard(**fields: object) -> Yard:
    yard = Yard(**fields)
    await yard.describe()
    return yard


async def grown(n: int, **fields: object) -> Yard:
    """A yard in which n workers are at work, and so many tasks wait."""
    yard = await a_yard(**fields)
    await yard.submit(n)
    await yard.step()
    yard.clock.advance(10)
    await yard.come_up()
    await yard.step()
    return yard


# ---- growing


async def test_what_waits_is_launched_for_once() -> None:
    yard = await a_yard()
    await yard.submit(3)
    for _ in range(4):
        await yard.step()
    assert len(await yard.living()) == 3
    [pool] = (await yard.status()).pools
    assert (pool.desired, pool.ready, pool.booting) == (3, 0, 3)


async def test_a_task_of_a_sleeping_pool_wakes_it() -> None:
    yard = await a_yard()
    await yard.step()
    assert await yard.living() == []
    await yard.submit(1)
    await yard.step()
    assert len(await yard.living()) == 1


async def test_never_more_than_most_are_launched() -> None:
    yard = await a_yard(plan=lambda observation, state: greedy(50, observation, state))
    for _ in range(5):
        await yard.step()
        await yard.come_up()
    assert len(await yard.living()) == 10


async def test_a_pool_whose_models_nobody_has_described_is_started_once() -> None:
    yard = Yard()
    await yard.step()
    assert len(await yard.living()) == 1
    await yard.describe()
    yard.clock.advance(30)
    await yard.come_up()
    for _ in range(3):
        await yard.step()
    [worker] = await yard.registry.workers()
    assert worker.draining


# ---- launches are written down first


async def test_a_launch_whose_answer_was_lost_with_its_controller_is_not_made_twice() -> None:
    yard = await a_yard()
    await yard.submit(2)
    yard.clock.advance(3)
    await yard.tell_workload()
    await yard.controller.step()
    # It dies before it hears what came of that.
    await yard.controller.settled()
    yard.controller = yard.another("two")
    yard.clock.advance(11)  # until the duty is free
    await yard.step()
    await yard.step()
    assert len(await yard.living()) == 2
    assert [each.n for each in yard.provider.launches] == [2]


async def test_a_launch_that_was_written_down_and_never_made_is_made_by_the_next() -> None:
    yard = await a_yard()
    provider = Deaf(yard.clock)
    yard.pools = (a_pool(provider),)
    yard.controller = yard.another("one")
    await yard.submit(2)
    yard.clock.advance(3)
    await yard.tell_workload()
    await yard.controller.step()
    await asyncio.sleep(0)  # the call begins, and never comes back
    assert provider.asked == 1
    dead, provider.is_deaf = yard.controller, False
    yard.controller = yard.another("two")
    yard.clock.advance(21)
    await yard.step()
    assert len(await provider.instances()) == 2
    assert len({each.token for each in await provider.instances()}) == 1
    await dead.close()


async def test_a_launch_that_failed_is_tried_again_with_the_same_token_and_given_up() -> None:
    yard = await a_yard()
    provider = Broken(yard.clock)
    yard.pools = (a_pool(provider),)
    yard.controller = yard.another("one")
    await yard.submit(1)
    for _ in range(60):
        await yard.step()
    tokens = list(dict.fromkeys(provider.tokens))
    assert provider.tokens.count(tokens[0]) == 4
    assert len(tokens) < 6, "it is asked less and less"
    [pool] = (await yard.status()).pools
    assert pool.closed_s > 0
    assert "not known what came" in pool.why_closed


async def test_a_launch_of_a_pool_that_has_left_the_settings_holds_nothing_up() -> None:
    yard = await a_yard()
    yard.pools = (a_pool(Broken(yard.clock), "old"),)
    yard.controller = yard.another("one")
    await yard.submit(1)
    await yard.step()
    await yard.controller.close()
    yard.pools = (a_pool(yard.provider, "new"),)
    yard.clock.advance(21)
    dry = await yard.another("dry").look()
    assert dry is not None
    assert [each.pool for each in dry[2].memory.launches] == ["new"]
    yard.controller = yard.another("two")
    await yard.step()
    assert len(await yard.living("new")) == 1


# ---- refusals


async def test_after_a_refusal_a_pool_is_asked_later_and_later() -> None:
    yard = await a_yard()
    yard.provider.refuse(Refused("no capacity in eu-1"))
    await yard.submit(1)
    asked = 0.0
    waits = []
    for _ in range(200):
        before = len([each for each in await yard.decisions() if each.what == "refused"])
        await yard.step()
        after = len([each for each in await yard.decisions() if each.what == "refused"])
        if after > before:
            waits.append(yard.clock.monotonic_s() - asked)
            asked = yard.clock.monotonic_s()
    growing = waits[1:]
    assert growing == sorted(growing)
    assert growing[-1] > 4 * growing[0]
    [pool] = (await yard.status()).pools
    assert pool.why_closed == "no capacity in eu-1"
    yard.provider.refuse(None)
    yard.clock.advance(1800)
    await yard.step()
    assert len(await yard.living()) == 1


async def test_what_was_refused_is_asked_again_with_another_token() -> None:
    yard = await a_yard()
    yard.provider.refuse(Refused("none"))
    await yard.submit(1)
    await yard.step()
    yard.provider.refuse(None)
    yard.clock.advance(60)
    await yard.step()
    await yard.step()
    assert len(await yard.living()) == 1
    assert [each.what for each in await yard.decisions()] == ["launch", "refused", "launch"]


async def test_a_refusal_is_kept_to_as_long_as_the_provider_says() -> None:
    yard = await a_yard()
    yard.provider.refuse(Refused("slow down", retry_after_s=100))
    await yard.submit(1)
    await yard.step()
    yard.provider.refuse(None)
    yard.clock.advance(90)
    await yard.step()
    assert await yard.living() == []
    yard.clock.advance(15)
    await yard.step()
    assert len(await yard.living()) == 1


async def test_what_cannot_be_launched_as_the_settings_say_is_told_as_a_refusal_at_once() -> None:
    class Misled(MemoryProvider):
        async def launch(self, request: LaunchRequest) -> list[Instance]:
            raise InvalidInput("the image ami-0 does not exist")

    yard = await a_yard()
    yard.pools = (a_pool(Misled(yard.clock)),)
    yard.controller = yard.another("one")
    await yard.submit(1)
    await yard.step()
    await yard.step()
    [pool] = (await yard.status()).pools
    assert (pool.booting, pool.why_closed) == (0, "the image ami-0 does not exist")
    assert pool.closed_s > 0
    assert [each.what for each in await yard.decisions()] == ["launch", "refused"]


async def test_a_pool_that_gives_fewer_is_not_asked_for_more_at_once() -> None:
    yard = await a_yard()
    provider = Stingy(yard.clock)
    yard.pools = (a_pool(provider),)
    yard.controller = yard.another("one")
    await yard.submit(5)
    await yard.step()
    await yard.step()
    assert len(await provider.instances()) == 2
    [pool] = (await yard.status()).pools
    assert pool.booting == 2
    assert pool.closed_s > 0


def test_a_boot_that_fails_does_not_open_a_pool_whose_provider_has_refused_for_longer() -> None:
    refused = Memory().refused("gpu", 0.0, "the quota is 4", is_quota=True)
    failed = refused.boot_failed("gpu", 10.0, "exit code 1")
    assert failed.closed_s("gpu", 10.0) == refused.closed_s("gpu", 10.0) == 290.0
    assert failed.closures["gpu"].why == "the quota is 4"
    later = failed.boot_failed("gpu", 299.0, "exit code 1")
    assert (later.closed_s("gpu", 299.0), later.closures["gpu"].why) == (4.0, "exit code 1")


# ---- letting go


async def test_the_idle_go_first_and_finish_what_they_hold() -> None:
    yard = await grown(3)
    busy, *idle = [each.id for each in await yard.registry.workers()]
    yard.held = {busy: 2}
    await yard.finish()
    await yard.submit(1)
    await yard.step()
    draining = {each.id for each in await yard.registry.workers() if each.draining}
    assert draining == set(idle)
    assert len(await yard.living()) == 3, "no machine ends before its worker has gone"
    assert yard.woken


async def test_a_machine_ends_once_its_worker_has_gone() -> None:
    yard = await grown(1)
    await yard.finish()
    await yard.step()
    [worker] = await yard.registry.workers()
    assert worker.draining
    await yard.registry.remove_worker(worker.id, yard.clock.now())
    await yard.step()
    assert len(await yard.living()) == 1, "it may come again"
    yard.clock.advance(20)
    await yard.step()
    await yard.step(10)
    assert [each.state for each in await yard.provider.instances()] == [InstanceState.ENDED]
    assert "lost" not in [each.what for each in await yard.decisions()]


async def test_machines_that_go_together_are_told_so_by_one_call() -> None:
    yard = await a_yard()
    calls, terminate = [], yard.provider.terminate

    async def counted(instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        calls.append(list(instance_ids))
        await terminate(instance_ids, grace_s=grace_s)

    yard.provider.terminate = counted  # type: ignore[method-assign]
    await yard.submit(4)
    await yard.step()
    started = await yard.living()
    await yard.finish()
    await yard.step(1)
    assert await yard.living() == []
    [together] = calls
    assert sorted(together) == sorted(started)


def test_very_many_machines_are_told_by_some_calls() -> None:
    ends = [End("a", f"i{number}", 30.0) for number in range(250)]
    ends += [End("b", "j", 30.0), End("a", "k", 5.0)]
    found = together(ends)
    assert [(pool, grace_s, len(ids)) for pool, grace_s, ids in found] == [
        ("a", 30.0, 100),
        ("a", 30.0, 100),
        ("a", 30.0, 50),
        ("b", 30.0, 1),
        ("a", 5.0, 1),
    ]
    told = [End(pool, name, grace_s) for pool, grace_s, ids in found for name in ids]
    assert told == ends


async def test_the_youngest_boots_are_cancelled_first() -> None:
    yard = await a_yard()
    await yard.submit(1)
    await yard.step()
    [oldest] = await yard.living()
    await yard.submit(2)
    await yard.step(1)
    assert len(await yard.living()) == 3
    await yard.finish()
    await yard.submit(1)
    await yard.step(1)
    assert await yard.living() == [oldest]
    assert [each.what for each in await yard.decisions()] == ["launch", "launch", "cancel"]


async def test_what_is_not_listed_yet_is_cancelled_before_what_is_nearly_there() -> None:
    class Late(MemoryProvider):
        """Does not list what it has just given."""

        hidden: Sequence[str] = ()
        hides = False

        async def launch(self, request: LaunchRequest) -> list[Instance]:
            given = await super().launch(request)
            self.hidden = [each.id for each in given] if self.hides else []
            return given

        async def instances(self, pool: str | None = None) -> list[Instance]:
            return [i for i in await super().instances(pool) if i.id not in self.hidden]

    yard = await a_yard()
    yard.provider = Late(yard.clock, boot_s=300)
    yard.pools = (a_pool(yard.provider),)
    yard.controller = yard.another("two")
    await yard.submit(3)
    await yard.step()
    nearly_there = await yard.living()
    await yard.step(270)
    yard.provider.hides = True
    more = await yard.submit(3)
    await yard.step()
    assert len(yard.provider.hidden) == 3
    await yard.store.cancel(more)
    await yard.step()
    yard.provider.hidden = ()
    await yard.step()
    assert await yard.living() == nearly_there
    assert [(each.what, each.n) for each in await yard.decisions()] == [
        ("launch", 3),
        ("launch", 3),
        ("cancel", 3),
    ]


async def test_a_worker_that_somebody_has_started_counts_and_is_left_alone() -> None:
    yard = await a_yard()
    await yard.registry.put_worker(a_worker(yard.clock, "by-hand"))
    await yard.submit(1)
    await yard.step()
    assert await yard.living() == []
    await yard.finish()
    for _ in range(3):
        await yard.step()
    [worker] = await yard.registry.workers()
    assert not worker.draining


async def test_who_only_looks_waits_for_backends_to_tell_who_is_busy() -> None:
    yard = await grown(3)
    await yard.finish()
    looking = asyncio.create_task(yard.another("dry").look())
    for _ in range(8):
        await until_asleep()
        yard.clock.advance(0.5)
        await yard.tell_workload()
    dry = await looking
    assert dry is not None
    sight, plan, actions = dry
    assert (sight.observation.pools[0].busy, plan.pools["gpu"].drain) == (0, 3)
    assert len(actions.drain) == 3
    assert [each.draining for each in await yard.registry.workers()] == [False] * 3


async def test_who_only_looks_says_that_all_count_as_busy_where_no_backend_tells() -> None:
    yard = await grown(3)
    await yard.finish()
    looking = asyncio.create_task(yard.another("dry").look())
    for _ in range(20):
        await until_asleep()
        yard.clock.advance(0.5)
    assert looking.done()
    dry = await looking
    assert dry is not None
    sight, _, actions = dry
    assert sight.held is None
    assert sight.observation.pools[0].busy == 3
    assert actions.drain == []


async def until_asleep() -> None:
    """Let whatever runs go on until it waits for time to pass."""
    await turns(50)


async def test_nobody_goes_before_the_backends_have_told_who_holds_what() -> None:
    yard = await grown(2)
    await yard.registry.drop_notes([WORKLOAD])
    yard.controller = yard.another("two")
    yard.clock.advance(21)
    await yard.finish()
    await yard.controller.step()
    await yard.controller.step()
    assert not any(each.draining for each in await yard.registry.workers())


async def test_nobody_goes_while_what_is_known_is_old() -> None:
    yard = await grown(2)
    await yard.finish()
    yard.clock.advance(100)  # without a word from the backends
    await yard.controller.step()
    assert not any(each.draining for each in await yard.registry.workers())
    assert (await yard.status()).age_s > 60


async def test_a_store_that_does_not_answer_is_old_news_and_no_demand_of_zero() -> None:
    yard = await grown(2)
    real = yard.broker.depths

    async def broken() -> list[object]:
        raise Unavailable("it does not answer")

    yard.broker.depths = broken
    yard.clock.advance(70)
    await yard.step()
    assert not any(each.draining for each in await yard.registry.workers())
    assert len(await yard.living()) == 2
    yard.broker.depths = real
    await yard.step()
    assert (await yard.status()).age_s == 0


async def test_a_controller_without_memory_lets_nobody_go_at_first() -> None:
    yard = await grown(2)
    await yard.finish()
    await yard.registry.drop_notes(["autoscaler.memory"])
    yard.controller = yard.another("two")
    yard.clock.advance(21)
    await yard.step()
    assert not any(each.draining for each in await yard.registry.workers())
    await yard.step()
    assert all(each.draining for each in await yard.registry.workers())


# ---- what befalls machines


async def test_a_worker_that_crashes_is_replaced_and_taken_off_the_list() -> None:
    yard = await grown(2)
    victim = (await yard.registry.workers())[0]
    yard.provider.end(victim.instance, exit_code=-9)
    await yard.step()
    assert len(await yard.living()) == 2
    [gone] = [each for each in await yard.registry.workers() if each.id == victim.id]
    assert gone.gone_at is not None
    assert [each.what for each in await yard.decisions()] == ["launch", "lost", "launch"]
    for _ in range(3):
        await yard.step()
    assert len(await yard.living()) == 2


class Forgetful(MemoryProvider):
    """Lists nothing for a while, like a cloud whose lists are not all of one moment."""

    forgets = False

    def __init__(self, clock: ManualClock, boot_s: float = 0.0) -> None:
        super().__init__(clock, boot_s=boot_s)
        self.seen = Sightings(clock)

    async def instances(self, pool: str | None = None) -> list[Instance]:
        found = [] if self.forgets else await super().instances(pool)
        return self.seen.listed(found, pool)


async def one_of_a_forgetful_provider() -> Yard:
    yard = await a_yard()
    yard.provider = Forgetful(yard.clock, boot_s=5)
    yard.pools = (a_pool(yard.provider),)
    yard.controller = yard.another("two")
    await yard.submit(1)
    await yard.step()
    yard.clock.advance(10)
    await yard.come_up()
    await yard.step()
    return yard


async def test_a_list_that_leaves_out_a_machine_once_takes_no_worker_off() -> None:
    yard = await one_of_a_forgetful_provider()
    yard.provider.forgets = True
    await yard.step()
    yard.provider.forgets = False
    await yard.step()
    [worker] = await yard.registry.workers()
    assert worker.gone_at is None
    assert [each.what for each in await yard.decisions()] == ["launch"]


async def test_a_worker_that_speaks_after_its_machine_is_said_to_have_ended_is_kept() -> None:
    yard = await one_of_a_forgetful_provider()
    [before] = await yard.registry.workers()
    yard.provider.forgets = True
    for _ in range(6):
        await yard.step()  # at each of which it is heard of
    assert "lost" in [each.what for each in await yard.decisions()]
    [worker] = [each for each in await yard.registry.workers() if each.id == before.id]
    assert worker.gone_at is None


async def test_a_worker_that_spoke_after_the_end_and_is_silent_then_is_taken_off() -> None:
    yard = await one_of_a_forgetful_provider()
    [before] = await yard.registry.workers()
    yard.provider.forgets = True
    for _ in range(4):
        await yard.step()
    for _ in range(6):
        yard.clock.advance(3)
        work = Workload(at=yard.clock.now(), held={})
        await yard.registry.put_note(WORKLOAD, msgspec.json.encode(work))
        await yard.controller.step()
    [worker] = [each for each in await yard.registry.workers() if each.id == before.id]
    assert worker.gone_at is not None


async def test_machines_that_never_come_up_are_tried_ever_more_patiently() -> None:
    yard = await a_yard()
    await yard.submit(1)
    starts = []
    for _ in range(120):
        before = len(yard.provider.launches)
        await yard.step(1)
        if len(yard.provider.launches) > before:
            starts.append(yard.clock.monotonic_s())
        for each in await yard.living():
            yard.provider.end(each, exit_code=1)
    gaps = [b - a for a, b in pairwise(starts)]
    assert gaps == sorted(gaps)
    assert len(starts) < 9
    [pool] = (await yard.status()).pools
    assert "exit code 1" in pool.why_closed


async def test_a_machine_that_has_no_worker_in_time_is_ended_and_replaced() -> None:
    yard = await a_yard(limits=Limits(boot_limit_s=100))
    await yard.submit(1)
    await yard.step()
    [first] = await yard.living()
    yard.clock.advance(90)
    await yard.step()
    assert await yard.living() == [first]
    yard.clock.advance(30)
    await yard.step()
    assert await yard.living() == []
    await yard.step()
    assert len(await yard.living()) == 1


async def test_a_machine_whose_worker_is_silent_is_replaced_and_then_ended() -> None:
    yard = await grown(2, limits=Limits(silent_s=100))
    silent, other = await yard.registry.workers()

    async def pass_by(looks: int) -> None:
        for _ in range(looks):
            yard.clock.advance(3)
            await yard.registry.touch_workers([other.id], yard.clock.now())
            await tell_only(yard)
            await yard.controller.step()
            await yard.controller.settled()

    await pass_by(15)
    assert len(await yard.living()) == 3, "it does not count, and is not ended yet"
    await pass_by(25)
    assert silent.instance not in await yard.living()


async def test_after_a_pause_of_the_store_nobody_was_silent() -> None:
    yard = await grown(2)
    yard.clock.advance(600)
    for _ in range(4):
        yard.clock.advance(3)
        await tell_only(yard)  # backends tell, and have not heard of anybody yet
        await yard.controller.step()
        await yard.controller.settled()
    assert (await yard.status()).pools[0].ready == 2
    assert len(yard.provider.launches) == 1


async def test_a_machine_that_should_have_gone_long_ago_is_told_again() -> None:
    yard = await a_yard()
    provider = Stubborn(yard.clock)
    yard.pools = (a_pool(provider, drain_s=10.0),)
    yard.controller = yard.another("one")
    await yard.submit(1)
    await yard.step()
    await yard.finish()
    for _ in range(60):
        await yard.step()
    graces = [grace_s for _, grace_s in provider.told]
    assert graces[0] == 10.0
    assert graces[1:], "it is told again"
    assert set(graces[1:]) == {0.0}


async def test_those_at_work_are_told_from_the_idle() -> None:
    yard = await grown(2)
    first, _ = await yard.registry.workers()
    yard.held = {first.id: 3}
    await yard.step()
    [pool] = (await yard.status()).pools
    assert (pool.ready, pool.busy) == (2, 1)


async def test_when_all_backends_are_silent_no_worker_counts_as_lost() -> None:
    yard = await grown(2)
    yard.clock.advance(600)
    for _ in range(3):
        yard.clock.advance(3)
        await yard.controller.step()
        await yard.controller.settled()
    assert len(await yard.living()) == 2
    assert len(yard.provider.launches) == 1


async def test_a_machine_that_is_taken_back_is_told_at_once_and_replaced() -> None:
    yard = await grown(2)
    [victim, _] = await yard.registry.workers()
    yard.provider.warn(
        Notice(instance_id=victim.instance, at=yard.clock.now() + timedelta(seconds=30))
    )
    await yard.step()
    [told] = [each for each in await yard.registry.workers() if each.id == victim.id]
    assert told.draining
    [machine] = [i for i in await yard.provider.instances() if i.id == victim.instance]
    assert machine.state is InstanceState.STOPPING
    await yard.step()
    assert len(await yard.living()) == 2, "another was launched"
    for _ in range(5):
        await yard.step()
    assert [each.what for each in await yard.decisions()].count("hurry") == 1
    yard.clock.advance(30)
    await yard.step()
    assert "lost" not in [each.what for each in await yard.decisions()]


async def test_a_machine_that_may_be_taken_back_finishes_what_it_holds() -> None:
    yard = await grown(1)
    [worker] = await yard.registry.workers()
    yard.provider.warn(Notice(instance_id=worker.instance))
    for _ in range(3):
        await yard.step()
    [worker] = await yard.registry.workers()
    assert worker.draining
    assert worker.instance in await yard.living()


async def test_a_provider_that_does_not_answer_hides_nobody() -> None:
    yard = await grown(2)
    real = yard.provider.instances

    async def broken(pool: str | None = None) -> list[Instance]:
        raise OSError("no route to host")

    yard.provider.instances = broken
    for _ in range(3):
        await yard.step()
    [pool] = (await yard.status()).pools
    assert pool.ready == 2
    assert pool.why_closed == "its provider does not answer"
    yard.provider.instances = real
    await yard.step()
    assert len(await yard.living()) == 2
    assert len(yard.provider.launches) == 1


# ---- who leads


async def test_of_two_controllers_one_scales() -> None:
    yard = await a_yard()
    other = yard.another("two")
    await yard.submit(1)
    await yard.tell_workload()
    assert await yard.controller.step()
    assert not await other.step()
    await yard.controller.settled()
    await yard.controller.close()
    assert await other.step()
    assert len(await yard.living()) == 1


async def test_one_that_has_hung_for_long_does_nothing_when_it_goes_on() -> None:
    yard = await a_yard()
    await yard.step()
    slow, quick = yard.controller, yard.another("two")
    real = yard.pools[0].provider.instances

    async def hang(pool: str | None = None) -> list[Instance]:
        # Another takes over while this one looks, and decides.
        yard.provider.instances = real
        yard.clock.advance(30)
        await yard.submit(2)
        await yard.tell_workload()
        assert await quick.step()
        await quick.settled()
        return await real(pool)

    yard.provider.instances = hang
    yard.clock.advance(3)
    assert not await slow.step()
    assert len(await yard.living()) == 2
    assert not await slow.step()


async def test_a_policy_that_breaks_changes_nothing() -> None:
    yard = await grown(1)

    def broken(observation: Observation, state: State) -> Plan:
        raise ZeroDivisionError

    yard.plan = broken
    with pytest.raises(ZeroDivisionError):
        await yard.step()
    yard.plan = one_for_each
    await yard.step()
    assert len(await yard.living()) == 1


async def test_what_is_usual_outlives_the_controller_and_is_written_seldom() -> None:
    yard = await a_yard()
    days = {"n": 0.0}

    def learning(observation: Observation, state: State) -> Plan:
        days["n"] += 1.0
        learnt = one_for_each(observation, state)
        kept = msgspec.structs.replace(learnt.state, habits={MODEL: [days["n"]]})
        return msgspec.structs.replace(learnt, state=kept)

    seen: list[State] = []
    yard.plan = learning
    for _ in range(30):
        await yard.step()
    note = await yard.registry.note("autoscaler.habits")
    assert msgspec.json.decode(note or b"")[MODEL][0] in (1.0, 21.0, 22.0)
    memory = msgspec.json.decode(await yard.registry.note("autoscaler.memory") or b"")
    assert memory["state"]["habits"] == {}

    def remembering(observation: Observation, state: State) -> Plan:
        seen.append(state)
        return one_for_each(observation, state)

    yard.plan = remembering
    yard.controller = yard.another("two")
    yard.clock.advance(11)
    await yard.step()
    assert next(iter(seen[0].habits[MODEL])) > 20.0


# ---- what is told


async def test_decisions_are_kept_with_their_reasons() -> None:
    yard = await a_yard()
    await yard.submit(2)
    await yard.step()
    [decision] = await yard.decisions()
    assert (decision.about, decision.what, decision.n) == ("gpu", "launch", 2)
    assert list(decision.why) == ["2 wanted"]


async def test_demand_that_is_not_met_is_told_once_it_has_lasted_and_again_when_it_is_over() -> (
    None
):
    yard = await a_yard()
    short = Relief(model=MODEL, admitted=0.4, wait_s=90.0, speedup=2.5)
    lasts = {"relief": [short]}

    def policy(observation: Observation, state: State) -> Plan:
        return msgspec.structs.replace(one_for_each(observation, state), relief=lasts["relief"])

    yard.plan = policy
    await yard.step()
    await yard.step()
    assert await yard.decisions() == []
    for _ in range(6):
        await yard.step()
    lasts["relief"] = []
    await yard.step()
    lasts["relief"] = [short]
    await yard.step()
    [told] = await yard.decisions()
    assert (told.about, told.what) == (MODEL, "relief")
    assert "40%" in told.why[0]
    lasts["relief"] = []
    for _ in range(8):
        await yard.step()
    assert [each.what for each in await yard.decisions()] == ["relief", "relief"]
    assert (await yard.status()).models[0].admitted == 1.0


async def test_what_machines_cost_is_counted_by_the_day() -> None:
    yard = await grown(2)
    before = (await yard.status()).spent_micros
    yard.clock.advance(100)
    await yard.step(0)
    assert (await yard.status()).spent_micros - before == 200_000
    yard.clock.advance(86_400)
    await yard.step(0)
    start = yard.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    today_s = (yard.clock.now() - start).total_seconds()
    assert (await yard.status()).spent_micros == round(2_000 * today_s)


async def test_a_model_says_after_how_long_a_worker_will_be_there() -> None:
    yard = await a_yard()
    await yard.step()
    [model] = (await yard.status()).models
    assert model.model == MODEL
    assert model.ready_in_s == pytest.approx(60, abs=2)
    await yard.submit(1)
    await yard.step()
    yard.clock.advance(20)
    await yard.step()
    [model] = (await yard.status()).models
    assert model.ready_in_s is not None
    assert 15 <= model.ready_in_s <= 45
    await yard.come_up()
    await yard.step()
    [model] = (await yard.status()).models
    assert model.ready_in_s == 0.0


def greedy(n: int, observation: Observation, state: State) -> Plan:
    """Wants so many more, whatever there is."""
    pools = {view.pool: PoolPlan(desired=n, launch=n) for view in observation.pools}
    return Plan(pools=pools, state=State(since=observation.at))


async def tell_only(yard: Yard) -> None:
    """Tell what backends know, though they have not heard of everybody."""
    seen: list[WorkerInfo] = await yard.registry.workers()
    times = {each.id: each.seen_at for each in seen}
    await yard.tell_workload()
    for each in await yard.registry.workers():
        kept = msgspec.structs.replace(each, seen_at=times[each.id])
        await yard.registry.put_worker(kept)


class Deaf(MemoryProvider):
    """Takes a call, and never answers."""

    is_deaf = True
    asked = 0

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        self.asked += 1
        if self.is_deaf:
            await asyncio.get_running_loop().create_future()
        return await super().launch(request)


class Broken(MemoryProvider):
    """Breaks, so that nobody knows what came of a launch."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.tokens: list[str] = []

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        self.tokens.append(request.token)
        raise ConnectionResetError


class Stubborn(MemoryProvider):
    """Ends nothing, whatever it is told."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.told: list[tuple[str, float]] = []

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        self.told += [(each, grace_s) for each in instance_ids]


class Stingy(MemoryProvider):
    """Gives two, whatever is wanted."""

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        return await super().launch(msgspec.structs.replace(request, n=min(2, request.n)))


async def test_what_was_spent_is_what_the_ledger_tells_or_what_was_counted_the_larger() -> None:
    seen: list[int] = []

    def watching(observation: Observation, state: State) -> Plan:
        seen.append(observation.spent_micros)
        return one_for_each(observation, state)

    yard = await grown(2, plan=watching)  # at 1,000 micros a second each
    await tell_spent(yard, day_micros=5_000_000)
    await yard.step(21.0)
    assert seen[-1] == 5_000_000
    assert (await yard.status()).spent_micros == 5_000_000
    await tell_spent(yard, day_micros=1)
    await yard.step(21.0)
    counted = seen[-1]
    assert 40_000 < counted < 100_000
    await yard.step(21.0)
    assert seen[-1] == counted + 42_000
    assert (await yard.status()).spent_micros == counted + 84_000


async def test_what_was_spent_yesterday_is_of_another_budget() -> None:
    seen: list[int] = []

    def watching(observation: Observation, state: State) -> Plan:
        seen.append(observation.spent_micros)
        return one_for_each(observation, state)

    yard = await grown(2, plan=watching)
    await tell_spent(yard, day_micros=5_000_000)
    await yard.step(21.0)
    midnight = yard.clock.now().replace(hour=0, minute=0, second=0) + timedelta(days=1)
    yard.clock.advance((midnight - yard.clock.now()).total_seconds())
    await yard.step(3.0)
    assert seen[-1] == 0  # of today nothing was counted or told yet
    await yard.step(3.0)
    assert seen[-1] == 6_000


async def tell_spent(yard: Yard, day_micros: int) -> None:
    today = yard.clock.now().date()
    await keep_spent(
        yard.registry, Spent(day=today, day_micros=day_micros, month_micros=day_micros)
    )
