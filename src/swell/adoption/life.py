"""A model's life: trial → canary → live → retired. Pure: from how it stands to how it stands next.

A model that nobody has staged has no `Life`: its newest version gets what names none.
"""

import hashlib
from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from swell.errors import Conflict

#: So many changes of a model are remembered; the audit log keeps all.
_HISTORY: Final = 50

#: So many versions that were live are remembered, to go back to.
_FORMER: Final = 10

_replace = msgspec.structs.replace


class Stage(StrEnum):
    """How far a version is adopted."""

    #: Gets what names it.
    TRIAL = "trial"
    #: Gets a part of what names no version.
    CANARY = "canary"
    #: Gets the rest.
    LIVE = "live"
    #: Gets nothing.
    RETIRED = "retired"


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """When a canary is rolled back without being asked."""

    is_automatic: bool = True
    #: How likely a canary that is no worse is ever rolled back, at most.
    false_alarm: float = 0.001
    #: What is worse by less is left to people: in parts of all attempts that fail,
    failures_by: float = 0.01
    #: and in times of the live version's 95th percentile.
    p95_by: float = 1.1


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """A version that gets a part of the traffic."""

    #: Tells this canary from another of the same version.
    id: str
    version: str
    #: 0 to 1.
    share: float
    since: datetime
    #: Whether all tasks of a key stay together, else those of a user.
    is_by_key: bool = False
    watch: Watch = Watch()


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a model's life."""

    at: datetime
    #: Name of the key; empty where nobody asked for it.
    who: str
    #: `canary`, `promote`, `rollback` or `retire`.
    action: str
    version: str
    share: float | None = None
    reason: str = ""


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """How the versions of one model are adopted."""

    #: `owner/name`.
    model: str
    live: str
    canary: Canary | None = None
    #: Versions that were live, the last one first.
    former: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    #: Newest first.
    history: tuple[Change, ...] = ()

    def stage(self, version: str) -> Stage:
        """Return how far a version is adopted."""
        if version == self.live:
            return Stage.LIVE
        if self.canary is not None and version == self.canary.version:
            return Stage.CANARY
        return Stage.RETIRED if version in self.retired else Stage.TRIAL


def begin(model: str, live: str) -> Life:
    """Return the life of a model that was not staged before."""
    return Life(model=model, live=live)


def edition_of(life: Life | None) -> str:
    """Return what tells how a model's versions stand from how they stood before any change.

    Args:
        life: None of a model that was not staged.
    """
    told = b"" if life is None else msgspec.json.encode(life)
    return hashlib.sha256(told).hexdigest()[:12]


def check_edition(life: Life | None, model: str, edition: str | None) -> None:
    """Check that versions stand as whoever wants to change that has seen them.

    Raises:
        Conflict: They have changed since.
    """
    if edition is None or edition == edition_of(life):
        return
    stands = f"no version of {model} is staged"
    if life is not None:
        stands = _stands(life)
        if life.history:
            stands += f", since {_in_words(life.history[0])}"
    raise Conflict(
        f"the stages of {model} have changed since edition {edition}: {stands}; look at how its "
        "versions stand, and decide again"
    )


def start_canary(life: Life, canary: Canary, *, who: str) -> Life:
    """Give a version a part of the traffic; of the one that has some, change how much.

    What was found out about a canary is kept where only its share or its watch changes.

    Raises:
        Conflict: It is live, or another version is the canary.
    """
    version, before = canary.version, life.canary
    if version == life.live:
        raise Conflict(f"{version} of {life.model} is live already: a canary is another version")
    if before is not None and before.version != version:
        raise Conflict(
            f"{before.version} is the canary of {life.model} since {before.since:%Y-%m-%d %H:%M}: "
            "promote it or roll it back first"
        )
    change = Change(at=canary.since, who=who, action="canary", version=version, share=canary.share)
    if before is not None and before.is_by_key == canary.is_by_key:
        canary = _replace(canary, id=before.id, since=before.since)
    changed = _replace(life, canary=canary, retired=_without(life.retired, version))
    return _noted(changed, change)


def promote(
    life: Life, version: str | None, *, who: str, at: datetime, has_looked: bool = False
) -> Life:
    """Make a version live: the canary, where none is named.

    Args:
        life: As it stands.
        version: Which one.
        who: Name of the key.
        at: When.
        has_looked: Whether it is known that `life` is what the caller has seen.

    Raises:
        Conflict: There is no canary; or it is live already; or it was rolled back by itself, and
            the caller may not know.
    """
    if version is None and life.canary is None:
        raise Conflict(f"{life.model} has no canary: name the version to make live")
    chosen = version or (life.canary.version if life.canary else "")
    if chosen == life.live and life.history and life.canary is None:
        raise Conflict(f"{chosen} of {life.model} is live already")
    if chosen == life.live and life.canary is not None:
        raise Conflict(
            f"{chosen} of {life.model} is live, and {life.canary.version} its canary: to end that, "
            "roll it back"
        )
    if not has_looked:
        _check_not_rolled_back(life, chosen)
    changed = _made_live(life, chosen)
    return _noted(changed, Change(at=at, who=who, action="promote", version=chosen))


def _check_not_rolled_back(life: Life, version: str) -> None:
    """Check that the last that became of a version was not that it was rolled back by itself.

    Raises:
        Conflict: It was.
    """
    last = next((each for each in life.history if each.version == version), None)
    if last is not None and last.action == "rollback" and not last.who:
        raise Conflict(
            f"{version} is no longer the canary of {life.model}: {_in_words(last)}. To make it "
            f"live all the same, say that you have seen it: send the edition {edition_of(life)} "
            "(`swell models rollout MODEL:VERSION --promote --anyway`)"
        )


def _stands(life: Life) -> str:
    canary = "" if life.canary is None else f", {life.canary.version} its canary"
    return f"{life.live} is live{canary}"


def _in_words(change: Change) -> str:
    done = {"canary": "made the canary", "promote": "promoted", "rollback": "rolled back"}
    who = f"by {change.who!r}" if change.who else "by itself"
    why = f" ({change.reason})" if change.reason else ""
    what = done.get(change.action, "retired")
    return f"{change.version} was {what} {who} at {change.at:%Y-%m-%d %H:%M:%S}{why}"


def roll_back(
    life: Life, *, who: str, at: datetime, reason: str = "", version: str | None = None
) -> Life:
    """Take the traffic from the canary; where there is none, make the version before live again.

    Args:
        life: As it stands.
        who: Name of the key; empty where nobody asked for it.
        at: When.
        reason: Why.
        version: What is to be left: the canary, or the live version where there is none. Whatever
            it is, where it is None.

    Raises:
        Conflict: There is neither, or another version would be left.
    """
    left = life.live if life.canary is None else life.canary.version
    if version is not None and version != left:
        raise Conflict(
            f"a rollback of {life.model} would leave {left} now, and not {version}: "
            f"{_stands(life)}; look at how its versions stand, and decide again"
        )
    if life.canary is not None:
        change = Change(
            at=at, who=who, action="rollback", version=life.canary.version, reason=reason
        )
        return _noted(_replace(life, canary=None), change)
    if not life.former:
        raise Conflict(
            f"{life.model} has no canary and no version that was live before {life.live}: promote "
            "the version that you want"
        )
    change = Change(at=at, who=who, action="rollback", version=life.live, reason=reason)
    changed = _made_live(life, life.former[0])
    # Whoever goes back once more goes further back, and not to what was just left.
    return _noted(_replace(changed, former=life.former[1:]), change)


def retire(life: Life, version: str, *, who: str, at: datetime) -> Life:
    """Give a version nothing more, not even what names it.

    Raises:
        Conflict: It is live, the canary, or retired already.
    """
    if version == life.live:
        raise Conflict(f"{version} of {life.model} is live: promote another version first")
    if life.canary is not None and version == life.canary.version:
        raise Conflict(f"{version} is the canary of {life.model}: roll it back first")
    if version in life.retired:
        raise Conflict(f"{version} of {life.model} is retired already")
    changed = _replace(
        life, retired=(*life.retired, version), former=_without(life.former, version)
    )
    return _noted(changed, Change(at=at, who=who, action="retire", version=version))


def _made_live(life: Life, version: str) -> Life:
    former = life.former
    if version != life.live:
        former = (life.live, *_without(life.former, version))[:_FORMER]
    return _replace(
        life,
        live=version,
        canary=None,
        former=_without(former, version),
        retired=_without(life.retired, version),
    )


def _noted(life: Life, change: Change) -> Life:
    return _replace(life, history=(change, *life.history)[:_HISTORY])


def _without(versions: Collection[str], version: str) -> tuple[str, ...]:
    return tuple(each for each in versions if each != version)
