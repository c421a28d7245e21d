"""Messages between backends and the autoscaler, stored as notes in the registry.

A backend writes what the registry does not have: the load and the speed of each worker. The
autoscaler writes its status, for `GET /v1/pools`, metrics and estimates, and its decisions with
reasons, for `GET /v1/scaling`.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Final, TypeVar

import msgspec

#: Names of the notes.
WORKLOAD: Final = "autoscaler.workload"
STATUS: Final = "autoscaler.status"
DECISIONS: Final = "autoscaler.decisions"

#: Actions on workers of a pool, and events of workers.
CHANGES: Final = ("launch", "cancel", "drain", "end", "hurry", "refused", "failed", "lost")

#: How machines of a pool end, each once: the worker drained; it was ended before its worker had
#: registered; the provider reclaimed it; the worker had not finished in its drain time; no worker
#: registered; or it disappeared, or its worker fell silent, without a goodbye.
DRAINED: Final = "drained"
CANCELLED: Final = "cancelled"
TAKEN_BACK: Final = "taken_back"
CUT_SHORT: Final = "cut_short"
FAILED: Final = "failed"
LOST: Final = "lost"
ENDS: Final = (DRAINED, CANCELLED, TAKEN_BACK, CUT_SHORT, FAILED, LOST)

#: Number of stored decisions.
DECISIONS_KEPT: Final = 200

#: If the status is older, no autoscaler runs, in seconds.
FRESH_S: Final = 60.0


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Load and speed of workers, as a backend sees them."""

    at: datetime
    #: Worker → number of held tasks; workers without tasks are left out.
    held: Mapping[str, int] = {}
    #: Pool → model → samples per second of one busy worker.
    rates: Mapping[str, Mapping[str, float]] = {}
    #: Model → average number of samples of a task.
    counts: Mapping[str, float] = {}


class PoolScaling(msgspec.Struct, frozen=True, kw_only=True):
    """Status of one pool."""

    pool: str
    provider: str
    models: Sequence[str]
    #: Target number of workers.
    desired: int = 0
    ready: int = 0
    busy: int = 0
    booting: int = 0
    draining: int = 0
    least: int = 0
    most: int = 0
    #: Price of one worker per hour, in millionths of a dollar; None if it is unknown.
    hour_micros: int | None = None
    #: Price of each launch in addition, and shortest billed time of a machine, in seconds.
    launch_micros: int = 0
    least_billed_s: float = 0.0
    #: Source of the price, for people; its date, if it is from a list or a cloud; the time when the
    #: cloud was asked; and a remark.
    price_source: str = ""
    price_read_on: date | None = None
    price_told_at: datetime | None = None
    price_note: str = ""
    is_spot: bool = False
    location: str = ""
    #: Time until the provider is asked again, in seconds, and the reason for the pause.
    closed_s: float = 0.0
    why_closed: str = ""
    #: Time from a launch request until the worker takes tasks, in seconds.
    start_p50_s: float = 0.0
    start_p95_s: float = 0.0
    #: Since the pool was first scaled: action or event → count.
    counts: Mapping[str, int] = {}
    #: Since then: end of a machine, one of `ENDS` → count.
    ends: Mapping[str, int] = {}
    #: The latest reasons of the policy.
    reasons: Sequence[str] = ()


class ModelScaling(msgspec.Struct, frozen=True, kw_only=True):
    """Outlook for new tasks of a model."""

    model: str
    #: Time until a worker can take the first task, in seconds: 0 if there is one, None if none can
    #: be launched.
    ready_in_s: float | None = None
    #: The 95th percentile of that time, in seconds.
    ready_by_s: float = 0.0
    #: Pairs of a time in seconds and the number of additional workers expected by then, in order.
    coming: Sequence[tuple[float, int]] = ()
    #: See `swell.autoscaler.outlook.Relief`.
    admitted: float = 1.0
    wait_s: float = 0.0
    speedup: float = 1.0


class ScalingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of all pools."""

    at: datetime
    #: The process that leads.
    leader: str
    #: Age of its data, in seconds.
    age_s: float = 0.0
    pools: Sequence[PoolScaling] = ()
    models: Sequence[ModelScaling] = ()
    #: Spending of today (UTC), in millionths of a dollar.
    spent_micros: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision about a pool, or an event of it."""

    at: datetime
    #: A pool or a model.
    about: str
    #: One of `CHANGES`, or `relief`.
    what: str
    #: Number of workers.
    n: int = 0
    #: One sentence with its numbers, each.
    why: Sequence[str] = ()


T = TypeVar("T")


def read(note: bytes | None, kind: type[T]) -> T | None:
    """Return the content of a note; None if there is none, or it cannot be read."""
    if note is None:
        return None
    try:
        return msgspec.json.decode(note, type=kind)
    except msgspec.MsgspecError:
        return None
