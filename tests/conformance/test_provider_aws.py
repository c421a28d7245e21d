"""Workers on Amazon EC2, emulated by moto behind a proxy that injects EC2's failures."""

import base64
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from booted import environment_of_script
from conformance.provider import OutlivingConformance, RefusingConformance
from ec2_front import Ec2Front
from servers import MotoServer
from swell.core.clock import SystemClock
from swell.core.errors import InvalidInput, Unavailable
from swell.core.provider import InstanceState, LaunchRequest, Notice, Provider, Refused
from swell.providers.aws import AwsOptions, AwsProvider

LACK = ("InsufficientInstanceCapacity", "We currently do not have sufficient g6.xlarge capacity.")
QUOTA = ("VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit.")
NOT_HERE = ("Unsupported", "Your requested instance type is not supported in us-east-1e.")


def ec2_error(code: str) -> str:
    error = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    return f"<Response><Errors>{error}</Errors><RequestID>0</RequestID></Response>"


@pytest.fixture(autouse=True)
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    # The AWS library reads them from the environment.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
async def front(moto_server: MotoServer) -> AsyncIterator[Ec2Front]:
    async with Ec2Front(moto_server.url) as front:
        yield front


@pytest.fixture(scope="module")
def ec2(moto_server: MotoServer) -> Any:
    """EC2 without Swell, as an operator or EC2 sees it."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client("ec2", region_name="us-east-1", endpoint_url=moto_server.url, **keys)


@pytest.fixture(scope="module")
def ami(ec2: Any) -> str:
    """One of the images that moto knows; listing them takes seconds."""
    return str(ec2.describe_images()["Images"][0]["ImageId"])


class TestAwsProvider(OutlivingConformance, RefusingConformance):
    @pytest.fixture
    async def provider(
        self, front: Ec2Front, ec2: Any, ami: str, tmp_path: Path
    ) -> AsyncIterator[AwsProvider]:
        self.front, self.ec2, self.ami, self.folder = front, ec2, ami, tmp_path
        self.deployment = f"t{secrets.token_hex(6)}"
        provider = self.made()
        yield provider
        await provider.close()

    def made(self, deployment: str | None = None, **more: object) -> AwsProvider:
        told: dict[str, object] = {
            "image": "registry.example/poster:1",
            "region": "us-east-1",
            "ami": self.ami,
            "types": ["g6.xlarge", "g5.xlarge"],
            "zones": ["us-east-1a", "us-east-1b"],
            "weights_dir": str(self.folder / "weights"),
            "endpoint": self.front.url,
        }
        name = f"{self.deployment}{deployment or ''}"
        return AwsProvider(AwsOptions.model_validate(told | more), SystemClock(), name)

    async def another(self, provider: Provider, deployment: str | None = None) -> Provider:
        return self.made(deployment)

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        assert {i.state for i in await provider.instances() if i.id in ids} == {state}

    async def told(self, provider: Provider, instance_id: str) -> Mapping[str, str]:
        said = self.ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        script = base64.b64decode(said["UserData"]["Value"]).decode()
        machine = self.machine(instance_id)
        document = json.dumps({"pendingTime": machine["LaunchTime"].isoformat()}, indent=2)
        answers = {
            "/latest/api/token": "session",
            "/latest/meta-data/instance-id": instance_id,
            "/latest/dynamic/instance-identity/document": document,
        }
        return environment_of_script(script, answers, self.folder / instance_id)

    def machine(self, instance_id: str) -> dict[str, Any]:
        told = self.ec2.describe_instances(InstanceIds=[instance_id])
        found: dict[str, Any] = told["Reservations"][0]["Instances"][0]
        return found

    async def refuse(self, provider: Provider, *, is_quota: bool) -> None:
        self.front.refusals = [QUOTA] if is_quota else [LACK, LACK, NOT_HERE]

    async def relent(self, provider: Provider) -> None:
        self.front.refusals = []

    # ---- specific to EC2

    async def test_spot_prices_of_now_are_told_by_type_and_zone(
        self, provider: AwsProvider
    ) -> None:
        self.front.spot_prices = [
            [("g6.xlarge", "us-east-1a", "0.281300", 90), ("g6.xlarge", "us-east-1b", "0.3105", 5)],
            [
                ("g6.xlarge", "us-east-1a", "0.2514", 10),
                ("g5.xlarge", "us-east-1a", "0.4", 10),
                ("g5.xlarge", "us-east-1b", "nonsense", 10),
            ],
        ]
        spot = self.made(spot=True)
        found = {(each.kind, each.place): each.hour_micros for each in await spot.prices()}
        assert found == {
            ("g6.xlarge", "us-east-1a"): 251_400,
            ("g6.xlarge", "us-east-1b"): 310_500,
            ("g5.xlarge", "us-east-1a"): 400_000,
        }
        asked = self.front.asked_prices
        assert [asked[f"InstanceType.{n}"] for n in (1, 2)] == ["g6.xlarge", "g5.xlarge"]
        assert asked["ProductDescription.1"] == "Linux/UNIX"
        assert asked["Filter.1.Name"] == "availability-zone"
        assert [asked[f"Filter.1.Value.{n}"] for n in (1, 2)] == ["us-east-1a", "us-east-1b"]
        began = datetime.fromisoformat(asked["StartTime"])
        assert abs(began - datetime.now(UTC)) < timedelta(minutes=2)

    async def test_motos_own_history_is_read_and_others_than_spot_are_not_asked_for(
        self, provider: AwsProvider
    ) -> None:
        found = await self.made(spot=True, zones=["us-east-1a"]).prices()
        assert {each.place for each in found} == {"us-east-1a"}
        assert {each.kind for each in found} == {"g6.xlarge", "g5.xlarge"}
        assert {each.hour_micros for each in found} == {10}
        self.front.calls.clear()
        assert await provider.prices() == []
        assert self.front.calls == []

    async def test_who_may_not_ask_for_prices_is_told_what_to_allow(
        self, provider: AwsProvider
    ) -> None:
        self.front.broken = (403, ec2_error("UnauthorizedOperation"))
        with pytest.raises(InvalidInput, match="whose policy must allow the actions in docs"):
            await self.made(spot=True).prices()

    async def test_where_and_what_an_instance_is_is_told(self, provider: AwsProvider) -> None:
        spot = self.made(spot=True)
        await spot.launch(LaunchRequest(pool="spot"))
        await provider.launch(LaunchRequest(pool="own"))
        found = {each.pool: each for each in await provider.instances()}
        assert (found["spot"].is_spot, found["own"].is_spot) == (True, False)
        assert {each.kind for each in found.values()} <= {"g6.xlarge", "g5.xlarge"}
        assert all(each.location.startswith("us-east-1") for each in found.values())

    async def test_fewer_than_were_wanted_are_what_there_is(self, provider: AwsProvider) -> None:
        self.front.refusals, self.front.most = [LACK], 2
        request = LaunchRequest(pool="p", n=5, token="launch-1")
        launched = await provider.launch(request)
        assert len(launched) == 2
        assert {i.id for i in await provider.instances()} == {i.id for i in launched}
        self.front.refusals, self.front.most = [], None
        assert {i.id for i in await provider.launch(request)} == {i.id for i in launched}

    @pytest.mark.parametrize(
        ("errors", "is_quota"),
        [
            ([QUOTA], True),
            ([("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")], True),
            ([("InstanceLimitExceeded", "Your quota allows for 0 more")], True),
            ([LACK], False),
            ([("UnfulfillableCapacity", "No Spot capacity")], False),
            # Other locations may have capacity, this one has none.
            ([LACK, QUOTA], False),
        ],
    )
    async def test_refusals_are_told_by_their_codes(
        self, provider: AwsProvider, errors: list[tuple[str, str]], is_quota: bool
    ) -> None:
        self.front.refusals = errors
        with pytest.raises(Refused, match=errors[0][0]) as refused:
            await provider.launch(LaunchRequest(pool="p"))
        assert refused.value.is_quota == is_quota

    async def test_what_only_other_options_would_mend_is_no_lack(
        self, provider: AwsProvider
    ) -> None:
        self.front.refusals = [("InvalidAMIID.NotFound", "The image id does not exist")]
        with pytest.raises(InvalidInput, match="InvalidAMIID"):
            await provider.launch(LaunchRequest(pool="p"))

    async def test_throttling_is_waited_out_and_then_told_as_no_refusal(
        self, provider: AwsProvider
    ) -> None:
        self.front.throttled = 2
        assert len(await provider.launch(LaunchRequest(pool="p"))) == 1
        self.front.throttled = 1000
        with pytest.raises(Unavailable) as busy:
            await provider.instances()
        assert not isinstance(busy.value, Refused)
        assert int(busy.value.headers["Retry-After"]) > 0
        self.front.throttled = 0
        assert len(await provider.instances()) == 1

    async def test_a_lost_answer_brings_no_machine_twice(self, provider: AwsProvider) -> None:
        self.front.lost = 2
        launched = await provider.launch(LaunchRequest(pool="p", n=3, token="launch-1"))
        assert len(launched) == 3
        assert self.front.calls.count("CreateFleet") == 3
        assert len(await provider.instances()) == 3

    async def test_a_list_that_is_late_neither_loses_nor_doubles_a_machine(
        self, provider: AwsProvider
    ) -> None:
        self.front.lists_late = True
        request = LaunchRequest(pool="p", n=2, token="launch-1")
        launched = await provider.launch(request)
        assert [i.state for i in await provider.instances()] == [InstanceState.STARTING] * 2
        again = await provider.launch(request)
        assert {i.id for i in again} == {i.id for i in launched}
        # A machine can be terminated before it is listed.
        await provider.terminate([launched[0].id])
        self.front.lists_late = False
        states = {i.id: i.state for i in await provider.instances()}
        ended, runs = (each.id for each in launched)
        assert states == {ended: InstanceState.ENDED, runs: InstanceState.RUNNING}

    async def test_what_ended_behind_our_back_is_told_with_its_reason(
        self, provider: AwsProvider
    ) -> None:
        one, other = await provider.launch(LaunchRequest(pool="p", n=2))
        self.ec2.terminate_instances(InstanceIds=[one.id])
        found = {i.id: i for i in await provider.instances()}
        assert found[one.id].state is InstanceState.ENDED
        assert "UserInitiated" in found[one.id].why
        assert found[other.id].state is InstanceState.RUNNING

    async def test_a_machine_that_is_gone_does_not_keep_others_from_ending(
        self, provider: AwsProvider
    ) -> None:
        one, other = await provider.launch(LaunchRequest(pool="p", n=2))
        await provider.terminate(["i-0123456789abcdef0", one.id, "no id at all", other.id])
        assert {i.state for i in await provider.instances()} == {InstanceState.ENDED}

    async def test_one_that_ec2_does_not_know_yet_is_not_taken_for_one_that_ends(
        self, provider: AwsProvider
    ) -> None:
        launched = await provider.launch(LaunchRequest(pool="p", n=2))
        ids = [each.id for each in launched]
        self.front.knows_late = True
        await provider.terminate(ids)
        # The controller sees them running and retries.
        assert {i.state for i in await provider.instances()} == {InstanceState.RUNNING}
        self.front.knows_late = False
        await provider.terminate(ids)
        assert {i.state for i in await provider.instances()} == {InstanceState.ENDED}

    async def test_long_lists_come_in_pages(
        self, provider: AwsProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("swell.providers.aws._PAGE_N", 5)
        # moto pages by reservation, one per launch.
        launched = [await provider.launch(LaunchRequest(pool="p")) for _ in range(6)]
        listed = self.front.calls.count("DescribeInstances")
        found = await self.made().instances()
        assert {each.id for each in found} == {each.id for [each] in launched}
        assert self.front.calls.count("DescribeInstances") - listed == 2

    @pytest.mark.parametrize(
        "broken",
        [
            (502, "<html><body><h1>502 Bad Gateway</h1></body></html>"),
            (500, ec2_error("SomethingNobodyHasWrittenDown")),
        ],
    )
    async def test_an_answer_that_is_none_is_no_fault_of_the_options(
        self, provider: AwsProvider, broken: tuple[int, str]
    ) -> None:
        self.front.broken = broken
        with pytest.raises(Unavailable) as told:
            await provider.instances()
        assert not isinstance(told.value, Refused)

    @pytest.mark.parametrize("code", ["UnauthorizedOperation", "AuthFailure", "RequestExpired"])
    async def test_who_may_not_do_this_is_told_what_to_give_him(
        self, provider: AwsProvider, code: str
    ) -> None:
        self.front.broken = (400, ec2_error(code))
        with pytest.raises(InvalidInput, match=f"{code}.*credentials"):
            await provider.instances()

    async def test_a_spot_machine_that_is_marked_is_told_two_minutes_before(
        self, provider: AwsProvider
    ) -> None:
        spot = self.made(spot=True)
        one, other = await spot.launch(LaunchRequest(pool="p", n=2))
        requests = self.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
        [request_id] = [
            each["SpotInstanceRequestId"] for each in requests if each["InstanceId"] == one.id
        ]
        self.front.marked = {request_id: "marked-for-termination"}
        [notice] = await spot.notices()
        assert notice.instance_id == one.id
        assert notice.at is not None
        left = notice.at - datetime.now(UTC)
        assert timedelta(seconds=90) < left <= timedelta(seconds=121)
        await spot.terminate([one.id, other.id])
        assert await spot.notices() == []

    async def test_what_event_bridge_sends_is_heard_once_and_remembered(
        self, provider: AwsProvider, moto_server: MotoServer
    ) -> None:
        sqs = boto3.client("sqs", region_name="us-east-1", endpoint_url=moto_server.url)
        url = sqs.create_queue(QueueName=f"notices-{self.deployment}")["QueueUrl"]
        heard = self.made(notices_queue=url)
        one, other = await heard.launch(LaunchRequest(pool="p", n=2))
        at = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)

        def send(kind: str, instance_id: str) -> None:
            event = {
                "detail-type": kind,
                "time": at.isoformat(),
                "detail": {"instance-id": instance_id, "instance-action": "terminate"},
            }
            sqs.send_message(QueueUrl=url, MessageBody=json.dumps(event))

        send("EC2 Instance Rebalance Recommendation", one.id)
        send("EC2 Instance Rebalance Recommendation", "i-of-somebody-else")
        send("Something Else", other.id)
        sqs.send_message(QueueUrl=url, MessageBody="not an event")
        risk = Notice(instance_id=one.id)
        assert await heard.notices() == [risk]
        assert await heard.notices() == [risk]
        send("EC2 Spot Instance Interruption Warning", one.id)
        sure = Notice(instance_id=one.id, at=at + timedelta(seconds=120))
        assert await heard.notices() == [sure]
        left = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert left["ApproximateNumberOfMessages"] == "0"

    async def test_one_template_serves_a_pool_until_its_settings_change(
        self, provider: AwsProvider
    ) -> None:
        for token in ("launch-1", "launch-2"):
            other = self.made()
            await other.launch(LaunchRequest(pool="p", token=token, environment={"A": "1"}))
        assert self.front.calls.count("CreateLaunchTemplate") == 2
        assert len(self.templates()) == 1
        await provider.launch(LaunchRequest(pool="p", environment={"A": "2"}))
        assert len(self.templates()) == 2

    async def test_a_template_that_somebody_deleted_is_made_anew(
        self, provider: AwsProvider
    ) -> None:
        await provider.launch(LaunchRequest(pool="p", token="launch-1"))
        [template] = self.templates()
        self.ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
        assert len(await provider.launch(LaunchRequest(pool="p", token="launch-2"))) == 1
        assert len(self.templates()) == 1

    async def test_machines_are_told_though_they_cannot_be_looked_at(
        self, provider: AwsProvider
    ) -> None:
        self.front.throttled_after_fleets = 1000
        launched = await provider.launch(LaunchRequest(pool="p", n=2))
        self.front.throttled_after_fleets = self.front.throttled = 0
        assert {i.id for i in await provider.instances()} == {i.id for i in launched}

    def templates(self) -> list[dict[str, Any]]:
        filters = [{"Name": "tag:swell-deployment", "Values": [self.deployment]}]
        found: list[dict[str, Any]] = self.ec2.describe_launch_templates(Filters=filters)[
            "LaunchTemplates"
        ]
        return found

    async def test_whatever_the_options_say_is_written_as_amazon_reads_it(
        self, provider: AwsProvider
    ) -> None:
        subnets = [each["SubnetId"] for each in self.ec2.describe_subnets()["Subnets"][:2]]
        chosen = self.made(
            zones=[],
            subnets=subnets,
            security_groups=["sg-0123456789abcdef0"],
            profile="swell-worker",
            key_name="operators",
            disk_gib=200,
            device="/dev/xvda",
            strategy="capacity-optimized",
            template={"EbsOptimized": True},
            tags={"team": "images"},
            spot=True,
        )
        [instance] = await chosen.launch(LaunchRequest(pool="p"))
        machine = self.machine(instance.id)
        assert {"Key": "team", "Value": "images"} in machine["Tags"]
        assert machine["SubnetId"] in subnets
        [template] = self.templates()
        told = self.ec2.describe_launch_template_versions(
            LaunchTemplateId=template["LaunchTemplateId"]
        )["LaunchTemplateVersions"][0]["LaunchTemplateData"]
        assert told["IamInstanceProfile"] == {"Name": "swell-worker"}
        assert told["SecurityGroupIds"] == ["sg-0123456789abcdef0"]
        assert told["KeyName"] == "operators"
        assert told["EbsOptimized"] is True
        [disk] = told["BlockDeviceMappings"]
        assert (disk["DeviceName"], disk["Ebs"]["VolumeSize"]) == ("/dev/xvda", 200)

    async def test_a_machine_that_shuts_down_is_gone_and_its_rights_are_out_of_reach(
        self, provider: AwsProvider
    ) -> None:
        await provider.launch(LaunchRequest(pool="p"))
        [template] = self.templates()
        told = self.ec2.describe_launch_template_versions(
            LaunchTemplateId=template["LaunchTemplateId"]
        )["LaunchTemplateVersions"][0]["LaunchTemplateData"]
        assert told["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert told["MetadataOptions"]["HttpTokens"] == "required"

    async def test_a_cloud_that_is_not_there_is_unavailable(self, provider: AwsProvider) -> None:
        away = self.made(endpoint="http://127.0.0.1:9")
        with pytest.raises(Unavailable):
            await away.instances()
        await away.close()
        with pytest.raises(Unavailable, match="closed"):
            await away.instances()


def test_subnets_and_zones_do_not_go_together() -> None:
    told = {"image": "x", "region": "us-east-1", "ami": "ami-1", "types": ["a"]}
    with pytest.raises(ValueError, match="not both"):
        AwsOptions.model_validate(told | {"subnets": ["s"], "zones": ["z"]})
