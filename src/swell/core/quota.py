"""Quotas by day and month, and prepaid credits, of keys and their users. Pure.

An account is a key, or one user of it. `enter` reserves quota when a task is accepted: it counts
the task, and holds its samples and its expected cost. `close` settles the reservation when the task
has ended: the samples made and the actual cost count instead, in the day and month of acceptance. A
task that did not succeed costs nothing and returns its samples, but counts as a task. The
reservation of a task that was never accepted is undone.

Stores load the rows of accounts (`Sheet`), call `enter` or `close`, and write them back in one
transaction, so concurrent backends never grant more than there is.

    left of a limit   = limit - spent - held
    left of credits   = granted - spent - held     (below 0 if tasks cost more than was held)
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from swell.core.clock import Moment

#: Each user of a key without a quota for that user.
ANY_USER: Final = "*"

#: Units of limits; `micros` are millionths of a dollar.
UNITS: Final = ("tasks", "samples", "micros")

#: An account: key id, and "" for the key itself, `ANY_USER`, or `=` and the name of a user.
Place = tuple[str, str]


Amount = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Micros = Annotated[Amount | None, Meta(description="cost, in millionths of a dollar")]


class Quota(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limits of a key, or of a user of it; None for no limit. Days and months are UTC."""

    key_id: str
    #: None for the key itself, `ANY_USER` for each of its users.
    user: str | None = None
    tasks_per_day: Amount | None = None
    tasks_per_month: Amount | None = None
    samples_per_day: Annotated[Amount | None, Meta(description="pictures")] = None
    samples_per_month: Annotated[Amount | None, Meta(description="pictures")] = None
    micros_per_day: Micros = None
    micros_per_month: Micros = None
    is_prepaid: Annotated[bool, Meta(description="refuse tasks that the credits do not cover")] = (
        False
    )

    def limits(self, at: datetime) -> list[tuple[str, str, int]]:
        """Return (period, unit, limit) of each limit, at a moment."""
        limits = [
            (period, unit, getattr(self, f"{unit}_per_{period_name(period)}"))
            for unit in UNITS
            for period in (day_of(at), month_of(at))
        ]
        return [each for each in limits if each[2] is not None]


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task to be accepted."""

    #: Id of the task.
    id: str
    key_id: str
    user: str | None = None
    samples: int = 1
    #: Its expected cost, in millionths of a dollar.
    micros: int = 0
    at: datetime


class Hold(Ask, frozen=True, kw_only=True, omit_defaults=True):
    """The reservation of a task that has not ended."""

    #: User part of the `Place` of each account with a quota → whether credits are held.
    users: dict[str, bool]


class Settled(msgspec.Struct, frozen=True):
    """A task that has ended.

    Args:
        id: Id of the task.
        micros: Its cost; None if it did not succeed, and costs nothing.
        samples: The samples it made; None for the number that was held.
        was_task: Whether it was accepted.
    """

    id: str
    micros: int | None = None
    samples: int | None = None
    was_task: bool = True


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """A grant of credits, or their removal."""

    #: Chosen by the operator; the same id is granted once.
    id: str
    key_id: str
    #: None for the key itself.
    user: str | None = None
    #: Millionths of a dollar; negative to remove.
    micros: int
    at: Moment
    note: str = ""


class Account(msgspec.Struct):
    """Credits of an account, in millionths of a dollar."""

    granted: int = 0
    spent: int = 0
    held: int = 0

    @property
    def left(self) -> int:
        """The credits that remain."""
        return self.granted - self.spent - self.held


class Use(msgspec.Struct):
    """The use of an account in a day or a month."""

    tasks: int = 0
    samples: int = 0
    micros: int = 0
    #: The expected cost of tasks that have not ended, in millionths of a dollar.
    held: int = 0

    def add(self, other: "Use") -> None:
        """Add another use."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def of(self, unit: str) -> int:
        """Return the use of a unit, with reservations."""
        return {"tasks": self.tasks, "samples": self.samples}.get(unit, self.micros + self.held)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One limit, or credits, and the remainder."""

    name: Annotated[str, Meta(description="name in the headers, such as `samples-day`")]
    user: Annotated[str | None, Meta(description="null for the key itself")]
    unit: Annotated[str, Meta(description="tasks, samples, micros or credits")]
    period: Annotated[str | None, Meta(description="day or month (UTC); null for credits")]
    limit: int
    left: int


class Verdict(msgspec.Struct, frozen=True):
    """Whether quota was reserved for tasks: for all of them or for none.

    Args:
        standings: The remainder of each limit after these tasks, or the limit that refused them.
        refused_by: The first limit that was too low.
        asked: The amount of it that the tasks need.
    """

    standings: tuple[Standing, ...] = ()
    refused_by: Standing | None = None
    asked: int = 0


class Sheet(msgspec.Struct):
    """The rows of some accounts."""

    quotas: dict[Place, Quota] = {}
    accounts: dict[Place, Account] = {}
    #: By place and period.
    uses: dict[tuple[str, str, str], Use] = {}

    def quota(self, place: Place) -> Quota | None:
        """Return the quota of an account: its own, or that of each user."""
        key_id, user = place
        own = self.quotas.get(place)
        return self.quotas.get((key_id, ANY_USER)) if own is None and user else own

    def account(self, place: Place) -> Account:
        """Return the credits of an account."""
        return self.accounts.get(place, Account())

    def use(self, place: Place, period: str) -> Use:
        """Return the use of an account in a period."""
        return self.uses.get((*place, period), Use())

    def add(self, place: Place, at: datetime, use: Use, *, is_prepaid: bool) -> None:
        """Add to the use of an account in the day and the month of a moment, and to its credits."""
        for period in (day_of(at), month_of(at)):
            self.uses.setdefault((*place, period), Use()).add(use)
        if is_prepaid:
            account = self.accounts.setdefault(place, Account())
            account.spent += use.micros
            account.held += use.held

    def standings(self, place: Place, at: datetime) -> list[Standing]:
        """Return the remainder of each limit of an account, and of its credits."""
        quota, user = self.quota(place), user_at(place)
        if quota is None:
            return []
        found = [
            _standing(user, unit, period, limit, limit - self.use(place, period).of(unit))
            for period, unit, limit in quota.limits(at)
        ]
        if quota.is_prepaid:
            account = self.account(place)
            found.append(_standing(user, "credits", None, account.granted, account.left))
        return found


def _standing(user: str | None, unit: str, period: str | None, limit: int, left: int) -> Standing:
    name = f"{unit}-{period_name(period)}" if period else unit
    name = name if user is None else f"user-{name}"
    return Standing(name=name, user=user, unit=unit, period=period, limit=limit, left=left)


def place_of(key_id: str, user: str | None) -> Place:
    """Return the account of a key, or of a user of it."""
    if not user:
        return key_id, ""
    return key_id, user if user == ANY_USER else f"={user}"


def places_of(key_id: str, user: str | None) -> list[Place]:
    """Return the accounts that a task counts for: its key's, and its user's."""
    return [(key_id, ""), (key_id, f"={user}")] if user else [(key_id, "")]


def user_at(place: Place) -> str | None:
    """Return the user of an account; None for a key's own."""
    return place[1].removeprefix("=") or None


def day_of(at: datetime) -> str:
    """Return the day of a moment (UTC), such as `2026-11-26`."""
    return at.astimezone(UTC).strftime("%Y-%m-%d")


def month_of(at: datetime) -> str:
    """Return the month of a moment (UTC), such as `2026-11`."""
    return at.astimezone(UTC).strftime("%Y-%m")


def period_name(period: str) -> str:
    """Return `day` or `month`."""
    return "month" if len(period) == 7 else "day"


def resets_at(period: str) -> datetime:
    """Return the end of a day or a month."""
    if len(period) > 7:
        return datetime.fromisoformat(period).replace(tzinfo=UTC) + timedelta(days=1)
    year, month = map(int, period.split("-"))
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def enter(sheet: Sheet, asks: Sequence[Ask]) -> tuple[Verdict, list[Hold]]:
    """Reserve quota for tasks, all or none; return the remainder and the reservations.

    Args:
        sheet: The rows of the tasks' accounts; changed.
        asks: The tasks.
    """
    wanted, at = _wanted(asks), asks[0].at
    for place, use in wanted.items():
        for each in sheet.standings(place, at):
            asked = use.of(each.unit)
            # Even a task of unknown cost needs some money.
            is_spent = each.unit in ("credits", "micros") and each.left <= 0
            if asked > each.left or is_spent:
                return Verdict((each,), each, asked), []
    holds = []
    for ask in asks:
        users = {}
        for place in places_of(ask.key_id, ask.user):
            quota = sheet.quota(place)
            if quota is not None:
                users[place[1]] = quota.is_prepaid
                sheet.add(place, ask.at, _use_of(ask), is_prepaid=quota.is_prepaid)
        if users:
            holds.append(Hold(**asdict(ask), users=users))
    left = [each for place in wanted for each in sheet.standings(place, at)]
    return Verdict(tuple(left)), holds


def close(sheet: Sheet, hold: Hold, settled: Settled) -> None:
    """Settle the reservation of a task that has ended.

    Args:
        sheet: The rows of the task's accounts; changed.
        hold: The reservation.
        settled: The result and its cost.
    """
    tasks = 0 if settled.was_task else -1
    use = Use(tasks=tasks, samples=-hold.samples, held=-hold.micros)
    if settled.micros is not None:
        use.micros = settled.micros
        use.samples += hold.samples if settled.samples is None else settled.samples
    for user, is_prepaid in hold.users.items():
        sheet.add((hold.key_id, user), hold.at, use, is_prepaid=is_prepaid)


def _use_of(ask: Ask) -> Use:
    return Use(tasks=1, samples=ask.samples, held=ask.micros)


def _wanted(asks: Iterable[Ask]) -> dict[Place, Use]:
    found: dict[Place, Use] = {}
    for ask in asks:
        for place in places_of(ask.key_id, ask.user):
            found.setdefault(place, Use()).add(_use_of(ask))
    return found
