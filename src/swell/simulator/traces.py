"""Demand traces over days, in samples per second, without noise.

`v1`, `v2` and `v3` grow viral within days, hours and minutes. Use them, `spike` and the tuning
seeds to choose policy settings. Use the held-out traces and seeds only for the final evaluation.
"""

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.core.errors import InvalidInput

#: Start of all traces, a Monday at midnight, as a Unix time in seconds.
STARTS_AT: Final = 1_767_571_200.0

#: Encoding of demand files: UTF-8, optionally with a byte order mark, as spreadsheets write it.
TEXT: Final = "utf-8-sig"

#: Longest accepted demand, in days.
_MOST_DAYS: Final = 366

#: Interval between an active user's pictures, and share of the day that a user is active.
_PICTURE_EVERY_S: Final = 120.0
_ACTIVE_SHARE: Final = 20.0 / 1440.0

#: Share of all requests by hour of the day in GenTD26, a Stable Diffusion service.
#:
#: Source:
#:     Derived from cluster-trace-v2026-GenAI of alibaba/clusterdata; Lin et al., SoCC 2025.
_GENTD26_HOURS: Final = (
    *(0.1428, 0.0408, 0.0436, 0.0451, 0.0249, 0.0134, 0.0126, 0.0094),
    *(0.0046, 0.0017, 0.0013, 0.0001, 0.0, 0.0001, 0.0001, 0.0015),
    *(0.0239, 0.0874, 0.1035, 0.0233, 0.0407, 0.1239, 0.1237, 0.1316),
)

#: Seeds to choose policy settings, and seeds for the final evaluation.
TUNING_SEEDS: Final = (101, 102, 103, 104, 105)
HELD_OUT_SEEDS: Final = (1, 2, 3, 4, 5)


class Trace(msgspec.Struct, frozen=True, eq=False):
    """Demand over time.

    Args:
        name: Name of the trace.
        per_s: Samples per second at the start of each minute. Shape (minutes,), >= 0.
    """

    name: str
    per_s: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return 60.0 * len(self.per_s)

    def scaled(self, factor: float) -> "Trace":
        """Return the trace with its demand multiplied by a factor."""
        return Trace(self.name, self.per_s * factor)

    def between(self, from_day: float, to_day: float) -> "Trace":
        """Return the days from `from_day` to `to_day`."""
        part = self.per_s[round(from_day * 1440) : round(to_day * 1440)]
        return Trace(f"{self.name}[{from_day:g}:{to_day:g}]", part)

    def ticks(self, tick_s: float) -> NDArray[np.float64]:
        """Return samples per second in the middle of each tick. Shape (ticks,)."""
        middles_s = (np.arange(round(self.seconds / tick_s)) + 0.5) * tick_s
        ticks: NDArray[np.float64] = np.interp(
            middles_s / 60.0, np.arange(len(self.per_s)), self.per_s
        )
        return ticks


class Spike(msgspec.Struct, frozen=True):
    """A peak: demand rises exponentially, then decays with a half-life.

    Args:
        at_h: Start in hours.
        times: Factor at the peak.
        rise_h: Duration of the rise, in hours.
        half_h: Half-life of the additional demand, in hours.
    """

    at_h: float
    times: float
    rise_h: float
    half_h: float

    def factor(self, hour: float) -> float:
        """Return the factor on demand."""
        since_h = hour - self.at_h
        if since_h < 0:
            return 1.0
        if since_h < self.rise_h:
            return float(self.times ** (since_h / self.rise_h))
        halvings = (since_h - self.rise_h) / self.half_h
        return 1.0 + (self.times - 1.0) * math.exp2(-halvings)


def named(name: str) -> Trace:
    """Return a trace by name.

    Raises:
        InvalidInput: There is no such trace.
    """
    if name not in TRACES:
        raise InvalidInput(f"no trace is called {name!r}; there are {', '.join(sorted(TRACES))}")
    return TRACES[name]()


def day(people: float, every_s: float) -> Trace:
    """Return a day of users who request pictures at a fixed interval.

    Args:
        people: Active users at the evening peak.
        every_s: Interval between a user's requests, in seconds.
    """
    course = np.array([_diurnal(minute / 60.0) for minute in range(1440)])
    return Trace("day", course / course.max() * people / every_s)


def check_length(path: Path, seconds: float) -> None:
    """Check the duration of a file's demand.

    Raises:
        InvalidInput: The file covers too many days.
    """
    days = seconds / 86_400.0
    if days > _MOST_DAYS:
        raise InvalidInput(
            f"{path} covers {days:,.0f} days, and the simulator takes at most {_MOST_DAYS}: cut it"
        )


def read(path: Path) -> Trace:
    """Return a trace from a CSV file with the columns `minute` and `images_per_s`.

    Raises:
        InvalidInput: The file is not valid, or covers too many days.
    """
    try:
        with path.open(newline="", encoding=TEXT) as lines:
            rows = [
                (int(row["minute"]), float(row["images_per_s"])) for row in csv.DictReader(lines)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"{path} is no trace ({error}): it needs numbers in columns minute and images_per_s"
        ) from error
    per_s = np.array([rate for _, rate in rows])
    if not rows:
        raise InvalidInput(
            f"{path} is no trace: it needs a line for each minute below its first, which names the "
            "columns minute and images_per_s"
        )
    if [minute for minute, _ in rows] != list(range(len(rows))):
        raise InvalidInput(f"{path} is no trace: its minutes must be 0, 1, 2 and so on")
    if not (np.isfinite(per_s).all() and (per_s >= 0).all()):
        raise InvalidInput(f"{path} is no trace: images_per_s must be finite and not negative")
    check_length(path, 60.0 * len(per_s))
    return Trace(path.stem, per_s)


def _diurnal(hour: float) -> float:
    """Return the daily profile: mean 1, 1.75 at 20:00, 0.55 at 08:00."""
    turn = 2.0 * math.pi * (hour - 20.0) / 24.0
    return 1.0 + 0.6 * math.cos(turn) + 0.15 * math.cos(2.0 * turn)


def _crowd(
    name: str, days: float, daily_users: Callable[[float], float], spikes: tuple[Spike, ...]
) -> Trace:
    """Return the demand of daily users.

    Args:
        name: Name of the trace.
        days: Duration in days.
        daily_users: Number of users on a given day.
        spikes: Additional peaks.
    """
    minutes = range(round(days * 1440))
    users = (daily_users(minute / 1440.0) * _ACTIVE_SHARE for minute in minutes)
    rates = (
        each * _rise(minute / 60.0, spikes) for minute, each in zip(minutes, users, strict=True)
    )
    return Trace(name, np.fromiter(rates, np.float64) / _PICTURE_EVERY_S)


def _rise(hour: float, spikes: tuple[Spike, ...]) -> float:
    return _diurnal(hour % 24.0) * math.prod(each.factor(hour) for each in spikes)


def _daily_users_of_v1(day: float) -> float:
    """Return 300,000, rising to 4.1 million from day 3 to 6, and decaying from day 9."""
    if day >= 9.0:
        return 600e3 + 3.5e6 * math.exp2((9.0 - day) / 2.5)
    share = min(max((day - 3.0) / 3.0, 0.0), 1.0)
    return float(300e3 * (4.1e6 / 300e3) ** (share * share * (3.0 - 2.0 * share)))


def _v1() -> Trace:
    spikes = (Spike(6 * 24 + 17, 10, 3, 5), Spike(8 * 24 + 15, 3, 1, 3))
    return _crowd("v1", 14, _daily_users_of_v1, spikes)


def _steady(name: str, days: float, daily_users: float, *spikes: Spike) -> Callable[[], Trace]:
    return lambda: _crowd(name, days, lambda _: daily_users, spikes)


def _gentd26(name: str, days: int, most_per_s: float) -> Callable[[], Trace]:
    """Return days with the hourly profile of GenTD26: nearly no demand at noon."""
    hours = np.array(_GENTD26_HOURS * days) / max(_GENTD26_HOURS) * most_per_s
    middles = (np.arange(len(hours)) + 0.5) * 60.0
    return lambda: Trace(name, np.interp(np.arange(days * 1440), middles, hours))


#: For choosing policy settings. The final evaluation also uses v1, v2 and v3, with the held-out
#: seeds.
TUNING: Final[Mapping[str, Callable[[], Trace]]] = {
    "v1": _v1,
    "v2": _steady("v2", 4, 300e3, Spike(39, 10, 2, 6)),
    "v3": _steady("v3", 4, 300e3, Spike(43, 10, 1 / 6, 2)),
    "spike": _steady("spike", 2, 300e3, Spike(22, 10, 1 / 60, 1)),
}

#: For the final evaluation only.
HELD_OUT: Final[Mapping[str, Callable[[], Trace]]] = {
    "held-out-slow": _steady("held-out-slow", 4, 450e3, Spike(33, 6, 5, 9)),
    "held-out-fast": _steady("held-out-fast", 3, 200e3, Spike(37, 15, 1 / 4, 1.5)),
    "held-out-short": _steady(
        "held-out-short", 3, 400e3, Spike(30, 5, 1 / 20, 1 / 6), Spike(53, 4, 1 / 12, 1 / 3)
    ),
    "held-out-twice": _steady(
        "held-out-twice", 4, 250e3, Spike(35, 8, 1, 3), Spike(61, 12, 1 / 2, 4)
    ),
    "held-out-hours": _gentd26("held-out-hours", 4, 100.0),
}

TRACES: Final[Mapping[str, Callable[[], Trace]]] = {**TUNING, **HELD_OUT}
