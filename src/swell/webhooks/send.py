"""One attempt to deliver, over HTTP: nothing is followed, little is read, and only so long."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import aiohttp
import msgspec

from swell.addresses.outbound import Outbound
from swell.addresses.urls import RefusedUrl
from swell.clock import Clock
from swell.errors import SwellError
from swell.outbox import SNIPPET_CHARS
from swell.webhooks.schedule import Answer
from swell.webhooks.signing import signature_headers

#: What is read of an answer, in bytes, and for how long, in seconds: it only tells people more.
_READ_BYTES: Final = 2 * SNIPPET_CHARS
_READ_S: Final = 1.0

#: Longest text of an error that is kept.
_MAX_DETAIL: Final = 300


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent, and to where."""

    url: str
    body: bytes
    #: Secrets that sign it.
    signing: Sequence[str]
    #: Besides those that every attempt has.
    headers: Mapping[str, str] = {}
    #: What it cannot quote, since it was gone by then.
    inputs_removed: bool = False
    outputs_removed: bool = False


class Sender(Protocol):
    """Makes one attempt."""

    async def send(self, letter: Letter, message_id: str) -> Answer:
        """Return what came of it. Raises nothing that the receiver could cause."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class HttpSender:
    """Sends to whatever `Outbound` may connect to.

    Args:
        outbound: Whose limit of time is that of one attempt.
        clock: The time.
        release: Of Swell, told to the receiver.
    """

    def __init__(self, outbound: Outbound, clock: Clock, release: str) -> None:
        self._outbound = outbound
        self._clock = clock
        self._calls_itself = f"Swell/{release} (webhooks)"

    async def send(self, letter: Letter, message_id: str) -> Answer:
        at, begun_s = self._clock.now(), self._clock.monotonic_s()
        status: int | None = None
        retry_after, text, error, detail = None, "", "", ""
        headers = {"content-type": "application/json", "user-agent": self._calls_itself}
        headers |= letter.headers
        headers |= signature_headers(letter.signing, message_id, int(at.timestamp()), letter.body)
        try:
            async with self._outbound.post(letter.url, letter.body, headers) as answer:
                status, retry_after = answer.status, answer.headers.get("retry-after")
                text = await _beginning(answer)
        except TimeoutError:
            error, detail = "timeout", "it did not answer in time"
        except RefusedUrl as refused:
            error, detail = "refused_url", refused.detail
        except SwellError as refused:
            error, detail = refused.code, refused.detail
        except aiohttp.ClientResponseError:
            # Its words quote the answer, and they outlive the data that an answer may quote.
            error, detail = "connection", "the response is not HTTP"
        except (aiohttp.ClientError, OSError, ValueError) as broken:
            error, detail = "connection", _plain(f"{type(broken).__name__}: {broken}")
        if status is not None:
            error = detail = ""
        return Answer(
            at=at,
            took_s=self._clock.monotonic_s() - begun_s,
            status=status,
            retry_after=retry_after,
            text=text,
            error=error,
            detail=detail[:_MAX_DETAIL],
        )

    async def close(self) -> None:
        await self._outbound.close()


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """Return the beginning of an answer's body, as far as it comes soon."""
    found = b""
    try:
        async with asyncio.timeout(_READ_S):
            while len(found) < _READ_BYTES:
                chunk = await answer.content.read(_READ_BYTES - len(found))
                if not chunk:
                    break
                found += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass
    return _plain(found.decode("utf-8", "replace"))[:SNIPPET_CHARS]


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text).strip()
