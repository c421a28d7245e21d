"""What keys and their users may use in a day and a month, and what they have paid for. Pure.

An account is a key, or one user of it. It may have a quota (`Quota`), and credits: money that was
paid before. A task is entered when it is accepted (`enter`): it counts as a task, its samples and
what it will cost most probably are held. When it has ended (`close`) what was held goes, and what
it made and cost in truth is spent, of the day and the month in which it was accepted. A task that
did not succeed costs nothing and its samples are given back; that it was a task stays counted,
since it took work. One that was entered and never came to be leaves nothing.

Stores load the rows that are needed (`Sheet`), have them changed here, and write them back in one
transaction: so nobody gets more than there is, however many ask at once and wherever.

    left of a limit   = limit - spent - held
    left of credits   = granted - spent - held     (below 0 where tasks cost more than was held)
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

#: Stands for each user of a key that has no quota of its own.
ANY_USER: Final = "*"

#: What is limited → what it is called.
UNITS: Final = {"tasks": "tasks", "samples": "samples", "micros": "millionths of a dollar"}

#: Key id, and "" for the key itself, `ANY_USER`, or `=` and the name of a user.
Place = tuple[str, str]


class Quota(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much a key, or a user of it, may use; None for any amount.

    Days and months are those of UTC.
    """

    key_id: str
    #: None for the key itself, `ANY_USER` for each of its users.
    user: str | None = None
    tasks_per_day: int | None = None
    tasks_per_month: int | None = None
    samples_per_day: int | None = None
    samples_per_month: int | None = None
    #: Millionths of a dollar.
    micros_per_day: int | None = None
    micros_per_month: int | None = None
    #: Nothing is accepted that credits do not cover.
    is_prepaid: bool = False

    def limits(self, at: datetime) -> list[tuple[str, str, int]]:
        """Return (period, unit, limit) of each limit, at a moment."""
        found = []
        for unit in UNITS:
            for name, period in (("day", day_of(at)), ("month", month_of(at))):
                limit: int | None = getattr(self, f"{unit}_per_{name}")
                if limit is not None:
                    found.append((period, unit, limit))
        return found


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that is to be accepted."""

    #: Of the task.
    id: str
    key_id: str
    user: str | None = None
    samples: int = 1
    #: What it will cost most probably, in millionths of a dollar.
    micros: int = 0
    at: datetime


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """What is held for a task that has not ended."""

    id: str
    key_id: str
    samples: int
    micros: int
    at: datetime
    #: User → whether its credits are held, of each account that the task was entered in; as in
    #: `Place`.
    users: dict[str, bool]


class Settled(msgspec.Struct, frozen=True):
    """A task that has ended.

    Args:
        id: Of the task.
        micros: What it cost; None where it did not succeed, and costs nothing.
        samples: How many it made; None for as many as were held.
        was_task: Whether it ever was a task; else it was refused after it was entered, or there
            already.
    """

    id: str
    micros: int | None = None
    samples: int | None = None
    was_task: bool = True


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """Money that was paid before, or taken back."""

    #: Given by whoever tops up: the same is granted once.
    id: str
    key_id: str
    #: None for the key itself.
    user: str | None = None
    #: Millionths of a dollar; less than 0 to take back.
    micros: int
    at: datetime
    note: str = ""


class Account(msgspec.Struct):
    """Credits of an account, in millionths of a dollar."""

    granted: int = 0
    spent: int = 0
    held: int = 0

    @property
    def left(self) -> int:
        """What can still be used."""
        return self.granted - self.spent - self.held


class Use(msgspec.Struct):
    """What an account has used in a day or a month."""

    tasks: int = 0
    samples: int = 0
    micros: int = 0
    #: Of tasks that have not ended, in millionths of a dollar.
    held: int = 0

    def of(self, unit: str) -> int:
        """Return how much of a unit is used or held."""
        if unit == "micros":
            return self.micros + self.held
        return self.tasks if unit == "tasks" else self.samples


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of one limit, or of credits."""

    #: None for the key itself.
    user: str | None
    #: `tasks`, `samples` or `micros`; `credits` where these are what is left.
    unit: str
    #: Day or month, as in `2026-11-26` or `2026-11`; empty for credits.
    period: str = ""
    limit: int
    left: int

    @property
    def name(self) -> str:
        """Such as `tasks-day`, as headers have it."""
        whose = "" if self.user is None else "user-"
        if not self.period:
            return whose + "credits"
        return f"{whose}{self.unit}-{'month' if len(self.period) == 7 else 'day'}"


class Refusal(msgspec.Struct, frozen=True):
    """What is used up, and how much more was asked for."""

    standing: Standing
    asked: int


class Verdict(msgspec.Struct, frozen=True):
    """What became of tasks that were to be entered: all of them, or none where there is a refusal.

    Args:
        refusal: The first limit that is in the way.
        standings: What is left, after these tasks.
    """

    refusal: Refusal | None = None
    standings: tuple[Standing, ...] = ()


class Sheet:
    """The rows of some accounts, and which of them were changed."""

    def __init__(self) -> None:
        self.quotas: dict[Place, Quota] = {}
        self.accounts: dict[Place, Account] = {}
        #: Place and period.
        self.uses: dict[tuple[str, str, str], Use] = {}
        self.changed_accounts: set[Place] = set()
        self.changed_uses: set[tuple[str, str, str]] = set()

    def copy(self) -> "Sheet":
        """Return a sheet with the same rows, to try something."""
        other = Sheet()
        other.quotas = dict(self.quotas)
        other.accounts = {place: replace(each) for place, each in self.accounts.items()}
        other.uses = {period: replace(each) for period, each in self.uses.items()}
        return other

    def quota(self, key_id: str, user: str) -> Quota | None:
        """Return the quota of an account: its own, or that of each user."""
        own = self.quotas.get((key_id, user))
        return self.quotas.get((key_id, ANY_USER)) if own is None and user else own

    def account(self, place: Place) -> Account:
        """Return the credits of an account."""
        return self.accounts.setdefault(place, Account())

    def use(self, place: Place, period: str) -> Use:
        """Return what an account has used in a period."""
        return self.uses.setdefault((*place, period), Use())

    def note(self, place: Place, at: datetime, **more: int) -> None:
        """Count more, or less, of `tasks`, `samples`, `micros` or `held` in the day and month."""
        for period in (day_of(at), month_of(at)):
            use = self.use(place, period)
            for name, amount in more.items():
                setattr(use, name, getattr(use, name) + amount)
            self.changed_uses.add((*place, period))

    def credit(self, place: Place, **more: int) -> None:
        """Count more, or less, of `granted`, `spent` or `held` of an account's credits."""
        account = self.account(place)
        for name, amount in more.items():
            setattr(account, name, getattr(account, name) + amount)
        self.changed_accounts.add(place)


def place_of(key_id: str, user: str | None) -> Place:
    """Return where the rows of an account lie."""
    if user is None or user == "":
        return key_id, ""
    return key_id, user if user == ANY_USER else f"={user}"


def user_at(place: Place) -> str | None:
    """Return whose account lies there; None for the key's own."""
    return place[1].removeprefix("=") or None


def day_of(at: datetime) -> str:
    """Return the day of a moment (UTC), such as `2026-11-26`."""
    return at.astimezone(UTC).strftime("%Y-%m-%d")


def month_of(at: datetime) -> str:
    """Return the month of a moment (UTC), such as `2026-11`."""
    return at.astimezone(UTC).strftime("%Y-%m")


def resets_at(period: str) -> datetime:
    """Return when a day or a month is over."""
    if len(period) > 7:
        return datetime.fromisoformat(period).replace(tzinfo=UTC) + timedelta(days=1)
    year, month = map(int, period.split("-"))
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def needed(asks: Iterable[Ask | Hold]) -> tuple[set[Place], set[tuple[str, str, str]]]:
    """Return which accounts, and which of their periods, tasks may be entered in."""
    places: set[Place] = set()
    periods: set[tuple[str, str, str]] = set()
    for each in asks:
        users = each.users if isinstance(each, Hold) else _users(each)
        for user in users:
            places.add((each.key_id, user))
            for period in (day_of(each.at), month_of(each.at)):
                periods.add((each.key_id, user, period))
    return places, periods


def _users(ask: Ask) -> list[str]:
    return ["", f"={ask.user}"] if ask.user else [""]


def enter(sheet: Sheet, asks: Sequence[Ask]) -> tuple[Verdict, list[Hold]]:
    """Enter tasks, all or none; return what is left and what is held for them.

    Args:
        sheet: With the quotas, accounts and uses of `needed`; changed.
        asks: The tasks.
    """
    refusal = _refusal(sheet, asks)
    if refusal is not None:
        return Verdict(refusal, (refusal.standing,)), []
    holds = []
    for ask in asks:
        users = {}
        for user in _users(ask):
            quota = sheet.quota(ask.key_id, user)
            if quota is None:
                continue
            place = ask.key_id, user
            users[user] = quota.is_prepaid
            sheet.note(place, ask.at, tasks=1, samples=ask.samples, held=ask.micros)
            if quota.is_prepaid:
                sheet.credit(place, held=ask.micros)
        if users:
            holds.append(
                Hold(
                    id=ask.id,
                    key_id=ask.key_id,
                    samples=ask.samples,
                    micros=ask.micros,
                    at=ask.at,
                    users=users,
                )
            )
    places = dict.fromkeys((ask.key_id, user) for ask in asks for user in _users(ask))
    left = [each for place in places for each in standing_of(sheet, place, asks[0].at)]
    return Verdict(None, tuple(left)), holds


def close(sheet: Sheet, hold: Hold, settled: Settled) -> None:
    """Enter that a task has ended.

    Args:
        sheet: With the accounts and uses of `needed`; changed.
        hold: What was held for it.
        settled: What it made, and what that cost.
    """
    spent, made = settled.micros or 0, 0
    if settled.micros is not None:
        made = hold.samples if settled.samples is None else settled.samples
    for user, is_prepaid in hold.users.items():
        place = hold.key_id, user
        more, fewer = made - hold.samples, 0 if settled.was_task else -1
        sheet.note(place, hold.at, tasks=fewer, samples=more, micros=spent, held=-hold.micros)
        if is_prepaid:
            sheet.credit(place, spent=spent, held=-hold.micros)


def standing_of(sheet: Sheet, place: Place, at: datetime) -> list[Standing]:
    """Return what is left of each limit of an account, and of its credits."""
    quota = sheet.quota(*place)
    if quota is None:
        return []
    user = user_at(place)
    found = [
        Standing(
            user=user,
            unit=unit,
            period=period,
            limit=limit,
            left=limit - sheet.use(place, period).of(unit),
        )
        for period, unit, limit in quota.limits(at)
    ]
    if quota.is_prepaid:
        account = sheet.account(place)
        found.append(Standing(user=user, unit="credits", limit=account.granted, left=account.left))
    return found


def _refusal(sheet: Sheet, asks: Sequence[Ask]) -> Refusal | None:
    """Return the first limit that is in the way of tasks together."""
    asked: dict[Place, dict[str, int]] = {}
    for ask in asks:
        for user in _users(ask):
            sums = asked.setdefault((ask.key_id, user), {"tasks": 0, "samples": 0, "micros": 0})
            sums["tasks"] += 1
            sums["samples"] += ask.samples
            sums["micros"] += ask.micros
    for place, sums in asked.items():
        for standing in standing_of(sheet, place, asks[0].at):
            is_money = standing.unit in ("credits", "micros")
            more = sums["micros"] if is_money else sums[standing.unit]
            # Where nothing is known of what tasks cost, one that is to be paid for needs something.
            if more > standing.left or (is_money and standing.left <= 0):
                return Refusal(standing, more)
    return None
