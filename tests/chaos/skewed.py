"""`python -m chaos.skewed COMMAND …` is `swell COMMAND …` with a wall clock that can be set.

The file that `CHAOS_CLOCK` names holds by how many seconds the process's wall clock is wrong; it
may change at any time. Only `SystemClock.now` tells another time: what measures durations is
monotonic, and does not follow when somebody sets a machine's clock.
"""

import os
from datetime import datetime, timedelta
from pathlib import Path

from swell.cli import main
from swell.core.clock import SystemClock

_HONEST = SystemClock.now
_WRONG_BY = Path(os.environ["CHAOS_CLOCK"])


def _skewed(_: SystemClock) -> datetime:
    try:
        wrong_by_s = float(_WRONG_BY.read_text() or 0)
    except OSError:
        wrong_by_s = 0.0
    return _HONEST() + timedelta(seconds=wrong_by_s)


if __name__ == "__main__":
    SystemClock.now = _skewed  # type: ignore[method-assign]
    main()
