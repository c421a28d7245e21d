"""Where lives of models and evidence are kept: as notes of the registry, shared by all backends."""

from collections.abc import Callable
from typing import Final

import msgspec

from swell.adoption.evidence import Evidence, Observation
from swell.adoption.life import Life
from swell.db.registry import Registry
from swell.errors import Conflict

_LIFE: Final = "adoption/life/"
_EVIDENCE: Final = "adoption/evidence/"
#: Followed by model, backend and a number that grows.
_TOLD: Final = "adoption/told/"

#: So many times a life is read again that another has changed meanwhile.
_TRIES: Final = 20

_encode = msgspec.json.Encoder().encode
_life = msgspec.json.Decoder(Life).decode
_evidence = msgspec.json.Decoder(Evidence).decode


class _Told(msgspec.Struct, frozen=True):
    canary_id: str
    seen: list[Observation]


_told = msgspec.json.Decoder(_Told).decode


async def read_lives(registry: Registry) -> dict[str, Life]:
    """Return model → its life, of those that were staged."""
    lives = map(_life, (await registry.notes(_LIFE)).values())
    return {life.model: life for life in lives}


async def read_life(registry: Registry, model: str) -> Life | None:
    """Return the life of a model; None where it was not staged."""
    note = await registry.note(_LIFE + model)
    return None if note is None else _life(note)


async def change_life(
    registry: Registry, model: str, change: Callable[[Life | None], Life | None]
) -> Life | None:
    """Keep what `change` makes of a life; return it, or None where it makes nothing of it.

    Args:
        registry: Where it is kept.
        model: Whose.
        change: Pure; called again where another has changed the life meanwhile.

    Raises:
        Conflict: Others change it all the time; or whatever `change` raises.
    """
    for _ in range(_TRIES):
        note = await registry.note(_LIFE + model)
        changed = change(None if note is None else _life(note))
        if changed is None:
            return None
        if await registry.swap_note(_LIFE + model, note, _encode(changed)):
            return changed
    raise Conflict(f"the stages of {model} are changed by others right now: try again")


async def read_evidence(registry: Registry, model: str, canary_id: str) -> Evidence:
    """Return what is known of a canary: nothing, where what is kept is of an earlier one."""
    note = await registry.note(_EVIDENCE + model)
    kept = None if note is None else _evidence(note)
    if kept is None or kept.canary_id != canary_id:
        return Evidence(canary_id=canary_id)
    return kept


async def keep_evidence(registry: Registry, model: str, evidence: Evidence) -> None:
    """Keep what is known of a canary."""
    await registry.put_note(_EVIDENCE + model, _encode(evidence))


async def tell(
    registry: Registry,
    model: str,
    canary_id: str,
    backend: str,
    number: int,
    seen: list[Observation],
) -> None:
    """Leave what a backend has seen for whoever weighs it.

    Args:
        registry: Where it is left.
        model: Whose canary it is about.
        canary_id: Which.
        backend: Who tells; without a slash.
        number: Larger than all that it has told before.
        seen: What has ended since.
    """
    name = f"{_TOLD}{model}/{backend}/{number:012d}"
    await registry.put_note(name, _encode(_Told(canary_id, seen)))


async def read_told(
    registry: Registry, model: str, evidence: Evidence
) -> tuple[list[Observation], list[str]]:
    """Return what backends have left that is new, and the names of all notes that were read.

    What is new counts as known from now on: `evidence.told` says up to where each backend was
    heard, so that nothing counts twice where a note outlives a crash.
    """
    seen: list[Observation] = []
    notes = await registry.notes(f"{_TOLD}{model}/")
    for name in sorted(notes):
        *_, backend, number = name.split("/")
        told, place = _told(notes[name]), int(number)
        if told.canary_id == evidence.canary_id and place > evidence.told.get(backend, 0):
            evidence.told[backend] = place
            seen += told.seen
    return seen, list(notes)


async def forget_evidence(registry: Registry, model: str) -> None:
    """Forget what was left of a model that has no canary any more."""
    await registry.drop_notes(list(await registry.notes(f"{_TOLD}{model}/")))
