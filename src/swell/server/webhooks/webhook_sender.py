"""One attempt to deliver over HTTP: without redirects, and with a limit on time and bytes."""

import asyncio
from collections.abc import Mapping, Sequence
from importlib.metadata import version as version_of
from typing import Final

import aiohttp
import msgspec

from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.outbox import SNIPPET_CHARS, Try
from swell.net.safe_http import Outbound
from swell.net.url_policy import RefusedUrl
from swell.server.webhooks.webhook_signing import signature_headers

#: How much of an answer is read, in bytes and seconds: it is for humans only.
_READ_BYTES: Final = 2 * SNIPPET_CHARS
_READ_S: Final = 1.0

#: The longest error text.
_MAX_DETAIL: Final = 300

_USER_AGENT: Final = f"Swell/{version_of('swell')} (webhooks)"


class HookRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to send."""

    url: str
    body: bytes
    #: Secrets for the signature.
    signing: Sequence[str]
    #: Additional headers.
    headers: Mapping[str, str] = {}
    #: Whether data of the task had been removed, so that the request cannot have it.
    inputs_removed: bool = False
    outputs_removed: bool = False


class Answer(Try, frozen=True, kw_only=True):
    """The answer to an attempt, or why there was none."""

    retry_after: str | None = None
    #: The beginning of the body.
    text: str = ""


async def send(outbound: Outbound, clock: Clock, request: HookRequest, message_id: str) -> Answer:
    """Return the answer, or why there was none. Raises nothing that a receiver can cause.

    Args:
        outbound: Limits the time and the addresses of an attempt.
        clock: The time.
        request: The request.
        message_id: The same in every attempt.
    """
    at, begun_s = clock.now(), clock.monotonic_s()
    status: int | None = None
    retry_after, text, error, detail = None, "", "", ""
    headers = {"content-type": "application/json", "user-agent": _USER_AGENT}
    headers |= request.headers
    headers |= signature_headers(request.signing, message_id, int(at.timestamp()), request.body)
    try:
        async with outbound.post(request.url, request.body, headers) as answer:
            status, retry_after = answer.status, answer.headers.get("retry-after")
            text = await _beginning(answer)
    except TimeoutError:
        error, detail = "timeout", "it did not answer in time"
    except RefusedUrl as refused:
        error, detail = "refused_url", refused.detail
    except SwellError as refused:
        error, detail = refused.code, refused.detail
    except aiohttp.ClientResponseError:
        # Its text quotes the answer, which may have data of the task.
        error, detail = "connection", "the response is not HTTP"
    except (aiohttp.ClientError, OSError, ValueError) as broken:
        error, detail = "connection", _plain(f"{type(broken).__name__}: {broken}")
    if status is not None:
        error = detail = ""
    return Answer(
        at=at,
        took_s=clock.monotonic_s() - begun_s,
        status=status,
        retry_after=retry_after,
        text=text,
        error=error,
        detail=detail[:_MAX_DETAIL],
    )


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """Return the beginning of an answer's body, as far as it arrives soon."""
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
