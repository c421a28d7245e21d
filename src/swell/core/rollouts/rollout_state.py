"""Stages of a model's versions: trial → canary → live → retired, and their queues. Pure.

A model has no `Life` until its first promotion or canary; then its newest version gets all traffic.

Tasks without a version wait in two queues: the model's, served by workers of the live version, and
the canary's, served by workers of the canary, or of the live version while the canary has none. So
no waiting task moves when a canary is promoted, rolled back, or loses its workers.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from swell.core.errors import Conflict

#: Changes kept with a model; the audit log keeps all.
_HISTORY: Final = 50

#: Former live versions kept, to return to.
_FORMER: Final = 10

#: Names the queue of a canary; no version can have this name.
_CANARY: Final = "~canary"

_replace = msgspec.structs.replace


class Stage(StrEnum):
    """How far a version is rolled out."""

    #: Gets tasks that name it.
    TRIAL = "trial"
    #: Gets a share of the tasks that name no version.
    CANARY = "canary"
    #: Gets the rest.
    LIVE = "live"
    #: Gets no tasks.
    RETIRED = "retired"


class RollbackRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules for automatic rollback."""

    automatic: bool = True
    false_alarm: Annotated[
        float,
        Meta(
            ge=1e-9,
            le=0.1,
            description="highest probability of rolling back a canary that is no worse",
        ),
    ] = 0.001
    failures_by: Annotated[
        float, Meta(ge=0.0, le=1.0, description="tolerated increase of the failure rate")
    ] = 0.01
    p95_by: Annotated[
        float, Meta(ge=1.0, le=100.0, description="tolerated ratio of the 95th percentiles")
    ] = 1.1


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """A version that gets a share of the traffic."""

    #: Differs between two canaries of the same version.
    id: str
    version: str
    #: 0 to 1.
    share: float
    since: datetime
    #: Whether all tasks of a user get the same version, or all of a key.
    sticky: Literal["user", "key"] = "user"
    rollback: RollbackRules = RollbackRules()


class StageChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a model's stages."""

    at: datetime
    who: Annotated[str, Meta(description="name of the key; empty if automatic")]
    action: Annotated[str, Meta(description="`canary`, `promote`, `rollback` or `retire`")]
    version: str
    share: float | None
    reason: str


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """Stages of all versions of one model."""

    #: `owner/name`.
    model: str
    live: str
    canary: Canary | None = None
    #: Earlier live versions, latest first.
    former: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    #: Newest first.
    history: tuple[StageChange, ...] = ()

    def stage(self, version: str) -> Stage:
        """Return the stage of a version."""
        if version == self.live:
            return Stage.LIVE
        if self.canary is not None and version == self.canary.version:
            return Stage.CANARY
        return Stage.RETIRED if version in self.retired else Stage.TRIAL


def edition_of(life: Life | None) -> str:
    """Return an entity tag of stages; None for a model without."""
    return hashlib.sha256(b"" if life is None else msgspec.json.encode(life)).hexdigest()[:12]


def check_edition(life: Life | None, model: str, edition: str | None) -> None:
    """Check that stages are still those that a caller has seen; None skips the check.

    Raises:
        Conflict: They have changed since.
    """
    if edition is None or edition == edition_of(life):
        return
    now = f"no version of {model} is staged" if life is None else _in_words(life)
    if life is not None and life.history:
        now += f", since {_change_in_words(life.history[0])}"
    raise Conflict(
        f"the stages of {model} have changed since edition {edition}: {now}; look at them again, "
        "and decide again"
    )


def start_canary(life: Life, canary: Canary, *, who: str) -> Life:
    """Give a version a share of the traffic, or change the share or rules of the canary.

    The canary keeps its evidence unless its traffic is now split in another way.

    Raises:
        Conflict: The version is live, or another version is the canary.
    """
    version, before = canary.version, life.canary
    if version == life.live:
        raise Conflict(f"{version} of {life.model} is live already: a canary is another version")
    if before is not None and before.version != version:
        raise Conflict(
            f"{before.version} is the canary of {life.model} since {before.since:%Y-%m-%d %H:%M}: "
            "promote it or roll it back first"
        )
    change = _replace(_change("canary", version, who, canary.since), share=canary.share)
    if before is not None and before.sticky == canary.sticky:
        canary = _replace(canary, id=before.id, since=before.since)
    return _changed(life, change, canary=canary, retired=_without(life.retired, version))


def promote(
    life: Life, version: str | None, *, who: str, at: datetime, has_looked: bool = False
) -> Life:
    """Make a version live; None for the canary.

    Args:
        life: The stages now.
        version: The version.
        who: Name of the key.
        at: When.
        has_looked: Whether the caller has seen these stages.

    Raises:
        Conflict: There is no canary; or the version is live already; or it was rolled back
            automatically and the caller may not know.
    """
    canary = life.canary
    if version is None and canary is None:
        raise Conflict(f"{life.model} has no canary: name the version to make live")
    chosen = version or (canary.version if canary else "")
    if chosen == life.live and life.history:
        end = "" if canary is None else f"; to end its canary {canary.version}, roll that back"
        raise Conflict(f"{chosen} of {life.model} is live already{end}")
    last = next((each for each in life.history if each.version == chosen), None)
    if not has_looked and last is not None and last.action == "rollback" and not last.who:
        raise Conflict(
            f"{chosen} is no longer the canary of {life.model}: {_change_in_words(last)}. To make "
            f"it live all the same, confirm that you know: send the edition {edition_of(life)} "
            "(`swell models rollout MODEL:VERSION --promote --anyway`)"
        )
    return _made_live(life, chosen, _change("promote", chosen, who, at))


def roll_back(
    life: Life, *, who: str, at: datetime, reason: str = "", version: str | None = None
) -> Life:
    """End the canary; without one, make the previous live version live again.

    Args:
        life: The stages now.
        who: Name of the key; empty if automatic.
        at: When.
        reason: Why.
        version: The version that loses its traffic; None for whichever it is now.

    Raises:
        Conflict: Nothing can be rolled back, or another version would lose its traffic.
    """
    left = life.live if life.canary is None else life.canary.version
    if version is not None and version != left:
        raise Conflict(
            f"a rollback of {life.model} would leave {left} now, and not {version}: "
            f"{_in_words(life)}; look at the stages again, and decide again"
        )
    change = _change("rollback", left, who, at, reason)
    if life.canary is not None:
        return _changed(life, change, canary=None)
    if not life.former:
        raise Conflict(
            f"{life.model} has no canary and no version that was live before {life.live}: promote "
            "the version that you want"
        )
    changed = _made_live(life, life.former[0], change)
    # The next rollback goes further back, not to the version that was just left.
    return _replace(changed, former=life.former[1:])


def retire(life: Life, version: str, *, who: str, at: datetime) -> Life:
    """Give a version no more tasks, not even those that name it.

    Raises:
        Conflict: It is live, the canary, or retired already.
    """
    stage = life.stage(version)
    if stage is Stage.LIVE:
        raise Conflict(f"{version} of {life.model} is live: promote another version first")
    if stage is Stage.CANARY:
        raise Conflict(f"{version} is the canary of {life.model}: roll it back first")
    if stage is Stage.RETIRED:
        raise Conflict(f"{version} of {life.model} is retired already")
    retired, former = (*life.retired, version), _without(life.former, version)
    return _changed(life, _change("retire", version, who, at), retired=retired, former=former)


def _change(action: str, version: str, who: str, at: datetime, reason: str = "") -> StageChange:
    return StageChange(at=at, who=who, action=action, version=version, share=None, reason=reason)


def _made_live(life: Life, version: str, change: StageChange) -> Life:
    former = _without((life.live, *life.former), version)[:_FORMER]
    retired = _without(life.retired, version)
    return _changed(life, change, live=version, canary=None, former=former, retired=retired)


def _changed(life: Life, change: StageChange, **fields: object) -> Life:
    return _replace(life, history=(change, *life.history)[:_HISTORY], **fields)


def _without(versions: Iterable[str], version: str) -> tuple[str, ...]:
    return tuple(each for each in versions if each != version)


def _in_words(life: Life) -> str:
    canary = "" if life.canary is None else f", {life.canary.version} its canary"
    return f"{life.live} is live{canary}"


def _change_in_words(change: StageChange) -> str:
    done = {"canary": "made the canary", "promote": "promoted", "rollback": "rolled back"}
    who = f"by {change.who!r}" if change.who else "automatically"
    why = f" ({change.reason})" if change.reason else ""
    what = done.get(change.action, "retired")
    return f"{change.version} was {what} {who} at {change.at:%Y-%m-%d %H:%M:%S}{why}"


def canary_queue(model: str) -> str:
    """Return the queue of a model's canary."""
    return f"{model}:{_CANARY}"


def is_of_canary(queue: str) -> bool:
    """Whether a queue is that of its model's canary."""
    return queue.endswith(f":{_CANARY}")


def asked_version(queue: str) -> str:
    """Return the version that tasks in a queue name; empty for none."""
    version = queue.partition(":")[2]
    return "" if version == _CANARY else version


def drawn_as(life: Life, version: str) -> str:
    """Return the name under which the autoscaler plans a version: `owner/name` if it is live."""
    return life.model if version == life.live else f"{life.model}:{version}"


def is_in_canary(model: str, who: str, share: float) -> bool:
    """Whether the tasks of a user or key go to the canary.

    A hash gives each of them a fixed place between 0 and 1 for each model; the canary gets those
    below its share. So a larger share keeps the users of a smaller one.

    Args:
        model: `owner/name`.
        who: The user or key.
        share: Of the traffic, 0 to 1.
    """
    digest = hashlib.blake2b(f"{model}\0{who}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def queues_of(life: Life, version: str, *, is_canary_served: bool) -> tuple[str, ...]:
    """Return the queues that workers with a version serve.

    Args:
        life: Stages of the model.
        version: Version of the workers.
        is_canary_served: Whether a live worker has the canary.
    """
    stage, named = life.stage(version), f"{life.model}:{version}"
    queues = (life.model, named) if stage is Stage.LIVE else (named,)
    if stage is Stage.CANARY or (stage is Stage.LIVE and not (life.canary and is_canary_served)):
        return *queues, canary_queue(life.model)
    return queues
