"""How long to wait before the next attempt."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    The wait before attempt n + 1 is uniform in [0, min(cap, base · 2^(n - 1))], but at least
    `floor_s`, so that failures spread out instead of coming back together.

    Source:
        M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    #: Longest wait after the first failure, in seconds.
    base_s: float = 1.0
    #: Longest wait after any failure, in seconds.
    cap_s: float = 60.0
    #: Shortest wait, in seconds.
    floor_s: float = 0.05

    @property
    def longest_s(self) -> float:
        """The longest wait that `delay_s` returns, in seconds."""
        return max(self.floor_s, self.cap_s)

    def delay_s(self, attempt: int, rng: random.Random) -> float:
        """Return the seconds to wait after failed attempt number `attempt` (1 is the first)."""
        # 2 ** 60 seconds is longer than any cap; the bound only keeps the power small.
        ceiling_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60))
        return max(self.floor_s, rng.uniform(0.0, ceiling_s))
