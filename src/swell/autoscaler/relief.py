"""What to do about demand that no worker will meet in time. Pure."""

import math
from typing import Final

from swell.autoscaler.need import Need
from swell.autoscaler.outlook import Relief

__all__ = ["relief"]

#: Nobody is told to wait for longer, in seconds: by then everything is different.
_LONGEST_S: Final = 24 * 3600.0


def relief(model: str, need: Need, wait_s: float, able: float) -> Relief | None:
    """Return what to do about one model's demand; None where it is met in time.

    Args:
        model: Which.
        need: What it needs, with how long a new task would wait.
        wait_s: How long one should wait at most.
        able: What its workers can draw by the time that new ones are ready, in samples per second.
    """
    if need.wait_s <= wait_s or (need.rate <= 0.0 and need.queue <= 0.0):
        return None
    # What waits already is drawn first; of the rest there is room for so much within the wait.
    wanted = max(need.rate, need.ahead)
    short = wanted + need.queue / max(wait_s, need.wait_s, 1.0)
    admitted = min(1.0, able / short) if short > 0.0 else 1.0
    speedup = max(1.0, short / able) if able > 0.0 else math.inf
    return Relief(
        model=model,
        admitted=max(0.0, admitted),
        wait_s=min(_LONGEST_S, need.wait_s),
        speedup=min(100.0, speedup),
    )
