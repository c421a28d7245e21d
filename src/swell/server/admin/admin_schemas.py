"""Request and response bodies of admin. OpenAPI's schemas are made from these types."""

from typing import Annotated

import msgspec
from msgspec import Meta

from swell.core.clock import Moment
from swell.core.records import AuditEntry, KeyLimits, Scope
from swell.server.common_schemas import MAX_DEADLINE_S, PLAIN, Cursor, doc

#: Ten years, in seconds: the longest life of a key that ends.
MAX_KEY_S = 315_360_000

#: A limit of fewer requests per second would be none that anybody could live with.
LEAST_RATE = 1e-5

_Rate = Annotated[float, doc("requests per second, 0.00001 or more; 0: no limit", ge=0, le=1e6)]

_Burst = Annotated[int, doc("requests allowed at once", ge=1, le=1_000_000)]

_InFlight = Annotated[int, doc("unfinished tasks; 0 for no limit", ge=0, le=10**9)]

_PerDay = Annotated[int, doc("tasks per day; 0 for no limit", ge=0, le=10**9)]

_Streams = Annotated[int, doc("open event streams at each process; 0 for no limit", ge=0, le=10**9)]

_Names = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=100)]


class KeyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a key. Limits default to the settings."""

    name: Annotated[str, doc("description for people", min_length=1, max_length=100, pattern=PLAIN)]
    scopes: Annotated[list[Scope], doc("client, worker or admin", min_length=1, max_length=3)] = (
        msgspec.field(default_factory=lambda: [Scope.CLIENT])
    )
    expires_in_s: Annotated[float, doc("lifetime, in seconds", gt=0, le=MAX_KEY_S)] | None = None
    pools: Annotated[_Names, doc("pools that workers with this key may join; empty for any")] = []
    models: Annotated[_Names, doc("models its workers may have, or `owner/*`; empty for any")] = []
    rate_per_s: _Rate | None = None
    burst: _Burst | None = None
    tasks_in_flight: _InFlight | None = None
    tasks_per_day: _PerDay | None = None
    streams: _Streams | None = None
    classes: Annotated[_Names, doc("classes it may use, default first; empty for any")] = []

    def __post_init__(self) -> None:
        if self.rate_per_s and self.rate_per_s < LEAST_RATE:
            raise ValueError(
                f"`rate_per_s` of {self.rate_per_s:g} is less than {LEAST_RATE:.5f}, about one "
                "request a day: give more, or 0 for no limit"
            )


class RotateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to rotate a secret."""

    overlap_s: Annotated[
        float, doc("seconds during which the previous secret works", ge=0, le=MAX_DEADLINE_S)
    ] = 86_400


class RotateSigningRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to rotate the URL signing secret."""

    revoke: Annotated[bool, doc("invalidate all URLs signed before")] = False


class SigningView(msgspec.Struct, frozen=True, kw_only=True):
    """The URL signing secrets, without their values."""

    signs_from: Annotated[Moment, doc("when the newest takes effect")]
    others_until: Annotated[Moment | None, doc("when the last older URL expires; null for at once")]


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: Moment
    revoked_at: Moment | None
    expires_at: Moment | None
    used_at: Annotated[Moment | None, doc("last use, to the minute; null if never")]
    old_until: Annotated[Moment | None, doc("end of the overlap of its last rotation")]
    pools: list[str]
    models: list[str]
    limits: KeyLimits
    classes: Annotated[list[str], doc("classes that it may use; empty for any")]


class NewKeyView(KeyView, frozen=True, kw_only=True):
    """A new key, or one with a new secret. The secret is shown only once."""

    key: str


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Keys, revoked ones included."""

    keys: list[KeyView]


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries to list."""

    cursor: Cursor = None
    limit: Annotated[int, doc("entries on a page", ge=1, le=200)] = 50


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the audit log, newest first; `cursor` gets the next page, null at the end."""

    entries: list[AuditEntry]
    cursor: str | None


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the service works."""

    status: str
    checks: dict[str, str] = {}
