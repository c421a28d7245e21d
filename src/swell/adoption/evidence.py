"""What speaks against a canary, gathered attempt by attempt. Pure.

Attempts of canary and live version are laid into blocks in the order in which they ended. A block
is full once it has enough of both; what became of its attempts has no part in that. Of a full block
the number of its hits (failures, or runs longer than a limit that was set before the block began)
is taken as given: were both versions equal, which of the attempts they fell upon would be the draw
of a lot, and the canary's hits had the hypergeometric distribution. For odds that are w times as
high at the canary it is Fisher's noncentral one. The ratio of both,

    E(w) = w^k / sum_j h(j) w^j        k: hits of the canary, h: the hypergeometric probabilities

has the mean 1 where the versions are equal, and at most 1 where the canary is better. The product
over blocks, and its mean over several w, is therefore a nonnegative supermartingale: that it ever
reaches 1/a, however often somebody looks, has at most the probability a.

It asks nothing of how much traffic each version gets, which may change at any time, nor whether
failures become rarer or more frequent for both: each block stands for itself.

Source:
    Fisher's noncentral hypergeometric distribution: R. A. Fisher, The logic of inductive inference
    (1935). The bound on ever reaching 1/a: J. Ville, Etude critique de la notion de collectif
    (1939). Mixtures of likelihood ratios: H. Robbins, Statistical methods related to the law of the
    iterated logarithm (1970). As bets on two samples: R. Turner, A. Ly, P. Grünwald, Generic
    E-variables for exact sequential k-sample tests that allow for optional stopping (2024);
    I. Waudby-Smith, A. Ramdas, Estimating means of bounded random variables by betting (2024).
"""

import bisect
import functools
import math
from typing import Final

import msgspec

#: A block is full with so many attempts of each version.
BLOCK: Final = 10

#: How many times as high the odds of a hit may be at the canary: one bet on each.
ODDS: Final = (2.0, 4.0, 8.0, 16.0, 64.0)

#: So many runs of each version stand for how long they take at present.
RECENT: Final = 200

#: The limit of a block comes from at least so many runs of the live version.
_FEWEST: Final = 20

#: Which part of the live version's runs is longer than the limit.
_TAIL: Final = 0.05


class Observation(msgspec.Struct, frozen=True, array_like=True):
    """One attempt that has ended, by the fault of nobody but its version."""

    is_canary: bool
    has_failed: bool
    #: What the model took for one sample, in seconds; 0 where it has failed.
    took_s: float = 0.0


class Side(msgspec.Struct, kw_only=True):
    """What is known of one version, from all blocks and beside them."""

    attempts: int = 0
    failures: int = 0
    #: The newest runs, in seconds, oldest first.
    recent_s: list[float] = []


class Bets(msgspec.Struct, kw_only=True):
    """The bets that one kind of hit is more frequent at the canary."""

    #: Of the block that is not full: attempts and hits of the canary, and of the live version.
    block: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0, 0])
    #: Full blocks so far.
    blocks: int = 0
    #: Logarithm of what each of `ODDS` has come to.
    log_wealth: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(ODDS))

    @property
    def log_e(self) -> float:
        """Logarithm of how many times more likely a worse canary makes what was seen."""
        top = max(self.log_wealth)
        total = sum(math.exp(each - top) for each in self.log_wealth)
        return top + math.log(total / len(ODDS))

    def add(self, *, is_canary: bool, is_hit: bool) -> bool:
        """Lay an attempt into the block; return whether that is full and was taken in."""
        block = self.block
        at = 0 if is_canary else 2
        block[at] += 1
        block[at + 1] += is_hit
        if block[0] < BLOCK or block[2] < BLOCK:
            return False
        canary, canary_hits, live, live_hits = block
        bets = (log_bet(odds, canary, canary_hits, live, live_hits) for odds in ODDS)
        self.log_wealth = [wealth + bet for wealth, bet in zip(self.log_wealth, bets, strict=True)]
        self.blocks += 1
        self.block = [0, 0, 0, 0]
        return True


class Evidence(msgspec.Struct, kw_only=True):
    """All that is known of one canary, and of the live version beside it."""

    #: `Canary.id`.
    canary_id: str
    canary: Side = msgspec.field(default_factory=Side)
    live: Side = msgspec.field(default_factory=Side)
    failures: Bets = msgspec.field(default_factory=Bets)
    slowness: Bets = msgspec.field(default_factory=Bets)
    #: A run of the block that is not full is a hit above this; None until one can be told.
    limit_s: float | None = None
    #: Backend → up to which of its notes it was heard.
    told: dict[str, int] = {}


def observe(evidence: Evidence, seen: Observation) -> bool:
    """Add an attempt to what is known, in place; return whether that says more than before."""
    side = evidence.canary if seen.is_canary else evidence.live
    side.attempts += 1
    side.failures += seen.has_failed
    has_more = evidence.failures.add(is_canary=seen.is_canary, is_hit=seen.has_failed)
    if seen.has_failed:
        return has_more
    limit_s = evidence.limit_s
    is_full = limit_s is not None and evidence.slowness.add(
        is_canary=seen.is_canary, is_hit=seen.took_s > limit_s
    )
    side.recent_s.append(seen.took_s)
    if len(side.recent_s) > RECENT:
        del side.recent_s[0]
    if (limit_s is None or is_full) and len(evidence.live.recent_s) >= _FEWEST:
        evidence.limit_s = quantile(evidence.live.recent_s, 1 - _TAIL)
    return has_more or is_full


def quantile(values: list[float], part: float) -> float:
    """Return the smallest value that at least this part of all does not exceed; 0 for none."""
    ordered: list[float] = []
    for each in values:
        bisect.insort(ordered, each)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0


def log_bet(odds: float, canary: int, canary_hits: int, live: int, live_hits: int) -> float:
    """Return the logarithm of what a bet on `odds` pays for one block.

    Args:
        odds: Of a hit at the canary, in times of those at the live version; > 0.
        canary: Attempts of the canary in the block.
        canary_hits: Of these, hits.
        live: Attempts of the live version.
        live_hits: Of these, hits.
    """
    hits = canary_hits + live_hits
    ways = _log_ways(canary, live, hits)
    least = max(0, hits - live)
    terms = [way + (least + place) * math.log(odds) for place, way in enumerate(ways)]
    top = max(terms)
    log_mean = top + math.log(sum(math.exp(each - top) for each in terms))
    return canary_hits * math.log(odds) - log_mean


@functools.lru_cache(maxsize=256)
def _log_ways(canary: int, live: int, hits: int) -> tuple[float, ...]:
    """Return the logarithms of the hypergeometric probabilities of the canary's hits."""
    least, most = max(0, hits - live), min(canary, hits)
    whole = _log_choose(canary + live, hits)
    return tuple(
        _log_choose(canary, each) + _log_choose(live, hits - each) - whole
        for each in range(least, most + 1)
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
