"""What a fleet would have cost at least for whoever had known the future. Bounds, not policies.

Workers are a fluid here, so no fleet of whole workers that keeps the wanted wait is cheaper.
`least_s` is the bound for one pool, `programs` has that for several. Both need the extra
`simulate`; `levels_s` and `smoothest` do not.
"""

from swell.simulator.oracle.levels import levels_s, smoothest
from swell.simulator.oracle.prices import least_s

__all__ = ["least_s", "levels_s", "smoothest"]
