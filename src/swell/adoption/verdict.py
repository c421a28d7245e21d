"""Whether a canary is worse than the live version, and in which words. Pure."""

import math
from enum import StrEnum
from typing import Final

import msgspec

from swell.adoption.evidence import BLOCK, Bets, Evidence, Side, quantile
from swell.adoption.life import Watch

#: Failures and slowness each get a part of what a false alarm may cost.
_TESTS: Final = 2

#: Evidence is not written out beyond this.
_MOST: Final = 1e9


class Word(StrEnum):
    """What is to be said of a canary, in one word."""

    #: Nobody can tell yet.
    EARLY = "early"
    #: Nothing speaks against it.
    FINE = "fine"
    #: It is worse.
    WORSE = "worse"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a canary."""

    word: Word
    #: A sentence.
    reason: str
    #: How many times more likely a worse canary makes what was seen: of failures, and of times.
    failures_evidence: float
    slowness_evidence: float
    #: From here on it counts as worse.
    needed_evidence: float


def judge(evidence: Evidence, watch: Watch) -> Verdict:
    """Return what is to be said of a canary by now.

    It is worse where the evidence is strong enough and the difference large enough to matter.

    Args:
        evidence: All there is.
        watch: What is strong and large enough.
    """
    needed = _TESTS / watch.false_alarm
    canary, live = evidence.canary, evidence.live
    by = _part(canary) - _part(live)
    canary_s, live_s = quantile(canary.recent_s, 0.95), quantile(live.recent_s, 0.95)
    word, reason = Word.FINE, "nothing speaks against it"
    if _is_proved(evidence.failures, needed) and by >= watch.failures_by:
        word, reason = Word.WORSE, "it fails more often"
    elif _is_proved(evidence.slowness, needed) and canary_s >= watch.p95_by * live_s:
        word, reason = Word.WORSE, "it takes longer"
    elif not evidence.failures.blocks:
        word, reason = Word.EARLY, f"fewer than {BLOCK} attempts of one of both have ended"
    return Verdict(
        word=word,
        reason=f"{reason}: {_seen(canary, canary_s)} against {_seen(live, live_s)}",
        failures_evidence=_times(evidence.failures),
        slowness_evidence=_times(evidence.slowness),
        needed_evidence=needed,
    )


def _is_proved(bets: Bets, needed: float) -> bool:
    return bets.log_e >= math.log(needed)


def _part(side: Side) -> float:
    return side.failures / side.attempts if side.attempts else 0.0


def _seen(side: Side, p95_s: float) -> str:
    told = f"{side.failures:,} of {side.attempts:,} failed"
    return f"{told}, p95 {p95_s:.3g} s" if side.recent_s else told


def _times(bets: Bets) -> float:
    return _MOST if bets.log_e >= math.log(_MOST) else math.exp(bets.log_e)
