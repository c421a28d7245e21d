"""What the policy sees, and what it decides: values only.

Work is counted in samples (pictures): a task may ask for several. Rates are samples per second.
Durations are seconds before `Observation.at`, so that nothing here depends on a clock.
"""

from collections.abc import Mapping, Sequence

import msgspec


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one model."""

    model: str
    #: Samples that could be drawn now and are not, and samples that workers hold.
    waiting: float = 0.0
    leased: float = 0.0
    #: How long the oldest of those that wait has waited, in seconds.
    oldest_s: float = 0.0
    #: Samples that arrived in each of the last minutes that are over, the newest last.
    minutes: Sequence[float] = ()
    #: The same in each of the last three times ten seconds that are over, the newest last.
    tens: Sequence[float] = ()
    #: What is usual at this time of the week and after it, in samples per second: now, and in steps
    #: of `Observation.usual_every_s`, see `history`. Empty as long as nothing is known.
    usual: Sequence[float] = ()
    #: What was usual one step ago, two, and so on.
    usual_before: Sequence[float] = ()
    #: Within how long a task should start; None for what the settings say.
    wait_s: float | None = None


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """Workers that are alike, and what is known of getting more."""

    pool: str
    #: Model → samples per second of one worker that draws nothing else. What is not here cannot be
    #: drawn by this pool.
    rates: Mapping[str, float]
    #: Workers that take tasks; of these, how many hold some.
    ready: int = 0
    busy: int = 0
    #: How long ago each was asked for that does not take tasks yet, in seconds.
    booting: Sequence[float] = ()
    #: Workers that finish what they hold and go.
    draining: int = 0
    #: Others that are paid for, or may be: not heard of, or of a launch of which nothing came yet.
    silent: int = 0
    #: What an hour of one costs, and what each start costs besides, in millionths of a dollar.
    hour_micros: int = 0
    launch_micros: int = 0
    #: A worker is paid for at least so long, in seconds.
    least_billed_s: float = 0.0
    #: Of those that take tasks and hold none, for how long each is paid from now on, whatever it
    #: does, in seconds; empty where they are paid by the second.
    paid_s: Sequence[float] = ()
    #: From asking for one until it takes tasks: median and 95th percentile, in seconds.
    start_p50_s: float = 180.0
    start_p95_s: float = 600.0
    #: Never more than so many, and never fewer; `most` is the quota at the provider.
    most: int = 1_000_000
    least: int = 0
    #: Whether one is among these only so that its models are described.
    is_unknown: bool = False
    #: Whether the provider may take workers back, where they stand, and how many it takes an hour,
    #: as a share.
    is_spot: bool = False
    location: str = ""
    losses_per_hour: float = 0.0
    #: Nothing is asked of it for so long, since it has refused, in seconds.
    closed_s: float = 0.0


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """All that the policy sees at one moment."""

    #: Seconds since 1970, for differences and for the time of the week only.
    at: float
    #: How old all of this is, in seconds.
    age_s: float = 0.0
    demands: Sequence[Demand] = ()
    pools: Sequence[PoolView] = ()
    #: Steps of `Demand.usual`, in seconds.
    usual_every_s: float = 300.0
    #: What was spent in the budget's period so far, in millionths of a dollar: by the ledger, which
    #: hears of it late, or by the controller's own count, which misses what ended before it began;
    #: the larger.
    spent_micros: int = 0


class PoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done in one pool."""

    #: How many workers are wanted, those that start included and those that drain left out.
    desired: int
    #: To be asked for now.
    launch: int = 0
    #: Of those that start, how many need not; the youngest go first.
    cancel_boots: int = 0
    #: Of those that take tasks, how many finish what they hold and go; the idle go first.
    drain: int = 0


class Relief(msgspec.Struct, frozen=True, kw_only=True):
    """What is done about demand that no worker will meet in time."""

    model: str
    #: The share of new tasks that can be met within the wanted wait, 0 to 1.
    admitted: float
    #: How long a new task will wait, in seconds.
    wait_s: float
    #: By how much each sample should become cheaper so that all are met, >= 1: fewer steps, a
    #: smaller size, a quicker model.
    speedup: float


class Reason(msgspec.Struct, frozen=True):
    """Why something was decided, for people.

    Args:
        about: A pool or a model.
        code: Short and stable, such as `growth`, `backlog`, `bridge`, `stale`, `cap`, `budget`.
        text: One sentence with its numbers.
    """

    about: str
    code: str
    text: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy remembers from one moment to the next. An empty one is valid at any time.

    JSON of it is kept by the controller, so its fields are plain values.
    """

    #: When the first plan was made with this, in seconds since 1970; None before.
    since: float | None = None
    #: Pool → (when, need) pairs, of which the highest within the break-even time keeps workers.
    needs: Mapping[str, Sequence[tuple[float, float]]] = {}
    #: Model → numbers that the forecast remembers, by name.
    forecasts: Mapping[str, Mapping[str, float]] = {}
    #: Model → what is usual at each time of the day, as `seasonal` remembers it.
    habits: Mapping[str, Sequence[float]] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided."""

    pools: Mapping[str, PoolPlan]
    relief: Sequence[Relief] = ()
    reasons: Sequence[Reason] = ()
    state: State = State()
