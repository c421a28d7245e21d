"""Observations and plans of the policy: values only.

Work is counted in samples (pictures): a task may ask for several. Rates are samples per second.
Durations are seconds before `Observation.at`, so that nothing here depends on a clock.
"""

from collections.abc import Mapping, Sequence

import msgspec


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """Demand for one model."""

    model: str
    #: Ready samples, and samples that workers hold.
    waiting: float = 0.0
    leased: float = 0.0
    #: Wait of the oldest ready sample, in seconds.
    oldest_s: float = 0.0
    #: Samples that arrived in each of the last full minutes, the newest last.
    minutes: Sequence[float] = ()
    #: The same in the last three periods of ten seconds.
    tens: Sequence[float] = ()
    #: Usual rate at this time of the week, in samples per second: now, and in later steps of
    #: `Observation.usual_every_s` (`history`). Empty before it is known.
    usual: Sequence[float] = ()
    #: Usual rate one step ago, two steps ago, and so on.
    usual_before: Sequence[float] = ()
    #: Target wait in seconds; None for that of the settings.
    wait_s: float | None = None


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of equal workers, its prices and its limits."""

    pool: str
    #: Model → samples per second of one worker that runs only that model. The pool cannot run
    #: other models.
    rates: Mapping[str, float]
    #: Workers that take tasks, and how many of them hold some.
    ready: int = 0
    busy: int = 0
    #: Age of each launch that takes no tasks yet, in seconds.
    booting: Sequence[float] = ()
    #: Workers that finish their tasks and end.
    draining: int = 0
    #: Others that may cost money: silent ones, and launches without a machine yet.
    silent: int = 0
    #: Price of an hour and extra price of a launch, in millionths of a dollar.
    hour_micros: int = 0
    launch_micros: int = 0
    #: Minimum billing of a worker, in seconds.
    least_billed_s: float = 0.0
    #: Remaining paid time of each idle worker, in seconds; empty with billing by the second.
    paid_s: Sequence[float] = ()
    #: Time from launch to first task: median and 95th percentile, in seconds.
    start_p50_s: float = 180.0
    start_p95_s: float = 600.0
    #: Limits of the number of workers; `most` is the quota at the provider.
    most: int = 1_000_000
    least: int = 0
    #: Whether one worker runs only to describe its models.
    is_unknown: bool = False
    #: Whether the provider may reclaim workers, their location, and the share reclaimed in an
    #: hour.
    is_spot: bool = False
    location: str = ""
    losses_per_hour: float = 0.0
    #: Time without launches after a refusal, in seconds.
    closed_s: float = 0.0


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """The input of the policy at one moment."""

    #: Seconds since 1970.
    at: float
    #: Age of the data, in seconds.
    age_s: float = 0.0
    demands: Sequence[Demand] = ()
    pools: Sequence[PoolView] = ()
    #: Steps of `Demand.usual`, in seconds.
    usual_every_s: float = 300.0
    #: Cost of the budget's period so far, in millionths of a dollar: the larger of the ledger, that
    #: is late, and the controller's count, which begins with the controller.
    spent_micros: int = 0


class PoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Actions in one pool."""

    #: Wanted workers, with starting ones and without draining ones.
    desired: int
    #: Workers to launch now.
    launch: int = 0
    #: Starting workers to cancel, the youngest first.
    cancel_boots: int = 0
    #: Ready workers to drain, idle ones first.
    drain: int = 0


class Relief(msgspec.Struct, frozen=True, kw_only=True):
    """Measures against demand that no worker can meet in time."""

    model: str
    #: Share of new tasks that can start within the target wait, 0 to 1.
    admitted: float
    #: Expected wait of a new task, in seconds.
    wait_s: float
    #: Factor by which each sample must become faster so that all start in time, >= 1: fewer steps,
    #: a smaller size, a faster model.
    speedup: float


class Reason(msgspec.Struct, frozen=True):
    """The reason of a decision, for people.

    Args:
        about: A pool or a model.
        code: Short and stable, such as `growth`, `backlog`, `bridge`, `stale`, `cap`, `budget`.
        text: One sentence with its numbers.
    """

    about: str
    code: str
    text: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's memory between two plans. An empty one is always valid.

    The controller stores it as JSON, so its fields are plain values.
    """

    #: Time of the first plan, in seconds since 1970; None before.
    since: float | None = None
    #: Pool → (time, need) pairs; the highest within the break-even time keeps workers.
    needs: Mapping[str, Sequence[tuple[float, float]]] = {}
    #: Model → values of the forecast by name.
    forecasts: Mapping[str, Mapping[str, float]] = {}
    #: Model → usual growth at each time of the day (`seasonal`).
    habits: Mapping[str, Sequence[float]] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decision of the policy."""

    pools: Mapping[str, PoolPlan]
    relief: Sequence[Relief] = ()
    reasons: Sequence[Reason] = ()
    state: State = State()
