"""Amazon EC2 as it is on a bad day: a front before moto's server, which gives whatever it is asked.

Everything goes on to moto but what a test has arranged: refusals with EC2's own codes, fewer
machines than were wanted, throttling, answers that get lost, spot requests that are marked. Client
tokens are kept to, as EC2 does and moto does not.
"""

import re
import xml.sax.saxutils
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlencode

import aiohttp
from aiohttp import web

__all__ = ["Ec2Front"]

_NAMESPACE: Final = "http://ec2.amazonaws.com/doc/2016-11-15/"


@dataclass
class Ec2Front:
    """A server on loopback.

    Args:
        moto_url: Where moto is.
    """

    moto_url: str
    #: Why none are given, as (code, message) pairs.
    refusals: list[tuple[str, str]] = field(default_factory=list)
    #: At most so many are given by one call, with the refusals beside them; None for all.
    most: int | None = None
    #: So many calls from now on are told that they are too many.
    throttled: int = 0
    #: What all calls are answered with instead, as (status, body).
    broken: tuple[int, str] | None = None
    #: Whether EC2 does not know yet whom it is to end.
    knows_late: bool = False
    #: So many after each answer of `CreateFleet`.
    throttled_after_fleets: int = 0
    #: So many answers of `CreateFleet` from now on get lost on their way back.
    lost: int = 0
    #: Spot request → its status.
    marked: dict[str, str] = field(default_factory=dict)
    #: Spot prices that are told instead of moto's, by page: (type, zone, dollars, minutes ago).
    spot_prices: list[list[tuple[str, str, str, int]]] = field(default_factory=list)
    #: Whether nobody may ask for them.
    refuses_prices: bool = False
    #: What the last call for them asked.
    asked_prices: dict[str, str] = field(default_factory=dict)
    #: Whether lists leave out everything, as EC2's may for some seconds.
    lists_late: bool = False
    #: Names of the calls that came.
    calls: list[str] = field(default_factory=list)
    _answers: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://127.0.0.1:{1}".format(*self._runner.addresses[0])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        action = form.get("Action", "")
        if not action:  # another service
            return await self._pass_on(request, body)
        self.calls.append(action)
        if self.throttled:
            self.throttled -= 1
            return _error(503, "RequestLimitExceeded", "Request limit exceeded.")
        if self.broken:
            return _xml(*self.broken)
        if action == "TerminateInstances" and self.knows_late:
            told = f"The instance ID '{form['InstanceId.1']}' does not exist"
            return _error(400, "InvalidInstanceID.NotFound", told)
        if action == "DescribeSpotPriceHistory" and self.refuses_prices:
            return _error(403, "UnauthorizedOperation", "You are not authorized.")
        if action == "DescribeSpotPriceHistory" and self.spot_prices:
            return self._spot_prices(form)
        if action == "CreateFleet":
            return await self._create_fleet(request, form)
        if action == "DescribeInstances" and self.lists_late:
            none = "<reservationSet/>"
            return _xml(200, f'<{action}Response xmlns="{_NAMESPACE}">{none}</{action}Response>')
        answer = await self._pass_on(request, body)
        if action == "DescribeSpotInstanceRequests" and self.marked:
            return self._marked(answer)
        return answer

    async def _create_fleet(
        self, request: web.Request, form: Mapping[str, str]
    ) -> web.StreamResponse:
        token = form["ClientToken"]
        same = urlencode(sorted((k, v) for k, v in form.items() if k != "ClientToken"))
        if token not in self._answers:
            given = await self._given(request, form)
            if isinstance(given, web.Response):
                return given
            self._answers[token] = (same, given)
        asked, answer = self._answers[token]
        if asked != same:
            return _error(400, "IdempotentParameterMismatch", "Arguments differ from the first.")
        self.throttled += self.throttled_after_fleets
        if self.lost:
            self.lost -= 1
            if request.transport is not None:
                request.transport.close()
        return _xml(200, answer.decode())

    async def _given(self, request: web.Request, form: Mapping[str, str]) -> bytes | web.Response:
        """Return what is given, or moto's error."""
        wanted = int(form["TargetCapacitySpecification.TotalTargetCapacity"])
        n = min(wanted, self.most if self.most is not None else 0 if self.refusals else wanted)
        errors = "".join(
            f"<item><lifecycle>on-demand</lifecycle><errorCode>{code}</errorCode>"
            f"<errorMessage>{xml.sax.saxutils.escape(message)}</errorMessage></item>"
            for code, message in self.refusals
        )
        told = f"<errorSet>{errors}</errorSet>"
        if n == 0:
            whole = "<fleetId>fleet-0</fleetId><fleetInstanceSet/>" + told
            response = f'<CreateFleetResponse xmlns="{_NAMESPACE}">{whole}</CreateFleetResponse>'
            return response.encode()
        asked = dict(form) | {"TargetCapacitySpecification.TotalTargetCapacity": str(n)}
        answer = await self._pass_on(request, urlencode(asked).encode())
        assert isinstance(answer.body, bytes)
        if answer.status != 200:
            return answer
        return answer.body.replace(
            b"</CreateFleetResponse>", told.encode() + b"</CreateFleetResponse>"
        )

    def _spot_prices(self, form: Mapping[str, str]) -> web.Response:
        self.asked_prices = dict(form)
        page = int(form.get("NextToken") or 0)
        rows = "".join(
            f"<item><instanceType>{kind}</instanceType><availabilityZone>{zone}</availabilityZone>"
            f"<productDescription>Linux/UNIX</productDescription><spotPrice>{price}</spotPrice>"
            f"<timestamp>{datetime.now(UTC) - timedelta(minutes=ago):%Y-%m-%dT%H:%M:%S.000Z}"
            "</timestamp></item>"
            for kind, zone, price, ago in self.spot_prices[page]
        )
        more = str(page + 1) if page + 1 < len(self.spot_prices) else ""
        told = f"<spotPriceHistorySet>{rows}</spotPriceHistorySet><nextToken>{more}</nextToken>"
        name = "DescribeSpotPriceHistoryResponse"
        return _xml(200, f'<{name} xmlns="{_NAMESPACE}">{told}</{name}>')

    def _marked(self, answer: web.Response) -> web.Response:
        assert isinstance(answer.body, bytes)
        text = answer.body.decode()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        for request_id, code in self.marked.items():
            found = f"<code>{code}</code><updateTime>{now}</updateTime><message>{code}</message>"
            named = f"<spotInstanceRequestId>{request_id}</spotInstanceRequestId>"
            text = re.sub(
                rf"({named}.*?<status>).*?(</status>)", rf"\g<1>{found}\g<2>", text, flags=re.DOTALL
            )
        return _xml(answer.status, text)

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        kept = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", "content-length", "expect")
        }
        async with self._session.request(
            request.method, self.moto_url + request.path_qs, data=body, headers=kept
        ) as told:
            answer: dict[str, Any] = {"body": await told.read(), "status": told.status}
            kind = told.headers.get("Content-Type", "text/xml")
            return web.Response(**answer, headers={"Content-Type": kind})


def _xml(status: int, text: str) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/xml")


def _error(status: int, code: str, message: str) -> web.Response:
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    whole = f"<Response><Errors>{error}</Errors><RequestID>0</RequestID></Response>"
    return _xml(status, whole)
