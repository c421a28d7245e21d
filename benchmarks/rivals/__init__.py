"""Lower bounds on the cost of a fleet, computed with knowledge of the future.

Workers are a fluid here, so no fleet of whole workers with the target wait is cheaper. `least_s`
bounds one pool, and `programs` several.
"""

from rivals.levels import levels_s, smoothest
from rivals.prices import least_s

__all__ = ["least_s", "levels_s", "smoothest"]
