"""JSON calls over HTTPS, for clouds with large client libraries and few calls."""

import json
import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from swell.core.errors import Unavailable

#: Timeout of an answer, in seconds. Some clouds hold a call for two minutes.
_ANSWER_S: Final = 150.0
_CONNECT_S: Final = 10.0


class Answer(msgspec.Struct, frozen=True):
    """Answer of an API."""

    status: int
    headers: Mapping[str, str]
    #: The parsed JSON, or the text if it is not JSON; empty if there is no body.
    body: Any

    @property
    def is_ok(self) -> bool:
        """Whether the status is below 300."""
        return self.status < 300


class Rest:
    """Client of one API.

    Args:
        what: Name of the API in errors.
        tls: Certificate checks and client certificate; None for the system's defaults.
        may_use_proxy: Whether to use the environment's proxies; False for addresses on this
            machine.
    """

    def __init__(
        self, what: str, *, tls: ssl.SSLContext | None = None, may_use_proxy: bool = True
    ) -> None:
        self._what = what
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._may_use_proxy = may_use_proxy
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def call(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        form: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make a call, and return its answer with any status.

        Raises:
            Unavailable: No answer arrived, or a successful answer is not JSON, such as a proxy's
                page.
        """
        if self._is_closed:
            raise Unavailable(f"the connection to {self._what} is closed")
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_ANSWER_S, sock_connect=_CONNECT_S)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=self._may_use_proxy)
        try:
            async with self._session.request(
                method,
                url,
                json=body,
                data=form,
                params=query,
                headers=headers,
                ssl=self._tls,
                allow_redirects=False,
            ) as told:
                text = await told.text(errors="replace")
                answer = Answer(told.status, dict(told.headers), _decoded(text))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{self._what} cannot be reached: {error or 'no answer'}") from error
        if answer.is_ok and not isinstance(answer.body, dict):
            raise Unavailable(f"what answers for {self._what} does not speak as that does")
        return answer

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None


def retry_after(answer: Answer, default_s: float = 10.0) -> dict[str, str]:
    """Return the Retry-After header of an answer, or the default."""
    told = next((v for k, v in answer.headers.items() if k.lower() == "retry-after"), "")
    return {"Retry-After": told if told.isdecimal() else str(int(default_s))}


def _decoded(text: str) -> Any:
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except ValueError:
        return text
