"""`swell simulate`: workers, waiting times and costs for a demand."""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import typer

from swell.autoscaler.policy_settings import PolicySettings
from swell.bootstrap.autoscaler import policy_of
from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import data as stdout
from swell.cli.output import print_json, seconds, table
from swell.core.billing.price_book import LIST
from swell.core.errors import InvalidInput, InvalidRequest
from swell.settings.load import Settings
from swell.settings.pool_prices import pool_prices
from swell.settings.pool_settings import PoolTable
from swell.simulator import launch, traces
from swell.simulator.crowds import Crowd, parts
from swell.simulator.drawing import bars, svg
from swell.simulator.jobs import Terms
from swell.simulator.machines import Workers
from swell.simulator.pools import MODEL, Pool
from swell.simulator.runs import Asked, Level, Told, rate_of, run
from swell.simulator.scenarios import SCENARIOS, scenario
from swell.simulator.speeds import Speed, fixed, gentd26, measured
from swell.simulator.traces import Trace

_MICROS: Final = 1e6
_DAY_S: Final = 86_400.0

#: Length of the known arrivals before the start, in seconds.
_KNOWN_S: Final = 960.0

#: Default price of a picture at an external API, in dollars.
_API_PICTURE: Final = 0.04

_KINDS: Final[Mapping[str, str]] = {
    "attempt": "drawing",
    "failed": "lost with workers",
    "cold_start": "starting",
    "wasted": "paid for nothing",
    "idle": "idle",
}


def simulate(
    demand: Annotated[
        str | None,
        typer.Argument(
            metavar="TRACE",
            help=f"{', '.join(SCENARIOS)}, or a CSV file with the columns minute and images_per_s, "
            "or with at_s for each task (and samples, user, key, priority).",
        ),
    ] = None,
    users: Annotated[
        float | None,
        typer.Option(
            help="Instead of a trace: a day with this many users at the evening peak.", min=1
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(help="Seconds between two pictures of a user.", min=0.1)
    ] = 120.0,
    speed: Annotated[
        float, typer.Option(help="Pictures per second of one worker.", min=1e-6)
    ] = 0.5,
    times: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Seconds that pictures took, one number per line; or gentd26, measured at a "
            "Stable Diffusion service. Replaces --speed.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHARE",
            help="A model and its share of the tasks, such as acme/poster=3; may be repeated. A "
            "file with at_s names models in its column model.",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            help="Tasks that one worker runs at once; default from the pools of the settings, else "
            "1.",
            min=1,
            max=256,
        ),
    ] = None,
    slower: Annotated[
        str | None,
        typer.Option(
            metavar="TIMES",
            help="Slowdown with 1, 2, 3 … tasks at once, such as 1,1.3,1.7; default 1,2,3 …, an "
            "even share of the device.",
        ),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a worker takes to start; default 300.",
            min=0.1,
            max=86_400,
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(help="Dollars per hour of a worker; default 0.8.", min=0),
    ] = None,
    wait: Annotated[
        float | None, typer.Option(help="Target for the wait before a start, in seconds.", min=0.1)
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(
            help="Refuse tasks that would wait longer (start_by_s), in seconds.",
            min=0.1,
        ),
    ] = None,
    quota: Annotated[
        int | None, typer.Option(help="Show what happens with at most this many workers.", min=1)
    ] = None,
    gpu: Annotated[str, typer.Option(help="GPU for the prices of the quotas.")] = "L4",
    api_price: Annotated[
        float | None,
        typer.Option(help="Price of a picture at an API, in dollars, to compare with.", min=0),
    ] = None,
    scale: Annotated[float, typer.Option(help="Multiply the demand.", min=1e-6)] = 1.0,
    noise: Annotated[
        float | None,
        typer.Option(
            help="Random drift of the demand, as a share; default 0.1, and 0 for azure-conv and "
            "azure-code, which were measured.",
            min=0,
            max=1,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 1,
    level: Annotated[
        str | None,
        typer.Option(
            help="tasks: one by one; fluid: as a flow, for millions. Default by their number."
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw the run into a file.")
    ] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Simulate demand: workers needed, waiting times and costs.

    It simulates the pools of the settings; without any, one pool without limits.
    """
    settings = settings_from(config, data).settings
    wanted = _policy(settings, wait)
    found = _demand(demand, users, every, scale)
    shares = _shares(model or [], found)
    like = _Like(_speed(speed, times), times is not None, slots, _slower(slower))
    pools = _pools(settings, like, list(shares), start, price)
    if noise is None:
        noise = 0.0 if (demand or "").startswith("azure-") else 0.1
    if level not in (None, "tasks", "fluid"):
        raise InvalidRequest("--level must be tasks or fluid")
    asked = Asked(
        demand=found,
        pools=pools,
        settings=wanted,
        seed=seed,
        spread=noise,
        patience_s=patience,
        terms=Terms(
            known_s=_KNOWN_S,
            every_s=settings.autoscale.every_s,
            lease_s=settings.delivery.lease_s,
        ),
        level=_level(level),
        shares=shares,
    )
    asked, size = _small(asked)
    _check_quota(quota, size)
    gpu = _gpu(gpu)
    told = run(asked)
    short = _shortage(asked, told, quota, size)
    api_micros = _api_micros(settings, api_price)
    quotas = _quotas(settings, asked, told, size, gpu)
    if picture is not None:
        picture.write_text(svg(f"{demand or 'a day'}", told.chart, told.seconds), encoding="utf-8")
    answer = _Answer(asked=asked, told=told, size=size, short=short, quotas=quotas, api=api_micros)
    if as_json:
        print_json(_as_json(answer))
    else:
        _show(answer)


class _Short(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Result with a smaller quota, at full size."""

    most: int
    told: Told


class _Answer(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Everything that the command prints."""

    asked: Asked
    told: Told
    #: Requested size divided by the simulated size.
    size: float
    short: _Short | None
    quotas: list[launch.Quota]
    api: float


# ---- options


def _demand(name: str | None, users: float | None, every_s: float, scale: float) -> Trace | Crowd:
    if (name is None) == (users is None):
        raise InvalidRequest("name a trace, such as v2, or say --users: one of both")
    if users is not None:
        return traces.day(users * scale, every_s)
    found = scenario(name or "")
    if isinstance(found, Trace):
        if not found.per_s.any():
            raise InvalidRequest(f"no demand in {name}: there is nothing to simulate")
        return found.scaled(scale)
    if scale != 1.0:
        raise InvalidRequest("tasks of a file cannot be scaled: leave --scale out")
    return found


def _policy(settings: Settings, wait_s: float | None) -> PolicySettings:
    found = policy_of(settings)
    return found if wait_s is None else msgspec.structs.replace(found, wait_s=wait_s)


def _speed(per_s: float, times: str | None) -> Speed:
    if times is None:
        return fixed(1.0 / per_s)
    if times == "gentd26":
        return gentd26()
    try:
        lines = Path(times).read_text(encoding="utf-8").split()
        return measured([float(line) for line in lines])
    except (OSError, ValueError, InvalidInput) as error:
        raise InvalidRequest(
            f"--times {times}: {getattr(error, 'detail', '') or error}; give a file with one "
            "number a line, or gentd26"
        ) from error


class _Like(NamedTuple):
    """Properties of workers that their pools do not define.

    Args:
        speed: Time per task.
        is_measured: Whether `speed` has measured times of single tasks; else it is the throughput
            of a busy worker.
        slots: Tasks that run at once; None for the pool's slots, or one.
        slower: Slowdown of a task with 1, 2, 3 … tasks at once.
    """

    speed: Speed
    is_measured: bool
    slots: int | None
    slower: tuple[float, ...]

    def at(self, rate: float | None, slots: int | None) -> tuple[Speed, int]:
        """Return a worker's time per task, and the number of tasks at once.

        Args:
            rate: The pool's samples per second of a busy worker, or None.
            slots: The pool's slots, or None.
        """
        many = self.slots or slots or 1
        slower = self.slower or tuple(float(n) for n in range(1, many + 1))
        speed = self.speed if rate is None else fixed(1.0 / rate)
        if rate is not None or not self.is_measured:
            # The rate is that of a worker with all slots busy.
            times = many / slower[min(many, len(slower)) - 1]
            speed = msgspec.structs.replace(speed, per_sample_s=speed.per_sample_s * times)
        return msgspec.structs.replace(speed, slower=slower if many > 1 else ()), many


def _slower(told: str | None) -> tuple[float, ...]:
    if told is None:
        return ()
    try:
        found = tuple(float(each) for each in told.split(","))
    except ValueError:
        found = ()
    is_rising = all(1.0 <= before <= after for before, after in pairwise((1.0, *found)))
    if not found or not is_rising or not all(map(math.isfinite, found)):
        raise InvalidRequest(
            "--slower takes numbers that begin with 1 and do not fall, such as 1,1.3,1.7"
        )
    return found


def _shares(told: list[str], demand: Trace | Crowd) -> dict[str, float]:
    """Return model → share of the tasks.

    Raises:
        InvalidRequest: A share is invalid, or the demand has its own models.
    """
    if isinstance(demand, Crowd):
        if told:
            raise InvalidRequest(
                "tasks of a file say themselves of which model they are: leave --model out, and "
                "give the file a column model"
            )
        return {each.model: float(each.samples.sum()) for each in parts(demand)}
    found: dict[str, float] = {}
    for each in told:
        name, _, number = each.partition("=")
        try:
            share = float(number) if number else 1.0
        except ValueError:
            share = math.nan
        if not name or name in found or not 0.0 < share < math.inf:
            raise InvalidRequest(
                f"--model {each[:60]}: write each model once, with a share above 0, such as "
                "acme/poster=3"
            )
        found[name] = share
    return found or {MODEL: 1.0}


def _pools(
    settings: Settings,
    like: _Like,
    models: list[str],
    start_s: float | None,
    price: float | None,
) -> list[Workers]:
    """Return the pools of the settings, or one without limits."""
    hour_micros = 800_000 if price is None else round(price * _MICROS)
    if not settings.pools:
        pool = Pool(name="workers", hour_micros=hour_micros, start_s=start_s or 300.0)
        speed, slots = like.at(None, None)
        return [_workers(pool, dict.fromkeys(models, speed), slots)]
    found = []
    known = pool_prices(settings) if price is None else {}
    for name, each in settings.pools.items():
        own = known[name].hour_micros if name in known else hour_micros
        pool = _pool(name, each, own, start_s)
        own_speeds, slots = {}, 1
        for model in models:
            if model == MODEL:  # any model: take the pool's slowest
                rate = min(each.rates.values(), default=None)
            elif model in each.models:
                rate = each.rates.get(model)
            else:
                continue
            own_speeds[model], slots = like.at(rate, each.slots)
        if own_speeds:
            found.append(_workers(pool, own_speeds, slots))
    served = {model for each in found for model in each.speeds}
    if missing := [model for model in models if model not in served]:
        raise InvalidRequest(
            f"no pool of the settings has {missing[0][:60]} among its models: name it there, or "
            "leave it out"
        )
    return found


def _pool(name: str, table: PoolTable, hour_micros: int, start_s: float | None) -> Pool:
    return Pool(
        name=name,
        hour_micros=hour_micros,
        launch_micros=table.launch_micros,
        least_billed_s=table.least_billed_s,
        start_s=start_s or table.start_s or 300.0,
        most=table.most,
        least=table.least,
        is_spot=table.is_spot,
        location=table.location,
        losses_per_hour=table.losses_per_hour,
    )


def _workers(pool: Pool, speeds: Mapping[str, Speed], slots: int) -> Workers:
    return Workers(pool=pool, speeds=speeds, slots=slots, told_start_s=pool.start_s)


def _level(name: str | None) -> Level | None:
    known: dict[str, Literal["tasks", "fluid"]] = {"tasks": "tasks", "fluid": "fluid"}
    return None if name is None else known[name]


def _small(asked: Asked) -> tuple[Asked, float]:
    """Scale the demand down to a size that can be simulated; return it and the factor."""
    demand = asked.demand
    if not isinstance(demand, Trace):
        return asked, 1.0
    need = float(np.max(demand.per_s)) / rate_of(asked.pools[0], asked.shares)
    size = need / launch.MOST_WORKERS
    if size <= 1.0:
        return asked, 1.0
    budgets = {
        name: None if (micros := getattr(asked.settings, name)) is None else round(micros / size)
        for name in ("hour_budget_micros", "day_budget_micros")
    }
    return msgspec.structs.replace(
        asked,
        demand=demand.scaled(1.0 / size),
        pools=launch.shrunk(asked.pools, size),
        settings=msgspec.structs.replace(asked.settings, **budgets),
    ), size


def _check_quota(quota: int | None, size: float) -> None:
    if quota is not None and round(quota / size) < 1:
        raise InvalidRequest(
            f"--quota {quota} is no whole worker at 1/{size:.3g} of its size, at which this is "
            f"simulated: give at least {math.ceil(size)}, or make the scale smaller"
        )


def _gpu(told: str) -> str:
    """Return the price book's spelling of a GPU."""
    known = sorted({each.gpu for each in LIST})
    for each in known:
        if each.casefold() == told.casefold():
            return each
    raise InvalidRequest(
        f"--gpu {told[:60]} is not in the price book: there are {', '.join(known)}"
    )


def _shortage(asked: Asked, told: Told, quota: int | None, size: float) -> _Short | None:
    most = quota if quota is not None else math.floor(told.peak * size / 2)
    own = round(most / size)
    if own < 1 or own >= told.peak:
        return None
    fewer = msgspec.structs.replace(asked, pools=launch.capped(asked.pools, own))
    return _Short(most=most, told=run(fewer))


def _quotas(
    settings: Settings, asked: Asked, told: Told, size: float, gpu: str
) -> list[launch.Quota]:
    if settings.pools:
        return launch.quotas_of_pools(told, asked.pools, size)
    return launch.quotas_of_prices(told, asked.settings, size, gpu)


def _api_micros(settings: Settings, price: float | None) -> float:
    if price is not None:
        return price * _MICROS
    return settings.costs.api_image_micros or _API_PICTURE * _MICROS


# ---- output


def _show(answer: _Answer) -> None:
    told, size = answer.told, answer.size
    how = {
        "tasks": f"{told.tasks:,} tasks, one by one",
        "fluid": "demand as a flow: too many tasks to simulate one by one",
    }[told.level]
    if size > 1.0:
        how += f", at 1/{size:.3g} of its size; numbers are of the whole"
    stdout.print(f"Simulated: {how}.\n", markup=False)
    for line in _chart(answer):
        stdout.print(line, markup=False)
    rows = [*_waits(answer), *_fleet(answer), *_money(answer)]
    table(("SIMULATED", ""), rows, empty="")
    for line in [*_words(answer), *_short_words(answer)]:
        stdout.print(f"\n{line}", markup=False)
    _show_quotas(answer)


def _chart(answer: _Answer) -> Iterator[str]:
    told, size = answer.told, answer.size
    chart = told.chart
    for name, values, most in (
        ("demand", chart.demand_per_s, f"{told.peak_per_s * size:,.4g} a second"),
        ("workers", chart.alive, f"{max(chart.alive) * size:,.0f}"),
        ("wait", chart.wait_s, seconds(max(chart.wait_s))),
    ):
        yield f"{name:8}{bars(values)} at most {most}"
    yield ""


def _waits(answer: _Answer) -> Iterator[tuple[str, str]]:
    told, wanted_s = answer.told, answer.asked.settings.wait_s
    yield (
        "wait",
        (
            f"{told.mean_wait_s:.1f} s on average; half {told.p50_s:.1f} s, "
            f"95 % {told.p95_s:.1f} s, 99 % {told.p99_s:.1f} s"
        ),
    )
    yield "late", f"{100 * told.late:.1f} % wait for more than {wanted_s:g} s"
    if len(told.priorities) > 1:
        each = (f"{priority}: {wait:.1f} s" for priority, wait in told.priorities.items())
        yield "95 % by priority", ", ".join(each)
    for model, waits in told.models.items():
        yield model, f"95 % {waits.p95_s:.1f} s, {100 * waits.late:.1f} % late"
    counts = {"lost": told.lost, "refused": told.refused, "given up": told.expired}
    ends = (f"{n * answer.size:,.0f} {name}" for name, n in counts.items())
    yield "tasks", f"{told.tasks * answer.size:,.0f}; {', '.join(ends)}"


def _fleet(answer: _Answer) -> Iterator[tuple[str, str]]:
    told, size = answer.told, answer.size
    each = (f"{name} {peak * size:,.0f}" for name, peak in told.peaks.items())
    yield "most workers", ", ".join(each)
    yield (
        "launches",
        (
            f"{told.launches * size:,.0f}; {told.losses * size:,.0f} reclaimed, "
            f"{told.refusals * size:,.0f} refused"
        ),
    )
    total = sum(told.kinds.values()) or 1.0
    shares = (
        f"{words} {100 * told.kinds[kind] / total:.1f} %"
        for kind, words in _KINDS.items()
        if told.kinds.get(kind, 0.0) > 0
    )
    yield "their time", ", ".join(shares)


def _money(answer: _Answer) -> Iterator[tuple[str, str]]:
    told = answer.told
    whole = told.cost_micros * answer.size / _MICROS
    days = told.seconds / _DAY_S
    yield "cost", f"{whole:,.2f} $, which is {whole / days:,.2f} $ a day"
    yield "of a picture", f"{told.image_micros / _MICROS:.6f} $"
    api = told.drawn * answer.size * answer.api / _MICROS
    yield "same at an API", f"{api:,.2f} $ at {answer.api / _MICROS:g} $ a picture"


def _words(answer: _Answer) -> Iterator[str]:
    told, size = answer.told, answer.size
    ratio = answer.api / told.image_micros if told.image_micros else math.inf
    yield (
        f"Peak demand: {told.peak_per_s * size:,.4g} pictures per second. It needs up to "
        f"{told.peak * size:,.0f} workers, and costs 1/{ratio:,.3g} of an API at "
        f"{answer.api / _MICROS:g} $ a picture."
    )


def _short_words(answer: _Answer) -> Iterator[str]:
    if answer.short is None:
        return
    told, most = answer.short.told, answer.short.most
    yield (
        f"With at most {most:,} workers {100 * told.late:.1f} % wait for more than "
        f"{answer.asked.settings.wait_s:g} s; longest wait quoted: {seconds(told.told_wait_s)}. At "
        f"the worst moment {100 * told.admitted:.0f} % of new tasks could start in time: admit "
        "that share, or make tasks cheaper to match, with fewer steps or smaller pictures."
    )


def _show_quotas(answer: _Answer) -> None:
    if not answer.quotas:
        return
    stdout.print("\nQuotas to request, 20 % above the need:\n", markup=False)
    rows = [
        (
            each.name,
            "spot" if each.is_spot else "on demand",
            f"{each.workers:,}" + (f" in each of {each.places} places" if each.places > 1 else ""),
            f"{each.hour_micros / _MICROS:.3f}",
        )
        for each in answer.quotas
    ]
    table(("WHERE", "KIND", "WORKERS", "USD/HOUR"), rows, empty="")


def _as_json(answer: _Answer) -> dict[str, Any]:
    told = msgspec.to_builtins(answer.told, str_keys=True)
    found = {
        "simulated": told | {"peak": answer.told.peak, "image_micros": answer.told.image_micros},
        "times_as_large": answer.size,
        "wait_s": answer.asked.settings.wait_s,
        "api_image_micros": answer.api,
        "quotas": msgspec.to_builtins(answer.quotas),
    }
    if answer.short is not None:
        short = msgspec.to_builtins(answer.short.told, str_keys=True)
        found["with_quota"] = {"most": answer.short.most, "simulated": short}
    return found
