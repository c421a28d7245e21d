"""Google Compute Engine on loopback: the calls that Swell makes, answered as Google documents them.

Names of fields are those of google-cloud-compute 1.56.0; a field that is not known is refused, as
Google does. Operations take as many looks as a test says, and end with the errors that it arranged.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

__all__ = ["GcpCompute"]

PROJECT: Final = "images-123"

_BULK: Final = {
    "count",
    "minCount",
    "namePattern",
    "perInstanceProperties",
    "instanceProperties",
    "instanceFlexibilityPolicy",
    "locationPolicy",
    "sourceInstanceTemplate",
}
_PROPERTIES: Final = {
    "labels",
    "metadata",
    "disks",
    "networkInterfaces",
    "scheduling",
    "machineType",
    "guestAccelerators",
    "serviceAccounts",
}
_SCHEDULING: Final = {
    "onHostMaintenance",
    "automaticRestart",
    "provisioningModel",
    "instanceTerminationAction",
}
_NAME: Final = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL: Final = re.compile(r"[\w-]{0,63}")


@dataclass
class GcpCompute:
    """A server with the zones of one region."""

    zones: tuple[str, ...] = ("us-central1-a", "us-central1-b")
    #: Why an operation gives none, or fewer, as (code, message) pairs.
    failures: list[tuple[str, str]] = field(default_factory=list)
    #: At most so many are given by one operation; None for all, or none where there are failures.
    most: int | None = None
    #: Answers of the next calls, as (status, reason, message).
    errors: list[tuple[int, str, str]] = field(default_factory=list)
    #: An operation is over after so many looks.
    looks: int = 1
    #: Zones that do not answer.
    silent: set[str] = field(default_factory=set)
    #: Items of a page at most.
    page: int = 500
    #: So many lists of machines do not have them yet.
    late: int = 0
    #: Whether operations that are over say how many they have made.
    counts: bool = True
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    #: Lines `METHOD path` of what was asked.
    calls: list[str] = field(default_factory=list)
    tokens: int = 0
    #: Those that are good.
    good: set[str] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        root = f"/compute/v1/projects/{PROJECT}"
        app = web.Application(middlewares=[self._guard])
        metadata = "/computeMetadata/v1/instance/service-accounts/default/token"
        for place in ("zones", "regions"):
            below = f"{root}/{place}/{{place}}"
            app.router.add_post(f"{below}/instances/bulkInsert", self._insert)
            app.router.add_post(f"{below}/operations/{{name}}/wait", self._wait)
        app.router.add_get(f"{root}/aggregated/instances", self._list)
        app.router.add_get(f"{root}/aggregated/operations", self._list_operations)
        app.router.add_delete(f"{root}/zones/{{place}}/instances/{{name}}", self._delete)
        app.router.add_post("/token", self._token)
        app.router.add_get(metadata, self._machine_token)
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

    def credentials(self) -> dict[str, str]:
        """The file of a service account's key."""
        secret = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "type": "service_account",
            "client_email": f"swell@{PROJECT}.iam.gserviceaccount.com",
            "private_key_id": "k1",
            "private_key": secret.decode(),
            "token_uri": f"{self.url}/token",
        }

    # ---- what time brings

    def settle(self) -> None:
        """Machines that are being made run, those that are being deleted are gone."""
        for name, each in list(self.machines.items()):
            if each["status"] == "STOPPING":
                del self.machines[name]
            elif each["status"] in ("PROVISIONING", "STAGING"):
                each["status"] = "RUNNING"

    def shut_down(self, name: str) -> None:
        """As a worker's machine does by itself."""
        self.machines[name] |= {"status": "TERMINATED", "lastStopTimestamp": _now()}

    def preempt(self, name: str, inserted_at: str = "") -> None:
        """Google takes a spot machine back."""
        each = self.machines[name]
        each["status"] = "STOPPING"
        operation = {
            "name": f"systemevent-{len(self.operations)}",
            "operationType": "compute.instances.preempted",
            "targetLink": f"{self.url}/x/instances/{name}",
            "insertTime": inserted_at or _now(),
            "zone": each["zone"],
            "status": "RUNNING",
        }
        self.operations[operation["name"]] = operation

    # ---- who asks

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if "/projects/" not in request.path:
            return await self._as_is(request, handler)
        self.calls.append(f"{request.method} {request.path.partition(PROJECT)[2]}")
        if request.headers.get("Authorization") not in self.good:
            return _error(401, "authError", "Invalid Credentials")
        if self.errors:
            return _error(*self.errors.pop(0))
        return await self._as_is(request, handler)

    async def _as_is(self, request: web.Request, handler: Any) -> web.StreamResponse:
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        head, claims, signature = str(form["assertion"]).split(".")
        try:
            self.key.public_key().verify(
                _unpacked(signature),
                f"{head}.{claims}".encode(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except Exception:  # whatever it is, the signature is not ours
            return web.json_response({"error": "invalid_grant"}, status=400)
        told = json.loads(_unpacked(claims))
        assert json.loads(_unpacked(head)) == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
        assert told["aud"] == f"{self.url}/token"
        assert told["exp"] - told["iat"] == 3600
        assert told["scope"].startswith("https://www.googleapis.com/auth/")
        return self._given_token()

    async def _machine_token(self, request: web.Request) -> web.Response:
        assert request.headers["Metadata-Flavor"] == "Google"
        return self._given_token()

    def _given_token(self) -> web.Response:
        self.tokens += 1
        self.good.add(f"Bearer ya29.{self.tokens}")
        told = {"access_token": f"ya29.{self.tokens}", "expires_in": 3599, "token_type": "Bearer"}
        return web.json_response(told)

    # ---- what is asked

    async def _insert(self, request: web.Request) -> web.Response:
        body = await request.json()
        if wrong := _unknown(body):
            return _error(400, "invalid", f"Invalid JSON payload received. Unknown name {wrong!r}")
        request_id = request.query["requestId"]
        if request_id in self.requests:
            return web.json_response(self.operations[self.requests[request_id]])
        name = f"operation-{len(self.operations)}"
        self.requests[request_id] = name
        place = request.match_info["place"]
        kind = "zone" if place in self.zones else "region"
        operation = {
            "kind": "compute#operation",
            "name": name,
            "operationType": "bulkInsert",
            "status": "RUNNING",
            "insertTime": _now(),
            kind: f"{self.url}/compute/v1/projects/{PROJECT}/{kind}s/{place}",
        }
        self.operations[name] = operation | {"left": self.looks, "body": body, "place": place}
        return web.json_response(operation)

    async def _wait(self, request: web.Request) -> web.Response:
        operation = self.operations[request.match_info["name"]]
        operation["left"] -= 1
        if operation["left"] <= 0 and operation["status"] != "DONE":
            operation["status"] = "DONE"
            self._make(operation)
        return web.json_response({k: v for k, v in operation.items() if k not in _OURS})

    def _make(self, operation: dict[str, Any]) -> None:
        body = operation["body"]
        wanted = list(body["perInstanceProperties"].values())
        assert int(body["count"]) == len(wanted)
        assert int(body["minCount"]) == 1
        most = self.most if self.most is not None else 0 if self.failures else len(wanted)
        for number, each in enumerate(wanted[:most]):
            chosen = (body.get("locationPolicy") or {}).get("locations") or {}
            zones = [zone.removeprefix("zones/") for zone in chosen] or list(self.zones)
            zone = (
                operation["place"]
                if operation["place"] in self.zones
                else zones[number % len(zones)]
            )
            self._add(each["name"], zone, body)
        if self.counts:
            made = {"status": "DONE", "targetVmCount": len(wanted), "createdVmCount": len(wanted)}
            made["createdVmCount"] = len(wanted[:most])
            told = {"perLocationStatus": {"zones/us-central1-a": made}}
            operation["instancesBulkInsertOperationMetadata"] = told
        if self.failures:
            errors = [{"code": code, "message": message} for code, message in self.failures]
            operation["error"] = {"errors": errors}

    def _add(self, name: str, zone: str, body: Mapping[str, Any]) -> None:
        properties = body["instanceProperties"]
        kind = properties.get("machineType")
        if kind is None:
            kind = body["instanceFlexibilityPolicy"]["instanceSelections"]["any"]["machineTypes"][0]
        root = f"{self.url}/compute/v1/projects/{PROJECT}/zones/{zone}"
        assert name not in self.machines, "made twice"
        self.machines[name] = {
            "name": name,
            "status": "PROVISIONING",
            "creationTimestamp": _now(),
            "zone": root,
            "machineType": f"{root}/machineTypes/{kind}",
            "labels": properties["labels"],
            "metadata": properties["metadata"],
            "scheduling": properties["scheduling"],
        }

    async def _list(self, request: web.Request) -> web.Response:
        assert request.query["returnPartialSuccess"] == "true"
        wanted = dict(re.findall(r'\(labels\.([\w-]+) = "([^"]*)"\)', request.query["filter"]))
        assert wanted, request.query["filter"]
        found = [
            each
            for each in self.machines.values()
            if wanted.items() <= each["labels"].items() and _zone(each) not in self.silent
        ]
        if self.late:
            self.late -= 1
            found = []
        at = int(request.query.get("pageToken", "0"))
        size = min(self.page, int(request.query["maxResults"]))
        items: dict[str, Any] = {f"zones/{zone}": {} for zone in self.zones}
        for each in found[at : at + size]:
            items[f"zones/{_zone(each)}"].setdefault("instances", []).append(each)
        body: dict[str, Any] = {"kind": "compute#instanceAggregatedList", "items": items}
        if at + size < len(found):
            body["nextPageToken"] = str(at + size)
        if self.silent:
            body["unreachables"] = [f"projects/{PROJECT}/zones/{zone}" for zone in self.silent]
        return web.json_response(body)

    async def _list_operations(self, request: web.Request) -> web.Response:
        wanted = re.fullmatch(r'operationType = "([\w.]+)"', request.query["filter"])
        assert wanted
        assert request.query["orderBy"] == "creationTimestamp desc"
        found = [e for e in self.operations.values() if e["operationType"] == wanted[1]]
        found.sort(key=lambda each: each["insertTime"], reverse=True)
        at = int(request.query.get("pageToken", "0"))
        body: dict[str, Any] = {
            "items": {"zones/x": {"operations": found[at : at + self.page]}, "global": {}}
        }
        if at + self.page < len(found):
            body["nextPageToken"] = str(at + self.page)
        return web.json_response(body)

    async def _delete(self, request: web.Request) -> web.Response:
        each = self.machines.get(request.match_info["name"])
        if each is None or _zone(each) != request.match_info["place"]:
            return _error(404, "notFound", "The resource was not found")
        each["status"] = "STOPPING"
        return web.json_response({"name": "operation-delete", "status": "RUNNING"})


#: Of an operation, for this server alone.
_OURS: Final = ("left", "body", "place")


def _unknown(body: Mapping[str, Any]) -> str:
    """Return a field or value that Google would not take."""
    properties = body["instanceProperties"]
    unknown = {*body} - _BULK | {*properties} - _PROPERTIES
    unknown |= {*properties["scheduling"]} - _SCHEDULING
    unknown |= {each for each in body["perInstanceProperties"] if not _NAME.fullmatch(each)}
    for key, value in properties["labels"].items():
        if not (re.fullmatch("[a-z][a-z0-9_-]{0,62}", key) and _LABEL.fullmatch(value)):
            unknown.add(f"{key}={value}")
        if value != value.lower():
            unknown.add(f"{key}={value}")
    return next(iter(sorted(unknown)), "")


def _zone(machine: Mapping[str, Any]) -> str:
    return str(machine["zone"]).rpartition("/")[2]


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _unpacked(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _error(status: int, reason: str, message: str) -> web.Response:
    one = {"message": message, "domain": "global", "reason": reason}
    error = {"code": status, "message": message, "errors": [one]}
    return web.json_response({"error": error}, status=status)
