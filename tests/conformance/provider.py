"""What every provider must do. Subclass in a test; give a `provider` fixture and `settle`."""

from collections.abc import Mapping
from datetime import datetime

from swell.core.errors import Unavailable
from swell.core.provider import (
    ASKED_AT,
    INSTANCE_ID,
    Instance,
    InstanceState,
    LaunchRequest,
    Provider,
    Refused,
)


class ProviderConformance:
    """The guarantees of `swell.core.provider`, as tests over a `provider` fixture."""

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

    async def test_pools_of_any_name_are_told_as_they_are_called(self, provider: Provider) -> None:
        name = "GPU_of-the_Second-Region_and-the-Third12"
        await self._launch(provider, 1, pool=name)
        assert [i.pool for i in await provider.instances(name)] == [name]

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

    async def test_what_still_starts_can_be_terminated(self, provider: Provider) -> None:
        ids = _ids(await self._launch(provider, 1))
        await provider.terminate(ids, grace_s=5)
        await self.settle(provider, ids, InstanceState.ENDED)

    async def test_a_request_with_the_same_token_gives_the_same_instances(
        self, provider: Provider
    ) -> None:
        request = LaunchRequest(pool="default", n=2, token="launch-1", command=self.command)
        first = await provider.launch(request)
        again = await provider.launch(request)
        assert sorted(_ids(first)) == sorted(_ids(again))
        assert len(await provider.instances()) == 2
        assert {i.token for i in await provider.instances()} == {"launch-1"}

    async def test_requests_without_a_token_give_others_each_time(self, provider: Provider) -> None:
        first, again = await self._launch(provider, 1), await self._launch(provider, 1)
        assert _ids(first) != _ids(again)
        assert {i.token for i in await provider.instances()} == {""}

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


class OutlivingConformance(ProviderConformance):
    """What holds besides of instances that live on without the process that launched them."""

    async def another(self, provider: Provider, deployment: str | None = None) -> Provider:
        """Return a provider as a new process would have it: knowing nothing.

        Args:
            provider: What it is like.
            deployment: Whose it is; None for the same.
        """
        raise NotImplementedError

    async def told(self, provider: Provider, instance_id: str) -> Mapping[str, str]:
        """Return the environment that the worker of an instance has."""
        raise NotImplementedError

    async def test_close_ends_everything(self, provider: Provider) -> None:
        # Nothing would go with this process, so nothing has ended.
        launched = await self._launch(provider, 2)
        await self.settle(provider, _ids(launched), InstanceState.RUNNING)
        await provider.close()
        found = await (await self.another(provider)).instances()
        assert {i.id: i.state for i in found} == dict.fromkeys(
            _ids(launched), InstanceState.RUNNING
        )

    async def test_a_restarted_controller_finds_what_was_launched(self, provider: Provider) -> None:
        request = LaunchRequest(pool="Gpu_1", n=2, token="launch: 1", command=self.command)
        launched = await provider.launch(request)
        found = await (await self.another(provider)).instances("Gpu_1")
        assert sorted(_ids(found)) == sorted(_ids(launched))
        assert {(i.pool, i.token) for i in found} == {("Gpu_1", "launch: 1")}
        assert {i.launched_at for i in found} == {i.launched_at for i in launched}

    async def test_a_restarted_controller_repeats_a_request_with_its_token(
        self, provider: Provider
    ) -> None:
        request = LaunchRequest(pool="default", n=2, token="launch-1", command=self.command)
        first = await provider.launch(request)
        other = await self.another(provider)
        assert sorted(_ids(await other.launch(request))) == sorted(_ids(first))
        assert len(await other.instances()) == 2

    async def test_instances_of_other_deployments_are_neither_found_nor_ended(
        self, provider: Provider
    ) -> None:
        ids = _ids(await self._launch(provider, 1))
        await self.settle(provider, ids, InstanceState.RUNNING)
        stranger = await self.another(provider, "another")
        assert await stranger.instances() == []
        await stranger.terminate(ids, grace_s=0)
        assert await stranger.notices() == []
        await self.settle(provider, ids, InstanceState.RUNNING)

    async def test_two_deployments_may_use_the_same_token(self, provider: Provider) -> None:
        request = LaunchRequest(pool="default", n=1, token="launch-1", command=self.command)
        first = await provider.launch(request)
        stranger = await self.another(provider, "another")
        assert _ids(await stranger.launch(request)) != _ids(first)

    async def test_a_worker_is_told_who_it_is_and_when_it_was_asked_for(
        self, provider: Provider
    ) -> None:
        environment = {
            "SWELL_WORKER__URL": "https://swell.example",
            "SWELL_WORKER__TOKEN": "k=1 '$x",
        }
        request = LaunchRequest(pool="default", command=self.command, environment=environment)
        [instance] = await provider.launch(request)
        await self.settle(provider, [instance.id], InstanceState.RUNNING)
        told = await self.told(provider, instance.id)
        assert {name: told.get(name) for name in environment} == environment
        assert told[INSTANCE_ID] == instance.id
        assert datetime.fromisoformat(told[ASKED_AT]) == instance.launched_at


class RefusingConformance(ProviderConformance):
    """What holds besides of providers that may have none to give."""

    #: Whether it may lack machines without anybody having set a limit.
    may_lack: bool = True

    async def refuse(self, provider: Provider, *, is_quota: bool) -> None:
        """Let the provider refuse whatever it is asked for from now on."""
        raise NotImplementedError

    async def relent(self, provider: Provider) -> None:
        """Let it give again."""
        raise NotImplementedError

    async def test_a_provider_that_has_none_says_so_and_leaves_nothing(
        self, provider: Provider
    ) -> None:
        await self.refuse(provider, is_quota=not self.may_lack)
        refused = await self._refused(provider)
        assert refused.is_quota != self.may_lack
        assert refused.detail
        assert [i for i in await provider.instances() if i.state is not InstanceState.ENDED] == []
        await self.relent(provider)
        assert len(await self._launch(provider, 2)) == 2

    async def test_a_quota_is_told_from_a_lack(self, provider: Provider) -> None:
        await self.refuse(provider, is_quota=True)
        assert (await self._refused(provider)).is_quota
        await self.relent(provider)
        assert len(await self._launch(provider, 1)) == 1

    async def test_what_is_there_is_listed_while_no_more_are_given(
        self, provider: Provider
    ) -> None:
        ids = _ids(await self._launch(provider, 1))
        await self.settle(provider, ids, InstanceState.RUNNING)
        await self.refuse(provider, is_quota=not self.may_lack)
        await self._refused(provider)
        living = [i.id for i in await provider.instances() if i.state is InstanceState.RUNNING]
        assert living == ids

    async def _refused(self, provider: Provider) -> Refused:
        try:
            await self._launch(provider, 2)
        except Refused as refused:
            return refused
        except Unavailable as error:
            raise AssertionError(f"not told as a refusal: {error!r}") from error
        raise AssertionError("it was not refused")


def _ids(instances: list[Instance]) -> list[str]:
    return [instance.id for instance in instances]
