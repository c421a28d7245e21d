"""Request and response bodies of billing. OpenAPI's schemas are made from these types."""

from datetime import date
from typing import Annotated

import msgspec
from msgspec import Meta

from swell.core.billing.cost_breakdown import By
from swell.core.clock import Moment
from swell.core.quota import Credit, Quota, Standing
from swell.server.common_schemas import PLAIN, doc


class CostsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which costs to tell."""

    since: Annotated[date | None, doc("first day (UTC); 30 days in all by default")] = (
        msgspec.field(name="from", default=None)
    )
    until: Annotated[date | None, doc("last day, included; today by default")] = msgspec.field(
        name="to", default=None
    )
    by: Annotated[By, doc("grouping")] = "model"
    limit: Annotated[
        int, doc("number of rows, highest cost first; `others` is the rest", ge=1, le=1000)
    ] = 100


class CostKinds(msgspec.Struct, frozen=True, kw_only=True):
    """Worker seconds by use."""

    attempts: Annotated[float, doc("successful attempts")]
    failed: Annotated[float, doc("failed attempts")]
    idle: Annotated[float, doc("idle time")]
    cold: Annotated[float, doc("cold starts")]
    wasted: Annotated[float, doc("restarts, model switches, lost contact, minimum billing")]
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

    name: Annotated[str | None, doc("model, user, key id, pool or day; null for unassigned costs")]
    attempts: int
    images: Annotated[int, doc("successful samples")]
    seconds: CostKinds
    micros: Annotated[CostMicros | None, doc("null if no pool has a price")]
    image_micros: Annotated[float | None, doc("cost of an image, from successful attempts only")]
    loaded_image_micros: Annotated[float | None, doc("the same with all other costs included")]
    api_micros: Annotated[int | None, doc("cost of as many images at `costs.api_image_micros`")]


class CostsList(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of some days."""

    since: date = msgspec.field(name="from")
    until: date = msgspec.field(name="to")
    by: str
    api_image_micros: Annotated[
        int | None, doc("price of an image elsewhere, as set by the operator")
    ]
    costs: list[CostView]
    others: Annotated[CostView | None, doc("sum of the rows beyond `limit`; null if none")]
    total: CostView


class LedgerQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries of the ledger to list."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Annotated[int, doc("`cursor` of the previous page", ge=1, le=2**53 - 1)] | None = None


class LedgerEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the ledger."""

    id: str
    at: Moment
    kind: Annotated[str, doc("cold_start, attempt, failed, idle or wasted")]
    pool: str
    models: list[str]
    worker_id: str | None
    ref: Annotated[str, doc("its startup or attempt")]
    outcome: Annotated[str, doc("how that ended; `paid` for payments to remote services")]
    seconds: float
    cost_micros: Annotated[int | None, doc("millionths of a dollar; null if the pool has no price")]
    key_id: Annotated[str | None, doc("key of the attempts")]
    user: str | None
    attempts: int
    images: int


class LedgerList(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the ledger, latest first."""

    entries: list[LedgerEntryView]
    cursor: int | None


_KeyId = Annotated[str, doc("of the key", min_length=1, max_length=200)]

_Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)]


class QuotaRequest(Quota, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a key, or a user of it, may use; null for any amount. Replaces the quota so far.

    Days and months are those of UTC.
    """

    key_id: _KeyId
    user: Annotated[
        _Name | None, doc("null for the key itself; `*` for every user without a quota")
    ] = None


class QuotaQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A quota to name."""

    key_id: _KeyId
    user: Annotated[str, doc("of the quota", max_length=200)] | None = None


class OwnQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits to show."""

    user: Annotated[str, doc("also show this user's limits", max_length=200)] | None = None


class AllowanceView(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's limits; empty if there are none."""

    limits: list[Standing]


class QuotaView(Quota, frozen=True, kw_only=True, omit_defaults=False):
    """A quota and its remainder."""

    left: Annotated[list[Standing], doc("empty if `user` is `*`")]


class QuotaList(msgspec.Struct, frozen=True, kw_only=True):
    """Quotas, by key and user."""

    quotas: list[QuotaView]


class CreditRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A grant of credits."""

    key_id: _KeyId
    user: Annotated[_Name | None, doc("null for the key itself")] = None
    micros: Annotated[
        int, doc("millionths of a dollar; negative to remove", ge=-(2**53 - 1), le=2**53 - 1)
    ]
    id: Annotated[_Name, doc("such as a payment id; the same id is granted once")] | None = None
    note: Annotated[str, doc("description for people", max_length=500, pattern=PLAIN)] = ""


class CreditsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accounts to list."""

    key_id: Annotated[str, doc("only this key", max_length=200)] | None = None
    limit: Annotated[int, doc("number of grants, newest first", ge=1, le=500)] = 50


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """Credits of a key or a user, in millionths of a dollar."""

    key_id: str
    user: str | None
    granted_micros: int
    spent_micros: int
    held_micros: Annotated[int, doc("held for unfinished tasks")]
    left_micros: Annotated[int, doc("negative if tasks cost more than was held")]


class CreditsList(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts by key and user, and grants, newest first."""

    accounts: list[AccountView]
    entries: list[Credit]


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """A grant and the new balance."""

    id: str
    is_new: Annotated[bool, doc("false if this id was granted before")]
    account: AccountView
