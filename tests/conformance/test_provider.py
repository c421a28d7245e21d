import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from conformance.provider import ProviderConformance, RefusingConformance
from manual_clock import ManualClock
from swell.core.clock import SystemClock
from swell.core.errors import Unavailable
from swell.core.provider import ASKED_AT, InstanceState, LaunchRequest, Provider, Refused
from swell.providers.memory import MemoryProvider
from swell.providers.process import ProcessProvider


class TestMemoryProvider(RefusingConformance):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def provider(self, clock: ManualClock) -> MemoryProvider:
        self.moved = clock
        return MemoryProvider(clock, boot_s=20)

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        self.moved.advance(30)
        assert {i.state for i in await provider.instances() if i.id in ids} == {state}

    async def refuse(self, provider: Provider, *, is_quota: bool) -> None:
        assert isinstance(provider, MemoryProvider)
        provider.refuse(Refused("none here", is_quota=is_quota))

    async def relent(self, provider: Provider) -> None:
        assert isinstance(provider, MemoryProvider)
        provider.refuse(None)

    async def test_more_than_the_capacity_is_refused(self) -> None:
        provider = MemoryProvider(ManualClock(), capacity=2)
        await provider.launch(LaunchRequest(pool="p", n=2))
        with pytest.raises(Unavailable):
            await provider.launch(LaunchRequest(pool="p"))


class TestProcessProvider(ProviderConformance):
    @pytest.fixture
    async def provider(self, tmp_path: Path) -> AsyncIterator[ProcessProvider]:
        provider = ProcessProvider(SystemClock(), tmp_path, dict(os.environ))
        yield provider
        await provider.close()

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        assert isinstance(provider, ProcessProvider)
        if state is InstanceState.ENDED:
            await asyncio.wait_for(provider.wait_ended(ids), 10)
        assert {i.state for i in await provider.instances() if i.id in ids} == {state}

    async def test_workers_of_a_backend_that_has_the_same_number_again_are_others(
        self, provider: ProcessProvider, tmp_path: Path
    ) -> None:
        # As in a container: every backend is process 1.
        again = ProcessProvider(SystemClock(), tmp_path, dict(os.environ))
        request = LaunchRequest(pool="p", command=("true",))
        launched = [await each.launch(request) for each in (provider, again)]
        await again.close()
        assert len({each.id for [each] in launched}) == 2

    async def test_output_goes_to_a_file_and_the_exit_code_is_kept(
        self, provider: ProcessProvider
    ) -> None:
        request = LaunchRequest(
            pool="p", command=("sh", "-c", "echo $GREETING; exit 7"), environment={"GREETING": "hi"}
        )
        [instance] = await provider.launch(request)
        await provider.wait_ended([instance.id])
        [ended] = await provider.instances()
        assert ended.exit_code == 7
        assert provider.log_path(instance.id).read_text() == "hi\n"

    @pytest.mark.parametrize("looks", [1, 2, 3])
    async def test_one_that_is_told_to_end_while_it_is_started_ends(
        self, provider: ProcessProvider, looks: int
    ) -> None:
        request = LaunchRequest(pool="p", n=4, token="t", command=("sleep", "600"))
        launching = asyncio.create_task(provider.launch(request))
        for _ in range(looks):
            await asyncio.sleep(0)
        *others, last = await provider.instances()
        await provider.terminate([last.id], grace_s=600)
        launched = await launching
        assert [each.id for each in launched] == [each.id for each in (*others, last)]
        await asyncio.wait_for(provider.wait_ended([last.id]), 10)
        states = {each.id: each.state for each in await provider.instances()}
        assert states.pop(last.id) is InstanceState.ENDED
        assert set(states.values()) == {InstanceState.RUNNING}

    async def test_one_whose_launch_was_given_up_is_watched_all_the_same(
        self, provider: ProcessProvider
    ) -> None:
        request = LaunchRequest(pool="p", token="t", command=("sleep", "600"))
        launching = asyncio.create_task(provider.launch(request))
        while not (listed := await provider.instances()):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        launching.cancel()
        await asyncio.gather(launching, return_exceptions=True)
        ids = [each.id for each in listed]
        await provider.terminate(ids, grace_s=600)
        await asyncio.wait_for(provider.wait_ended(ids), 10)
        assert {each.state for each in await provider.instances()} == {InstanceState.ENDED}

    async def test_a_worker_is_told_when_it_was_asked_for(self, provider: ProcessProvider) -> None:
        command = ("sh", "-c", f"echo ${ASKED_AT}")
        [instance] = await provider.launch(LaunchRequest(pool="p", command=command))
        await provider.wait_ended([instance.id])
        told = datetime.fromisoformat(provider.log_path(instance.id).read_text().strip())
        assert told == instance.launched_at

    @pytest.mark.slow
    async def test_a_worker_that_will_not_go_is_killed_with_all_it_started(
        self, provider: ProcessProvider, tmp_path: Path
    ) -> None:
        # A process with a child that ignores SIGTERM: `wait` continues after the signal.
        ready = tmp_path / "ready"
        os.mkfifo(ready)
        script = f"trap '' TERM; sleep 600 & echo $! > {ready}; wait"
        [instance] = await provider.launch(LaunchRequest(pool="p", command=("sh", "-c", script)))
        child = psutil.Process(int(await asyncio.to_thread(ready.read_text)))
        await provider.terminate([instance.id], grace_s=0.2)
        await asyncio.wait_for(provider.wait_ended([instance.id]), 10)
        [ended] = await provider.instances()
        assert ended.exit_code == -signal.SIGKILL
        await asyncio.to_thread(_wait_gone, child)

    async def test_a_command_that_does_not_exist_is_unavailable(
        self, provider: ProcessProvider
    ) -> None:
        with pytest.raises(Unavailable):
            await provider.launch(LaunchRequest(pool="p", command=("/no/such/command",)))
        assert [i.state for i in await provider.instances()] == [InstanceState.ENDED]

    async def test_an_artificial_boot_delay_can_be_waited_for_or_cut_short(
        self, tmp_path: Path
    ) -> None:
        clock = ManualClock()
        provider = ProcessProvider(clock, tmp_path, dict(os.environ), boot_delay_s=60)
        request = LaunchRequest(pool="p", n=2, command=("true",))
        first, second = await provider.launch(request)
        assert first.state is InstanceState.STARTING
        await provider.terminate([second.id])
        await asyncio.sleep(0)
        clock.advance(61)
        await asyncio.wait_for(provider.wait_ended([first.id]), 10)
        codes = [i.exit_code for i in await provider.instances()]
        assert codes == [0, None]

    @pytest.mark.slow
    async def test_workers_die_with_whoever_started_them(self, tmp_path: Path) -> None:
        program = textwrap.dedent(
            """
            import asyncio, sys, pathlib
            from swell.core.clock import SystemClock
            from swell.core.provider import LaunchRequest
            from swell.providers.process import ProcessProvider
            async def main():
                provider = ProcessProvider(SystemClock(), pathlib.Path(sys.argv[1]), {})
                [i] = await provider.launch(LaunchRequest(pool="p", command=("/bin/sleep", "600")))
                print(provider.pid(i.id), flush=True)
                await asyncio.sleep(600)
            asyncio.run(main())
            """
        )
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        worker = psutil.Process(int(await parent.stdout.readline()))
        parent.kill()
        await parent.wait()
        await asyncio.to_thread(_wait_gone, worker)


def _wait_gone(process: psutil.Process) -> None:
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        # In a container without an init, a dead orphan may stay as a zombie.
        assert process.status() == psutil.STATUS_ZOMBIE
