"""Workers in real containers of podman, where this machine can run one."""

import asyncio
import json
import uuid
from collections.abc import Iterator, Mapping

import pytest
from container_rig import BASE, limits, podman

from conformance.provider import OutlivingConformance
from swell.core.clock import SystemClock
from swell.core.errors import InvalidInput
from swell.core.provider import InstanceState, LaunchRequest, Provider
from swell.providers.container import ContainerOptions, ContainerProvider

# The first test of the folder makes the base image.
pytestmark = pytest.mark.timeout(600)

#: The first process of a container hears SIGTERM only if it says so.
WAITS = ("sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait")


def options(*command: str) -> ContainerOptions:
    return ContainerOptions(
        image=BASE,
        engine="podman",
        engine_options=("--runtime", "runc"),
        network="host",
        options=(*limits(), "--pull=never"),
        command=command or WAITS,
    )


class TestContainerProvider(OutlivingConformance):
    @pytest.fixture(autouse=True)
    def _deployment(self) -> Iterator[str]:
        self.deployment = f"test-{uuid.uuid4().hex[:12]}"
        yield self.deployment
        for deployment in (self.deployment, f"{self.deployment}-another"):
            found = podman("ps", "-aq", f"--filter=label=swell-deployment={deployment}")
            if found.stdout.split():
                podman("rm", "--force", "--time", "0", *found.stdout.split())

    @pytest.fixture
    def provider(self, _deployment: str) -> ContainerProvider:
        return ContainerProvider(options(), SystemClock(), _deployment)

    async def another(self, provider: Provider, deployment: str | None = None) -> Provider:
        name = self.deployment + (f"-{deployment}" if deployment else "")
        return ContainerProvider(options(), SystemClock(), name)

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        async with asyncio.timeout(60):
            while {i.state for i in await provider.instances() if i.id in ids} != {state}:
                await asyncio.sleep(0.1)

    async def told(self, provider: Provider, instance_id: str) -> Mapping[str, str]:
        script = "import json, os; print(json.dumps(dict(os.environ)))"
        read = podman("exec", instance_id, "python3", "-c", script)
        found: dict[str, str] = json.loads(read.stdout)
        return found

    async def test_how_it_ended_is_told(self) -> None:
        provider = ContainerProvider(options("sh", "-c", "exit 7"), SystemClock(), self.deployment)
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        await self.settle(provider, [instance.id], InstanceState.ENDED)
        [ended] = await provider.instances()
        assert ended.exit_code == 7

    async def test_one_that_will_not_go_is_killed_when_its_grace_is_over(self) -> None:
        deaf = options("sh", "-c", "trap '' TERM; sleep 600 & wait")
        provider = ContainerProvider(deaf, SystemClock(), self.deployment)
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        await self.settle(provider, [instance.id], InstanceState.RUNNING)
        await provider.terminate([instance.id], grace_s=300)
        assert [i.state for i in await provider.instances()] == [InstanceState.STOPPING]
        await provider.terminate([instance.id], grace_s=0)
        await self.settle(provider, [instance.id], InstanceState.ENDED)

    async def test_the_token_is_on_no_command_line(self, provider: Provider) -> None:
        environment = {"SWELL_WORKER__TOKEN": "not-for-everybody"}
        [instance] = await provider.launch(LaunchRequest(pool="p", environment=environment))
        made = podman("inspect", "--format", "{{json .Config.CreateCommand}}", instance.id)
        assert "SWELL_WORKER__TOKEN" in made.stdout
        assert "not-for-everybody" not in made.stdout

    async def test_an_image_that_is_not_there_is_an_error_of_whoever_set_it_up(self) -> None:
        strange = options().model_copy(update={"image": "localhost/swell-no-such-image:1"})
        provider = ContainerProvider(strange, SystemClock(), self.deployment)
        with pytest.raises(InvalidInput, match="swell-no-such-image"):
            await provider.launch(LaunchRequest(pool="p"))
        assert await provider.instances() == []
