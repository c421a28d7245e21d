"""Storage of stages and evidence: values in the registry that all backends change by compare and
set.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from swell.core.rollouts.canary_test import Evidence, Observation, observe_all
from swell.core.rollouts.rollout_state import Canary, Life
from swell.db.registry import Registry

T = TypeVar("T", Life, Evidence)

_LIFE: Final = "adoption/life/"
#: Followed by the model and the canary's id.
_EVIDENCE: Final = "adoption/evidence/"


async def read_lives(registry: Registry) -> dict[str, Life]:
    """Return model → stages of its versions, for all models with stages."""
    notes = (await registry.notes(_LIFE)).values()
    return {life.model: life for life in (msgspec.json.decode(each, type=Life) for each in notes)}


async def change_life(
    registry: Registry, model: str, change: Callable[[Life | None], Life | None]
) -> Life | None:
    """Store what `change` returns for the stages of a model; return it. None changes nothing.

    Args:
        registry: Stores it.
        model: `owner/name`.
        change: Pure; called again if another caller changed the stages at the same time.

    Raises:
        Unavailable: Others keep changing them. `change` may raise other errors.
    """
    life = await _change(registry, _LIFE + model, Life, change)
    if life is not None and life.canary is None:
        await registry.drop_notes(list(await registry.notes(f"{_EVIDENCE}{model}/")))
    return life


async def read_evidence(registry: Registry, model: str, canary: Canary) -> Evidence:
    """Return the evidence about a canary."""
    note = await registry.note(_evidence_name(model, canary))
    return Evidence() if note is None else msgspec.json.decode(note, type=Evidence)


async def add_evidence(
    registry: Registry, model: str, canary: Canary, seen: Sequence[Observation]
) -> Evidence:
    """Add observations of this backend to the evidence about a canary; return all of it."""

    def change(known: Evidence | None) -> Evidence:
        evidence = known or Evidence()
        observe_all(evidence, seen, canary.rollback)
        return evidence

    evidence = await _change(registry, _evidence_name(model, canary), Evidence, change)
    assert evidence is not None, "`change` always returns evidence"
    return evidence


def _evidence_name(model: str, canary: Canary) -> str:
    return f"{_EVIDENCE}{model}/{canary.id}"


async def _change(
    registry: Registry, name: str, kind: type[T], change: Callable[[T | None], T | None]
) -> T | None:
    def change_note(note: bytes | None) -> bytes | None:
        changed = change(None if note is None else msgspec.json.decode(note, type=kind))
        return None if changed is None else msgspec.json.encode(changed)

    note = await registry.change_note(name, change_note)
    return None if note is None else msgspec.json.decode(note, type=kind)
