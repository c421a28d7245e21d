"""Contract of the registry: which models there are, which workers live, and who may ask."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec

from swell.comparisons import MOST_KEPT, MOST_VOTES, Comparison, Outline, Vote
from swell.money.ledger import Charged, CostRow, LedgerEntry
from swell.phases import Startup
from swell.quotas import Ask, Credit, Hold, Place, Quota, Settled, Sheet, Verdict
from swell.stages import Pipeline

#: How long workers that have gone stay listed.
GONE_WORKERS_TTL: Final = timedelta(days=1)

#: No sample costs more with others, in millionths of a dollar.
MOST_PRICE_MICROS: Final = 1_000_000_000


class Scope(StrEnum):
    """What a key may do; `admin` may do everything."""

    CLIENT = "client"
    WORKER = "worker"
    ADMIN = "admin"


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a key may ask; None leaves it to the settings, 0 means no limit."""

    #: Requests per second on average, and how many may come at once.
    rate_per_s: float | None = None
    burst: int | None = None
    #: Tasks that have not ended.
    tasks_in_flight: int | None = None
    tasks_per_day: int | None = None
    #: Event streams open at one backend process.
    streams: int | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: the secret itself is shown once and never stored."""

    id: str
    name: str
    #: SHA-256 of the secret.
    digest: bytes
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None
    #: It no longer works from then on.
    expires_at: datetime | None = None
    #: SHA-256 of the secret before the last rotation, which works until then.
    old_digest: bytes | None = None
    old_until: datetime | None = None
    #: Of a key for workers: the only pools, and the only models (`owner/name` or `owner/*`), that
    #: they may register; any where it is empty.
    pools: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    limits: KeyLimits = KeyLimits()
    #: All priority classes that it may use, the usual one first; any where it is empty.
    classes: tuple[str, ...] = ()
    #: Kept by `Registry.touch_keys` alone; None if it was never used.
    used_at: datetime | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that an operator did, or tried to do."""

    #: Grows with time.
    id: str
    at: datetime
    #: Who: the key by id and name, and the address it was used from.
    key_id: str
    key_name: str
    address: str
    #: What, such as `keys.create`, and to what.
    action: str
    target: str = ""
    #: HTTP status of the answer.
    status: int
    #: More in words, without secrets.
    detail: str = ""
    request_id: str = ""


class LedgerPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first; `cursor` asks for the next page and is None at the end."""

    entries: list[LedgerEntry]
    cursor: int | None


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken from an allowance since it was last told."""

    name: str
    #: How long the allowance takes to give as much, in seconds; >= 0.
    cost_s: float


class Speed(msgspec.Struct, frozen=True):
    """How long a model took, as its author measured it.

    Args:
        device: Such as `one core of an Apple M2` or `NVIDIA L4`.
        what: Such as `512 x 512, 12 steps`.
        took_s: Seconds.
        measured_on: Day, such as `2026-11-25`; empty where it is not known.
    """

    device: str
    what: str
    took_s: float
    measured_on: str = ""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, a sound or a text on a card."""

    #: What it shows, or what was asked for.
    caption: str
    content_type: str
    #: SHA-256 of its content, in hex.
    digest: str
    #: Of a picture, in px; 0 of anything else.
    width: int = 0
    height: int = 0
    #: A text itself; empty of anything else.
    text: str = ""
    #: Its content on the way to the backend, which keeps it apart from the card.
    data: bytes = b""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What the world may know of one version of a model."""

    #: `owner/name`.
    name: str
    version: str
    #: Markdown; the model's docstring.
    description: str = ""
    #: JSON Schema (2020-12) of the input and of the output.
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    #: Inputs that work, for docs, checks and warm-up.
    examples: list[dict[str, Any]] = []
    #: `trial`, `canary`, `live` or `retired`.
    stage: str = "live"
    #: Names of input fields whose equal values let inputs share a batch.
    batch_by: tuple[str, ...] = ()
    max_batch: int = 1
    #: Rows that each step has, and may have, where the model draws in steps; 0 where it does not.
    step_bucket: int = 0
    step_rows: int = 0
    #: Of the code and of the weights: an SPDX expression, or words. Empty where it was not said.
    licence: str = ""
    #: Markdown: who made what it stands on, and what to name.
    credits: str = ""
    #: What it takes of its device, as declared, or as measured where it was loaded first; 0 where
    #: nothing is known.
    memory_bytes: int = 0
    #: What a sample costs beside the device's time, in millionths of a dollar, such as with an API.
    price_micros: int = 0
    speed: list[Speed] = []
    samples: list[Sample] = []
    #: What it is made of, where it is a pipeline: no worker has it, but the models of its stages.
    pipeline: Pipeline | None = None
    registered_at: datetime | None = None


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the backend knows it."""

    id: str
    name: str
    pool: str
    #: Model name → version.
    models: dict[str, str]
    #: How many tasks it may hold at once.
    slots: int = 1
    device: str = "cpu"
    host: str = ""
    pid: int = 0
    #: Its `swell.provider.Instance` by id; empty for a worker that somebody has started.
    instance: str = ""
    registered_at: datetime
    seen_at: datetime
    #: Version of Swell; empty where it did not say.
    release: str = ""
    #: How far its clock was ahead of the backend's when it registered, in seconds, less the time on
    #: the way.
    clock_ahead_s: float = 0.0
    #: Told to finish and go.
    draining: bool = False
    gone_at: datetime | None = None
    #: Of the key that registered it; empty where that is not known.
    key_id: str = ""
    #: To what its time is charged: the id of its cold start, or its instance; empty for its own id.
    account: str = ""
    #: When its machine or process was asked for, and when that ended; None where nobody told.
    launched_at: datetime | None = None
    ended_at: datetime | None = None
    #: Whether it took its leave.
    said_goodbye: bool = False
    #: Its price when it registered first, in millionths of a dollar an hour and for the launch, and
    #: for how long it is paid at least, in seconds.
    hour_micros: int | None = None
    launch_micros: int = 0
    least_billed_s: float = 0.0
    #: What a sample of one of its models costs with others at most, by the cards that it registered
    #: with, in millionths of a dollar.
    dearest_micros: int = 0


class KeptStartup(msgspec.Struct, frozen=True):
    """What `Registry.put_startup` has done.

    Args:
        before: What was known of the startup; None if nothing, or it was forgotten.
        is_charged: Whether an entry of the ledger is new.
    """

    before: Startup | None
    is_charged: bool = False


def free_of_charge(before: Startup | None) -> LedgerEntry | None:
    """Charge nothing for a startup."""
    del before
    return None


class Registry(Protocol):
    """Models, workers, keys, notes, and which process has which duty.

    Guarantees:
        Durable as the store is. Versions of a model never change once registered, but for what
        others ask for a sample.
    """

    async def put_models(self, cards: Sequence[ModelCard]) -> None:
        """Make versions known; those already known stay as they are, and become the newest.

        The `price_micros` of a card replaces that of its version, since others may change what they
        ask.
        """
        ...

    async def models(self) -> list[ModelCard]:
        """Return every version, by name, newest first within a name."""
        ...

    async def put_worker(self, worker: WorkerInfo) -> None:
        """Register or replace a worker."""
        ...

    async def touch_workers(self, worker_ids: Sequence[str], seen_at: datetime) -> None:
        """Note that workers were heard of. Unknown ids and workers that have gone are ignored."""
        ...

    async def drain_worker(self, worker_id: str) -> WorkerInfo | None:
        """Mark a worker as draining; None if it is not known."""
        ...

    async def remove_worker(self, worker_id: str, gone_at: datetime) -> None:
        """Note that a worker has gone. Idempotent."""
        ...

    async def workers(self) -> list[WorkerInfo]:
        """Return every worker, oldest first, the gone ones of the last day included."""
        ...

    async def put_key(self, key: ApiKey, *, instead_of: bytes | None = None) -> bool:
        """Keep a key, or replace the one with the same id; return whether that was done.

        One that was revoked stays so, with the time of the first revocation. `used_at` is not
        taken from here.

        Args:
            key: As it is from now on.
            instead_of: Nothing is done unless the key that is kept has this `digest`: of two that
                change a secret at the same time, one does.
        """
        ...

    async def keys(self) -> list[ApiKey]:
        """Return every key, the revoked ones included."""
        ...

    async def key_by_digest(self, digest: bytes) -> ApiKey | None:
        """Return the key whose secret, or secret before its last rotation, has this SHA-256.

        None if there is none. Whether it was revoked, or is past its time, is left to the caller.
        """
        ...

    async def touch_keys(self, used: Mapping[str, datetime]) -> None:
        """Note when keys were last used, by their ids; an earlier time than is known is ignored."""
        ...

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Add to what operators did. Nothing of it is ever changed."""
        ...

    async def audit(self, *, limit: int = 50, before: str | None = None) -> list[AuditEntry]:
        """Return what operators did, newest (largest id) first.

        Args:
            limit: At most so many.
            before: Only entries with a smaller id.
        """
        ...

    async def put_startup(
        self,
        startup: Startup,
        charged: Callable[[Startup | None], LedgerEntry | None] = free_of_charge,
    ) -> KeptStartup:
        """Keep what is known of a startup and charge it, both or neither.

        Nothing is done where what was known before is further (`swell.phases.is_further`) than
        this. What is under way is never forgotten. Of those that have ended the newest
        `STARTUPS_KEPT` of each family (`swell.phases.family`) are kept, by `begun_at`, and only
        those that began within `STARTUPS_TTL` before this one.

        Args:
            startup: With its `begun_at` and `seen_at`.
            charged: Returns what is added to the ledger, given what was known before; it is pure,
                and not asked where nothing is done. An entry whose id is there is ignored.
        """
        ...

    async def startups(self, *, under_way: bool = False) -> list[Startup]:
        """Return startups, oldest first (by `begun_at`, then `id`).

        Args:
            under_way: Only those whose state is `STARTING`.
        """
        ...

    async def startups_of(self, worker_ids: Sequence[str]) -> list[Startup]:
        """Return the cold starts of registered workers, oldest first."""
        ...

    async def charge(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        """Add to the ledger, and return which entries are new.

        Entries whose ids are there already are ignored.
        """
        ...

    async def charged(self, accounts: Sequence[str]) -> list[Charged]:
        """Return what was charged to accounts so far; nothing to those that are not known."""
        ...

    async def costs(self, since: date, until: date, *, users: bool = False) -> list[CostRow]:
        """Return the sums of the ledger; the oldest day first, else in any order.

        Args:
            since: The first day.
            until: The last one.
            users: Whether users are told apart.
        """
        ...

    async def ledger(self, *, limit: int = 50, before: int | None = None) -> LedgerPage:
        """Return entries of the ledger, those added last first.

        Args:
            limit: At most so many; > 0.
            before: The cursor of the page before.
        """
        ...

    async def spend(self, spends: Sequence[Spend]) -> list[datetime]:
        """Take from allowances that all backends share; return up to when each is used up.

        That moment moves on by the cost, from now where it lay in the past. Each name comes once.

        Source:
            The generic cell rate algorithm: ITU-T I.371, annex A.
        """
        ...

    async def put_quota(self, quota: Quota) -> None:
        """Keep a quota in place of the one before of the same key and user."""
        ...

    async def drop_quota(self, key_id: str, user: str | None) -> bool:
        """Forget a quota; return whether there was one."""
        ...

    async def quotas(self) -> list[Quota]:
        """Return every quota, by key and user."""
        ...

    async def quota_keys(self) -> frozenset[str]:
        """Return the ids of keys that have a quota, of themselves or of users."""
        ...

    async def reserve(self, groups: Sequence[Sequence[Ask]]) -> list[Verdict]:
        """Enter tasks in the accounts of their keys and users; see `swell.quotas.enter`.

        Of each group all are entered, or none. What is entered is held until it is released.
        However many do this at the same time, of a limit no more is given than there is.

        Args:
            groups: None is empty, and no two tasks have the same id.
        """
        ...

    async def release(self, settled: Sequence[Settled]) -> int:
        """Enter that tasks have ended; see `swell.quotas.close`. Return for how many there was a
        hold: the second time there is none.
        """
        ...

    async def holds(self, *, after: str, before: datetime, limit: int) -> list[Hold]:
        """Return what is held, by the ids of tasks.

        Args:
            after: Only ids that are larger.
            before: Only of tasks that were entered before this.
            limit: At most so many; > 0.
        """
        ...

    async def grant(self, credit: Credit) -> bool:
        """Grant credits; return False, with nothing done, where this id was granted before."""
        ...

    async def credits(self, key_id: str | None, *, limit: int) -> list[Credit]:
        """Return what was granted, newest first; of all keys where `key_id` is None."""
        ...

    async def sheet(self, places: Iterable[Place], at: datetime) -> Sheet:
        """Return the rows of accounts as they are in the day and the month of a moment."""
        ...

    async def credit_places(self) -> list[Place]:
        """Return the accounts that were ever granted credits, by key and user."""
        ...

    async def forget_uses(self, before: date) -> None:
        """Forget what was used on days before this one; months are kept."""
        ...

    async def put_comparison(self, comparison: Comparison, most: int = MOST_KEPT) -> bool:
        """Keep a new comparison; its id is one that was never used.

        False, with nothing done, where its key has `most` of them already.
        """
        ...

    async def count_comparisons(self, key_id: str) -> int:
        """Return how many comparisons of a key are kept."""
        ...

    async def comparison(self, comparison_id: str) -> Comparison | None:
        """Return the comparison with this id, or None."""
        ...

    async def outlines(
        self, *, limit: int = 50, before: str | None = None, key_id: str | None = None
    ) -> list[Outline]:
        """Return the outlines of comparisons, newest (largest id) first.

        Args:
            limit: At most so many.
            before: Only those with a smaller id.
            key_id: Only those of this key, and those that are shared; None for all.
        """
        ...

    async def closed_comparisons(self) -> list[tuple[str, datetime]]:
        """Return the ids of those whose voting has ended and when it did, in this order.

        What is kept of these changes no more: the same list stands for the same votes.
        """
        ...

    async def close_comparison(self, comparison_id: str, at: datetime) -> Comparison | None:
        """End the voting, and return the comparison; None if there is none.

        One whose voting has ended keeps the moment when it did.
        """
        ...

    async def drop_comparison(self, comparison_id: str) -> bool:
        """Forget a comparison and its votes; return whether there was one."""
        ...

    async def vote(self, vote: Vote, most: int = MOST_VOTES) -> bool:
        """Keep a vote in place of the one before of the same row, key and voter.

        False, with nothing done, where there is no such comparison or its voting has ended: from
        then on its votes never change. So it is with a vote that takes no other's place where the
        comparison has `most` of them already.
        """
        ...

    async def votes(self, comparison_id: str) -> list[Vote]:
        """Return the votes of a comparison, oldest first, then by row, key and voter."""
        ...

    async def put_note(self, name: str, value: bytes) -> None:
        """Keep a note of this name in place of the one before.

        For what a backend has learnt and would rather know at its next start.
        """
        ...

    async def swap_note(self, name: str, before: bytes | None, value: bytes) -> bool:
        """Keep a note in place of the one that was read; return whether that was done.

        Of all who have read the same and change it, one does.

        Args:
            name: Of the note.
            before: Nothing is done unless the note that is kept is this; None where there is none.
            value: As it is from now on.
        """
        ...

    async def note(self, name: str) -> bytes | None:
        """Return the note of this name, or None."""
        ...

    async def notes(self, prefix: str) -> dict[str, bytes]:
        """Return the notes whose names begin so, by name."""
        ...

    async def drop_notes(self, names: Sequence[str]) -> None:
        """Forget notes. Names of which there is none are ignored."""
        ...

    async def secret(self, name: str) -> bytes:
        """Return 32 random bytes kept under this name, made at the first call."""
        ...

    async def take_duty(self, name: str, holder: str, *, lease_s: float) -> bool:
        """Return whether this process has the duty now: taken, or held and extended.

        Of all processes one at a time has it, for `lease_s` seconds from its last call. Whoever
        does not ask again in time may have lost it to another. A duty that is held for longer than
        twice that is free: only a clock that was set back leaves one.

        Args:
            name: What is to be done by one process only.
            holder: Names the process; no other has the same name.
            lease_s: Seconds; > 0.
        """
        ...

    async def leave_duty(self, name: str, holder: str) -> None:
        """Let another take the duty at once. Ignored where `holder` does not have it."""
        ...
