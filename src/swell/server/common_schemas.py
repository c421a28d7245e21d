"""Request and response bodies of several features. OpenAPI's schemas come from these types."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta


def doc(text: str, **bounds: Any) -> Meta:
    """Return the description of a field, and the bounds of its value."""
    return Meta(description=text, **bounds)


#: Thirty days, in seconds: the longest deadline.
MAX_DEADLINE_S = 2_592_000

#: Texts without control characters: these forge lines, steer terminals, or end texts early.
PLAIN = r"^(?![\s\S]*[\x00-\x1f\x7f-\x9f])"

#: Longest URL of a webhook, in characters.
MAX_HOOK_URL = 2048

#: Largest metadata of a task.
MAX_METADATA_BYTES = 16 * 1024

#: The place in a listing.
Cursor = Annotated[str, Meta(max_length=200, description="`cursor` of the previous page")] | None

HookUrl = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_HOOK_URL,
        description="http or https, on a public host, without user name and password",
    ),
]

#: Events of a task; as `swell.core.webhook.EVENTS`.
HookEvent = Literal[
    "started",
    "progress",
    "preview",
    "artifact",
    "succeeded",
    "failed",
    "canceled",
    "expired",
]

HookEvents = Annotated[
    list[HookEvent], doc("events to send; the four ends by default", min_length=1, max_length=8)
]

HookFormat = Annotated[
    str, doc("format of the body: `native`, or the name of a compatible API", max_length=40)
]


def _ends() -> list[HookEvent]:
    return ["succeeded", "failed", "canceled", "expired"]


class NoQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A path without query parameters."""
