"""The server of the app `dream`: its page, free and paid users, and Swell for both."""

from pathlib import Path
from typing import Any, Final

from front import Front, Refusal, Served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

__all__ = ["Dream", "app", "is_held", "plan_of"]

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


def is_held(account: dict[str, Any]) -> bool:
    """Whether some of a user's credits are held for tasks that have not ended, and not spent.

    Args:
        account: One of the answer of `GET /v1/credits`.
    """
    return account["held_micros"] > 0 and account["granted_micros"] > account["spent_micros"]


class Dream(Front):
    """The front, with accounts: Swell keeps them, as quotas and credits of users of one key."""

    def __init__(self, served: Served) -> None:
        page = Path(__file__).with_name("page")
        routes = (Route("/account", self._account), Route("/buy", self._buy, methods=["POST"]))
        super().__init__(served, page, ("dream/wallpaper",), routes)

    async def opened(self) -> None:
        """Say what users may do who have not paid."""
        await self._operate("PUT", "/v1/quotas", user="*", samples_per_day=FREE_A_DAY)

    async def submit(self, task: dict[str, Any]) -> tuple[int, Any]:
        """Ask for the task in the class of its user: who has paid goes first.

        Whose credits are used up draws for free again. Nothing but a refusal tells that they are:
        what is held for pictures that are being made may still be given back.
        """
        user: str = task["user"]
        plan = (await self._account_of(user))["plan"]
        said = await self._ask_as(plan, task)
        if plan == "free" or not _is_unpaid(said):
            return said
        if is_held(await self._credits_of(user)):
            raise Refusal(402, "your credits are held for your pictures: wait for one, or buy more")
        # What was held may have been given back between the refusal and the look.
        said = await self._ask_as("paid", task)
        if not _is_unpaid(said):
            return said
        await self._end_paid(user)
        return await self._ask_as("free", task)

    async def _ask_as(self, plan: str, task: dict[str, Any]) -> tuple[int, Any]:
        return await super().submit(task | {"class": plan})

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

    async def _credits_of(self, user: str) -> dict[str, Any]:
        """Return what was granted to a user who has paid, and is spent and held of that."""
        query = {"key_id": self.served.key_id, "limit": "1"}
        status, told = await self.ask("GET", "/v1/credits", is_admin=True, params=query)
        if status != 200:
            raise Refusal(503, "accounts cannot be read now: try again in a moment")
        none = {"granted_micros": 0, "spent_micros": 0, "held_micros": 0}
        return next((each for each in told["accounts"] if each["user"] == user), none)

    async def _end_paid(self, user: str) -> None:
        """Let a user draw for free again, with the quota of all who have not paid."""
        query = {"key_id": self.served.key_id, "user": user}
        await self.ask("DELETE", "/v1/quotas", is_admin=True, params=query)

    async def _operate(self, method: str, path: str, **body: Any) -> None:
        body = {"key_id": self.served.key_id, **body}
        status, said = await self.ask(method, path, is_admin=True, json=body)
        if status >= 400:
            raise RuntimeError(f"{method} {path} answers {status}: {said}")


def _is_unpaid(said: tuple[int, Any]) -> bool:
    """Whether Swell has refused a task since credits do not cover it."""
    status, told = said
    return status == 402 and told["code"] == "credits_used_up"
