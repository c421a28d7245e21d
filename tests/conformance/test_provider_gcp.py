"""Workers on Google Compute Engine, emulated on loopback."""

import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from booted import environment_of_script
from conformance.provider import OutlivingConformance, RefusingConformance
from gcp_compute import PROJECT, GcpCompute
from manual_clock import ManualClock
from swell.core.clock import SystemClock
from swell.core.errors import InvalidInput, InvalidRequest, Unavailable
from swell.core.provider import InstanceState, LaunchRequest, Provider, Refused, looking_only
from swell.providers.gcp import GcpOptions, GcpProvider
from swell.providers.google_token import GoogleTokens

LACK = (
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
    "The zone does not have enough resources available to fulfill the request.",
)
QUOTA = ("QUOTA_EXCEEDED", "Quota 'NVIDIA_L4_GPUS' exceeded. Limit: 1.0 in region us-central1.")


class TestGcpProvider(OutlivingConformance, RefusingConformance):
    @pytest.fixture
    async def gcp(self, tmp_path: Path) -> AsyncIterator[GcpCompute]:
        async with GcpCompute() as gcp:
            self.gcp, self.folder = gcp, tmp_path
            self.open: list[GcpProvider] = []
            yield gcp
            for provider in self.open:
                await provider.close()

    @pytest.fixture
    def provider(self, gcp: GcpCompute) -> GcpProvider:
        return self.made()

    def made(self, deployment: str = "shop", **more: object) -> GcpProvider:
        told: dict[str, object] = {
            "image": "registry.example/poster:1",
            "project": PROJECT,
            "region": "us-central1",
            "types": ["g2-standard-4"],
            "source_image": "projects/images/global/images/family/gpu",
            "weights_dir": str(self.folder / "weights"),
            "endpoint": self.gcp.url,
            "metadata_url": self.gcp.url,
        }
        made = GcpProvider(GcpOptions.model_validate(told | more), SystemClock(), deployment)
        self.open.append(made)
        return made

    async def another(self, provider: Provider, deployment: str | None = None) -> Provider:
        return self.made(deployment or "shop")

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        self.gcp.settle()
        assert {i.state for i in await provider.instances() if i.id in ids} == {state}

    async def told(self, provider: Provider, instance_id: str) -> Mapping[str, str]:
        items = self.gcp.machines[instance_id]["metadata"]["items"]
        script = {each["key"]: each["value"] for each in items}["startup-script"]
        answers = {"/computeMetadata/v1/instance/name": instance_id}
        return environment_of_script(script, answers, self.folder / instance_id)

    async def refuse(self, provider: Provider, *, is_quota: bool) -> None:
        self.gcp.failures = [QUOTA] if is_quota else [LACK, QUOTA]

    async def relent(self, provider: Provider) -> None:
        self.gcp.failures = []

    # ---- specific to Google

    @pytest.mark.slow
    async def test_where_and_what_an_instance_is_is_told(self, provider: GcpProvider) -> None:
        spot = self.made(spot=True, zones=["us-central1-b"])
        await spot.launch(LaunchRequest(pool="spot"))
        await provider.launch(LaunchRequest(pool="own"))
        found = {each.pool: each for each in await provider.instances()}
        assert (found["spot"].is_spot, found["own"].is_spot) == (True, False)
        assert found["spot"].location == "us-central1-b"
        assert {each.kind for each in found.values()} == {"g2-standard-4"}

    async def test_whatever_the_options_say_is_written_as_google_reads_it(
        self, provider: GcpProvider
    ) -> None:
        chosen = self.made(
            types=["n1-standard-4", "n1-standard-8"],
            accelerator="nvidia-tesla-t4",
            accelerators=2,
            subnetwork="regions/us-central1/subnetworks/images",
            public_address=False,
            service_account="worker@images-123.iam.gserviceaccount.com",
            template="global/instanceTemplates/gpu",
            labels={"team": "images"},
            zones=["us-central1-a", "us-central1-b"],
            spot=True,
        )
        assert len(await chosen.launch(LaunchRequest(pool="p", n=2))) == 2
        [operation] = self.gcp.operations.values()
        body = operation["body"]
        properties = body["instanceProperties"]
        assert body["locationPolicy"]["targetShape"] == "ANY"
        assert properties["scheduling"]["instanceTerminationAction"] == "DELETE"
        assert properties["guestAccelerators"][0]["acceleratorCount"] == 2
        assert "accessConfigs" not in properties["networkInterfaces"][0]
        assert "machineType" not in properties

    @pytest.mark.slow
    async def test_an_operation_is_waited_for(self, provider: GcpProvider) -> None:
        self.gcp.looks = 3
        launched = await provider.launch(LaunchRequest(pool="p", n=2))
        assert len([call for call in self.gcp.calls if call.endswith("/wait")]) == 3
        assert {each.state for each in launched} == {InstanceState.STARTING}
        assert {each.location for each in launched} == {"us-central1-a", "us-central1-b"}

    async def test_an_operation_that_takes_too_long_is_left_to_itself(
        self, gcp: GcpCompute
    ) -> None:
        class Hasty(SystemClock):
            """Each request advances the clock by a minute."""

            looked = 0

            def monotonic_s(self) -> float:
                self.looked += 1
                return self.looked * 60.0

        gcp.looks = 1000
        told = self.made()._options
        provider = GcpProvider(told, Hasty(), "shop")
        self.open.append(provider)
        launched = await provider.launch(LaunchRequest(pool="p", n=2, token="launch-1"))
        assert len(launched) == 2
        assert {i.id for i in await provider.instances()} == {i.id for i in launched}
        # The operation continues and has the reported result.
        gcp.looks = 0
        for operation in gcp.operations.values():
            operation |= {"status": "DONE"}
            gcp._make(operation)
        assert {i.id for i in await self.made().instances()} == {i.id for i in launched}

    async def test_fewer_than_were_wanted_are_what_there_is(self, provider: GcpProvider) -> None:
        self.gcp.failures, self.gcp.most = [LACK], 2
        launched = await provider.launch(LaunchRequest(pool="p", n=5))
        assert len(launched) == 2
        assert {i.id for i in await provider.instances()} == {i.id for i in launched}

    @pytest.mark.parametrize(
        ("failure", "is_quota"),
        [
            (LACK, False),
            (("ZONE_RESOURCE_POOL_EXHAUSTED", "no"), False),
            (("VM_MIN_COUNT_NOT_REACHED", "Requested minimum count of 1 VMs"), False),
            (QUOTA, True),
        ],
    )
    async def test_failures_of_operations_are_told_by_their_codes(
        self, provider: GcpProvider, failure: tuple[str, str], is_quota: bool
    ) -> None:
        self.gcp.failures = [failure]
        with pytest.raises(Refused, match=failure[0]) as refused:
            await provider.launch(LaunchRequest(pool="p"))
        assert refused.value.is_quota == is_quota

    @pytest.mark.parametrize(
        ("status", "reason", "error", "is_quota"),
        [
            (403, "quotaExceeded", Refused, True),
            (503, "insufficientCapacity", Refused, False),
            (403, "rateLimitExceeded", Unavailable, None),
            (429, "rateLimitExceeded", Unavailable, None),
            (503, "backendError", Unavailable, None),
            (500, "internalError", Unavailable, None),
            (400, "invalid", InvalidInput, None),
            (403, "forbidden", InvalidInput, None),
            (404, "notFound", InvalidInput, None),
        ],
    )
    async def test_calls_that_are_refused_are_told_by_their_reasons(
        self,
        provider: GcpProvider,
        status: int,
        reason: str,
        error: type[Exception],
        is_quota: bool | None,
    ) -> None:
        self.gcp.errors = [(status, reason, "no")]
        with pytest.raises(error) as told:
            await provider.launch(LaunchRequest(pool="p"))
        assert getattr(told.value, "is_quota", None) == is_quota
        assert await provider.instances() == []

    async def test_a_machine_that_shut_itself_down_is_deleted_and_told_as_ended(
        self, provider: GcpProvider
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        self.gcp.settle()
        self.gcp.shut_down(instance.id)
        with looking_only([provider]):
            assert [i.state for i in await provider.instances()] == [InstanceState.ENDED]
        self.gcp.settle()
        assert instance.id in self.gcp.machines
        [ended] = await provider.instances()
        assert ended.state is InstanceState.ENDED
        self.gcp.settle()
        assert self.gcp.machines == {}
        assert [i.state for i in await provider.instances()] == [InstanceState.ENDED]

    async def test_what_somebody_deleted_is_told_as_ended(self, gcp: GcpCompute) -> None:
        clock = ManualClock(SystemClock().now())
        provider = GcpProvider(self.made()._options, clock, "shop")
        self.open.append(provider)
        one, other = await provider.launch(LaunchRequest(pool="p", n=2))
        self.gcp.settle()
        await provider.instances()
        del self.gcp.machines[one.id]
        assert {i.state for i in await provider.instances()} == {InstanceState.RUNNING}
        clock.advance(5)
        states = {i.id: i.state for i in await provider.instances()}
        assert states == {one.id: InstanceState.ENDED, other.id: InstanceState.RUNNING}

    async def test_a_zone_that_does_not_answer_has_lost_nothing(
        self, provider: GcpProvider
    ) -> None:
        await provider.launch(LaunchRequest(pool="p", n=2))
        self.gcp.settle()
        await provider.instances()
        self.gcp.silent = {"us-central1-a"}
        assert {i.state for i in await provider.instances()} == {InstanceState.RUNNING}

    async def test_a_machine_that_is_taken_back_is_told_and_why_it_ended(
        self, provider: GcpProvider
    ) -> None:
        spot = self.made(spot=True)
        one, other = await spot.launch(LaunchRequest(pool="p", n=2))
        self.gcp.settle()
        self.gcp.preempt(one.id)
        [notice] = await spot.notices()
        assert notice.instance_id == one.id
        assert notice.at is not None
        assert notice.at - datetime.now(UTC) <= timedelta(seconds=30)
        found = {each.id: each for each in await spot.instances()}
        assert (found[one.id].state, found[one.id].why) == (InstanceState.STOPPING, "preempted")
        self.gcp.settle()
        found = {each.id: each for each in await spot.instances()}
        assert (found[one.id].state, found[one.id].why) == (InstanceState.ENDED, "preempted")
        assert found[other.id].state is InstanceState.RUNNING
        assert await spot.notices() == []

    async def test_what_was_taken_back_is_remembered_as_long_as_it_is_told(
        self, gcp: GcpCompute
    ) -> None:
        clock = ManualClock(SystemClock().now())
        spot = GcpProvider(self.made(spot=True)._options, clock, "shop")
        self.open.append(spot)
        [instance] = await spot.launch(LaunchRequest(pool="p"))
        gcp.settle()
        gcp.preempt(instance.id)
        await spot.notices()
        assert spot._preempted == {instance.id}
        gcp.settle()
        assert [i.why for i in await spot.instances()] == ["preempted"]
        clock.advance(3601)
        await spot.notices()
        assert await spot.instances() == []
        assert spot._preempted == set()

    async def test_old_preemptions_say_nothing_of_machines_that_live(
        self, provider: GcpProvider
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        self.gcp.preempt(instance.id, (datetime.now(UTC) - timedelta(hours=1)).isoformat())
        assert await provider.notices() == []

    async def test_many_that_are_taken_back_at_once_are_told_all(
        self, provider: GcpProvider
    ) -> None:
        spot = self.made(spot=True)
        launched = await spot.launch(LaunchRequest(pool="p", n=5))
        self.gcp.settle()
        long_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        for number, each in enumerate(launched):
            self.gcp.preempt(each.id, long_ago if number == 4 else "")
        self.gcp.page = 2
        assert len(await spot.notices()) == 4
        assert self.gcp.calls.count("GET /aggregated/operations") == 3

    async def test_many_are_ended_after_one_look(self, provider: GcpProvider) -> None:
        launched = await provider.launch(LaunchRequest(pool="p", n=5))
        self.gcp.settle()
        looks = self.gcp.calls.count("GET /aggregated/instances")
        await provider.terminate([each.id for each in launched])
        assert self.gcp.calls.count("GET /aggregated/instances") - looks == 1
        stopping = {each.state for each in await provider.instances()}
        assert stopping == {InstanceState.STOPPING}

    @pytest.mark.parametrize("counts", [True, False])
    async def test_a_list_that_is_late_neither_loses_nor_doubles_a_machine(
        self, provider: GcpProvider, counts: bool
    ) -> None:
        self.gcp.counts = counts
        # The first comes before the launch, the second after it.
        self.gcp.late = 3
        request = LaunchRequest(pool="p", n=2, token="launch-1")
        launched = await provider.launch(request)
        assert [each.state for each in launched] == [InstanceState.STARTING] * 2
        assert {i.id for i in await provider.instances()} == {i.id for i in launched}
        assert await provider.launch(request) == launched
        assert {i.id for i in await self.made().instances()} == {i.id for i in launched}
        assert {i.id for i in launched} == set(self.gcp.machines)

    async def test_what_an_operation_has_made_and_no_list_has_yet_is_counted(
        self, provider: GcpProvider
    ) -> None:
        self.gcp.failures, self.gcp.most, self.gcp.late = [LACK], 2, 2
        launched = await provider.launch(LaunchRequest(pool="p", n=5, token="launch-1"))
        assert len(launched) == 2

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "page", [b"<html>Sign in to the network</html>", b"\xff\xfe", b"[]", b'"ok"', b"null"]
    )
    async def test_a_proxy_that_answers_instead_is_no_cloud(
        self, provider: GcpProvider, monkeypatch: pytest.MonkeyPatch, page: bytes
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p"))

        async def answer(request: web.Request, handler: Any) -> web.Response:
            return web.Response(body=page)

        with monkeypatch.context() as patch:
            patch.setattr(self.gcp, "_as_is", answer)
            with pytest.raises(Unavailable, match="Google Compute Engine"):
                await provider.instances()
        assert [each.id for each in await provider.instances()] == [instance.id]

    async def test_long_lists_come_in_pages(self, provider: GcpProvider) -> None:
        self.gcp.page = 2
        await provider.launch(LaunchRequest(pool="p", n=5))
        assert len(await self.made().instances()) == 5

    # ---- tokens

    def key(self, **more: str) -> Path:
        path = self.folder / "key.json"
        path.write_text(json.dumps(self.gcp.credentials() | more))
        return path

    async def test_a_service_account_signs_for_its_token(self, provider: Provider) -> None:
        signed = self.made(credentials=str(self.key()))
        assert len(await signed.launch(LaunchRequest(pool="p"))) == 1
        assert self.gcp.tokens == 1

    async def test_a_token_that_was_taken_back_is_replaced(self, provider: GcpProvider) -> None:
        assert await provider.instances() == []
        self.gcp.good.clear()
        assert await provider.instances() == []
        assert self.gcp.tokens == 2

    async def test_tokens_are_asked_for_before_they_end(self, gcp: GcpCompute) -> None:
        clock = ManualClock()
        tokens = GoogleTokens(None, gcp.url, clock)
        for advance_s, times in ((0, 1), (3000, 1), (500, 2)):
            clock.advance(advance_s)
            assert await tokens.headers() == {"Authorization": f"Bearer ya29.{times}"}
        await tokens.close()

    @pytest.mark.parametrize("answer", [{}, {"access_token": "t", "expires_in": "soon"}])
    async def test_an_answer_without_a_token_is_told_as_that(
        self, gcp: GcpCompute, monkeypatch: pytest.MonkeyPatch, answer: Any
    ) -> None:
        monkeypatch.setattr(gcp, "_given_token", lambda: web.json_response(answer))
        tokens = GoogleTokens(None, gcp.url, ManualClock())
        with pytest.raises(Unavailable, match="Google gives no token: 200"):
            await tokens.headers()
        await tokens.close()

    @pytest.mark.slow
    async def test_a_key_that_google_does_not_know_is_told(self, provider: Provider) -> None:
        path = self.key()
        async with GcpCompute() as other:
            strange = other.credentials() | {"token_uri": f"{self.gcp.url}/token"}
            path.write_text(json.dumps(strange))
        with pytest.raises(InvalidInput, match="service account"):
            await self.made(credentials=str(path)).instances()

    async def test_a_file_that_is_no_key_is_told_and_not_shown(self, provider: Provider) -> None:
        for text in ("", "[]", "{}", '{"private_key": "hidden"}'):
            (self.folder / "key.json").write_text(text)
            with pytest.raises(InvalidRequest, match="no key of a service account") as told:
                self.made(credentials=str(self.folder / "key.json"))
            assert "hidden" not in str(told.value)
        with pytest.raises(InvalidRequest, match="cannot be read"):
            self.made(credentials=str(self.folder / "none.json"))
