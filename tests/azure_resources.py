"""Azure's management API on loopback: the calls that Swell makes, answered as Azure documents them.

Names of fields are those of azure-mgmt-compute 39.0.0 and azure-mgmt-computefleet 2.0.0; a field
that is not known is refused, as Azure does. What is begun takes as many looks as a test says, and
ends with the errors that it arranged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

from aiohttp import web

__all__ = ["AzureResources"]

SUBSCRIPTION: Final = "00000000-0000-0000-0000-000000000001"
GROUP: Final = "images"
SECRET: Final = "secret-of-the-application"

_PROFILE: Final = {"osProfile", "storageProfile", "networkProfile"}
_SYSTEM: Final = {"adminUsername", "customData", "linuxConfiguration"}
_MACHINE: Final = _PROFILE | {"hardwareProfile", "priority", "evictionPolicy", "billingProfile"}
_FLEET: Final = {
    "mode",
    "vmNamePrefix",
    "vmSizesProfile",
    "computeProfile",
    "spotPriorityProfile",
    "regularPriorityProfile",
}
_SPOT: Final = {"maxPricePerVM", "evictionPolicy", "maintain"}
_CAPACITY: Final = {"capacity", "minCapacity", "allocationStrategy"}


@dataclass
class AzureResources:
    """A server with one subscription and resource group."""

    #: Why machines cannot be made: size → (code, message); `*` for any.
    lacks: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: Whether that is found out only while they are made.
    lacks_late: bool = False
    #: At most so many are made; None for no limit.
    most: int | None = None
    #: Answers of the next calls, as (status, code, message).
    errors: list[tuple[int, str, str]] = field(default_factory=list)
    has_fleets: bool = True
    #: What was begun is over after so many looks.
    looks: int = 1
    #: Items of a page at most.
    page: int = 500
    #: So many lists of machines do not have them yet.
    late: int = 0
    #: Whether it was asked too often what machines do.
    powers_busy: bool = False
    #: Whether fleets say nothing of their machines.
    silent: bool = False
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    fleets: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Bodies of what was asked for, by name.
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Lines `METHOD path` of what was asked.
    calls: list[str] = field(default_factory=list)
    #: Rows of the public list of prices, so many on a page; and the filters that came.
    prices: list[dict[str, Any]] = field(default_factory=list)
    prices_page: int = 100
    filters: list[str] = field(default_factory=list)
    #: The status that the list is answered with.
    prices_status: int = 200
    tokens: int = 0
    good: set[str] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        subscription = f"/subscriptions/{SUBSCRIPTION}"
        group = f"{subscription}/resourceGroups/{GROUP}/providers"
        machines = "Microsoft.Compute/virtualMachines"
        fleets = f"{group}/Microsoft.AzureFleet/fleets/{{name}}"
        app = web.Application(middlewares=[self._guard])
        app.router.add_get(f"{group}/{machines}", self._list)
        app.router.add_get(f"{subscription}/providers/{machines}", self._list_powers)
        app.router.add_put(f"{group}/{machines}/{{name}}", self._put)
        app.router.add_delete(f"{group}/{machines}/{{name}}", self._delete)
        app.router.add_put(fleets, self._put_fleet)
        app.router.add_get(f"{fleets}/virtualMachines", self._list_fleet)
        app.router.add_get(f"{subscription}/operations/{{name}}", self._operation)
        app.router.add_get("/metadata/identity/oauth2/token", self._machine_token)
        app.router.add_get("/api/retail/prices", self._retail)
        app.router.add_post("/{directory}/oauth2/v2.0/token", self._token)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://127.0.0.1:{1}".format(*self._runner.addresses[0])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    # ---- what time brings

    def settle(self) -> None:
        """Machines that are being made run, those that are being deleted are gone."""
        for name, each in list(self.machines.items()):
            state = each["properties"]["provisioningState"]
            if state == "Deleting":
                del self.machines[name]
            elif state == "Creating":
                each["properties"]["provisioningState"] = "Succeeded"
                each["power"] = "PowerState/running"

    def shut_down(self, name: str) -> None:
        """As a worker's machine does by itself."""
        self.machines[name]["power"] = "PowerState/stopped"

    # ---- the public list of prices

    async def _retail(self, request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers, "nobody says who asks for prices"
        if self.prices_status != 200:
            return web.json_response({"error": {}}, status=self.prices_status)
        self.filters.append(request.query["$filter"])
        assert request.query["currencyCode"] == "USD"
        begin = int(request.query.get("$skip", 0))
        items = self.prices[begin : begin + self.prices_page]
        end = begin + self.prices_page
        query = {"currencyCode": "USD", "$filter": request.query["$filter"], "$skip": str(end)}
        more = f"https://prices.azure.com:443/api/retail/prices?{urlencode(query)}"
        told = {"BillingCurrency": "USD", "CustomerEntityType": "Retail", "Items": items}
        return web.json_response(
            told | {"NextPageLink": more if end < len(self.prices) else None, "Count": len(items)}
        )

    # ---- who asks

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith("/subscriptions/"):
            self.calls.append(f"{request.method} {request.path}")
            if request.headers.get("Authorization") not in self.good:
                return _error(401, "ExpiredAuthenticationToken", "The access token expired.")
            assert request.query.get("api-version"), request.path_qs
            if self.errors:
                return _error(*self.errors.pop(0))
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _machine_token(self, request: web.Request) -> web.Response:
        assert request.headers["Metadata"] == "true"
        assert request.query["resource"] == "https://management.azure.com/"
        return self._given_token(expires_in="86399")

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["scope"] == "https://management.azure.com/.default"
        assert form["grant_type"] == "client_credentials"
        if form["client_secret"] != SECRET or request.match_info["directory"] != "directory-1":
            told = "AADSTS7000215: Invalid client secret provided."
            return web.json_response(
                {"error": "invalid_client", "error_description": told}, status=401
            )
        return self._given_token(expires_in=3599)

    def _given_token(self, expires_in: object) -> web.Response:
        self.tokens += 1
        token = f"eyJ0.{self.tokens}"
        self.good.add(f"Bearer {token}")
        return web.json_response({"access_token": token, "expires_in": expires_in})

    # ---- machines

    async def _put(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = request.match_info["name"]
        properties = body["properties"]
        wrong = {*body} - {"location", "tags", "zones", "properties"} | {*properties} - _MACHINE
        wrong |= {*properties["osProfile"]} - _SYSTEM - {"computerName"}
        if wrong:
            return _error(400, "InvalidRequestContent", f"Could not find member {min(wrong)}")
        self.asked[name] = body
        size = properties["hardwareProfile"]["vmSize"]
        there = self.machines.get(name, {}).get("properties", {})
        if there.get("provisioningState") not in (None, "Deleting"):
            told = "Changing property 'osProfile.customData' is not allowed."
            return _error(409, "PropertyChangeNotAllowed", told)
        lack = self._lack(size)
        if lack and not self.lacks_late:
            return _error(409, *lack)
        self._add(name, body, size, bool(properties.get("priority") == "Spot"), body.get("zones"))
        if lack:
            self.machines[name]["properties"]["provisioningState"] = "Failed"
        return self._begun(201, self.machines[name], lack)

    def _lack(self, size: str) -> tuple[str, str] | None:
        if self.most is not None and len(self.machines) >= self.most:
            return ("AllocationFailed", "Allocation failed. We do not have sufficient capacity.")
        return self.lacks.get(size) or self.lacks.get("*")

    def _add(
        self, name: str, body: Mapping[str, Any], size: str, is_spot: bool, zones: Any
    ) -> None:
        state = {} if name not in self.machines else self.machines[name]["properties"]
        assert state.get("provisioningState") in (None, "Deleting"), "made twice"
        root = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP.upper()}/providers"
        self.machines[name] = {
            "id": f"{root}/Microsoft.Compute/virtualMachines/{name}",
            "name": name,
            "location": body["location"],
            "tags": body["tags"],
            "power": "PowerState/starting",
            "properties": {
                "provisioningState": "Creating",
                "timeCreated": datetime.now(UTC).isoformat(),
                "hardwareProfile": {"vmSize": size},
                "priority": "Spot" if is_spot else "Regular",
            },
        } | ({"zones": zones[:1]} if zones else {})

    async def _delete(self, request: web.Request) -> web.Response:
        each = self.machines.get(request.match_info["name"])
        if each is None:
            return web.Response(status=204)
        if each["properties"]["provisioningState"] == "Failed":
            del self.machines[each["name"]]
        each["properties"]["provisioningState"] = "Deleting"
        return self._begun(202, None, None)

    async def _list(self, request: web.Request) -> web.Response:
        self.late -= (is_late := self.late > 0)
        found = [] if is_late else self.machines.values()
        return self._paged(request, [_without_power(each) for each in found])

    async def _list_powers(self, request: web.Request) -> web.Response:
        assert request.query["statusOnly"] == "true"
        if self.powers_busy:
            return _error(429, "TooManyRequests", "The request is being throttled.")
        found = [
            {
                "id": each["id"].replace("/resourceGroups/", "/resourcegroups/"),
                "properties": {"instanceView": {"statuses": [{"code": each["power"]}]}},
            }
            for each in self.machines.values()
        ]
        return self._paged(request, found)

    def _paged(self, request: web.Request, found: list[Any]) -> web.Response:
        at = int(request.query.get("$skiptoken", "0"))
        body: dict[str, Any] = {"value": found[at : at + self.page]}
        if at + self.page < len(found):
            following = request.url.update_query({"$skiptoken": str(at + self.page)})
            body["nextLink"] = f"https://management.azure.com{following.path_qs}"
        return web.json_response(body)

    # ---- fleets

    async def _put_fleet(self, request: web.Request) -> web.Response:
        if not self.has_fleets:
            told = "The subscription is not registered to use namespace 'Microsoft.AzureFleet'."
            return _error(409, "MissingSubscriptionRegistration", told)
        body = await request.json()
        name = request.match_info["name"]
        properties = body["properties"]
        profile = properties["computeProfile"]["baseVirtualMachineProfile"]
        wanted = properties.get("spotPriorityProfile") or properties["regularPriorityProfile"]
        wrong = {*body} - {"location", "tags", "zones", "properties"} | {*properties} - _FLEET
        wrong |= {*profile} - _PROFILE | {*wanted} - _CAPACITY - _SPOT
        wrong |= {*profile["osProfile"]} - _SYSTEM - {"computerNamePrefix"}
        if wrong or properties["mode"] != "Launch":
            return _error(400, "InvalidRequestContent", f"Could not find member {wrong}")
        self.asked[name] = body
        self.fleets[name] = {"told": []}
        is_spot = "spotPriorityProfile" in properties
        sizes = [each["name"] for each in properties["vmSizesProfile"]]
        for number in range(wanted["capacity"]):
            named = f"{properties['vmNamePrefix']}_{len(self.fleets):06x}_{number}"
            size = next((each for each in sizes if not self._lack(each)), None)
            told: dict[str, Any] = {"name": named, "operationStatus": "Creating"}
            if size is None:
                code, message = self._lack(sizes[0]) or ("", "")
                error = {"code": code, "message": message}
                told |= {"operationStatus": "Failed", "error": error}
            else:
                self._add(named, body, size, is_spot, body.get("zones"))
            self.fleets[name]["told"].append(told)
        return self._begun(201, {"name": name}, None, fleet=name)

    async def _list_fleet(self, request: web.Request) -> web.Response:
        fleet = self.fleets.get(request.match_info["name"])
        if fleet is None:
            return _error(404, "ResourceNotFound", "The fleet is gone")
        return web.json_response({"value": [] if self.silent else fleet["told"]})

    # ---- what takes long

    def _begun(
        self, status: int, body: Any, lack: tuple[str, str] | None, fleet: str = ""
    ) -> web.Response:
        name = f"operation-{len(self.operations)}"
        self.operations[name] = {"left": self.looks, "lack": lack, "fleet": fleet}
        url = f"https://management.azure.com/subscriptions/{SUBSCRIPTION}/operations/{name}"
        headers = {"Azure-AsyncOperation": f"{url}?api-version=2024-07-01", "Retry-After": "0"}
        return web.json_response(_without_power(body or {}), status=status, headers=headers)

    async def _operation(self, request: web.Request) -> web.Response:
        operation = self.operations[request.match_info["name"]]
        operation["left"] -= 1
        headers = {"Retry-After": "0"}
        if operation["left"] > 0:
            return web.json_response({"status": "InProgress"}, headers=headers)
        if operation["lack"]:
            code, message = operation["lack"]
            inner = {"code": code, "message": message}
            error = {"code": "ResourceOperationFailure", "message": "failed", "details": [inner]}
            return web.json_response({"status": "Failed", "error": error})
        if operation["left"] < 0:
            # A fleet in launch mode is gone soon after it is done.
            self.fleets.pop(operation["fleet"], None)
        return web.json_response({"status": "Succeeded"})


def _without_power(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in machine.items() if key != "power"}


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
