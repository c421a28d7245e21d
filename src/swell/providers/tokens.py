"""Cached access tokens for a cloud's API."""

import asyncio
from collections.abc import Mapping
from typing import Any

from swell.core.clock import Clock
from swell.core.errors import InvalidInput, Unavailable
from swell.core.redact import hide_secrets
from swell.providers.rest import Answer, Rest


class CloudTokens:
    """Returns a token that is valid for some minutes. Each cloud has a subclass.

    Args:
        cloud: Name of the cloud in errors.
        clock: The clock.
        early_s: Time before its expiry at which a token is renewed, in seconds.
        may_use_proxy: Whether to use the environment's proxies; False for addresses on this
            machine.
        calls: Limit of concurrent API calls.
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
        """Return the authorization header of a call.

        Raises:
            Unavailable: No token is available now.
            InvalidInput: The cloud rejects the credentials.
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
        """Make a call; retry it once with a new token after status 401.

        Raises:
            Unavailable, InvalidInput: See `headers`; or no answer arrived.
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
        await self._rest.close()

    async def _renew(self) -> None:
        said = await self._asked()
        if said.status in (400, 401, 403):
            raise InvalidInput(self._not_taken(said))
        try:
            if not said.is_ok:
                raise ValueError
            self._token = said.body["access_token"]
            # Some answers have a number, others its text.
            left_s = float(said.body["expires_in"])
        except (KeyError, TypeError, ValueError):
            told = hide_secrets(f"{said.status} {said.body}")[:500]
            raise Unavailable(f"{self._cloud} gives no token: {told}") from None
        self._until_s = self._clock.monotonic_s() + left_s - self._early_s

    async def _asked(self) -> Answer:
        """Request a token, and return the answer."""
        raise NotImplementedError

    def _not_taken(self, said: Answer) -> str:
        """Return the error text for rejected credentials."""
        raise NotImplementedError
