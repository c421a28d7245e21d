"""Provider for Amazon EC2: one `CreateFleet` request of type `instant` launches several machines.

A request covers several instance types and zones. EC2 answers at once with the machines it launched
and with an error for each type and zone that failed. The startup script is in a launch template.
The provider creates one template per pool and configuration, named after a digest of both, so that
a repeated request is identical and EC2 returns the same machines for the same client token.

Source:
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateFleet.html,
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html,
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html and
    …/rebalance-recommendations.html: events; a machine ends two minutes after its notice.
"""

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import Field, model_validator

from swell.core.billing.price_book import LivePrice
from swell.core.clock import Clock
from swell.core.errors import InvalidInput, Unavailable
from swell.core.provider import Instance, InstanceState, LaunchRequest, Notice
from swell.providers.aws_prices import asked, prices_of
from swell.providers.cloud_init import render
from swell.providers.marks import ASKED_AT_MARK, DEPLOYMENT, LAUNCH, POOL, Marks, moment
from swell.providers.options import MachineOptions
from swell.providers.refusals import explained, in_words
from swell.providers.sightings import Sightings

T = TypeVar("T")

#: Limit of concurrent calls.
_THREADS: Final = 8

#: Limits of ids or filter values in one call, and of machines on one page.
_IDS_N: Final = 200
_PAGE_N: Final = 1000

#: Time from an interruption notice to the end of the machine, in seconds.
_NOTICE_S: Final = 120.0

_STATES: Final = {
    "pending": InstanceState.STARTING,
    "running": InstanceState.RUNNING,
    "shutting-down": InstanceState.STOPPING,
    "stopping": InstanceState.STOPPING,
    "stopped": InstanceState.ENDED,
    "terminated": InstanceState.ENDED,
}

_OVER: Final = (InstanceState.STOPPING, InstanceState.ENDED)

#: Error codes: an account limit is reached.
_QUOTAS: Final = frozenset(
    {
        "InstanceLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "SpotInstanceCountLimitExceeded",
        "VcpuLimitExceeded",
        "VolumeLimitExceeded",
    }
)

#: Error codes: no capacity now, or not at this price, of this type or in this zone.
_LACKS: Final = frozenset(
    {
        "InsufficientCapacity",
        "InsufficientCapacityOnHost",
        "InsufficientFreeAddressesInSubnet",
        "InsufficientHostCapacity",
        "InsufficientInstanceCapacity",
        "InsufficientReservedInstanceCapacity",
        "SpotMaxPriceTooLow",
        "UnfulfillableCapacity",
        "Unsupported",
    }
)

#: Error codes: temporary. boto3 has already retried the call.
_BUSY: Final = frozenset(
    {
        "EC2ThrottledException",
        "InternalError",
        "InternalFailure",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "Unavailable",
    }
)

#: Error codes: bad credentials, or the credentials do not allow the call.
_FORBIDDEN: Final = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "InvalidClientTokenId",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
    }
)

#: Prefix of the error codes for a missing launch template.
_TEMPLATE: Final = "InvalidLaunchTemplate"

#: Status codes of a spot request: EC2 is about to interrupt the machine.
_MARKED: Final = ("marked-for-termination", "marked-for-stop")

#: Termination time in EC2's state transition reason.
_ENDED_AT: Final = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")


class AwsOptions(MachineOptions):
    """Options of a pool of machines of Amazon EC2."""

    region: str = Field(pattern="^[a-z0-9-]+$", description="Such as `us-east-1`.")
    ami: str = Field(
        pattern="^(ami-|resolve:ssm:).+",
        description="The machine's own image: `ami-…`, or `resolve:ssm:PARAMETER`.",
    )
    types: tuple[str, ...] = Field(
        min_length=1, description="Types of machines that will do, such as `g6.xlarge`."
    )
    subnets: tuple[str, ...] = Field(
        default=(), description="Subnets that they may stand in; empty for those of the default."
    )
    zones: tuple[str, ...] = Field(
        default=(), description="Zones that they may stand in, where no subnets are named."
    )
    security_groups: tuple[str, ...] = Field(
        default=(), description="By id; nothing needs to come in. Empty for the network's own."
    )
    strategy: str = Field(
        default="",
        description="EC2's allocation strategy; empty for `price-capacity-optimized` for spot and "
        "`lowest-price` else.",
    )
    product: str = Field(
        default="Linux/UNIX",
        description="What EC2 calls their system, for the price of spot machines.",
    )
    profile: str = Field(
        default="", description="Name of an instance profile, such as for pulling private images."
    )
    key_name: str = Field(default="", description="A key pair for SSH; empty for none.")
    device: str = Field(
        default="/dev/sda1", description="What the machine's image calls its root device."
    )
    template: Mapping[str, Any] = Field(
        default={}, description="More of EC2's `LaunchTemplateData`, as it is."
    )
    tags: Mapping[str, str] = Field(default={}, description="More tags of the machines.")
    notices_queue: str = Field(
        default="",
        description="URL of a queue in Amazon SQS to which EventBridge sends interruption warnings "
        "and rebalance recommendations, for this pool alone; empty to ask EC2 for warnings only.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> "AwsOptions":
        if self.subnets and self.zones:
            raise ValueError("name subnets or zones, not both: a subnet stands in one zone")
        return self


class _NoTemplate(Exception):
    """The launch template no longer exists."""


class AwsProvider:
    """Provider for EC2. See `swell.core.provider`.

    Calls run in threads, because boto3 blocks. EC2 ignores the grace period of `terminate`: it
    gives a machine some minutes to shut down, and the worker drains for `drain_s` of the options.

    Args:
        options: Options of the pool.
        clock: The clock.
        deployment: Name of the deployment that owns the machines.
    """

    def __init__(self, options: AwsOptions, clock: Clock, deployment: str) -> None:
        self._options = options
        self._clock = clock
        self._deployment = deployment
        self._seen = Sightings(clock)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="swell-ec2")
        self._making = threading.Lock()
        self._clients: dict[str, Any] = {}
        #: Known launch templates: name to id.
        self._templates: dict[str, str] = {}
        self._told: dict[str, Notice] = {}
        self.tidies = True

    # ---- the contract

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Launch machines.

        Raises:
            InvalidInput: EC2 rejects an option.
            Refused: No capacity or no quota.
            Unavailable: EC2 is unreachable or overloaded.
        """
        if before := self._seen.of_launch(request.pool, request.token):
            return before
        marks = Marks.of(self._deployment, request, self._clock.now())
        if request.token and (found := await self._call(lambda: self._launched(marks))):
            return self._seen.launched(found)
        given = await self._call(lambda: self._create(marks, request))
        return self._seen.launched(given)

    async def instances(self, pool: str | None = None) -> list[Instance]:
        wanted = {DEPLOYMENT: self._deployment} | ({} if pool is None else {POOL: pool})
        return self._seen.listed(await self._call(lambda: self._described(wanted)), pool)

    async def notices(self) -> list[Notice]:
        """Return interruption notices and rebalance recommendations.

        The spot requests of the running machines report interruptions. `notices_queue` reports
        both; a read-only provider does not consume it.
        """
        alive = (InstanceState.STARTING, InstanceState.RUNNING)
        living = [each for each in await self.instances() if each.state in alive]
        spot = [each.id for each in living if each.is_spot]
        marked = await self._call(partial(self._marked, spot))
        if self._options.notices_queue and self.tidies:
            await self._call(self._hear)
        self._keep(marked)
        ids = {each.id for each in living}
        for each in list(self._told):
            if each not in ids:
                del self._told[each]
        return list(self._told.values())

    async def prices(self) -> list[LivePrice]:
        """Return the current spot prices; nothing for on-demand machines.

        Raises:
            InvalidInput: EC2 does not allow the request.
            Unavailable: EC2 is unreachable.
        """
        return await self._call(self._spot_prices) if self._options.spot else []

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Terminate machines; each worker drains during the shutdown. Unknown ids are ignored."""
        wanted = {DEPLOYMENT: self._deployment}
        for batch in _batches(list(dict.fromkeys(instance_ids)), _IDS_N):
            found = await self._call(partial(self._described, wanted, batch))
            over = {each.id for each in found if each.state in _OVER}
            # EC2 may not list a machine for some seconds after its launch.
            own = {each.id for each in found} | self._seen.unlisted()
            living = [each for each in batch if each in own and each not in over]
            if living:
                self._seen.told_to_go(await self._call(partial(self._end, living)))

    async def close(self) -> None:
        """Stop the threads. The machines keep running."""
        self._threads.shutdown(wait=False)

    # ---- in threads

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ClientError as error:
            raise _refusal(error) from error
        except BotoCoreError as error:
            raise Unavailable(f"EC2 cannot be asked: {error}") from error
        except RuntimeError as error:
            raise Unavailable("the connection to EC2 is closed") from error

    def _client(self, service: str) -> Any:
        with self._making:
            if service not in self._clients:
                config = Config(
                    connect_timeout=5,
                    read_timeout=60,
                    retries={"total_max_attempts": 4, "mode": "standard"},
                    max_pool_connections=_THREADS,
                )
                self._clients[service] = boto3.session.Session().client(
                    service,
                    region_name=self._options.region,
                    endpoint_url=self._options.endpoint or None,
                    config=config,
                )
            return self._clients[service]

    def _create(self, marks: Marks, request: LaunchRequest) -> list[Instance]:
        try:
            answer = self._fleet(marks, request, self._template(request))
        except _NoTemplate:
            with self._making:
                self._templates.clear()
            answer = self._fleet(marks, request, self._template(request))
        given = [
            msgspec.structs.replace(
                marks.starting(instance_id),
                kind=fleet.get("InstanceType", ""),
                is_spot=fleet.get("Lifecycle") == "spot",
            )
            for fleet in answer.get("Instances", [])
            for instance_id in fleet["InstanceIds"]
        ]
        if not given:
            raise _explained(
                [(e["ErrorCode"], e["ErrorMessage"]) for e in answer.get("Errors", [])]
            )
        # Replace the local launch time by EC2's, which other controllers and the machines see.
        known = {each.id: each for each in self._by_id([each.id for each in given])}
        return [known.get(each.id, each) for each in given]

    def _by_id(self, ids: Sequence[str]) -> list[Instance]:
        """Return the machines that EC2 already lists. Errors are ignored: the machines exist."""
        try:
            told = self._client("ec2").describe_instances(InstanceIds=list(ids))
        except (ClientError, BotoCoreError):
            return []
        return [_instance(each) for r in told["Reservations"] for each in r["Instances"]]

    def _fleet(self, marks: Marks, request: LaunchRequest, template_id: str) -> dict[str, Any]:
        """Call `CreateFleet`.

        Raises:
            _NoTemplate: The launch template was deleted.
        """
        asked = self._asked(marks, request, template_id)
        try:
            answer: dict[str, Any] = self._client("ec2").create_fleet(**asked)
        except ClientError as error:
            if _code(error).startswith(_TEMPLATE):
                raise _NoTemplate from error
            raise
        errors = [each["ErrorCode"] for each in answer.get("Errors", [])]
        if errors and all(each.startswith(_TEMPLATE) for each in errors):
            raise _NoTemplate
        return answer

    def _asked(self, marks: Marks, request: LaunchRequest, template_id: str) -> dict[str, Any]:
        chosen = self._options
        places: list[dict[str, str]] = [{"SubnetId": each} for each in chosen.subnets]
        places += [{"AvailabilityZone": each} for each in chosen.zones]
        overrides = [{"InstanceType": each} | at for each in chosen.types for at in places or [{}]]
        asked: dict[str, Any] = {
            "Type": "instant",
            "ClientToken": hashlib.sha256(f"{marks.name()} {template_id}".encode()).hexdigest(),
            "TargetCapacitySpecification": {
                "TotalTargetCapacity": request.n,
                "DefaultTargetCapacityType": "spot" if chosen.spot else "on-demand",
            },
            "LaunchTemplateConfigs": [
                {
                    "LaunchTemplateSpecification": {
                        "LaunchTemplateId": template_id,
                        "Version": "$Default",
                    },
                    "Overrides": overrides,
                }
            ],
            "TagSpecifications": [{"ResourceType": "instance", "Tags": self._tags(marks)}],
        }
        if chosen.spot:
            strategy = chosen.strategy or "price-capacity-optimized"
            asked["SpotOptions"] = {"AllocationStrategy": strategy}
        else:
            asked["OnDemandOptions"] = {"AllocationStrategy": chosen.strategy or "lowest-price"}
        return asked

    def _tags(self, marks: Marks) -> list[dict[str, str]]:
        """Return tags without the launch time, so that a repeated request is identical."""
        texts = {key: text for key, text in marks.texts.items() if key != ASKED_AT_MARK}
        named = {"Name": f"swell {marks.pool}"} | dict(self._options.tags) | texts
        return [{"Key": key, "Value": text} for key, text in named.items()]

    def _template(self, request: LaunchRequest) -> str:
        """Return the id of the launch template, creating it if necessary."""
        data = self._template_data(request.environment)
        text = json.dumps(data, sort_keys=True).encode()
        name = f"swell-{self._deployment}-{hashlib.sha256(text).hexdigest()[:24]}"
        with self._making:
            known = self._templates.get(name)
        if known is None:
            known = self._made(name, data)
            with self._making:
                self._templates[name] = known
        return known

    def _made(self, name: str, data: Mapping[str, Any]) -> str:
        ec2 = self._client("ec2")
        tags = [{"Key": DEPLOYMENT, "Value": self._deployment}]
        try:
            made = ec2.create_launch_template(
                LaunchTemplateName=name,
                LaunchTemplateData=data,
                TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}],
            )
        except ClientError as error:
            if _code(error) != "InvalidLaunchTemplateName.AlreadyExistsException":
                raise
            found = ec2.describe_launch_templates(LaunchTemplateNames=[name])
            return str(found["LaunchTemplates"][0]["LaunchTemplateId"])
        return str(made["LaunchTemplate"]["LaunchTemplateId"])

    def _template_data(self, environment: Mapping[str, str]) -> dict[str, Any]:
        chosen = self._options
        script = render("aws", chosen, environment)
        disk = {"VolumeSize": chosen.disk_gib, "VolumeType": "gp3", "DeleteOnTermination": True}
        data: dict[str, Any] = {
            "ImageId": chosen.ami,
            "UserData": base64.b64encode(script.encode()).decode(),
            # A machine that shuts itself down is terminated and costs nothing.
            "InstanceInitiatedShutdownBehavior": "terminate",
            "BlockDeviceMappings": [{"DeviceName": chosen.device, "Ebs": disk}],
            # One hop: the container cannot reach the metadata service, and so not the machine's
            # credentials.
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        }
        if chosen.security_groups:
            data["SecurityGroupIds"] = list(chosen.security_groups)
        if chosen.profile:
            data["IamInstanceProfile"] = {"Name": chosen.profile}
        if chosen.key_name:
            data["KeyName"] = chosen.key_name
        return data | dict(chosen.template)

    def _launched(self, marks: Marks) -> list[Instance]:
        wanted = {DEPLOYMENT: marks.deployment, POOL: marks.pool, LAUNCH: marks.token}
        return self._described(wanted)

    def _described(self, tags: Mapping[str, str], ids: Sequence[str] = ()) -> list[Instance]:
        """Return the machines with these tags; only those in `ids`, if given."""
        filters = [{"Name": f"tag:{key}", "Values": [text]} for key, text in tags.items()]
        filters += [{"Name": "instance-id", "Values": list(ids)}] if ids else []
        pages = (
            self._client("ec2")
            .get_paginator("describe_instances")
            .paginate(Filters=filters, PaginationConfig={"PageSize": _PAGE_N})
        )
        found = [
            machine
            for page in pages
            for group in page["Reservations"]
            for machine in group["Instances"]
        ]
        return [_instance(each) for each in found]

    def _marked(self, ids: Sequence[str]) -> list[Notice]:
        """Return the notices in the spot requests of these machines."""
        notices = []
        for batch in _batches(ids, _IDS_N):
            filters = [{"Name": "instance-id", "Values": batch}]
            told = self._client("ec2").describe_spot_instance_requests(Filters=filters)
            for each in told["SpotInstanceRequests"]:
                status = each.get("Status", {})
                if status.get("Code") in _MARKED:
                    at = status.get("UpdateTime", self._clock.now()) + timedelta(seconds=_NOTICE_S)
                    notices.append(Notice(instance_id=each["InstanceId"], at=at))
        return notices

    def _spot_prices(self) -> list[LivePrice]:
        chosen = self._options
        wanted = asked(chosen.types, chosen.zones, chosen.product, self._clock.now())
        pages = self._client("ec2").get_paginator("describe_spot_price_history").paginate(**wanted)
        return prices_of(row for page in pages for row in page["SpotPriceHistory"])

    def _keep(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            before = self._told.get(notice.instance_id)
            if before is None or before.at is None:
                self._told[notice.instance_id] = notice

    def _hear(self) -> None:
        """Store the notices in the queue, then delete its messages."""
        sqs, url = self._client("sqs"), self._options.notices_queue
        while True:
            told = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            # Store first: if the call is cancelled, a deleted message would be lost.
            self._keep(found for each in told if (found := _event(each["Body"])) is not None)
            entries = [
                {"Id": str(number), "ReceiptHandle": each["ReceiptHandle"]}
                for number, each in enumerate(told)
            ]
            if entries:
                sqs.delete_message_batch(QueueUrl=url, Entries=entries)
            if len(told) < 10:
                return

    def _end(self, ids: Sequence[str]) -> list[str]:
        """Terminate machines, and return the ids that EC2 knows.

        EC2 rejects the whole call if it does not know one id, so the fallback terminates each
        machine alone. A machine that EC2 does not list yet survives until the next `terminate`.
        """
        ec2 = self._client("ec2")
        try:
            ec2.terminate_instances(InstanceIds=list(ids))
        except ClientError as error:
            if _code(error) not in ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"):
                raise
            return [] if len(ids) == 1 else [known for each in ids for known in self._end([each])]
        return list(ids)


def _instance(told: Mapping[str, Any]) -> Instance:
    tags = {each["Key"]: each["Value"] for each in told.get("Tags", [])}
    marks = Marks.read(tags, asked_at=told["LaunchTime"].astimezone(UTC))
    state = _STATES.get(told["State"]["Name"], InstanceState.RUNNING)
    is_over = state in _OVER
    return msgspec.structs.replace(
        marks.starting(told["InstanceId"]),
        state=state,
        ended_at=_ended_at(told) if state is InstanceState.ENDED else None,
        location=told.get("Placement", {}).get("AvailabilityZone", ""),
        kind=told.get("InstanceType", ""),
        is_spot=told.get("InstanceLifecycle") == "spot",
        why=told.get("StateReason", {}).get("Message", "") if is_over else "",
    )


def _ended_at(told: Mapping[str, Any]) -> datetime | None:
    found = _ENDED_AT.search(told.get("StateTransitionReason") or "")
    return moment(found[1]) if found else None


def _event(body: str) -> Notice | None:
    """Return the notice in an EventBridge event; None for any other message."""
    try:
        event = json.loads(body)
        kind, name = event["detail-type"], event["detail"]["instance-id"]
        at = moment(event["time"]) + timedelta(seconds=_NOTICE_S)
    except (ValueError, KeyError, TypeError):
        return None
    if kind == "EC2 Spot Instance Interruption Warning":
        return Notice(instance_id=name, at=at)
    if kind == "EC2 Instance Rebalance Recommendation":
        return Notice(instance_id=name)
    return None


def _refusal(error: ClientError) -> Unavailable | InvalidInput:
    errors = [(_code(error), str(error))]
    found = _explained(errors)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status < 500 or isinstance(found, Unavailable):
        return found
    # A proxy's answer or an unknown error code: the request may be valid.
    told = f"EC2 does not answer as it should: {in_words(errors)}"
    return Unavailable(told, headers={"Retry-After": "10"})


def _explained(errors: Sequence[tuple[str, str]]) -> Unavailable | InvalidInput:
    """Return the exception for EC2 errors, given as (code, message) pairs."""
    if any(code in _FORBIDDEN for code, _ in errors):
        return InvalidInput(
            f"EC2 refuses the controller: {in_words(errors)}; check its credentials, "
            "whose policy must allow the actions in docs/workers-anywhere.md"
        )
    return explained(
        "EC2",
        errors,
        is_lack=lambda code, _: code in _LACKS,
        is_quota=lambda code, _: code in _QUOTAS,
        is_busy=lambda code, _: code in _BUSY,
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _batches(items: Sequence[str], size: int) -> Iterable[list[str]]:
    return (list(items[at : at + size]) for at in range(0, len(items), size))
