"""Whoever only looks changes nothing: `swell autoscale --dry-run` stands beside one that scales."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fleet_cases import Yard, a_pool

from manual_clock import ManualClock
from swell.cli.scaling import queues_left_alone
from swell.core.provider import InstanceState, LaunchRequest, Notice, looking_only
from swell.providers.aws import AwsOptions, AwsProvider
from swell.providers.detached import DetachedProvider
from swell.providers.memory import MemoryProvider
from swell.providers.rehearsal import RehearsalProvider
from swell.settings.load import Settings


class Queue:
    """Amazon SQS, with one message."""

    def __init__(self, now: datetime) -> None:
        event = {
            "detail-type": "EC2 Instance Rebalance Recommendation",
            "time": now.isoformat(),
            "detail": {"instance-id": "i-1"},
        }
        self.messages = [{"Body": json.dumps(event), "ReceiptHandle": "r"}]
        self.asked = 0
        self.fails = False

    def receive_message(self, **_: Any) -> Mapping[str, Any]:
        self.asked += 1
        return {"Messages": list(self.messages)}

    def delete_message_batch(self, **_: Any) -> None:
        self.messages.clear()
        if self.fails:  # it did, and its answer was lost
            raise ClientError({"Error": {"Code": "ServiceUnavailable"}}, "DeleteMessageBatch")


class Machines:
    """Amazon EC2, with one spot machine."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def get_paginator(self, _: str) -> "Machines":
        return self

    def paginate(self, **_: Any) -> Sequence[Mapping[str, Any]]:
        tags = {"swell-deployment": "shop", "swell-pool": "gpu"}
        machine = {
            "InstanceId": "i-1",
            "State": {"Name": "running"},
            "LaunchTime": self.now,
            "InstanceLifecycle": "spot",
            "Tags": [{"Key": key, "Value": text} for key, text in tags.items()],
        }
        return [{"Reservations": [{"Instances": [machine]}]}]

    def describe_spot_instance_requests(self, **_: Any) -> Mapping[str, Any]:
        return {"SpotInstanceRequests": []}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def an_ec2(clock: ManualClock, queue: Queue) -> AwsProvider:
    told = {
        "image": "r/p:1",
        "region": "us-east-1",
        "ami": "ami-1",
        "types": ["g6.xlarge"],
        "notices_queue": "http://queue",
    }
    made = AwsProvider(AwsOptions.model_validate(told), clock, "shop")
    made._clients = {"ec2": Machines(clock.now()), "sqs": queue}
    return made


async def test_a_dry_run_leaves_notices_in_their_queue() -> None:
    yard = Yard()
    await yard.describe()
    queue = Queue(yard.clock.now())
    provider = an_ec2(yard.clock, queue)
    yard.pools = (a_pool(provider),)
    await yard.tell_workload()
    assert await yard.another("dry").look() is not None
    assert (queue.asked, len(queue.messages)) == (0, 1)
    assert await provider.notices() == [Notice(instance_id="i-1")]
    assert queue.messages == []


async def test_a_notice_is_kept_before_it_is_taken_out_of_its_queue(clock: ManualClock) -> None:
    queue = Queue(clock.now())
    provider = an_ec2(clock, queue)
    queue.fails = True
    with pytest.raises(Exception, match="too much to do"):
        await provider.notices()
    queue.fails = False
    assert queue.messages == []
    assert await provider.notices() == [Notice(instance_id="i-1")]


def test_a_dry_run_says_of_which_pools_it_reads_no_queue() -> None:
    queue = {"notices_queue": "https://sqs.eu-west-1.amazonaws.com/1/warnings"}
    usual = {"provider": "aws", "models": ["demo/upper"], "most": 2}
    pools = {"spot": usual | {"options": queue}, "owned": usual}
    settings = Settings.model_validate({"pools": pools})
    assert queues_left_alone(settings) == ["spot"]


async def test_what_is_due_in_a_rehearsal_is_not_taken_by_who_only_looks(
    clock: ManualClock, tmp_path: Path
) -> None:
    script = tmp_path / "bad-day.json"
    inner = MemoryProvider(clock)
    provider = RehearsalProvider(inner, script, clock)
    [instance] = await provider.launch(LaunchRequest(pool="p"))
    script.write_text(json.dumps({"take_back_in_s": {instance.id: 0}}))
    with looking_only([provider]):
        assert [i.state for i in await provider.instances()] == [InstanceState.RUNNING]
    assert [i.state for i in await provider.instances()] == [InstanceState.ENDED]


async def test_files_of_workers_stay_as_they_are_for_who_only_looks(
    clock: ManualClock, tmp_path: Path
) -> None:
    for number in range(120):
        record = {
            "id": f"shop-p-{number}",
            "deployment": "swell",
            "pool": "p",
            "token": "t",
            "asked_at": (clock.now() - timedelta(seconds=60)).isoformat(),
        }
        (tmp_path / f"shop-p-{number}.json").write_text(json.dumps(record))
    provider = RehearsalProvider(
        DetachedProvider(clock, tmp_path, {}), tmp_path / "none.json", clock
    )
    with looking_only([provider]):
        assert {i.state for i in await provider.instances()} == {InstanceState.ENDED}
    assert len(list(tmp_path.iterdir())) == 120
    assert len(await provider.instances()) == 100
    assert len(list(tmp_path.glob("*.ended"))) == 100
