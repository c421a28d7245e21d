"""Request and response bodies of webhooks. OpenAPI's schemas are made from these types."""

from typing import Annotated

import msgspec
from msgspec import Meta

from swell.core.clock import Moment
from swell.core.outbox import DeliveryState
from swell.server.common_schemas import (
    MAX_DEADLINE_S,
    PLAIN,
    HookEvents,
    HookFormat,
    HookUrl,
    _ends,
    doc,
)

#: A model, or all of an owner.
MODEL_OR_OWNER = r"^[A-Za-z0-9][A-Za-z0-9_.-]*/(\*|[A-Za-z0-9][A-Za-z0-9_.-]*)$"


class EndpointRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a standing webhook."""

    url: HookUrl
    events: HookEvents = msgspec.field(default_factory=_ends)
    models: Annotated[
        list[Annotated[str, Meta(min_length=3, max_length=200, pattern=MODEL_OR_OWNER)]],
        doc("`owner/name` or `owner/*`; empty for all models", max_length=50),
    ] = []
    description: Annotated[str, doc("description for people", max_length=200, pattern=PLAIN)] = ""
    all_keys: Annotated[bool, doc("send events of all keys; needs an admin key")] = False
    format: HookFormat = "native"


class EndpointFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a standing webhook that are both stored and shown."""

    id: str
    key_id: str
    url: str
    events: tuple[str, ...]
    models: tuple[str, ...]
    description: str
    all_keys: bool
    format: str
    state: Annotated[str, doc("active, paused or disabled")]
    reason: Annotated[str, doc("reason, if not active")]
    changed_at: Moment
    created_at: Moment


class EndpointView(EndpointFields, frozen=True, kw_only=True):
    """A standing webhook."""

    secret: Annotated[
        str | msgspec.UnsetType, doc("signing secret; present on creation, rotation and request")
    ] = msgspec.UNSET


class EndpointList(msgspec.Struct, frozen=True, kw_only=True):
    """Standing webhooks, oldest first."""

    webhooks: list[EndpointView]


class HookSecretView(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that signs webhooks."""

    key: Annotated[str, doc("`whsec_` and base64")]
    created_at: Moment
    old_until: Annotated[Moment | None, doc("end of the overlap with the previous secret")]


class HookRotateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The overlap with the previous secret."""

    overlap_s: Annotated[
        float, doc("seconds during which both secrets sign", ge=0, le=MAX_DEADLINE_S)
    ] = 86400.0


class HookReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The deliveries to replay."""

    since: Annotated[Moment, doc("replay deliveries of events since this time")]


class HookReplayView(msgspec.Struct, frozen=True, kw_only=True):
    """The number of replayed deliveries."""

    replayed: int


class DeliveryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which deliveries to list."""

    task: Annotated[str, doc("of this task", max_length=64)] | None = None
    endpoint: Annotated[str, doc("to this webhook", max_length=64)] | None = None
    state: Annotated[DeliveryState | None, doc("waiting, delivered, failed or skipped")] = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: Annotated[str, Meta(max_length=64)] | None = None


class TryView(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to deliver."""

    at: Moment
    took_s: float
    status: int | None
    error: Annotated[
        str,
        doc(
            "`timeout`, `connection`, `refused_url`, `redirect`, `gone`, `status`, "
            "`unsendable` or `internal`; empty on success"
        ),
    ]
    detail: str
    answer: Annotated[str, doc("first bytes of the answer")]


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one receiver."""

    id: Annotated[str, doc("the `webhook-id`")]
    task: str
    endpoint: Annotated[str | None, doc("null for the task's own URL")]
    event: str
    at: Annotated[Moment, doc("time of the event")]
    state: Annotated[str, doc("waiting, delivered, failed or skipped")]
    reason: str
    tries: Annotated[int, doc("attempts since it was first due or last replayed")]
    due_at: Annotated[Moment | None, doc("time of the next attempt")]
    ended_at: Moment | None
    attempts: list[TryView]


class DeliveryList(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries, newest first; `cursor` gets the next page and is null at the end."""

    deliveries: list[DeliveryView]
    cursor: str | None
