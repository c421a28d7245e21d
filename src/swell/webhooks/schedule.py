"""What follows from a receiver's answer: delivered, another attempt later, or none. Pure.

Source:
    Standard Webhooks 1.0.0, "Best practices for delivery" (schedule, 410, no redirects); RFC 9110,
    section 10.2.3 (Retry-After).
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from swell.outbox import Delivery, DeliveryState, Told, Try

#: How long after each failure the next attempt is made, in seconds: ten attempts in three days.
SCHEDULE_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)

#: By as much a wait is made longer or shorter, so that failures spread out.
_JITTER: Final = 0.1

#: No receiver can put an attempt off for longer, in seconds.
_MOST_S: Final = 86400.0

#: With these a receiver may say when it wants to be asked again.
_PUTS_OFF: Final = frozenset({429, 502, 503, 504})

_GONE: Final = 410


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt met."""

    at: datetime
    took_s: float
    #: None where there was no answer.
    status: int | None = None
    retry_after: str | None = None
    #: The beginning of what was answered.
    text: str = ""
    #: Why there was no answer: a word, and in words.
    error: str = ""
    detail: str = ""
    #: Whether no other attempt can help.
    is_final: bool = False


def is_gone(answer: Answer) -> bool:
    """Whether the receiver wants nothing any more."""
    return answer.status == _GONE


def what_follows(
    delivery: Delivery, answer: Answer, schedule_s: Sequence[float], rng: random.Random
) -> Told:
    """Return what becomes of a delivery after an attempt.

    Args:
        delivery: As it was before.
        answer: What the attempt met.
        schedule_s: Waits before all attempts but the first.
        rng: Spreads the waits.
    """
    error, detail = _error_of(answer)
    state, due_at, reason = DeliveryState.DELIVERED, None, ""
    if error:
        wait_s = _wait_s(delivery.tries, answer, schedule_s, rng)
        if is_gone(answer) or answer.is_final or wait_s is None:
            state, reason = DeliveryState.FAILED, detail
        else:
            due_at = answer.at + timedelta(seconds=answer.took_s + wait_s)
            state, reason = DeliveryState.WAITING, detail
    return Told(
        id=delivery.id,
        tries=delivery.tries,
        attempt=Try(
            at=answer.at,
            took_s=round(answer.took_s, 3),
            status=answer.status,
            error=error,
            detail=detail,
        ),
        answer=answer.text,
        state=state,
        due_at=due_at,
        reason=reason,
    )


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Return for how long a `Retry-After` asks to wait, in seconds; None where that is unclear."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(_MOST_S, float(text[:9]))
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    # A date without a zone is in UTC.
    until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
    return min(_MOST_S, max(0.0, (until - now).total_seconds()))


def _wait_s(
    before: int, answer: Answer, schedule_s: Sequence[float], rng: random.Random
) -> float | None:
    """Return how long to wait after an attempt that so many came before; None after the last."""
    if before >= len(schedule_s):
        return None
    wait_s = schedule_s[before] * (1 + _JITTER * (2 * rng.random() - 1))
    if answer.status not in _PUTS_OFF:
        return wait_s
    return max(wait_s, retry_after_s(answer.retry_after, answer.at) or 0.0)


def _error_of(answer: Answer) -> tuple[str, str]:
    """Return what was wrong with an answer, as a word and in words; nothing where it is 2xx."""
    status = answer.status
    if status is None:
        return answer.error, answer.detail
    if 200 <= status < 300:
        return "", ""
    if 300 <= status < 400:
        return "redirect", f"it answered {status}, and redirects are not followed: name the new URL"
    if status == _GONE:
        return "gone", "it answered 410: it wants nothing any more"
    return "status", f"it answered {status}, and only 2xx is success"
