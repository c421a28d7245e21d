"""What the controller takes for true of what it sees, and what it does not."""

from fleet_cases import Yard


async def grown(n: int) -> Yard:
    """A yard in which n workers are at work, and so many tasks wait."""
    yard = Yard()
    await yard.describe()
    await yard.submit(n)
    await yard.step()
    yard.clock.advance(10)
    await yard.come_up()
    await yard.step()
    return yard


async def test_a_word_of_backends_that_lay_there_already_is_no_news() -> None:
    yard = await grown(3)
    await yard.finish()
    await yard.tell_workload()
    yard.clock.advance(3600)  # backends and controller are down
    yard.controller = yard.another("two")
    for _ in range(3):
        await yard.controller.step()
        yard.clock.advance(3)
    [pool] = (await yard.status()).pools
    assert pool.busy == 3, "each may hold something"
    assert not any(each.draining for each in await yard.registry.workers())
    await yard.step()
    assert all(each.draining for each in await yard.registry.workers())
