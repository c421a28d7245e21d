"""Workers on Azure, emulated on loopback: through Compute Fleet and one by one."""

import base64
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from azure_resources import GROUP, SECRET, SUBSCRIPTION, AzureResources
from booted import environment_of_script
from conformance.provider import OutlivingConformance, RefusingConformance
from manual_clock import ManualClock
from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidInput, InvalidRequest, Unavailable
from swell.core.provider import InstanceState, LaunchRequest, Provider, Refused, looking_only
from swell.providers.azure import AzureOptions, AzureProvider
from swell.providers.azure_token import AzureTokens

LACK = ("SkuNotAvailable", "The requested VM size is currently not available in location 'eastus'.")
ALLOCATION = ("AllocationFailed", "Allocation failed. We do not have sufficient capacity.")
QUOTA = (
    "OperationNotAllowed",
    "Operation could not be completed as it results in exceeding approved Total Regional Cores "
    "quota. Current Limit: 0",
)
T4, A10 = "Standard_NC4as_T4_v3", "Standard_NV36ads_A10_v5"


def a_row(size: str, price: float | str, sku: str = "", **more: object) -> dict[str, object]:
    """Return a row of Azure's price list."""
    told: dict[str, object] = {
        "currencyCode": "USD",
        "retailPrice": price,
        "unitPrice": price,
        "armRegionName": "eastus",
        "armSkuName": size,
        "skuName": f"NC4as T4 v3{sku}",
        "productName": "Virtual Machines NCasT4 v3 Series",
        "serviceName": "Virtual Machines",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
    }
    return told | more


class AzureCase(OutlivingConformance, RefusingConformance):
    """Tests for both ways of launching."""

    by_fleet = True
    power_s = 0.0
    clock: Clock = SystemClock()

    @pytest.fixture
    async def azure(self, tmp_path: Path) -> AsyncIterator[AzureResources]:
        async with AzureResources() as azure:
            self.azure, self.folder = azure, tmp_path
            self.open: list[AzureProvider] = []
            yield azure
            for provider in self.open:
                await provider.close()

    @pytest.fixture
    def provider(self, azure: AzureResources) -> AzureProvider:
        return self.made()

    def made(self, deployment: str = "shop", **more: object) -> AzureProvider:
        told: dict[str, object] = {
            "image": "registry.example/poster:1",
            "subscription": SUBSCRIPTION,
            "group": GROUP,
            "location": "eastus",
            "sizes": [T4, A10],
            "source_image": "images:gpu:ubuntu:latest",
            "subnet": "/subscriptions/s/resourceGroups/g/providers/x/subnets/default",
            "ssh_key": "ssh-ed25519 AAAA",
            "fleet": self.by_fleet,
            "weights_dir": str(self.folder / "weights"),
            "endpoint": self.azure.url,
            "metadata_url": self.azure.url,
            "login_url": self.azure.url,
            "prices_url": self.azure.url,
        }
        options = AzureOptions.model_validate(told | more)
        made = AzureProvider(options, self.clock, deployment, power_s=self.power_s)
        self.open.append(made)
        return made

    async def another(self, provider: Provider, deployment: str | None = None) -> Provider:
        return self.made(deployment or "shop")

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        self.azure.settle()
        assert {i.state for i in await provider.instances() if i.id in ids} == {state}

    async def told(self, provider: Provider, instance_id: str) -> Mapping[str, str]:
        body = next(b for name, b in self.azure.asked.items() if instance_id.startswith(name))
        profile = body["properties"].get("computeProfile", {}).get("baseVirtualMachineProfile")
        system = (profile or body["properties"])["osProfile"]
        script = base64.b64decode(system["customData"]).decode()
        answers = {"/metadata/instance/compute/name": instance_id}
        return environment_of_script(script, answers, self.folder / instance_id)

    async def refuse(self, provider: Provider, *, is_quota: bool) -> None:
        self.azure.lacks = {"*": QUOTA} if is_quota else {T4: LACK, A10: QUOTA}

    async def relent(self, provider: Provider) -> None:
        self.azure.lacks = {}

    # ---- specific to Azure, both ways

    async def test_prices_of_now_are_told_by_size_page_after_page(
        self, provider: AzureProvider
    ) -> None:
        self.azure.prices = [
            a_row(T4, 0.526),
            a_row(T4, 0.0936, " Spot"),
            a_row(T4, 0.105, " Low Priority"),
            a_row(T4, 0.71, productName="Virtual Machines NCasT4 v3 Series Windows"),
            a_row(T4, 0.2, " Spot", productName="Virtual Machines NCasT4 v3 Series Windows"),
            a_row(T4, 0.9, productName="NCasT4 v3 Series Cloud Services"),
            a_row(T4, 9.0, unitOfMeasure="1/Month"),
            a_row(T4, "none"),
            a_row(T4, 0.0),
            a_row("Standard_Else", 7.0),
            a_row(A10.lower(), 3.2),
            a_row(A10, 3.8),
            a_row(A10, 0.64, " Spot"),
        ]
        self.azure.prices_page = 5
        found = {(each.kind, each.place): each.hour_micros for each in await provider.prices()}
        assert found == {(T4, "eastus"): 526_000, (A10, "eastus"): 3_800_000}
        spot = await self.made(spot=True).prices()
        assert {each.kind: each.hour_micros for each in spot} == {T4: 93_600, A10: 640_000}
        wanted, *_ = self.azure.filters
        assert "armRegionName eq 'eastus'" in wanted
        assert f"(armSkuName eq '{T4}' or armSkuName eq '{A10}')" in wanted
        assert self.azure.filters == 6 * [wanted], "three pages each"

    async def test_a_list_of_prices_that_is_away_is_told_and_one_that_is_not_named_not_asked(
        self, provider: AzureProvider
    ) -> None:
        self.azure.prices_status = 503
        with pytest.raises(Unavailable, match="list of prices cannot be read: status 503"):
            await provider.prices()
        assert await self.made(prices_url="").prices() == []

    async def test_another_size_is_taken_where_the_first_is_not_to_be_had(
        self, provider: AzureProvider
    ) -> None:
        self.azure.lacks = {T4: LACK}
        await provider.launch(LaunchRequest(pool="p", n=2))
        assert {each.kind for each in await provider.instances()} == {A10}

    async def test_where_and_what_an_instance_is_is_told(self, provider: AzureProvider) -> None:
        spot = self.made(spot=True, zones=["2"])
        await spot.launch(LaunchRequest(pool="spot"))
        await provider.launch(LaunchRequest(pool="own"))
        found = {each.pool: each for each in await provider.instances()}
        assert (found["spot"].is_spot, found["own"].is_spot) == (True, False)
        assert (found["spot"].location, found["own"].location) == ("2", "eastus")

    async def test_whatever_the_options_say_is_written_as_azure_reads_it(
        self, provider: AzureProvider
    ) -> None:
        chosen = self.made(
            zones=["1", "2"],
            source_image="/subscriptions/s/images/gpu",
            security_group="/subscriptions/s/nsg",
            public_address=True,
            spot=True,
        )
        assert len(await chosen.launch(LaunchRequest(pool="p"))) == 1

    async def test_fewer_than_were_wanted_are_what_there_is(self, provider: AzureProvider) -> None:
        self.azure.most = 2
        launched = await provider.launch(LaunchRequest(pool="p", n=5))
        assert len(launched) == 2
        self.azure.settle()
        assert {i.id for i in await provider.instances()} == {i.id for i in launched}

    @pytest.mark.parametrize(
        ("error", "is_quota"),
        [
            (LACK, False),
            (ALLOCATION, False),
            (("ZonalAllocationFailed", "no"), False),
            (("OverconstrainedAllocationRequest", "no"), False),
            (QUOTA, True),
            (("QuotaExceeded", "no"), True),
        ],
    )
    async def test_what_is_lacking_is_told_by_its_code(
        self, provider: AzureProvider, error: tuple[str, str], is_quota: bool
    ) -> None:
        self.azure.lacks = {"*": error}
        with pytest.raises(Refused, match=error[0]) as refused:
            await provider.launch(LaunchRequest(pool="p"))
        assert refused.value.is_quota == is_quota

    @pytest.mark.parametrize(
        ("status", "code", "error"),
        [
            (429, "TooManyRequests", Unavailable),
            (503, "ServiceUnavailable", Unavailable),
            (409, "AnotherOperationInProgress", Unavailable),
            (403, "AuthorizationFailed", InvalidInput),
            (400, "InvalidParameter", InvalidInput),
            # The code usually means a quota; here it does not.
            (409, "OperationNotAllowed", InvalidInput),
        ],
    )
    async def test_calls_that_are_refused_are_told_by_what_is_to_be_done(
        self, provider: AzureProvider, status: int, code: str, error: type[Exception]
    ) -> None:
        self.azure.errors = [(status, code, "no")]
        with pytest.raises(error) as told:
            await provider.launch(LaunchRequest(pool="p"))
        assert not isinstance(told.value, Refused)
        assert await provider.instances() == []

    async def test_what_takes_long_is_waited_for(self, provider: AzureProvider) -> None:
        self.azure.looks = 3
        assert len(await provider.launch(LaunchRequest(pool="p", n=2))) == 2
        looks = [call for call in self.azure.calls if "/operations/" in call]
        assert len(looks) >= 3

    async def test_a_machine_that_shut_itself_down_is_deleted_and_told_as_ended(
        self, provider: AzureProvider
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        self.azure.settle()
        self.azure.shut_down(instance.id)
        with looking_only([provider]):
            assert [i.state for i in await provider.instances()] == [InstanceState.ENDED]
        self.azure.settle()
        assert instance.id in self.azure.machines
        [ended] = await provider.instances()
        assert ended.state is InstanceState.ENDED
        self.azure.settle()
        assert self.azure.machines == {}
        assert [i.state for i in await provider.instances()] == [InstanceState.ENDED]

    async def test_what_a_subscription_does_is_asked_seldom(self, azure: AzureResources) -> None:
        self.power_s, clock = 60.0, ManualClock()
        self.clock = clock
        provider = self.made()
        await provider.launch(LaunchRequest(pool="p"))
        for advance_s, looks in ((0, 1), (50, 1), (20, 2)):
            clock.advance(advance_s)
            self.azure.settle()
            assert len(await provider.instances()) == 1
            listed = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/virtualMachines"
            assert self.azure.calls.count(f"GET {listed}") == looks

    async def test_machines_are_seen_though_nobody_may_ask_what_they_do_now(
        self, provider: AzureProvider
    ) -> None:
        one, other = await provider.launch(LaunchRequest(pool="p", n=2))
        self.azure.settle()
        self.azure.shut_down(one.id)
        assert len(await provider.instances()) == 2
        self.azure.powers_busy = True
        states = {each.id: each.state for each in await provider.instances()}
        assert states[other.id] is InstanceState.RUNNING
        assert states[one.id] is not InstanceState.RUNNING

    async def test_what_was_evicted_is_told_as_ended(self, azure: AzureResources) -> None:
        self.clock = clock = ManualClock(SystemClock().now())
        provider = self.made()
        one, other = await provider.launch(LaunchRequest(pool="p", n=2))
        self.azure.settle()
        await provider.instances()
        del self.azure.machines[one.id]
        assert {i.state for i in await provider.instances()} == {InstanceState.RUNNING}
        clock.advance(5)
        states = {i.id: i.state for i in await provider.instances()}
        assert states == {one.id: InstanceState.ENDED, other.id: InstanceState.RUNNING}

    async def test_a_list_that_is_late_neither_loses_nor_doubles_a_machine(
        self, provider: AzureProvider
    ) -> None:
        # Before the launch, after it, and when a new controller repeats it.
        self.azure.late = 3
        request = LaunchRequest(pool="p", n=2, token="launch-1")
        launched = await provider.launch(request)
        assert [each.state for each in launched] == [InstanceState.STARTING] * 2
        assert {i.id for i in launched} == set(self.azure.machines)
        assert {i.id for i in await provider.instances()} == {i.id for i in launched}
        assert await provider.launch(request) == launched

    async def test_machines_of_others_are_no_trouble(self, provider: AzureProvider) -> None:
        [own] = await provider.launch(LaunchRequest(pool="p"))
        for name, tags in (("untagged", None), ("other", {"swell-deployment": "shop2"})):
            strange = {**self.azure.machines[own.id], "name": name, "tags": tags}
            self.azure.machines[name] = strange | {"power": "PowerState/stopped"}
        assert [each.id for each in await provider.instances()] == [own.id]
        await provider.terminate(["untagged", "other"])
        assert not any("DELETE" in call for call in self.azure.calls)

    async def test_long_lists_come_in_pages(self, provider: AzureProvider) -> None:
        self.azure.page = 2
        await provider.launch(LaunchRequest(pool="p", n=5))
        assert len(await self.made().instances()) == 5

    async def test_a_token_that_was_taken_back_is_replaced(self, provider: AzureProvider) -> None:
        assert await provider.instances() == []
        self.azure.good.clear()
        assert await provider.instances() == []
        assert self.azure.tokens == 2


class TestAzureByFleet(AzureCase):
    async def test_one_request_makes_all(self, provider: AzureProvider) -> None:
        await provider.launch(LaunchRequest(pool="p", n=5))
        made = [call for call in self.azure.calls if call.startswith("PUT ")]
        assert len(made) == 1
        assert "/Microsoft.AzureFleet/fleets/" in made[0]

    async def test_where_there_are_no_fleets_machines_are_made_one_by_one(
        self, provider: AzureProvider
    ) -> None:
        self.azure.has_fleets = False
        assert len(await provider.launch(LaunchRequest(pool="p", n=3))) == 3
        made = [call for call in self.azure.calls if call.startswith("PUT ")]
        assert len(made) == 4

    async def test_a_fleet_that_takes_too_long_is_left_to_itself(
        self, azure: AzureResources
    ) -> None:
        class Hasty(SystemClock):
            """Each request advances the clock by two minutes."""

            looked = 0

            def monotonic_s(self) -> float:
                self.looked += 1
                return self.looked * 120.0

        self.clock = Hasty()
        provider = self.made()
        azure.looks, azure.late, azure.silent = 1000, 2, True
        request = LaunchRequest(pool="p", n=2, token="launch-1")
        # The outcome is unknown: not a refusal, so the launch is retried.
        with pytest.raises(Unavailable, match="not reported a result yet") as told:
            await provider.launch(request)
        assert not isinstance(told.value, Refused)
        assert {i.id for i in await provider.launch(request)} == set(azure.machines)


class TestAzureOneByOne(AzureCase):
    by_fleet = False

    async def test_a_machine_that_was_asked_for_before_is_not_made_anew(
        self, provider: AzureProvider
    ) -> None:
        request = LaunchRequest(pool="p", n=2, token="launch-1")
        launched = await provider.launch(request)
        self.azure.late = 1
        again = await self.made().launch(request)
        assert {i.id for i in again} == {i.id for i in launched} == set(self.azure.machines)

    async def test_a_machine_that_failed_while_it_was_made_is_not_left_behind(
        self, provider: AzureProvider
    ) -> None:
        self.azure.lacks, self.azure.lacks_late = {"*": ALLOCATION}, True
        with pytest.raises(Refused, match="AllocationFailed"):
            await provider.launch(LaunchRequest(pool="p", n=2))
        assert self.azure.machines == {}
        self.azure.lacks = {T4: ALLOCATION}
        assert len(await provider.launch(LaunchRequest(pool="p", n=2))) == 2
        self.azure.settle()
        assert {each.kind for each in await provider.instances()} == {A10}


# ---- credentials


async def test_an_application_asks_with_its_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    case = TestAzureByFleet()
    told = {
        "directory": "directory-1",
        "client_id": "client-1",
        "client_secret_file": str(tmp_path / "secret"),
    }
    async with AzureResources() as azure:
        case.azure, case.folder, case.open = azure, tmp_path, []
        provider = case.made(**told)
        assert await provider.instances() == []
        (tmp_path / "secret").write_text("wrong")
        with pytest.raises(InvalidInput, match="Invalid client secret"):
            await case.made(**told).instances()
        with pytest.raises(InvalidRequest, match="cannot be read"):
            case.made(**told | {"client_secret_file": str(tmp_path / "none")})
        for each in case.open:
            await each.close()


async def test_tokens_are_asked_for_before_they_end() -> None:
    async with AzureResources() as azure:
        clock = ManualClock()
        tokens = AzureTokens(None, clock, metadata_url=azure.url)
        for advance_s, times in ((0, 1), (86_000, 1), (200, 2)):
            clock.advance(advance_s)
            assert await tokens.headers() == {"Authorization": f"Bearer eyJ0.{times}"}
        await tokens.close()


def test_an_application_is_named_whole() -> None:
    told = {
        "image": "x",
        "subscription": "s",
        "group": "g",
        "location": "eastus",
        "sizes": [T4],
        "source_image": "/image",
        "subnet": "/subnet",
        "ssh_key": "k",
    }
    assert AzureOptions.model_validate(told).fleet
    with pytest.raises(ValueError, match="go together"):
        AzureOptions.model_validate(told | {"directory": "d"})
    with pytest.raises(ValueError, match="client_id"):
        AzureOptions.model_validate(told | {"directory": "d", "client_secret_file": "f"})
