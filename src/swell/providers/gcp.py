"""Provider for Google Compute Engine, which launches machines with `bulkInsert`.

One call launches several machines in any zone of a region. It starts an operation that reports
failures at its end. Machine names are derived from the request's token, so a repeated call creates
no duplicates.

The provider needs five calls and makes them with Swell's HTTP client. Google's library
(google-cloud-compute 1.56.0) is 36 MB unpacked and needs gRPC. Field names were compared with it.

Source:
    https://docs.cloud.google.com/compute/docs/reference/rest/v1/instances/bulkInsert,
    https://docs.cloud.google.com/compute/docs/troubleshooting/troubleshooting-bulk-vm-creation,
    https://docs.cloud.google.com/compute/docs/instances/instance-lifecycle,
    https://docs.cloud.google.com/compute/docs/instances/spot: 30 seconds from notice to end.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import Field

from swell.core.clock import Clock
from swell.core.errors import InvalidInput, SwellError, Unavailable
from swell.core.provider import ASKED_AT, Instance, InstanceState, LaunchRequest, Notice, Refused
from swell.providers.cloud_init import render
from swell.providers.google_token import GoogleTokens
from swell.providers.marks import DEPLOYMENT, LAUNCH, POOL, Marks, as_label, moment
from swell.providers.options import MachineOptions
from swell.providers.refusals import explained, in_words
from swell.providers.rest import Answer, Rest, retry_after
from swell.providers.sightings import Sightings

_API: Final = "https://compute.googleapis.com"
_METADATA: Final = "http://169.254.169.254"

#: Page size of lists.
_PAGE_N: Final = 500

#: Limit of the wait for an operation, in seconds. `instances` lists machines that it creates later.
_LAUNCH_S: Final = 120.0

#: Time from a notice to the end of the machine, in seconds.
_NOTICE_S: Final = 30.0
#: Age at which preemption operations no longer concern running machines, in seconds.
_OLD_S: Final = 600.0

_STATES: Final = {
    "PENDING": InstanceState.STARTING,
    "PROVISIONING": InstanceState.STARTING,
    "STAGING": InstanceState.STARTING,
    "PENDING_STOP": InstanceState.STOPPING,
    "STOPPING": InstanceState.STOPPING,
    "SUSPENDING": InstanceState.STOPPING,
    "DEPROVISIONING": InstanceState.STOPPING,
    "STOPPED": InstanceState.ENDED,
    "SUSPENDED": InstanceState.ENDED,
    "TERMINATED": InstanceState.ENDED,
}

#: Error codes in lower case and without underscores: calls and operations spell them differently.
_LACKS: Final = (
    "insufficientcapacity",
    "resourcepoolexhausted",
    "vmmincountnotreached",
    "stockout",
)
_QUOTAS: Final = ("quotaexceeded", "limitexceeded")
_BUSY: Final = ("ratelimitexceeded", "rateexceeded", "backenderror", "internalerror")


class GcpOptions(MachineOptions):
    """Options of a pool of machines of Google Compute Engine."""

    project: str = Field(min_length=1, description="The project's id.")
    region: str = Field(pattern="^[a-z0-9-]+$", description="Such as `us-central1`.")
    zones: tuple[str, ...] = Field(
        default=(), description="Zones of the region that will do; empty for all."
    )
    types: tuple[str, ...] = Field(
        min_length=1, description="Types of machines that will do, such as `g2-standard-4`."
    )
    source_image: str = Field(
        min_length=1,
        description="The machine's own image, such as `projects/P/global/images/family/F`.",
    )
    accelerator: str = Field(
        default="",
        description="Type of GPU for machine types without GPUs, such as `nvidia-tesla-t4`.",
    )
    accelerators: int = Field(default=1, ge=1, description="How many of these each has.")
    network: str = Field(default="", description="Empty for the project's default one.")
    subnetwork: str = Field(default="", description="Such as `regions/R/subnetworks/S`.")
    public_address: bool = Field(
        default=True, description="Whether each has one; without, the network needs Cloud NAT."
    )
    service_account: str = Field(
        default="",
        description="Account of the machines, such as for pulling private images; empty for none.",
    )
    template: str = Field(
        default="",
        description="An instance template, by its URL, that the rest is laid over.",
    )
    labels: Mapping[str, str] = Field(default={}, description="More labels of the machines.")
    credentials: Path | None = Field(
        default=None,
        description="File of a service account's key, JSON; unset for the account of the machine "
        "that the controller runs on.",
    )
    metadata_url: str = Field(
        default=_METADATA, description="Where that machine's account is asked for."
    )


class GcpProvider:
    """Provider for Google Compute Engine. See `swell.core.provider`.

    Google ignores the grace period of `terminate`: a machine has up to 90 seconds to shut down, a
    spot machine 30.

    Args:
        options: Options of the pool.
        clock: The clock.
        deployment: Name of the deployment that owns the machines.

    Raises:
        InvalidRequest: `options.credentials` is not a key.
    """

    def __init__(self, options: GcpOptions, clock: Clock, deployment: str) -> None:
        self._options = options
        self._clock = clock
        self._deployment = deployment
        self._root = f"{options.endpoint or _API}/compute/v1/projects/{options.project}"
        self._rest = Rest("Google Compute Engine")
        self._tokens = GoogleTokens(options.credentials, options.metadata_url, clock)
        self._seen = Sightings(clock)
        self.tidies = True
        #: Ids of listed machines that Google has preempted.
        self._preempted: set[str] = set()

    # ---- the contract

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Launch machines, and wait for Google's result.

        Raises:
            InvalidInput: Google rejects an option.
            Refused: No capacity or no quota.
            Unavailable: Google is unreachable or overloaded.
        """
        if before := self._seen.of_launch(request.pool, request.token):
            return before
        marks = Marks.of(self._deployment, request, self._clock.now())
        if request.token:
            found, _ = await self._listed(marks.labels)
            if found:
                return self._seen.launched(found)
        begin = marks.name()
        names = [f"{begin}-{number}" for number in range(request.n)]
        operation = await self._insert(names, marks, request)
        given = await self._made(names, marks, operation)
        return self._seen.launched(given)

    async def instances(self, pool: str | None = None) -> list[Instance]:
        """Return the instances of a pool, or of all pools, and delete stopped machines."""
        wanted = {DEPLOYMENT: as_label(self._deployment)}
        wanted |= {} if pool is None else {POOL: as_label(pool)}
        found, unsure = await self._listed(wanted)
        stopped = [each for each in found if each.state is InstanceState.ENDED]
        # Google bills the disks of stopped machines. The next call retries a failed deletion.
        if self.tidies:
            await asyncio.gather(*map(self._delete, stopped), return_exceptions=True)
        return self._seen.listed(found, pool, unsure=unsure)

    async def notices(self) -> list[Notice]:
        """Return notices of preempted machines, at most 30 seconds before their end."""
        since = self._clock.now() - timedelta(seconds=_OLD_S)
        query = {
            "filter": 'operationType = "compute.instances.preempted"',
            "orderBy": "creationTimestamp desc",
            "maxResults": str(_PAGE_N),
        }
        told = {}
        async for body in self._pages("/aggregated/operations", query):
            found = _all(body.get("items", {}), "operations")
            for each in found:
                at = moment(each["insertTime"])
                if at >= since:
                    told[each["targetLink"].rpartition("/")[2]] = at + timedelta(seconds=_NOTICE_S)
            if any(moment(each["insertTime"]) < since for each in found):
                break
        # Update before the listing, which uses it as the reason of an end. Forget unlisted
        # machines.
        self._preempted |= told.keys()
        own = {each.id: each for each in await self.instances()}
        self._preempted &= own.keys()
        return [
            Notice(instance_id=name, at=at)
            for name, at in told.items()
            if name in own and own[name].state is not InstanceState.ENDED
        ]

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Delete machines; each worker drains during the shutdown. Unknown ids are ignored."""
        wanted = set(instance_ids)
        found, _ = await self._listed({DEPLOYMENT: as_label(self._deployment)})
        own = {each.id: each for each in found if each.id in wanted}
        await self._seen.end_all(own, lambda name: self._delete(own[name]))

    async def close(self) -> None:
        """Close the connections. The machines keep running."""
        await self._rest.close()
        await self._tokens.close()

    # ---- machines

    async def _insert(self, names: Sequence[str], marks: Marks, request: LaunchRequest) -> Any:
        """Start the operation that creates the machines, and return it."""
        asked = {
            "count": str(len(names)),
            "minCount": "1",
            "perInstanceProperties": {name: {"name": name} for name in names},
            "instanceProperties": self._properties(marks, request),
        }
        if self._options.template:
            asked["sourceInstanceTemplate"] = self._options.template
        if len(self._options.types) > 1:
            selection = {"machineTypes": list(self._options.types)}
            asked["instanceFlexibilityPolicy"] = {"instanceSelections": {"any": selection}}
        zones = self._options.zones
        place = f"/zones/{zones[0]}" if len(zones) == 1 else f"/regions/{self._options.region}"
        if len(zones) != 1:
            asked["locationPolicy"] = {
                "targetShape": "ANY",
                "locations": {f"zones/{each}": {"preference": "ALLOW"} for each in zones},
            }
        request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, names[0]))
        path = f"{place}/instances/bulkInsert"
        answer = await self._call("POST", path, asked, query={"requestId": request_id})
        return answer.body

    def _properties(self, marks: Marks, request: LaunchRequest) -> dict[str, Any]:
        chosen = self._options
        told = dict(request.environment) | {ASKED_AT: marks.asked_at.isoformat()}
        script = render("gcp", chosen, told)
        texts = marks.texts | {"startup-script": script}
        disk = {"sourceImage": chosen.source_image, "diskSizeGb": str(chosen.disk_gib)}
        found: dict[str, Any] = {
            "labels": dict(chosen.labels) | marks.labels,
            "metadata": {"items": [{"key": key, "value": text} for key, text in texts.items()]},
            "disks": [{"boot": True, "autoDelete": True, "initializeParams": disk}],
            "networkInterfaces": [self._network()],
            "scheduling": self._scheduling(),
        }
        if len(chosen.types) == 1:
            found["machineType"] = chosen.types[0]
        if chosen.accelerator:
            gpu = {"acceleratorType": chosen.accelerator, "acceleratorCount": chosen.accelerators}
            found["guestAccelerators"] = [gpu]
        if chosen.service_account:
            scopes = ["https://www.googleapis.com/auth/cloud-platform"]
            found["serviceAccounts"] = [{"email": chosen.service_account, "scopes": scopes}]
        return found

    def _network(self) -> dict[str, Any]:
        chosen = self._options
        found: dict[str, Any] = {}
        if chosen.network or not chosen.subnetwork:
            found["network"] = chosen.network or "global/networks/default"
        if chosen.subnetwork:
            found["subnetwork"] = chosen.subnetwork
        if chosen.public_address:
            found["accessConfigs"] = [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]
        return found

    def _scheduling(self) -> dict[str, Any]:
        # A machine with a GPU cannot migrate. The controller replaces a failed machine.
        found: dict[str, Any] = {"onHostMaintenance": "TERMINATE", "automaticRestart": False}
        if self._options.spot:
            found |= {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}
        return found

    async def _made(self, names: Sequence[str], marks: Marks, operation: Any) -> list[Instance]:
        """Wait for an operation up to a timeout, and return the machines that it created."""
        ends_s = self._clock.monotonic_s() + _LAUNCH_S
        where = "zones" if "zone" in operation else "regions"
        place = operation.get("zone") or operation["region"]
        path = f"/{where}/{place.rpartition('/')[2]}/operations/{operation['name']}/wait"
        while operation["status"] != "DONE" and self._clock.monotonic_s() < ends_s:
            # Google answers when the operation ends, or after two minutes.
            operation = (await self._call("POST", path)).body
        listed, _ = await self._listed(
            {LAUNCH: as_label(marks.token)}
            if marks.token
            else {DEPLOYMENT: as_label(marks.deployment)}
        )
        found = [each for each in listed if each.id in set(names)]
        if operation["status"] == "DONE":
            made_n = _made_n(operation, len(names))
            if not found and not made_n:
                errors = operation.get("error", {}).get("errors", [])
                raise _explained([(each["code"], each.get("message", "")) for each in errors])
        else:
            made_n = len(names)
        # The machine list can lag; requesting again would create duplicates.
        there = {each.id for each in found}
        late = [each for each in names if each not in there][: max(0, made_n - len(found))]
        starting = map(marks.starting, late)
        spot = self._options.spot
        return found + [msgspec.structs.replace(each, is_spot=spot) for each in starting]

    async def _listed(self, labels: Mapping[str, str]) -> tuple[list[Instance], set[str]]:
        """Return the machines with these labels, and the zones that did not answer."""
        query = {
            "filter": " ".join(f'(labels.{key} = "{text}")' for key, text in labels.items()),
            "returnPartialSuccess": "true",
            "maxResults": str(_PAGE_N),
        }
        found: list[Instance] = []
        unsure: set[str] = set()
        async for body in self._pages("/aggregated/instances", query):
            told = _all(body.get("items", {}), "instances")
            found += [self._instance(each) for each in told]
            unsure |= {each.rpartition("/")[2] for each in body.get("unreachables", [])}
        return found, unsure

    async def _pages(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Any]:
        asked = dict(query)
        while True:
            body = (await self._call("GET", path, query=asked)).body
            yield body
            if not body.get("nextPageToken"):
                return
            asked["pageToken"] = body["nextPageToken"]

    def _instance(self, told: Any) -> Instance:
        items = {each["key"]: each["value"] for each in told.get("metadata", {}).get("items", [])}
        marks = Marks.read(items, asked_at=moment(told["creationTimestamp"]))
        state = _STATES.get(told["status"], InstanceState.RUNNING)
        ended = told.get("lastStopTimestamp") if state is InstanceState.ENDED else None
        is_over = state in (InstanceState.STOPPING, InstanceState.ENDED)
        was_taken = is_over and told["name"] in self._preempted
        scheduling = told.get("scheduling", {})
        return msgspec.structs.replace(
            marks.starting(told["name"]),
            state=state,
            ended_at=moment(ended) if ended else None,
            location=told["zone"].rpartition("/")[2],
            kind=told["machineType"].rpartition("/")[2],
            is_spot=scheduling.get("provisioningModel") == "SPOT",
            why="preempted" if was_taken else told.get("statusMessage", ""),
        )

    async def _delete(self, instance: Instance) -> None:
        await self._call(
            "DELETE", f"/zones/{instance.location}/instances/{instance.id}", may_lack=True
        )

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        may_lack: bool = False,
    ) -> Answer:
        answer = await self._tokens.call(self._rest, method, self._root + path, body, query=query)
        if answer.is_ok or (may_lack and answer.status == 404):
            return answer
        raise _refusal(answer)


def _made_n(operation: Any, wanted_n: int) -> int:
    """Return the number of machines that a finished operation created."""
    told = operation.get("instancesBulkInsertOperationMetadata", {}).get("perLocationStatus")
    if told:
        return sum(
            each.get("createdVmCount", 0) - each.get("deletedVmCount", 0) for each in told.values()
        )
    return 0 if operation.get("error") else wanted_n


def _all(items: Mapping[str, Any], kind: str) -> list[Any]:
    """Return the entries of an aggregated list, from all zones."""
    return [each for place in items.values() for each in place.get(kind, ())]


def _refusal(answer: Answer) -> SwellError:
    error = answer.body.get("error", {}) if isinstance(answer.body, dict) else {}
    errors = error.get("errors") or [{"message": error.get("message", str(answer.body))}]
    told = [(each.get("reason", str(answer.status)), each.get("message", "")) for each in errors]
    found = _explained(told)
    if isinstance(found, Refused):
        return found
    if answer.status == 429 or answer.status >= 500 or isinstance(found, Unavailable):
        words = f"Google has too much to do: {in_words(told)}"
        return Unavailable(words, headers=retry_after(answer))
    return found


def _explained(errors: Sequence[tuple[str, str]]) -> Unavailable | InvalidInput:
    """Return the exception for Google errors, given as (code, message) pairs."""
    return explained(
        "Google",
        errors,
        is_lack=lambda code, _: _has(code, _LACKS),
        is_quota=lambda code, _: _has(code, _QUOTAS) and not _has(code, _BUSY),
        is_busy=lambda code, _: _has(code, _BUSY),
    )


def _has(code: str, parts: Sequence[str]) -> bool:
    plain = code.replace("_", "").lower()
    return any(each in plain for each in parts)
