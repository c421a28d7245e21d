"""Request and response bodies of billing. OpenAPI's schemas are made from these types."""

from datetime import date
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from swell.core.quota import Quota
from swell.server.common_schemas import PLAIN, Moment


class CostsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which costs to tell."""

    since: Annotated[
        date | None, Meta(description="first day (UTC); 30 days in all by default")
    ] = msgspec.field(name="from", default=None)
    until: Annotated[date | None, Meta(description="last day, included; today by default")] = (
        msgspec.field(name="to", default=None)
    )
    by: Annotated[Literal["model", "user", "key", "pool", "day"], Meta(description="grouping")] = (
        "model"
    )
    limit: Annotated[
        int,
        Meta(ge=1, le=1000, description="number of rows, highest cost first; `others` is the rest"),
    ] = 100


class CostKinds(msgspec.Struct, frozen=True, kw_only=True):
    """Worker seconds by use."""

    attempts: Annotated[float, Meta(description="successful attempts")]
    failed: Annotated[float, Meta(description="failed attempts")]
    idle: Annotated[float, Meta(description="idle time")]
    cold: Annotated[float, Meta(description="cold starts")]
    wasted: Annotated[
        float, Meta(description="restarts, model switches, lost contact, minimum billing")
    ]
    total: float


class CostMicros(msgspec.Struct, frozen=True, kw_only=True):
    """The same in millionths of a dollar, for pools with a price."""

    attempts: int
    failed: int
    idle: int
    cold: int
    wasted: int
    total: int


class CostView(msgspec.Struct, frozen=True, kw_only=True):
    """A cost row, with its share of unassigned costs."""

    name: Annotated[
        str | None,
        Meta(description="model, user, key id, pool or day; null for unassigned costs"),
    ]
    attempts: int
    images: Annotated[int, Meta(description="successful samples")]
    seconds: CostKinds
    micros: Annotated[CostMicros | None, Meta(description="null if no pool has a price")]
    image_micros: Annotated[
        float | None, Meta(description="cost of an image, from successful attempts only")
    ]
    loaded_image_micros: Annotated[
        float | None, Meta(description="the same with all other costs included")
    ]
    api_micros: Annotated[
        int | None, Meta(description="cost of as many images at `costs.api_image_micros`")
    ]


class CostsList(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of some days."""

    since: date = msgspec.field(name="from")
    until: date = msgspec.field(name="to")
    by: str
    api_image_micros: Annotated[
        int | None, Meta(description="price of an image elsewhere, as set by the operator")
    ]
    costs: list[CostView]
    others: Annotated[
        CostView | None, Meta(description="sum of the rows beyond `limit`; null if none")
    ]
    total: CostView


class LedgerQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries of the ledger to list."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: (
        Annotated[int, Meta(ge=1, le=2**53 - 1, description="`cursor` of the previous page")] | None
    ) = None


class LedgerEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the ledger."""

    id: str
    at: Moment
    kind: Annotated[str, Meta(description="cold_start, attempt, failed, idle or wasted")]
    pool: str
    models: list[str]
    worker_id: str | None
    ref: Annotated[str, Meta(description="its startup or attempt")]
    outcome: Annotated[
        str, Meta(description="how that ended; `paid` for payments to remote services")
    ]
    seconds: float
    cost_micros: Annotated[
        int | None, Meta(description="millionths of a dollar; null if the pool has no price")
    ]
    key_id: Annotated[str | None, Meta(description="key of the attempts")]
    user: str | None
    attempts: int
    images: int


class LedgerList(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the ledger, latest first."""

    entries: list[LedgerEntryView]
    cursor: int | None


_Amount = Annotated[int, Meta(ge=0, le=2**53 - 1)]

_KeyId = Annotated[str, Meta(min_length=1, max_length=200, description="of the key")]

_User = Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)]


class QuotaRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a key, or a user of it, may use; null for any amount. Replaces the quota so far.

    Days and months are those of UTC.
    """

    key_id: _KeyId
    user: Annotated[
        _User | None,
        Meta(description="null for the key itself; `*` for every user without a quota"),
    ] = None
    tasks_per_day: _Amount | None = None
    tasks_per_month: _Amount | None = None
    samples_per_day: Annotated[_Amount | None, Meta(description="pictures")] = None
    samples_per_month: Annotated[_Amount | None, Meta(description="pictures")] = None
    micros_per_day: Annotated[
        _Amount | None, Meta(description="cost, in millionths of a dollar")
    ] = None
    micros_per_month: Annotated[
        _Amount | None, Meta(description="cost, in millionths of a dollar")
    ] = None
    is_prepaid: Annotated[bool, Meta(description="refuse tasks that the credits do not cover")] = (
        False
    )


class QuotaQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A quota to name."""

    key_id: _KeyId
    user: Annotated[str, Meta(max_length=200, description="of the quota")] | None = None


class OwnQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits to show."""

    user: (
        Annotated[str, Meta(max_length=200, description="also show this user's limits")] | None
    ) = None


class StandingView(msgspec.Struct, frozen=True, kw_only=True):
    """One limit."""

    name: Annotated[str, Meta(description="name in the headers, such as `samples-day`")]
    user: Annotated[str | None, Meta(description="null for the key itself")]
    unit: Annotated[str, Meta(description="tasks, samples, micros or credits")]
    period: Annotated[str | None, Meta(description="day or month (UTC); null for credits")]
    limit: int
    left: int


class AllowanceView(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's limits; empty if there are none."""

    limits: list[StandingView]


class QuotaView(Quota, frozen=True, kw_only=True, omit_defaults=False):
    """A quota and its remainder."""

    left: Annotated[list[StandingView], Meta(description="empty if `user` is `*`")]


class QuotaList(msgspec.Struct, frozen=True, kw_only=True):
    """Quotas, by key and user."""

    quotas: list[QuotaView]


class CreditRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A grant of credits."""

    key_id: _KeyId
    user: Annotated[_User | None, Meta(description="null for the key itself")] = None
    micros: Annotated[
        int,
        Meta(
            ge=-(2**53 - 1),
            le=2**53 - 1,
            description="millionths of a dollar; negative to remove",
        ),
    ]
    id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=200,
                pattern=PLAIN,
                description="such as a payment id; the same id is granted once",
            ),
        ]
        | None
    ) = None
    note: Annotated[
        str, Meta(max_length=500, pattern=PLAIN, description="description for people")
    ] = ""


class CreditsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accounts to list."""

    key_id: Annotated[str, Meta(max_length=200, description="only this key")] | None = None
    limit: Annotated[int, Meta(ge=1, le=500, description="number of grants, newest first")] = 50


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """Credits of a key or a user, in millionths of a dollar."""

    key_id: str
    user: str | None
    granted_micros: int
    spent_micros: int
    held_micros: Annotated[int, Meta(description="held for unfinished tasks")]
    left_micros: Annotated[int, Meta(description="negative if tasks cost more than was held")]


class CreditEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """A grant."""

    id: str
    key_id: str
    user: str | None
    micros: int
    at: Moment
    note: str


class CreditsList(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts by key and user, and grants, newest first."""

    accounts: list[AccountView]
    entries: list[CreditEntryView]


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """A grant and the new balance."""

    id: str
    is_new: Annotated[bool, Meta(description="false if this id was granted before")]
    account: AccountView
