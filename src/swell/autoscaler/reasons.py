"""Reasons of scaling decisions as sentences with numbers."""

from swell.autoscaler.outlook import Reason
from swell.autoscaler.requirement import Requirement
from swell.autoscaler.sizing import Wish
from swell.autoscaler.supply import Supply


def stale(pool: Supply, age_s: float, most_s: float) -> Reason:
    """Return the reason for no decision on outdated state."""
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
        f"{need.rate:.3g} samples/s arrive, forecast {need.ahead:.3g} in {terms.lead_s:.0f} s, "
        f"capacity planned for {need.up:.3g}"
    )
    if model.believed != 1.0:
        tail += f" by workers that are {model.believed:.2f} times as fast as reported"
    if need.queue > 0.5 * terms.wait_s * need.ahead + 1.0:
        return Reason(name, "backlog", f"{tail}: a backlog of {need.queue:.0f} samples remains.")
    if need.growing:
        return Reason(name, "growth", f"{tail}: demand is growing.")
    return Reason(
        name, "rate", f"{tail}: {terms.score:.1f} standard deviations above the forecast."
    )


_HELD = {
    "settle": "but a pool keeps its workers for {keep:.0f} s first",
    "late": "but no worker stops while tasks wait too long",
    "busy": "but the others are busy",
    "paid": "but the others are already paid for",
}


def of_pool(pool: Supply, wish: Wish, *, is_asked: bool) -> Reason:
    """Return what the autoscaler does with a pool, and why.

    Args:
        pool: The pool.
        wish: The decision.
        is_asked: Whether there is demand for one of its models.
    """
    view = pool.view
    have = f"{_workers(pool.n)} ({len(view.booting)} starting)"
    need = f"{wish.up} needed, up to {wish.high} kept"
    if view.is_unknown:
        need += ", one of them to describe its models"
    if wish.why == "budget":
        done = _done(wish) or "launches none"
        return Reason(view.pool, "budget", f"{have}, {need}: {done}, limited by the budget.")
    if wish.why == "most":
        return Reason(view.pool, "cap", f"{have}, {view.most} allowed: {_done(wish)}.")
    if wish.launch:
        pace = " at first, until the demand lasts" if wish.why == "pace" else ""
        return Reason(view.pool, "launch", f"{have}, {need}: {_done(wish)}{pace}.")
    if wish.why:
        done = f"{_done(wish)}, " if _done(wish) else ""
        held = _HELD[wish.why].format(keep=pool.keep_s)
        return Reason(view.pool, wish.why, f"{have}, {need}: {done}{held}.")
    if wish.cancel or wish.drain:
        return Reason(view.pool, "shrink", f"{have}, {need}: {_done(wish)}.")
    if view.closed_s > 0.0:
        text = f"{have}: no launches for {view.closed_s:.0f} s after a refusal."
        return Reason(view.pool, "closed", text)
    if pool.n >= view.most:
        return Reason(view.pool, "cap", f"{have}, {need}: {view.most} allowed.")
    if is_asked and pool.n + pool.unused >= view.most:
        text = f"{have}: {view.most} allowed, and {_gone(pool)} until they end."
        return Reason(view.pool, "cap", text)
    code = "bridge" if pool.n > wish.up else "enough"
    return Reason(view.pool, code, f"{have}, {need}: no change.")


def _done(wish: Wish) -> str:
    parts = []
    if wish.launch:
        parts.append(f"launching {wish.launch}")
    if wish.cancel:
        parts.append(f"canceling {wish.cancel} that start")
    if wish.drain:
        parts.append(f"draining {wish.drain}")
    return ", ".join(parts)


def _gone(pool: Supply) -> str:
    """Return how many workers still cost money but take no tasks."""
    view = pool.view
    parts = [f"{view.draining} draining"] if view.draining else []
    parts += [f"{view.silent} silent"] if view.silent else []
    return f"{' and '.join(parts)} count"


def _workers(n: int) -> str:
    return "1 worker" if n == 1 else f"{n} workers"
