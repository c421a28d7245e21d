"""What backends and the autoscaler tell each other, as notes in the registry: values only.

A backend tells what the registry does not know: which worker holds how much, and how fast each is.
The autoscaler tells how things stand, for `GET /v1/pools`, metrics and estimates, and what it has
decided and why, for `GET /v1/scaling`.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Final, TypeVar

import msgspec

#: Names of the notes.
WORKLOAD: Final = "autoscaler.workload"
STATUS: Final = "autoscaler.status"
DECISIONS: Final = "autoscaler.decisions"

#: What is done with workers of a pool, or befalls them.
CHANGES: Final = ("launch", "cancel", "drain", "end", "hurry", "refused", "failed", "lost")

#: How machines of a pool end, each once: its worker finished and went; it was told to end before
#: one had registered; its provider took it back; its worker had not finished when its time was
#: over; no worker came of it; or it went, or its worker fell silent, without a goodbye.
DRAINED: Final = "drained"
CANCELLED: Final = "cancelled"
TAKEN_BACK: Final = "taken_back"
CUT_SHORT: Final = "cut_short"
FAILED: Final = "failed"
LOST: Final = "lost"
ENDS: Final = (DRAINED, CANCELLED, TAKEN_BACK, CUT_SHORT, FAILED, LOST)

#: So many decisions are kept.
DECISIONS_KEPT: Final = 200

#: A status that is older says that no autoscaler runs, in seconds.
FRESH_S: Final = 60.0


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend knows of workers, beside the registry."""

    at: datetime
    #: Worker → how many tasks it holds; those that hold none are left out.
    held: Mapping[str, int] = {}
    #: Pool → model → samples per second of one worker that has enough to do.
    rates: Mapping[str, Mapping[str, float]] = {}
    #: Model → samples of a task, on average.
    counts: Mapping[str, float] = {}


class PoolScaling(msgspec.Struct, frozen=True, kw_only=True):
    """How one pool stands."""

    pool: str
    provider: str
    models: Sequence[str]
    #: How many workers are wanted.
    desired: int = 0
    ready: int = 0
    busy: int = 0
    booting: int = 0
    draining: int = 0
    least: int = 0
    most: int = 0
    #: Millionths of a dollar for an hour of one; None where that is not known.
    hour_micros: int | None = None
    #: What a launch costs besides, and for how long a machine is paid at least, in seconds.
    launch_micros: int = 0
    least_billed_s: float = 0.0
    #: Who says the price, for people; of which day that is, where it is of a list or a cloud; when
    #: its cloud told it, and what else is to be known of it.
    price_source: str = ""
    price_read_on: date | None = None
    price_told_at: datetime | None = None
    price_note: str = ""
    is_spot: bool = False
    location: str = ""
    #: For how long nothing is asked of the provider, in seconds, and why.
    closed_s: float = 0.0
    why_closed: str = ""
    #: From asking for one until it takes tasks, in seconds.
    start_p50_s: float = 0.0
    start_p95_s: float = 0.0
    #: Since the pool was first scaled: what was done → how often.
    counts: Mapping[str, int] = {}
    #: Since then: how machines have ended, of `ENDS` → how many.
    ends: Mapping[str, int] = {}
    #: The newest reasons of the policy about it.
    reasons: Sequence[str] = ()


class ModelScaling(msgspec.Struct, frozen=True, kw_only=True):
    """What new tasks of a model can expect."""

    model: str
    #: After how long a worker can take the first, in seconds: 0 where one is there, None where none
    #: can be launched.
    ready_in_s: float | None = None
    #: By when it is so in 19 of 20 cases, in seconds.
    ready_by_s: float = 0.0
    #: After how many seconds how many more workers most probably take tasks, the first first.
    coming: Sequence[tuple[float, int]] = ()
    #: See `swell.autoscaler.outlook.Relief`.
    admitted: float = 1.0
    wait_s: float = 0.0
    speedup: float = 1.0


class ScalingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How everything stands."""

    at: datetime
    #: The process that decides.
    leader: str
    #: How old what it knows is, in seconds.
    age_s: float = 0.0
    pools: Sequence[PoolScaling] = ()
    models: Sequence[ModelScaling] = ()
    #: What was spent today (UTC), in millionths of a dollar.
    spent_micros: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that was decided, or befell a pool."""

    at: datetime
    #: A pool or a model.
    about: str
    #: One of `CHANGES`, or `relief`.
    what: str
    #: Of how many workers.
    n: int = 0
    #: One sentence with its numbers, each.
    why: Sequence[str] = ()


T = TypeVar("T")


def read(note: bytes | None, kind: type[T]) -> T | None:
    """Return what a note says; None where there is none, or it cannot be read."""
    if note is None:
        return None
    try:
        return msgspec.json.decode(note, type=kind)
    except msgspec.MsgspecError:
        return None
