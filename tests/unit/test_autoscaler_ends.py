"""The controller tells of each machine that has ended, once, so that its time is charged."""

from fleet_cases import Yard

from swell.db.instance_notices import told_ends


async def test_each_machine_that_has_ended_is_told_once() -> None:
    yard = Yard()
    await yard.describe()
    await yard.submit(2)
    await yard.step()
    yard.clock.advance(10)
    await yard.come_up()
    await yard.step()
    assert await told_ends(yard.registry) == {}
    first, second = await yard.provider.instances()
    yard.clock.advance(3)
    yard.provider.end(first.id)
    await yard.step()
    told = await told_ends(yard.registry)
    assert [each.id for each in told.values()] == [first.id]
    [ended] = told.values()
    assert (ended.launched_at, ended.pool) == (first.launched_at, first.pool)
    assert ended.ended_at is not None
    # A backend has charged it; it is still listed, and not told again.
    await yard.registry.drop_notes(list(told))
    await yard.step()
    assert await told_ends(yard.registry) == {}
    yard.provider.end(second.id)
    await yard.step()
    assert [each.id for each in (await told_ends(yard.registry)).values()] == [second.id]


async def test_whoever_takes_over_tells_what_was_not_told() -> None:
    yard = Yard()
    await yard.describe()
    await yard.submit(1)
    await yard.step()
    [machine] = await yard.provider.instances()
    yard.provider.end(machine.id)
    yard.controller = yard.another("two")
    yard.clock.advance(60)
    await yard.step()
    assert [each.id for each in (await told_ends(yard.registry)).values()] == [machine.id]
