"""Other autoscalers to compare Swell with, each with a sweep of its settings.

The settings include the defaults and values that a careful operator would try. A curve is a group
of settings that differ in one number, the knob.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rivals import rules
from rivals.fleets import Rule

_Array = NDArray[np.float64]


class Setting(msgspec.Struct, frozen=True):
    """Settings of one autoscaler.

    Args:
        curve: Name of the curve.
        knob: The number that differs along the curve: a larger one means fewer workers.
        numbers: Parameters of the rule, by name.
        is_default: Whether these are the autoscaler's defaults.
    """

    curve: str
    knob: float
    numbers: Mapping[str, float]
    is_default: bool = False


class Anchor(msgspec.Struct, frozen=True):
    """Another autoscaler."""

    name: str
    settings: Sequence[Setting]
    #: Creates the rule, given the parameters of each fleet.
    rule: Callable[[Mapping[str, _Array]], Rule]


def _sweep(
    curve: str,
    name: str,
    knobs: Sequence[float],
    others: Mapping[str, float],
    default: float | None = None,
) -> list[Setting]:
    """Return the settings of one curve; `default` is the autoscaler's default knob."""
    return [
        Setting(curve, knob, {name: knob, **others}, is_default=knob == default) for knob in knobs
    ]


def _keda() -> list[Setting]:
    def rate(down_s: float, *loads: float) -> list[Setting]:
        others = {"is_rate": 1.0, "down_s": down_s}
        return _sweep(f"rate, down {down_s:g} s", "per_worker", loads, others)

    queue = {"is_rate": 0.0, "down_s": 300.0}
    return [
        *_sweep("queue, down 300 s", "per_worker", (1, 2, 5), queue, default=5),
        *rate(300, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1),
        *rate(60, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1),
        *rate(900, 0.8, 0.9, 0.95, 1),
    ]


def _knative() -> list[Setting]:
    loads = (0.7, 0.8, 0.9, 1)
    usual = {"is_rate": 0.0, "window_s": 60.0, "panic": 2.0, "down_s": 0.0}
    rate = {**usual, "is_rate": 1.0, "window_s": 180.0}
    return [
        *_sweep("as it comes", "per_worker", (0.6, 0.7, 0.8, 0.85, 0.9, 1), usual, default=0.7),
        *_sweep("window 180 s", "per_worker", loads, {**usual, "window_s": 180.0}),
        *_sweep("down 300 s", "per_worker", loads, {**usual, "down_s": 300.0}),
        *_sweep(
            "rate, 180 s, down 300 s",
            "per_worker",
            (0.5, 0.6, *loads, 0.95),
            {**rate, "down_s": 300.0},
        ),
    ]


def _ray() -> list[Setting]:
    loads = (0.7, 0.8, 0.85, 0.9, 1)
    usual = {"look_back_s": 30.0, "up_s": 30.0, "down_s": 600.0}
    return [
        *_sweep("as it comes", "per_worker", (*loads, 2), usual, default=2),
        *_sweep("up at once", "per_worker", loads, {**usual, "up_s": 0.0}),
        *_sweep("down 300 s", "per_worker", loads, {**usual, "look_back_s": 60.0, "down_s": 300.0}),
    ]


def _sky() -> list[Setting]:
    loads = (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1)
    return [
        *_sweep("as it comes", "load", loads, {"up_s": 300.0, "down_s": 1200.0}, default=0.8),
        *_sweep("up 60 s, down 600 s", "load", loads, {"up_s": 60.0, "down_s": 600.0}),
        *_sweep("up 20 s, down 300 s", "load", loads, {"up_s": 20.0, "down_s": 300.0}),
    ]


def _sky_pool() -> list[Setting]:
    queues = (1, 10, 100)
    return [
        *_sweep("as it comes", "load", queues, {"up_s": 300.0, "down_s": 1200.0}, default=1),
        *_sweep("up 60 s, down 300 s", "load", queues, {"up_s": 60.0, "down_s": 300.0}),
        *_sweep("up 20 s, down 1200 s", "load", queues, {"up_s": 20.0, "down_s": 1200.0}),
    ]


def _aws() -> list[Setting]:
    usual = {"metric": 0.0, "up": 3.0, "down": 15.0}
    shares = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    rate = {**usual, "metric": 2.0}
    return [
        *_sweep("backlog", "target", (1, 2, 5, 10, 20), usual, default=10),
        *_sweep("busy", "target", shares, {**usual, "metric": 1.0}),
        *_sweep("rate", "target", (*shares, 1), rate),
        *_sweep("rate, up 1, down 5", "target", (*shares, 1), {**rate, "up": 1.0, "down": 5.0}),
    ]


def _runpod() -> list[Setting]:
    def idle(idle_s: float, default: float | None = None) -> list[Setting]:
        return _sweep(f"idle {idle_s:g} s", "per_worker", (1, 2, 4), {"idle_s": idle_s}, default)

    return [*idle(5, 4), *idle(60), *idle(300), *idle(900)]


def _loads(*loads: float) -> list[Setting]:
    return _sweep("load", "load", loads, {}, default=1)


#: Autoscalers to compare Swell with.
ANCHORS: Final = (
    Anchor("KEDA", _keda(), rules.Keda),
    Anchor("Knative", _knative(), rules.Knative),
    Anchor("Ray Serve", _ray(), rules.Ray),
    Anchor("SkyServe", _sky(), rules.Sky),
    Anchor("SkyPilot pool", _sky_pool(), rules.SkyPool),
    Anchor("AWS target tracking", _aws(), rules.Aws),
    Anchor("RunPod", _runpod(), rules.RunPod),
)

#: References that are impossible or wasteful in practice.
REFERENCES: Final = (
    Anchor("static peak", _loads(0.9, 1, 1.1), rules.Peak),
    Anchor("foresight", _loads(0.9, 0.95, 1, 1.05, 1.1), rules.Foresight),
)
