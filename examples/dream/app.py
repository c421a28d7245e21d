"""The server of the app `dream`: its page, free and paid users, and Swell for both."""

from pathlib import Path
from typing import Any, Final

from front import Front, Refusal, Served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

__all__ = ["Dream", "app", "plan_of"]

#: Pictures a day for whoever has not paid.
FREE_A_DAY: Final = 10
#: What the pretended shop sells: so much credit, in millionths of a dollar.
PACK_MICROS: Final = 200_000


def app(served: Served) -> Starlette:
    """Return the server."""
    return Dream(served).app


def plan_of(limits: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a user has: his plan, credits, and pictures that are left today without any.

    Args:
        limits: Those of the answer of `GET /v1/quota?user=…`.
    """
    left = {each["name"]: each["left"] for each in limits}
    return {
        "plan": "paid" if "user-credits" in left else "free",
        "credits_micros": left.get("user-credits", 0),
        "free_left_today": left.get("user-samples-day", 0),
    }


class Dream(Front):
    """The front, with accounts: Swell keeps them, as quotas and credits of users of one key."""

    def __init__(self, served: Served) -> None:
        page = Path(__file__).with_name("page")
        routes = (Route("/account", self._account), Route("/buy", self._buy, methods=["POST"]))
        super().__init__(served, page, ("dream/wallpaper",), routes)

    async def opened(self) -> None:
        """Say what users may do who have not paid."""
        await self._operate("PUT", "/v1/quotas", user="*", samples_per_day=FREE_A_DAY)

    async def told(self, request: Request) -> dict[str, Any]:
        """Return the task with the class of its user: who has paid goes first."""
        account = await self._account_of(request.state.user)
        if account["plan"] == "paid" and account["credits_micros"] <= 0:
            await self._end_paid(request.state.user)
            account = {"plan": "free"}
        return await super().told(request) | {"class": account["plan"]}

    async def _account(self, request: Request) -> Response:
        return JSONResponse(await self._account_of(request.state.user))

    async def _account_of(self, user: str) -> dict[str, Any]:
        status, told = await self.ask("GET", "/v1/quota", params={"user": user})
        if status != 200:
            raise Refusal(503, "accounts cannot be read now: try again in a moment")
        return plan_of(told["limits"])

    async def _buy(self, request: Request) -> Response:
        """Sell a pack: here a shop would first hear from its payment service.

        The id is the payment's: whoever presses twice has paid once, and gets one pack.
        """
        user, said = request.state.user, await request.json()
        if not isinstance(said, dict) or not isinstance(said.get("payment"), str):
            raise Refusal(400, 'send {"payment": "…"}: the id of the payment')
        await self._operate("PUT", "/v1/quotas", user=user, is_prepaid=True)
        payment = f"{user}-{said['payment']}"[:200]
        await self._operate("POST", "/v1/credits", user=user, micros=PACK_MICROS, id=payment)
        return JSONResponse(await self._account_of(user))

    async def _end_paid(self, user: str) -> None:
        """Let a user draw for free again, with the quota of all who have not paid."""
        query = {"key_id": self.served.key_id, "user": user}
        await self.ask("DELETE", "/v1/quotas", is_admin=True, params=query)

    async def _operate(self, method: str, path: str, **body: Any) -> None:
        body = {"key_id": self.served.key_id, **body}
        status, said = await self.ask(method, path, is_admin=True, json=body)
        if status >= 400:
            raise RuntimeError(f"{method} {path} answers {status}: {said}")
