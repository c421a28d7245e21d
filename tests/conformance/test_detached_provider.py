import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from conformance.provider import OutlivingConformance
from manual_clock import ManualClock
from swell.core.clock import SystemClock
from swell.core.provider import (
    Instance,
    InstanceState,
    LaunchRequest,
    Notice,
    Provider,
    Refused,
    looking_only,
)
from swell.providers.detached import DetachedProvider
from swell.providers.memory import MemoryProvider
from swell.providers.rehearsal import RehearsalProvider


class TestDetachedProvider(OutlivingConformance):
    command = ("/bin/sleep", "600")

    @pytest.fixture
    async def provider(self, tmp_path: Path) -> DetachedProvider:
        self.folder = tmp_path / "run"
        self.made = []
        provider = self.make()
        yield provider
        for each in self.made:
            ids = [i.id for i in await each.instances()]
            await each.terminate(ids, grace_s=0)
            await self.until(each, ids, InstanceState.ENDED)
            await each.close()

    def make(self, deployment: str = "swell", **more: float) -> DetachedProvider:
        environment = {"PATH": os.environ["PATH"]}
        made = DetachedProvider(
            SystemClock(), self.folder, environment, deployment=deployment, **more
        )
        self.made.append(made)
        return made

    async def another(self, provider: Provider, deployment: str | None = None) -> Provider:
        return self.make(deployment or "swell")

    async def told(self, provider: Provider, instance_id: str) -> Mapping[str, str]:
        assert isinstance(provider, DetachedProvider)
        pid = provider.pid(instance_id)
        assert pid is not None
        async with asyncio.timeout(20):
            # Empty for a moment while a process executes another program.
            while not (told := psutil.Process(pid).environ()):
                await asyncio.sleep(0.01)
        return told

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        await self.until(provider, ids, state)

    async def until(
        self, provider: Provider, ids: list[str], state: InstanceState
    ) -> list[Instance]:
        async with asyncio.timeout(20):
            while True:
                found = [i for i in await provider.instances() if i.id in ids]
                if {i.state for i in found} <= {state}:
                    return found
                await asyncio.sleep(0.02)

    async def test_an_exit_code_that_was_seen_while_only_looking_is_told_later(
        self, provider: DetachedProvider
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p", command=("sh", "-c", "exit 3")))
        with looking_only([provider]):
            [looked] = await self.until(provider, [instance.id], InstanceState.ENDED)
        [told] = await provider.instances()
        [found] = await (await self.another(provider)).instances()
        assert looked.exit_code == told.exit_code == found.exit_code == 3

    @pytest.mark.slow
    async def test_a_worker_that_will_not_go_is_killed_with_all_it_started(
        self, provider: DetachedProvider
    ) -> None:
        script = "trap '' TERM; sleep 600 & wait; sleep 600"
        [instance] = await provider.launch(LaunchRequest(pool="p", command=("sh", "-c", script)))
        await self.until(provider, [instance.id], InstanceState.RUNNING)
        pid = provider.pid(instance.id)
        assert pid is not None
        async with asyncio.timeout(10):
            while not (children := psutil.Process(pid).children()):
                await asyncio.sleep(0.01)
        await provider.terminate([instance.id], grace_s=0.2)
        [ended] = await self.until(provider, [instance.id], InstanceState.ENDED)
        assert ended.exit_code == -signal.SIGKILL
        await asyncio.to_thread(psutil.wait_procs, children, 10)
        assert all(
            not each.is_running() or each.status() == psutil.STATUS_ZOMBIE for each in children
        )

    @pytest.mark.slow
    async def test_a_grace_that_a_killed_controller_gave_is_kept_by_the_next(
        self, provider: DetachedProvider
    ) -> None:
        request = LaunchRequest(
            pool="p", command=("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
        )
        [instance] = await provider.launch(request)
        await self.until(provider, [instance.id], InstanceState.RUNNING)
        await provider.terminate([instance.id], grace_s=0.3)
        await provider.close()
        await self.until(self.make(), [instance.id], InstanceState.ENDED)

    async def test_a_boot_is_waited_for_and_can_be_cut_short(self, provider: Provider) -> None:
        slow = self.make(boot_delay_s=600)
        [instance] = await slow.launch(LaunchRequest(pool="p", command=("true",)))
        assert instance.state is InstanceState.STARTING
        async with asyncio.timeout(10):
            while slow.pid(instance.id) is None:
                await asyncio.sleep(0.01)
        await slow.terminate([instance.id], grace_s=600)
        await self.until(slow, [instance.id], InstanceState.ENDED)

    async def test_what_was_written_down_and_never_started_has_ended(
        self, provider: DetachedProvider
    ) -> None:
        clock = ManualClock()
        late = DetachedProvider(clock, self.folder, {})
        record = {
            "id": "swell-p-0-0",
            "deployment": "swell",
            "pool": "p",
            "token": "t",
            "asked_at": clock.now().isoformat(),
        }
        self.folder.mkdir()
        (self.folder / "swell-p-0-0.json").write_text(json.dumps(record))
        assert [i.state for i in await late.instances()] == [InstanceState.STARTING]
        clock.advance(11)
        assert [i.state for i in await late.instances()] == [InstanceState.ENDED]

    @pytest.mark.slow
    async def test_a_process_that_turns_into_another_program_again_and_again_has_not_ended(
        self, provider: DetachedProvider, tmp_path: Path
    ) -> None:
        script = tmp_path / "turning.sh"
        script.write_text(
            'if [ "$1" -gt 0 ]; then exec sh "$0" $(($1 - 1)); fi\n: > "$0.done"\nexec sleep 600\n'
        )
        request = LaunchRequest(
            pool="p", command=("sh", str(script), "500"), environment={"PAD": "y" * 20_000}
        )
        [instance] = await provider.launch(request)
        other = self.make()
        states = set()
        async with asyncio.timeout(20):
            while not Path(f"{script}.done").exists():
                states |= {each.state for each in await other.instances()}
        assert InstanceState.ENDED not in states
        assert provider.pid(instance.id) is not None

    async def test_what_was_told_as_ended_and_lives_can_be_ended(
        self, provider: DetachedProvider
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p", command=self.command))
        await self.until(provider, [instance.id], InstanceState.RUNNING)
        pid = provider.pid(instance.id)
        assert pid is not None
        wrong = {"at": instance.launched_at.isoformat(), "exit_code": None}
        (self.folder / f"{instance.id}.ended").write_text(json.dumps(wrong))
        await provider.terminate([instance.id], grace_s=0.1)
        await self.until(provider, [instance.id], InstanceState.ENDED)
        assert provider.pid(instance.id) is None
        assert not psutil.pid_exists(pid)

    async def test_a_process_that_comes_too_late_does_not_become_a_worker(
        self, provider: DetachedProvider, tmp_path: Path
    ) -> None:
        # A shell that hangs before it reports its process ID.
        programs, may_go = tmp_path / "programs", tmp_path / "go"
        programs.mkdir()
        slow = programs / "mv"
        slow.write_text(
            f'#!/bin/sh\nwhile [ ! -e {may_go} ]; do sleep 0.01; done\nexec /bin/mv "$@"\n'
        )
        slow.chmod(0o700)
        worker = tmp_path / "worker"
        request = LaunchRequest(
            pool="p",
            command=("/bin/sh", "-c", f": > {worker}; exec sleep 600"),
            environment={"PATH": f"{programs}:{os.environ['PATH']}"},
        )
        clock = ManualClock(start=SystemClock().now())
        starter = DetachedProvider(clock, self.folder, {})
        [instance] = await starter.launch(request)
        clock.advance(11)
        # Its launcher knows that it lives, even when late; others give up.
        assert [each.state for each in await starter.instances()] == [InstanceState.STARTING]
        late = DetachedProvider(clock, self.folder, {})
        assert [each.state for each in await late.instances()] == [InstanceState.ENDED]
        async with asyncio.timeout(20):
            begun = self.folder / f"{instance.id}.pid.new"
            while not (begun.exists() and begun.read_text().strip()):
                await asyncio.sleep(0.01)
        pid = int(begun.read_text().split()[0])
        may_go.touch()
        async with asyncio.timeout(20):
            while psutil.pid_exists(pid):
                await starter.instances()
                await asyncio.sleep(0.01)
        assert not worker.exists()

    async def test_only_this_user_may_read_a_log(self, provider: DetachedProvider) -> None:
        command = ("sh", "-c", "echo $GREETING; exit 7")
        request = LaunchRequest(pool="p", command=command, environment={"GREETING": "hi"})
        [instance] = await provider.launch(request)
        [ended] = await self.until(provider, [instance.id], InstanceState.ENDED)
        assert ended.exit_code == 7
        assert provider.log_path(instance.id).read_text() == "hi\n"
        assert provider.log_path(instance.id).stat().st_mode & 0o077 == 0


class TestRehearsal:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        return tmp_path / "bad-day.json"

    @pytest.fixture
    def provider(self, clock: ManualClock, script: Path) -> RehearsalProvider:
        return RehearsalProvider(MemoryProvider(clock), script, clock)

    async def test_without_a_script_it_is_the_other_provider(
        self, provider: RehearsalProvider
    ) -> None:
        assert len(await provider.launch(LaunchRequest(pool="p", n=2))) == 2
        assert await provider.notices() == []

    async def test_it_refuses_as_the_script_says(
        self, provider: RehearsalProvider, script: Path
    ) -> None:
        script.write_text(json.dumps({"refuse": "none left", "is_quota": True}))
        with pytest.raises(Refused, match="none left") as caught:
            await provider.launch(LaunchRequest(pool="p"))
        assert caught.value.is_quota

    async def test_it_gives_fewer_than_were_wanted_and_then_none(
        self, provider: RehearsalProvider, script: Path
    ) -> None:
        script.write_text(json.dumps({"most": 3}))
        assert len(await provider.launch(LaunchRequest(pool="p", n=5, token="a"))) == 3
        assert len(await provider.launch(LaunchRequest(pool="p", n=5, token="a"))) == 3
        with pytest.raises(Refused):
            await provider.launch(LaunchRequest(pool="p", token="b"))

    async def test_what_is_taken_back_is_told_first_and_then_ended(
        self, provider: RehearsalProvider, script: Path, clock: ManualClock
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        script.write_text(json.dumps({"take_back_in_s": {instance.id: 15}}))
        [notice] = await provider.notices()
        assert notice == Notice(instance_id=instance.id, at=notice.at)
        clock.advance(10)
        assert [i.state for i in await provider.instances()] == [InstanceState.RUNNING]
        clock.advance(6)
        assert [i.state for i in await provider.instances()] == [InstanceState.ENDED]
        assert await provider.notices() == []
