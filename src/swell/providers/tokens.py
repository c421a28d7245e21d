"""Tokens for a cloud's API: kept until they are about to end, or are refused."""

import asyncio
from collections.abc import Mapping
from typing import Any

from swell.core.clock import Clock
from swell.core.errors import InvalidInput, Unavailable
from swell.core.redact import hide_secrets
from swell.providers.rest import Answer, Rest


class CloudTokens:
    """Gives a token that is good for some minutes more. Each cloud asks for it in its own way.

    Args:
        cloud: What it is called in errors.
        clock: The time.
        early_s: How long before its end a token is replaced, in seconds.
        may_use_proxy: Whether the environment's proxies are used; never for what is on the machine.
        calls: Calls of the API at the same time.
    """

    def __init__(
        self, cloud: str, clock: Clock, *, early_s: float, may_use_proxy: bool, calls: int = 8
    ) -> None:
        self._cloud = cloud
        self._clock = clock
        self._early_s = early_s
        self._rest = Rest(f"{cloud}'s tokens", may_use_proxy=may_use_proxy)
        self._asking = asyncio.Lock()
        self._calls = asyncio.Semaphore(calls)
        self._token = ""
        self._until_s = float("-inf")

    async def headers(self) -> dict[str, str]:
        """Return what each call says of who we are.

        Raises:
            Unavailable: No token is to be had now.
            InvalidInput: The cloud does not take who we say we are.
        """
        async with self._asking:
            if self._clock.monotonic_s() >= self._until_s:
                await self._renew()
        return {"Authorization": f"Bearer {self._token}"}

    async def call(
        self,
        api: Rest,
        method: str,
        url: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make a call, once more with another token where the first was refused.

        Raises:
            Unavailable, InvalidInput: See `headers`; or no answer came.
        """
        for _ in range(2):
            async with self._calls:
                headers = await self.headers()
                answer = await api.call(method, url, body, query=query, headers=headers)
            if answer.status != 401:
                break
            self._until_s = float("-inf")
        return answer

    async def close(self) -> None:
        """Let go of connections."""
        await self._rest.close()

    async def _renew(self) -> None:
        said = await self._asked()
        if said.status in (400, 401, 403):
            raise InvalidInput(self._not_taken(said))
        try:
            if not said.is_ok:
                raise ValueError
            self._token = said.body["access_token"]
            # A number in some answers, and its text in others.
            left_s = float(said.body["expires_in"])
        except (KeyError, TypeError, ValueError):
            told = hide_secrets(f"{said.status} {said.body}")[:500]
            raise Unavailable(f"{self._cloud} gives no token: {told}") from None
        self._until_s = self._clock.monotonic_s() + left_s - self._early_s

    async def _asked(self) -> Answer:
        """Ask for a token, and return the answer."""
        raise NotImplementedError

    def _not_taken(self, said: Answer) -> str:
        """Return what to tell where the cloud does not take who we say we are."""
        raise NotImplementedError
