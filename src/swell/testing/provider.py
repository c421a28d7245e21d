"""What every provider must do. Subclass in a test; give a `provider` fixture and `settle`."""

from swell.provider import Instance, InstanceState, LaunchRequest, Provider

__all__ = ["ProviderConformance"]


class ProviderConformance:
    """The guarantees of `swell.provider`, as tests over a `provider` fixture."""

    #: Runs until it is told to end, and then ends at once.
    command: tuple[str, ...] = ("sleep", "600")

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        """Return when all these instances are in `state`, moving time if need be."""
        raise NotImplementedError

    async def test_what_was_launched_runs_and_is_listed(self, provider: Provider) -> None:
        launched = await self._launch(provider, 2)
        assert len({i.id for i in launched}) == 2
        await self.settle(provider, _ids(launched), InstanceState.RUNNING)
        assert {i.id for i in await provider.instances()} == set(_ids(launched))

    async def test_pools_are_listed_apart(self, provider: Provider) -> None:
        one = await self._launch(provider, 1, pool="one")
        two = await self._launch(provider, 1, pool="two")
        assert _ids(await provider.instances("one")) == _ids(one)
        assert _ids(await provider.instances("two")) == _ids(two)

    async def test_what_was_terminated_ends_and_stays_listed(self, provider: Provider) -> None:
        launched = await self._launch(provider, 2)
        await self.settle(provider, _ids(launched), InstanceState.RUNNING)
        first, second = _ids(launched)
        await provider.terminate([first], grace_s=5)
        await self.settle(provider, [first], InstanceState.ENDED)
        states = {i.id: i.state for i in await provider.instances()}
        assert states == {first: InstanceState.ENDED, second: InstanceState.RUNNING}
        ended = next(i for i in await provider.instances() if i.id == first)
        assert ended.ended_at is not None
        assert ended.ended_at >= ended.launched_at

    async def test_terminate_may_be_repeated_and_ignores_strangers(
        self, provider: Provider
    ) -> None:
        ids = _ids(await self._launch(provider, 1))
        await self.settle(provider, ids, InstanceState.RUNNING)
        await provider.terminate([*ids, "stranger"], grace_s=5)
        await provider.terminate(ids, grace_s=5)
        await self.settle(provider, ids, InstanceState.ENDED)
        await provider.terminate(ids, grace_s=5)
        assert [i.state for i in await provider.instances()] == [InstanceState.ENDED]

    async def test_a_request_with_the_same_token_gives_the_same_instances(
        self, provider: Provider
    ) -> None:
        request = LaunchRequest(pool="default", n=2, token="launch-1", command=self.command)
        first = await provider.launch(request)
        again = await provider.launch(request)
        assert sorted(_ids(first)) == sorted(_ids(again))
        assert len(await provider.instances()) == 2
        assert {i.token for i in await provider.instances()} == {"launch-1"}

    async def test_nothing_is_about_to_be_taken_back_unless_the_provider_says_so(
        self, provider: Provider
    ) -> None:
        await self._launch(provider, 1)
        assert await provider.notices() == []

    async def test_close_ends_everything(self, provider: Provider) -> None:
        await self._launch(provider, 2)
        await provider.close()
        assert {i.state for i in await provider.instances()} == {InstanceState.ENDED}

    async def _launch(self, provider: Provider, n: int, pool: str = "default") -> list[Instance]:
        return await provider.launch(LaunchRequest(pool=pool, n=n, command=self.command))


def _ids(instances: list[Instance]) -> list[str]:
    return [instance.id for instance in instances]
