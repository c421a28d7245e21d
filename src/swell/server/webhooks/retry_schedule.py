"""The result of an attempt: delivered, failed, or another attempt later. Pure.

Source:
    Standard Webhooks 1.0.0, "Best practices for delivery" (schedule, 410, no redirects); RFC 9110,
    section 10.2.3 (Retry-After).
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from swell.core.outbox import AttemptResult, Delivery, DeliveryState, Try
from swell.server.webhooks.webhook_sender import Answer, HookRequest

#: A random part of a wait, so that retries spread out.
_JITTER: Final = 0.1

#: The longest delay that a receiver can ask for, in seconds.
_MOST_S: Final = 86400.0

#: Statuses with which a receiver may ask for a delay (`Retry-After`).
_PUTS_OFF: Final = frozenset({429, 502, 503, 504})

#: The status of a receiver that refuses all later deliveries.
GONE: Final = 410

#: The error of an attempt that no other attempt can mend.
UNSENDABLE: Final = "unsendable"


def result_of(
    delivery: Delivery,
    request: HookRequest | None,
    answer: Answer,
    schedule_s: Sequence[float],
    rng: random.Random,
) -> AttemptResult:
    """Return the result of an attempt.

    Args:
        delivery: The delivery before the attempt.
        request: The request; None if there was none.
        answer: The answer to it.
        schedule_s: Waits before all attempts but the first.
        rng: Varies the waits.
    """
    error, detail = _error_of(answer)
    state, due_at = DeliveryState.DELIVERED, None
    if error:
        wait_s = _wait_s(delivery.tries, answer, schedule_s, rng)
        if error in ("gone", UNSENDABLE) or wait_s is None:
            state = DeliveryState.FAILED
        else:
            state = DeliveryState.WAITING
            due_at = answer.at + timedelta(seconds=answer.took_s + wait_s)
    took_s = round(answer.took_s, 3)
    return AttemptResult(
        id=delivery.id,
        tries=delivery.tries,
        attempt=Try(at=answer.at, took_s=took_s, status=answer.status, error=error, detail=detail),
        answer=answer.text,
        inputs_removed=request is not None and request.inputs_removed,
        outputs_removed=request is not None and request.outputs_removed,
        state=state,
        due_at=due_at,
        reason=detail,
    )


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Return the delay in a `Retry-After` header, in seconds; None if it cannot be read."""
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
    """Return the wait after an attempt; None after the last one."""
    if before >= len(schedule_s):
        return None
    wait_s = schedule_s[before] * (1 + _JITTER * (2 * rng.random() - 1))
    if answer.status not in _PUTS_OFF:
        return wait_s
    return max(wait_s, retry_after_s(answer.retry_after, answer.at) or 0.0)


def _error_of(answer: Answer) -> tuple[str, str]:
    """Return a code and a text for a failure; empty for 2xx."""
    status = answer.status
    if status is None:
        return answer.error, answer.detail
    if 200 <= status < 300:
        return "", ""
    if 300 <= status < 400:
        return "redirect", f"it answered {status}, and redirects are not followed: name the new URL"
    if status == GONE:
        return "gone", "it answered 410: it wants nothing any more"
    return "status", f"it answered {status}, and only 2xx is success"
