"""Provider for Azure: machines from a Compute Fleet in launch mode, or one by one.

A fleet in launch mode is one request for several machines, sizes and zones. It creates the machines
with its tags and then disappears. If the subscription or region has no fleets, the provider creates
each machine with its own call, with the first size and zone that has capacity.

Azure bills a stopped machine until it is deleted, so `instances` deletes stopped machines.

The provider needs six calls and makes them with Swell's HTTP client. Azure's libraries
(azure-mgmt-compute 39.0.0 and azure-mgmt-computefleet 2.0.0, with azure-identity and azure-core)
are four packages that also need msal. Field names were compared with theirs.

Source:
    https://learn.microsoft.com/azure/azure-compute-fleet/launch-mode,
    https://learn.microsoft.com/rest/api/compute/virtual-machines/create-or-update,
    https://learn.microsoft.com/azure/azure-resource-manager/management/async-operations,
    https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/error-sku-not-available
    and …/error-resource-quota, https://learn.microsoft.com/troubleshoot/azure/virtual-machines/
    windows/allocation-failure: error codes.
"""

import asyncio
import base64
import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import Field, model_validator

from swell.core.billing.price_book import LivePrice
from swell.core.clock import Clock
from swell.core.errors import InvalidInput, InvalidRequest, SwellError, Unavailable
from swell.core.provider import ASKED_AT, Instance, InstanceState, LaunchRequest, Notice, Refused
from swell.providers.azure_prices import PATH, prices_of, query_of
from swell.providers.azure_token import Application, AzureTokens
from swell.providers.cloud_init import render
from swell.providers.marks import DEPLOYMENT, LAUNCH, POOL, Marks, moment
from swell.providers.options import MachineOptions
from swell.providers.refusals import explained, given_of
from swell.providers.rest import Answer, Rest, retry_after
from swell.providers.sightings import Sightings

_API: Final = "https://management.azure.com"
_LOGIN: Final = "https://login.microsoftonline.com"
_METADATA: Final = "http://169.254.169.254"
_PRICES: Final = "https://prices.azure.com"

#: Limit of price pages, of a hundred rows each. A pool names about ten sizes.
_PRICES_PAGES_N: Final = 20

_FLEETS: Final = "Microsoft.AzureFleet/fleets"
_MACHINES: Final = "Microsoft.Compute/virtualMachines"

#: API versions.
_VERSIONS: Final = {"Microsoft.AzureFleet": "2026-08-01", "Microsoft.Compute": "2024-07-01"}
_NETWORK_VERSION: Final = "2022-11-01"

#: Limit of the wait for an operation, and the default polling interval, in seconds. An operation
#: that takes longer continues on its own.
_LAUNCH_S: Final = 180.0
_LOOK_S: Final = 5.0

#: Interval between reads of the power states, in seconds. Azure limits their rate.
_POWER_S: Final = 60.0

_STATES: Final = {
    "Creating": InstanceState.STARTING,
    "Deleting": InstanceState.STOPPING,
    "Failed": InstanceState.ENDED,
    "Canceled": InstanceState.ENDED,
}
_STOPPED: Final = ("PowerState/stopped", "PowerState/deallocated", "PowerState/deallocating")

_LACKS: Final = frozenset(
    {
        "AllocationFailed",
        "OverconstrainedAllocationRequest",
        "OverconstrainedZonalAllocationRequest",
        "SkuNotAvailable",
        "ZonalAllocationFailed",
    }
)
_QUOTAS: Final = frozenset({"QuotaExceeded", "ResourceQuotaExceeded"})
_BUSY: Final = frozenset(
    {
        "AnotherOperationInProgress",
        "InternalServerError",
        "OperationPreempted",
        "RetryableError",
        "ServerBusy",
        "TooManyRequests",
    }
)

#: Error code: the machine exists, because an earlier answer was lost.
_THERE: Final = frozenset({"PropertyChangeNotAllowed"})

#: Error codes: Compute Fleet does not exist in this subscription or region.
_NO_FLEETS: Final = frozenset(
    {
        "InvalidResourceType",
        "LocationNotAvailableForResourceType",
        "MissingSubscriptionRegistration",
        "NoRegisteredProviderFound",
        "ResourceTypeNotSupported",
        "SubscriptionNotRegistered",
    }
)


class AzureOptions(MachineOptions):
    """Options of a pool of machines of Azure."""

    subscription: str = Field(min_length=1, description="The subscription's id.")
    group: str = Field(min_length=1, description="The resource group that machines are made in.")
    location: str = Field(pattern="^[a-z0-9]+$", description="The region, such as `eastus`.")
    zones: tuple[str, ...] = Field(
        default=(), description='Zones that will do, such as `["1", "2"]`; empty for none chosen.'
    )
    sizes: tuple[str, ...] = Field(
        min_length=1,
        max_length=10,
        description="Sizes of machines that will do, such as `Standard_NC4as_T4_v3`.",
    )
    source_image: str = Field(
        min_length=1,
        description="The machine's own image: a resource id, or `PUBLISHER:OFFER:SKU:VERSION`.",
    )
    subnet: str = Field(min_length=1, description="The resource id of the subnet.")
    security_group: str = Field(
        default="", description="The resource id of a network security group; empty for none."
    )
    public_address: bool = Field(
        default=False, description="Whether each has one; without, the subnet needs a NAT gateway."
    )
    ssh_key: str = Field(min_length=1, description="A public key for SSH, which Azure insists on.")
    admin: str = Field(default="swell", description="Name of that key's user.")
    disk_type: str = Field(default="StandardSSD_LRS", description="Type of its disk.")
    fleet: bool = Field(
        default=True,
        description="Whether Compute Fleet is asked first; where it is not there, and without it, "
        "machines are made one by one.",
    )
    directory: str = Field(
        default="", description="Of the application that asks; empty for a managed identity."
    )
    client_id: str = Field(
        default="", description="Of that application, or of one of several managed identities."
    )
    client_secret_file: Path | None = Field(
        default=None, description="File with the application's secret."
    )
    login_url: str = Field(default=_LOGIN, description="Where an application asks for tokens.")
    metadata_url: str = Field(default=_METADATA, description="Where a managed identity is asked.")
    prices_url: str = Field(
        default=_PRICES,
        description="Where the public list of prices is; empty to ask for none.",
    )

    @model_validator(mode="after")
    def _whole(self) -> "AzureOptions":
        if bool(self.directory) != (self.client_secret_file is not None):
            raise ValueError(
                "directory and client_secret_file go together, with client_id: set all three for "
                "an application, or none for a managed identity"
            )
        if self.directory and not self.client_id:
            raise ValueError("an application needs its client_id")
        return self


class AzureProvider:
    """Provider for Azure. See `swell.core.provider`.

    There are no notices: Azure announces an eviction only to the machine itself. An evicted machine
    is listed as ended. Azure ignores the grace period of `terminate`.

    Args:
        options: Options of the pool.
        clock: The clock.
        deployment: Name of the deployment that owns the machines.
        power_s: Interval between reads of the power states, in seconds.

    Raises:
        InvalidRequest: The secret file cannot be read.
    """

    def __init__(
        self,
        options: AzureOptions,
        clock: Clock,
        deployment: str,
        *,
        power_s: float = _POWER_S,
    ) -> None:
        self._options = options
        self._clock = clock
        self._deployment = deployment
        self._base = options.endpoint or _API
        self._rest = Rest("Azure")
        self._tokens = AzureTokens(
            _application(options),
            clock,
            client_id=options.client_id,
            metadata_url=options.metadata_url,
        )
        self._seen = Sightings(clock)
        self.tidies = True
        self._power_s = power_s
        #: Power states by machine id, and the time of the last read.
        self._powers: dict[str, str] = {}
        self._powers_at_s = float("-inf")

    # ---- the contract

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Launch machines, and wait for Azure's result.

        Raises:
            InvalidInput: Azure rejects an option or does not allow the call.
            Refused: No capacity or no quota.
            Unavailable: Azure is unreachable or overloaded.
        """
        if before := self._seen.of_launch(request.pool, request.token):
            return before
        marks = Marks.of(self._deployment, request, self._clock.now())
        if request.token and (found := await self._listed(_found_by(marks))):
            return self._seen.launched(found)
        name = marks.name()
        if self._options.fleet:
            try:
                return self._seen.launched(await self._by_fleet(name, marks, request))
            except _NoFleets:
                pass
        return self._seen.launched(await self._one_by_one(name, marks, request))

    async def instances(self, pool: str | None = None) -> list[Instance]:
        """Return the instances of a pool, or of all pools, and delete stopped machines."""
        wanted = {DEPLOYMENT: self._deployment} | ({} if pool is None else {POOL: pool})
        found = await self._listed(wanted)
        stopped = [each.id for each in found if each.state is InstanceState.ENDED]
        # Azure bills stopped machines. The next call retries a failed deletion.
        if self.tidies:
            await asyncio.gather(*map(self._delete, stopped), return_exceptions=True)
        return self._seen.listed(found, pool)

    async def notices(self) -> list[Notice]:
        """Return nothing: Azure announces evictions only to the machine itself."""
        return []

    async def prices(self) -> list[LivePrice]:
        """Return the prices of the sizes in the region, from Azure's public list.

        Raises:
            Unavailable: The list cannot be read.
        """
        chosen = self._options
        if not chosen.prices_url:
            return []
        rows: list[Any] = []
        path = f"{PATH}?{query_of(chosen.sizes, chosen.location)}"
        for _ in range(_PRICES_PAGES_N):
            answer = await self._rest.call("GET", chosen.prices_url + path)
            if not answer.is_ok:
                raise Unavailable(f"Azure's list of prices cannot be read: status {answer.status}")
            items = answer.body.get("Items")
            rows += items if isinstance(items, list) else []
            more = answer.body.get("NextPageLink")
            if not isinstance(more, str) or not more:
                break
            path = self._here(more)
        return prices_of(rows, chosen.sizes, spot=chosen.spot)

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Delete machines; each worker drains during the shutdown. Unknown ids are ignored."""
        wanted = set(instance_ids)
        found = await self._listed({DEPLOYMENT: self._deployment})
        own = [each.id for each in found if each.id in wanted]
        await self._seen.end_all(own, self._delete)

    async def close(self) -> None:
        """Close the connections. The machines keep running."""
        await self._rest.close()
        await self._tokens.close()

    # ---- by a fleet

    async def _by_fleet(self, name: str, marks: Marks, request: LaunchRequest) -> list[Instance]:
        """Create machines with a fleet.

        Raises:
            _NoFleets: The subscription or region has no fleets.
        """
        path = f"{self._group}/{_FLEETS}/{name}"
        answer = await self._call("PUT", path, self._fleet(name, marks, request), may_fail=True)
        if not answer.is_ok:
            errors = _errors(answer)
            if {code for code, _ in errors} & _NO_FLEETS or answer.status == 404:
                raise _NoFleets
            raise _refusal(answer)
        #: Name of a machine to its error; None if it was created.
        told: dict[str, tuple[str, str] | None] = {}

        async def look() -> None:
            # Poll before the fleet disappears with its list of machines.
            answer = await self._call("GET", f"{path}/virtualMachines", may_fail=True)
            for each in answer.body.get("value", []) if answer.is_ok else []:
                error = each.get("error")
                told[each["name"]] = error and (error.get("code", ""), error.get("message", ""))

        over = await self._over(answer, look)
        found = {each.id: each for each in await self._listed(_found_by(marks), name)}
        # The machine list can lag; requesting again would create duplicates.
        late = [each for each, why in told.items() if why is None and each not in found]
        given = [each for each in found.values() if each.state is not InstanceState.ENDED]
        given += [self._starting(each, marks) for each in late]
        if given:
            return given
        if over is None:
            raise Unavailable("Azure has not reported a result yet")
        raise _explained([*over, *(why for why in told.values() if why is not None)])

    def _fleet(self, name: str, marks: Marks, request: LaunchRequest) -> dict[str, Any]:
        chosen = self._options
        properties: dict[str, Any] = {
            "mode": "Launch",
            "vmNamePrefix": name,
            "vmSizesProfile": [{"name": size} for size in chosen.sizes],
            "computeProfile": {
                "baseVirtualMachineProfile": self._profile(name, marks, request),
                "computeApiVersion": _VERSIONS["Microsoft.Compute"],
            },
        }
        if chosen.spot:
            properties["spotPriorityProfile"] = {
                "capacity": request.n,
                "minCapacity": 0,
                "maxPricePerVM": -1,
                "evictionPolicy": "Delete",
                "allocationStrategy": "PriceCapacityOptimized",
                "maintain": False,
            }
        else:
            properties["regularPriorityProfile"] = {
                "capacity": request.n,
                "minCapacity": 0,
                "allocationStrategy": "LowestPrice",
            }
        body: dict[str, Any] = {"location": chosen.location, "tags": marks.texts}
        body |= {"zones": list(chosen.zones)} if chosen.zones else {}
        return body | {"properties": properties}

    # ---- one by one

    async def _one_by_one(self, name: str, marks: Marks, request: LaunchRequest) -> list[Instance]:
        made = await asyncio.gather(
            *(self._one(f"{name}-{number}", marks, request) for number in range(request.n)),
            return_exceptions=True,
        )
        return given_of(made)

    async def _one(self, name: str, marks: Marks, request: LaunchRequest) -> Instance:
        """Create one machine, with the first size and zone that has capacity."""
        lacks: list[tuple[str, str]] = []
        for size, zone in itertools.product(self._options.sizes, self._options.zones or ("",)):
            body = self._machine(name, marks, request) | ({"zones": [zone]} if zone else {})
            body["properties"]["hardwareProfile"] = {"vmSize": size}
            answer = await self._call("PUT", self._path(name), body, may_fail=True)
            errors = (await self._over(answer) or []) if answer.is_ok else _errors(answer)
            if {code for code, _ in errors} & _THERE:
                return self._starting(name, marks)
            if not errors:
                return msgspec.structs.replace(
                    self._starting(name, marks), kind=size, location=zone
                )
            if answer.is_ok:
                # The failed machine exists and has to be deleted.
                await self._delete(name, is_waited_for=True)
            lacks += errors
            if not isinstance(_explained(errors), Refused):
                raise _explained(errors) if answer.is_ok else _refusal(answer)
        raise _explained(lacks)

    def _starting(self, name: str, marks: Marks) -> Instance:
        return msgspec.structs.replace(marks.starting(name), is_spot=self._options.spot)

    def _machine(self, name: str, marks: Marks, request: LaunchRequest) -> dict[str, Any]:
        chosen = self._options
        properties = self._profile(name, marks, request)
        system = properties["osProfile"]
        system["computerName"] = system.pop("computerNamePrefix")
        if chosen.spot:
            properties |= {"priority": "Spot", "evictionPolicy": "Delete"}
            properties["billingProfile"] = {"maxPrice": -1}
        return {"location": chosen.location, "tags": marks.texts, "properties": properties}

    # ---- machines

    def _profile(self, name: str, marks: Marks, request: LaunchRequest) -> dict[str, Any]:
        """Return the machine profile that both ways of creation share."""
        chosen = self._options
        told = dict(request.environment) | {ASKED_AT: marks.asked_at.isoformat()}
        script = render("azure", chosen, told)
        key = {"path": f"/home/{chosen.admin}/.ssh/authorized_keys", "keyData": chosen.ssh_key}
        disk = {
            "createOption": "FromImage",
            "deleteOption": "Delete",
            "diskSizeGB": chosen.disk_gib,
            "managedDisk": {"storageAccountType": chosen.disk_type},
        }
        return {
            "osProfile": {
                "computerNamePrefix": name[:50],
                "adminUsername": chosen.admin,
                "customData": base64.b64encode(script.encode()).decode(),
                "linuxConfiguration": {
                    "disablePasswordAuthentication": True,
                    "ssh": {"publicKeys": [key]},
                },
            },
            "storageProfile": {"imageReference": _image(chosen.source_image), "osDisk": disk},
            "networkProfile": {
                "networkApiVersion": _NETWORK_VERSION,
                "networkInterfaceConfigurations": [self._network()],
            },
        }

    def _network(self) -> dict[str, Any]:
        chosen = self._options
        address: dict[str, Any] = {"subnet": {"id": chosen.subnet}, "primary": True}
        if chosen.public_address:
            public = {"deleteOption": "Delete"}
            address["publicIPAddressConfiguration"] = {"name": "public", "properties": public}
        properties: dict[str, Any] = {
            "primary": True,
            "deleteOption": "Delete",
            "ipConfigurations": [{"name": "swell", "properties": address}],
        }
        if chosen.security_group:
            properties["networkSecurityGroup"] = {"id": chosen.security_group}
        return {"name": "swell", "properties": properties}

    async def _listed(self, tags: Mapping[str, str], prefix: str = "") -> list[Instance]:
        machines = await self._items(f"{self._group}/{_MACHINES}")
        found = [
            each
            for each in machines
            if tags.items() <= (each.get("tags") or {}).items() and each["name"].startswith(prefix)
        ]
        if found and self._clock.monotonic_s() >= self._powers_at_s + self._power_s:
            self._powers_at_s = self._clock.monotonic_s()
            # The rate limit is low: on an error the last power states remain valid.
            with contextlib.suppress(Unavailable):
                self._powers = await self._asked_powers()
        return [_instance(each, self._powers.get(each["id"].lower(), "")) for each in found]

    async def _asked_powers(self) -> dict[str, str]:
        """Return power states by lower-case machine id. The list of a resource group lacks them."""
        path = f"/subscriptions/{self._options.subscription}/providers/{_MACHINES}"
        told = await self._items(path, {"statusOnly": "true"})
        found = {}
        for each in told:
            view = each.get("properties", {}).get("instanceView", {})
            codes = [status.get("code", "") for status in view.get("statuses", [])]
            power = next((code for code in codes if code.startswith("PowerState/")), "")
            found[each["id"].lower()] = power
        return found

    async def _items(self, path: str, query: Mapping[str, str] | None = None) -> list[Any]:
        body = (await self._call("GET", path, query=query)).body
        found: list[Any] = list(body["value"])
        while body.get("nextLink"):
            body = (await self._call("GET", self._here(body["nextLink"]), versioned=False)).body
            found += body["value"]
        return found

    async def _delete(self, name: str, *, is_waited_for: bool = False) -> None:
        answer = await self._call("DELETE", self._path(name), may_fail=True)
        if not answer.is_ok and answer.status != 404:
            raise _refusal(answer)
        if is_waited_for and answer.is_ok:
            await self._over(answer)

    # ---- calls

    @property
    def _group(self) -> str:
        chosen = self._options
        return f"/subscriptions/{chosen.subscription}/resourceGroups/{chosen.group}/providers"

    def _path(self, name: str) -> str:
        return f"{self._group}/{_MACHINES}/{name}"

    async def _over(self, answer: Answer, look: Any = None) -> list[tuple[str, str]] | None:
        """Wait for an operation, and return its errors; None on a timeout.

        Args:
            answer: Answer of the call that started the operation.
            look: Called after each poll.
        """
        url = _header(answer, "azure-asyncoperation") or _header(answer, "location")
        ends_s = self._clock.monotonic_s() + _LAUNCH_S
        while url and self._clock.monotonic_s() < ends_s:
            told = await self._call("GET", self._here(url), versioned=False, may_fail=True)
            if look is not None:
                await look()
            state = told.body.get("status", "") if isinstance(told.body, dict) else ""
            if state in ("Failed", "Canceled"):
                return _errors(told)
            if told.status == 404 or state == "Succeeded" or (told.status == 200 and not state):
                return []
            wait_s = float(retry_after(told, _LOOK_S)["Retry-After"])
            await self._clock.sleep(min(wait_s, 30.0))
        return None if url else []

    def _here(self, url: str) -> str:
        """Return the path of an Azure link, to call it at the configured address."""
        return re.sub(r"^https?://[^/]+", "", url)

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        versioned: bool = True,
        may_fail: bool = False,
    ) -> Answer:
        told = dict(query or {})
        if versioned:
            space = "Microsoft.AzureFleet" if _FLEETS in path else "Microsoft.Compute"
            told["api-version"] = _VERSIONS[space]
        answer = await self._tokens.call(self._rest, method, self._base + path, body, query=told)
        if answer.is_ok or may_fail:
            return answer
        raise _refusal(answer)


class _NoFleets(Exception):
    """Compute Fleet does not exist here."""


def _application(options: AzureOptions) -> Application | None:
    if options.client_secret_file is None:
        return None
    try:
        secret = options.client_secret_file.read_text().strip()
    except OSError as error:
        raise InvalidRequest(
            f"{options.client_secret_file} cannot be read ({error.strerror}): name another file in "
            "the option client_secret_file"
        ) from error
    return Application(
        directory=options.directory,
        client_id=options.client_id,
        secret=secret,
        login_url=options.login_url,
    )


def _found_by(marks: Marks) -> dict[str, str]:
    found = {DEPLOYMENT: marks.deployment, POOL: marks.pool}
    return found | {LAUNCH: marks.token}


def _image(text: str) -> dict[str, str]:
    if text.startswith("/"):
        return {"id": text}
    parts = text.split(":")
    if len(parts) != 4:
        raise InvalidInput(
            f"{text[:200]!r} is no image of Azure: give its resource id, or "
            "PUBLISHER:OFFER:SKU:VERSION"
        )
    return dict(zip(("publisher", "offer", "sku", "version"), parts, strict=True))


def _instance(told: Any, power: str) -> Instance:
    properties = told["properties"]
    created = properties.get("timeCreated") or "1970-01-01T00:00:00Z"
    marks = Marks.read(told.get("tags", {}), asked_at=moment(created))
    state = _STATES.get(properties.get("provisioningState", ""), InstanceState.RUNNING)
    why = "Azure could not make it" if state is InstanceState.ENDED else ""
    if state is InstanceState.RUNNING and power in _STOPPED:
        state, why = InstanceState.ENDED, power
    return msgspec.structs.replace(
        marks.starting(told["name"]),
        state=state,
        location=next(iter(told.get("zones") or ()), told.get("location", "")),
        kind=properties.get("hardwareProfile", {}).get("vmSize", ""),
        is_spot=properties.get("priority") == "Spot",
        why=why,
    )


def _header(answer: Answer, name: str) -> str:
    return next((value for key, value in answer.headers.items() if key.lower() == name), "")


def _errors(answer: Answer) -> list[tuple[str, str]]:
    """Return the errors of an answer as (code, message) pairs; inner errors take precedence."""
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    if not isinstance(error, dict):
        return [(str(answer.status), str(answer.body))]
    inner = [each for each in error.get("details") or () if each.get("code")]
    return [(each.get("code", ""), each.get("message", "")) for each in inner or [error]]


def _refusal(answer: Answer) -> SwellError:
    found = _explained(_errors(answer))
    if isinstance(found, Refused):
        return found
    if answer.status in (401, 429) or answer.status >= 500 or isinstance(found, Unavailable):
        return Unavailable(found.detail, headers=retry_after(answer))
    return found


def _explained(errors: Sequence[tuple[str, str]]) -> Unavailable | InvalidInput:
    """Return the exception for Azure errors, given as (code, message) pairs."""
    return explained(
        "Azure",
        errors,
        is_lack=lambda code, _: code in _LACKS,
        is_quota=_is_quota,
        is_busy=lambda code, _: code in _BUSY,
    )


def _is_quota(code: str, message: str) -> bool:
    return code in _QUOTAS or (code == "OperationNotAllowed" and "quota" in message.lower())
