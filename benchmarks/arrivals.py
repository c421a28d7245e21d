"""When tasks come and what they ask: those of tests/simulation, for workers in real time.

The simulated worker comes along, so that a benchmark can say what the same arrivals cost without
any overhead, in steps or in order.
"""

from __future__ import annotations

import sys

from machine import ROOT

sys.path.insert(0, str(ROOT / "tests" / "simulation"))

from denoiser import (
    GENTD26_STEPS,
    MIXED_STEPS,
    Device,
    Job,
    Run,
    device,
    in_order,
    in_steps,
    poisson,
    quantile,
)

__all__ = [
    "GENTD26_STEPS",
    "MIXED_STEPS",
    "Device",
    "Job",
    "Run",
    "device",
    "in_order",
    "in_steps",
    "poisson",
    "quantile",
]
