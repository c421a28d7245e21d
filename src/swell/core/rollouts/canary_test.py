"""Sequential tests of whether a canary is worse than the live version. Pure.

Attempts are grouped into blocks in the order of their ends. A block is full once it holds enough
attempts of both versions; their outcomes do not influence when it is full. A hit is a failure, or a
run longer than a limit that was set before the block began. Given the number of hits in a block,
the canary's share of them has a hypergeometric distribution if the versions are equal, and Fisher's
noncentral one if the canary's odds of a hit are w times as high. The ratio of both,

    E(w) = w^k / sum_j h(j) w^j        k: hits of the canary, h: hypergeometric probabilities

has mean 1 if the versions are equal, and at most 1 if the canary is better. The product over
blocks, averaged over several w, is a nonnegative supermartingale. It ever reaches 1/a with
probability a at most, however often the result is checked.

The test holds for any share of the traffic, also one that changes, and when both versions start to
fail more often or less: only attempts of the same block are compared.

Source:
    Fisher's noncentral hypergeometric distribution: R. A. Fisher, The logic of inductive inference
    (1935). The bound on ever reaching 1/a: J. Ville, Etude critique de la notion de collectif
    (1939). Mixtures of likelihood ratios: H. Robbins, Statistical methods related to the law of the
    iterated logarithm (1970). As bets on two samples: R. Turner, A. Ly, P. Grünwald, Generic
    E-variables for exact sequential k-sample tests that allow for optional stopping (2024);
    I. Waudby-Smith, A. Ramdas, Estimating means of bounded random variables by betting (2024).
"""

import math
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from swell.core.rollouts.rollout_state import RollbackRules

#: A block is full with this many attempts of each version.
BLOCK: Final = 10

#: Odds ratios of a hit at the canary that the mixture tests.
ODDS: Final = (2, 4, 8, 16, 64)

#: Run times kept of each version.
_RECENT: Final = 200

#: Runs of the live version that are needed to set a limit for slow runs.
_LEAST_RUNS: Final = 20

#: Failures and slowness are two tests; each may cause half of the false alarms.
_TESTS: Final = 2

#: Likelihood ratios are capped, so that they stay finite. A cap keeps the bound on false alarms.
_MAX_RATIO: Final = 1e12


class Observation(msgspec.Struct, frozen=True):
    """An ended attempt; its input was not at fault."""

    is_canary: bool
    has_failed: bool
    #: Seconds per sample; 0 if it failed.
    run_s: float = 0.0


class Side(msgspec.Struct, kw_only=True):
    """Counts of one version since the canary started."""

    attempts: int = 0
    failures: int = 0
    #: The newest runs, in seconds, oldest first.
    recent_s: list[float] = []

    @property
    def p95_s(self) -> float | None:
        """The smallest run time that at least 95 % of the newest runs do not exceed."""
        times_s = sorted(self.recent_s)
        return times_s[math.ceil(0.95 * len(times_s)) - 1] if times_s else None

    def seen(self) -> "Seen":
        """Return the counts for operators."""
        return Seen(attempts=self.attempts, failures=self.failures, p95_s=self.p95_s)


class SequentialTest(msgspec.Struct, kw_only=True):
    """Test of whether one kind of hit is more frequent at the canary."""

    #: Attempts and hits of the canary, and of the live version, in the block that is not full.
    block: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0, 0])
    blocks: int = 0
    #: Likelihood ratio for each of `ODDS`.
    ratios: list[float] = msgspec.field(default_factory=lambda: [1.0] * len(ODDS))

    @property
    def evidence(self) -> float:
        """How many times more likely the hits are if the canary is worse."""
        return sum(self.ratios) / len(ODDS)

    def add(self, *, is_canary: bool, is_hit: bool) -> bool:
        """Add an attempt; return whether it filled the block and changed the evidence."""
        block, place = self.block, 0 if is_canary else 2
        block[place] += 1
        block[place + 1] += is_hit
        if block[0] < BLOCK or block[2] < BLOCK:
            return False
        self.ratios = [
            min(_MAX_RATIO, ratio * likelihood_ratio(odds, *block))
            for ratio, odds in zip(self.ratios, ODDS, strict=True)
        ]
        self.blocks += 1
        self.block = [0, 0, 0, 0]
        return True


class Evidence(msgspec.Struct, kw_only=True):
    """Everything observed about one canary, and about the live version since it started."""

    canary: Side = msgspec.field(default_factory=Side)
    live: Side = msgspec.field(default_factory=Side)
    failures: SequentialTest = msgspec.field(default_factory=SequentialTest)
    slowness: SequentialTest = msgspec.field(default_factory=SequentialTest)
    #: Longer runs are hits in the current block; None until the live version has enough runs.
    limit_s: float | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Observations of a version since the canary started."""

    attempts: Annotated[
        int, Meta(description="first attempts, without tasks that were themselves at fault")
    ]
    failures: int
    p95_s: Annotated[float | None, Meta(description="of the latest 200 runs, for one sample")]

    @property
    def failure_rate(self) -> float:
        """Failed attempts, as a fraction of all."""
        return self.failures / self.attempts if self.attempts else 0.0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a canary is worse, and why."""

    verdict: Annotated[str, Meta(description="`early` (too early to tell), `fine` or `worse`")]
    reason: str
    failures_evidence: Annotated[
        float, Meta(description="likelihood ratio for a canary that fails more often")
    ]
    slowness_evidence: Annotated[float, Meta(description="the same for one that is slower")]
    needed_evidence: Annotated[float, Meta(description="threshold for `worse`")]
    canary: Seen
    live: Seen


def observe(evidence: Evidence, seen: Observation) -> bool:
    """Add an attempt in place; return whether the evidence changed."""
    side = evidence.canary if seen.is_canary else evidence.live
    side.attempts += 1
    side.failures += seen.has_failed
    has_changed = evidence.failures.add(is_canary=seen.is_canary, is_hit=seen.has_failed)
    if seen.has_failed:
        return has_changed
    side.recent_s = [*side.recent_s[1 - _RECENT :], seen.run_s]
    limit_s = evidence.limit_s
    is_full = limit_s is not None and evidence.slowness.add(
        is_canary=seen.is_canary, is_hit=seen.run_s > limit_s
    )
    if (limit_s is None or is_full) and len(evidence.live.recent_s) >= _LEAST_RUNS:
        evidence.limit_s = evidence.live.p95_s
    return has_changed or is_full


def observe_all(evidence: Evidence, seen: Sequence[Observation], rules: RollbackRules) -> None:
    """Add attempts in place, up to the one with which the canary is rolled back."""
    for each in seen:
        if observe(evidence, each) and must_roll_back(judge(evidence, rules), rules):
            return


def must_roll_back(verdict: Verdict, rules: RollbackRules) -> bool:
    """Whether a canary with this verdict is rolled back automatically."""
    return rules.automatic and verdict.verdict == "worse"


def judge(evidence: Evidence, rules: RollbackRules) -> Verdict:
    """Compare the versions: a difference must be both certain and large enough."""
    needed = _TESTS / rules.false_alarm
    canary, live = evidence.canary.seen(), evidence.live.seen()
    failures, slowness = evidence.failures.evidence, evidence.slowness.evidence
    verdict, reason = "fine", "nothing speaks against it"
    if failures >= needed and canary.failure_rate - live.failure_rate >= rules.failures_by:
        verdict, reason = "worse", "it fails more often"
    elif slowness >= needed and (canary.p95_s or 0.0) >= rules.p95_by * (live.p95_s or 0.0):
        verdict, reason = "worse", "it takes longer"
    elif not evidence.failures.blocks:
        verdict, reason = "early", f"fewer than {BLOCK} attempts of one version have ended"
    return Verdict(
        verdict=verdict,
        reason=f"{reason}: {_in_words(canary)} against {_in_words(live)}",
        failures_evidence=failures,
        slowness_evidence=slowness,
        needed_evidence=needed,
        canary=canary,
        live=live,
    )


def _in_words(seen: Seen) -> str:
    failed = f"{seen.failures:,} of {seen.attempts:,} failed"
    return failed if seen.p95_s is None else f"{failed}, p95 {seen.p95_s:.3g} s"


def likelihood_ratio(odds: int, canary: int, canary_hits: int, live: int, live_hits: int) -> float:
    """Return E(odds) of one block.

    Args:
        odds: Odds of a hit at the canary, relative to those at the live version.
        canary: Attempts of the canary.
        canary_hits: Its hits.
        live: Attempts of the live version.
        live_hits: Its hits.
    """
    hits = canary_hits + live_hits
    # Integers stay exact where factorials of large blocks would overflow.
    ways = {
        each: math.comb(canary, each) * math.comb(live, hits - each)
        for each in range(max(0, hits - live), min(canary, hits) + 1)
    }
    weighted = sum(count * odds**each for each, count in ways.items())
    return float(odds**canary_hits * sum(ways.values()) / weighted)
