"""Decisions in words, each with its numbers."""

from swell.autoscaler.outlook import Reason
from swell.autoscaler.requirement import Requirement
from swell.autoscaler.sizing import Wish
from swell.autoscaler.supply import Supply

__all__ = ["of_model", "of_pool", "stale"]


def stale(pool: Supply, age_s: float, most_s: float) -> Reason:
    """Return why nothing is changed by what is too old."""
    return Reason(
        pool.view.pool,
        "stale",
        f"{_workers(pool.n)} unchanged: the state is {age_s:.0f} s old, and the "
        f"autoscaler decides nothing on state older than {most_s:.0f} s.",
    )


def of_model(model: Requirement) -> Reason:
    """Return what a model needs and why."""
    name, need, terms = model.demand.model, model.need, model.terms
    if model.is_idle:
        return Reason(name, "idle", "Idle. Restarting later is cheaper than keeping it.")
    tail = (
        f"{need.rate:.3g} samples/s come, {need.ahead:.3g} are expected in {terms.lead_s:.0f} s, "
        f"{need.up:.3g} are prepared for"
    )
    if model.believed != 1.0:
        tail += f" by workers that are {model.believed:.2f} times as fast as reported"
    if need.queue > 0.5 * terms.wait_s * need.ahead + 1.0:
        return Reason(name, "backlog", f"{tail}: {need.queue:.0f} samples will still wait then.")
    if need.growing:
        return Reason(name, "growth", f"{tail}: a crowd is coming.")
    return Reason(
        name, "rate", f"{tail}: {terms.score:.1f} standard deviations above the forecast."
    )


_HELD = {
    "settle": "but none goes before it has been watched for {keep:.0f} s",
    "late": "but none goes while tasks wait for too long",
    "busy": "but the others are busy",
    "paid": "but the others are paid for anyway",
}


def of_pool(pool: Supply, wish: Wish, *, is_asked: bool) -> Reason:
    """Return what is done in a pool and why.

    Args:
        pool: Which one.
        wish: What is done.
        is_asked: Whether anybody asks for a model that it draws.
    """
    view = pool.view
    have = f"{_workers(pool.n)} ({len(view.booting)} starting)"
    need = f"{wish.up} needed, up to {wish.high} kept"
    if view.is_unknown:
        need += ", one of them until its models are described"
    if wish.why == "budget":
        done = _done(wish) or "asks for none"
        return Reason(view.pool, "budget", f"{have}, {need}: {done}, as the budget allows.")
    if wish.why == "most":
        return Reason(view.pool, "cap", f"{have}, {view.most} allowed: {_done(wish)}.")
    if wish.launch:
        pace = " at first, to see whether it lasts" if wish.why == "pace" else ""
        return Reason(view.pool, "launch", f"{have}, {need}: {_done(wish)}{pace}.")
    if wish.why:
        done = f"{_done(wish)}, " if _done(wish) else ""
        held = _HELD[wish.why].format(keep=pool.keep_s)
        return Reason(view.pool, wish.why, f"{have}, {need}: {done}{held}.")
    if wish.cancel or wish.drain:
        return Reason(view.pool, "shrink", f"{have}, {need}: {_done(wish)}.")
    if view.closed_s > 0.0:
        text = f"{have}: asked for none for {view.closed_s:.0f} s, since it has refused."
        return Reason(view.pool, "closed", text)
    if pool.n >= view.most:
        return Reason(view.pool, "cap", f"{have}, {need}: {view.most} are allowed.")
    if is_asked and pool.n + pool.unused >= view.most:
        text = f"{have}: {view.most} are allowed, and {_gone(pool)} until they have gone."
        return Reason(view.pool, "cap", text)
    code = "bridge" if pool.n > wish.up else "enough"
    return Reason(view.pool, code, f"{have}, {need}: nothing to do.")


def _done(wish: Wish) -> str:
    parts = []
    if wish.launch:
        parts.append(f"{wish.launch} more are asked for")
    if wish.cancel:
        parts.append(f"{wish.cancel} that start are canceled")
    if wish.drain:
        parts.append(f"{wish.drain} finish and go")
    return ", ".join(parts)


def _gone(pool: Supply) -> str:
    """Return how many are paid for that take no tasks any more."""
    view = pool.view
    parts = [f"{view.draining} on the way out"] if view.draining else []
    parts += [f"{view.silent} silent"] if view.silent else []
    return f"{' and '.join(parts)} count"


def _workers(n: int) -> str:
    return "1 worker" if n == 1 else f"{n} workers"
