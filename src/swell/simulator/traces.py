"""What crowds ask for over days, in samples per second, without noise.

`v1`, `v2` and `v3` go viral in days, hours and minutes. They, `spike` and some seeds are there to
choose numbers of a policy by; what is held out is for judging it, and never looked at before.
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

#: Traces begin at midnight of a Monday, in seconds since 1970.
STARTS_AT: Final = 1_767_571_200.0

#: How files of demand are written: UTF-8, perhaps with the mark that spreadsheets put before it.
TEXT: Final = "utf-8-sig"

#: Longer ones are not simulated, in days.
_MOST_DAYS: Final = 366

#: Everybody who asks has a picture drawn so often, and does so for so long a day.
_PICTURE_EVERY_S: Final = 120.0
_ACTIVE_SHARE: Final = 20.0 / 1440.0

#: Hours of the day → share of all requests in GenTD26, a service for Stable Diffusion.
#:
#: Source:
#:     Derived from cluster-trace-v2026-GenAI of alibaba/clusterdata; Lin et al., SoCC 2025.
_GENTD26_HOURS: Final = (
    *(0.1428, 0.0408, 0.0436, 0.0451, 0.0249, 0.0134, 0.0126, 0.0094),
    *(0.0046, 0.0017, 0.0013, 0.0001, 0.0, 0.0001, 0.0001, 0.0015),
    *(0.0239, 0.0874, 0.1035, 0.0233, 0.0407, 0.1239, 0.1237, 0.1316),
)

#: For choosing a policy's numbers, and for judging it.
TUNING_SEEDS: Final = (101, 102, 103, 104, 105)
HELD_OUT_SEEDS: Final = (1, 2, 3, 4, 5)


class Trace(msgspec.Struct, frozen=True, eq=False):
    """Demand over time.

    Args:
        name: What it is called.
        per_s: Samples per second at the beginning of each minute. Shape (minutes,), >= 0.
    """

    name: str
    per_s: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return 60.0 * len(self.per_s)

    def scaled(self, factor: float) -> "Trace":
        """Return the same course with so many times the demand."""
        return Trace(self.name, self.per_s * factor)

    def between(self, from_day: float, to_day: float) -> "Trace":
        """Return some of its days."""
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
    """Demand that is multiplied, and halves again.

    Args:
        at_h: When it begins, in hours.
        times: By how much at its top.
        rise_h: How long it rises, exponentially, in hours.
        half_h: After how long what came on top has halved, in hours.
    """

    at_h: float
    times: float
    rise_h: float
    half_h: float

    def factor(self, hour: float) -> float:
        """Return by how much demand is multiplied."""
        since_h = hour - self.at_h
        if since_h < 0:
            return 1.0
        if since_h < self.rise_h:
            return float(self.times ** (since_h / self.rise_h))
        halvings = (since_h - self.rise_h) / self.half_h
        return 1.0 + (self.times - 1.0) * math.exp2(-halvings)


def named(name: str) -> Trace:
    """Return a trace.

    Raises:
        InvalidInput: There is none of this name.
    """
    if name not in TRACES:
        raise InvalidInput(f"no trace is called {name!r}; there are {', '.join(sorted(TRACES))}")
    return TRACES[name]()


def day(people: float, every_s: float) -> Trace:
    """Return a day of people who have a picture drawn so often while they are there.

    Args:
        people: How many are there at once in the evening, when most are.
        every_s: How often each asks, in seconds.
    """
    course = np.array([_diurnal(minute / 60.0) for minute in range(1440)])
    return Trace("day", course / course.max() * people / every_s)


def check_length(path: Path, seconds: float) -> None:
    """Check how long the demand of a file goes on.

    Raises:
        InvalidInput: Longer than anybody can wait for.
    """
    days = seconds / 86_400.0
    if days > _MOST_DAYS:
        raise InvalidInput(
            f"{path} covers {days:,.0f} days, and the simulator takes at most {_MOST_DAYS}: cut it"
        )


def read(path: Path) -> Trace:
    """Return a trace from a CSV file with the columns `minute` and `images_per_s`.

    Raises:
        InvalidInput: It cannot be read as one, or is too many days long.
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
    """Return a day's course: 1 on average, 1.75 at 20:00, 0.55 at 08:00."""
    turn = 2.0 * math.pi * (hour - 20.0) / 24.0
    return 1.0 + 0.6 * math.cos(turn) + 0.15 * math.cos(2.0 * turn)


def _crowd(
    name: str, days: float, daily_users: Callable[[float], float], spikes: tuple[Spike, ...]
) -> Trace:
    """Return the demand of people who come every day.

    Args:
        name: What it is called.
        days: How long it is.
        daily_users: Day → how many people come on it.
        spikes: What happens besides.
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
    """Return 300,000, 4.1 million within three days, and less again from the ninth on."""
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
    """Return days with the hours of GenTD26: nearly nothing at noon."""
    hours = np.array(_GENTD26_HOURS * days) / max(_GENTD26_HOURS) * most_per_s
    middles = (np.arange(len(hours)) + 0.5) * 60.0
    return lambda: Trace(name, np.interp(np.arange(days * 1440), middles, hours))


#: For choosing a policy's numbers. The three that went viral are also shown in the end, with the
#: seeds that are held out.
TUNING: Final[Mapping[str, Callable[[], Trace]]] = {
    "v1": _v1,
    "v2": _steady("v2", 4, 300e3, Spike(39, 10, 2, 6)),
    "v3": _steady("v3", 4, 300e3, Spike(43, 10, 1 / 6, 2)),
    "spike": _steady("spike", 2, 300e3, Spike(22, 10, 1 / 60, 1)),
}

#: For judging it only.
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
