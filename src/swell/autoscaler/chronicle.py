"""Keeps what arrived in the last weeks, as one note in the registry for each model.

Whoever scales writes it, once in ten minutes, and whoever takes over reads it. A span that was
written is not written again, so that nothing counts twice.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

import msgspec

from swell.autoscaler.arrivals import last_span
from swell.autoscaler.history import Past, Usual, remember, usual
from swell.db.registry import Registry
from swell.protocol.autoscaler_messages import read

#: How names of notes begin, before the model's.
PREFIX: Final = "autoscaler.history "


class Chronicle:
    """What arrived of all models.

    Args:
        registry: Where it lies.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pasts: dict[str, Past] = {}
        self._is_known = False
        #: The last span that was heard of, and what is to be written.
        self._heard = -1
        self._fresh: set[str] = set()

    async def load(self) -> None:
        """Read what was kept, unless that was done."""
        if self._is_known:
            return
        notes = await self._registry.notes(PREFIX)
        found = {name.removeprefix(PREFIX): read(note, Past) for name, note in notes.items()}
        self._pasts = {model: past for model, past in found.items() if past is not None}
        self._heard, self._is_known = -1, True
        self._fresh.clear()

    def forget(self) -> None:
        """Believe nothing any more until it is read again: another may have written meanwhile."""
        self._is_known = False

    def hear(self, notes: Collection[bytes], now: datetime) -> None:
        """Note the last span that is over.

        Args:
            notes: What backends tell of arrivals.
            now: The time.
        """
        if not self._is_known:
            return  # what is not known must not be overwritten
        span = last_span(notes, now)
        if span is None or span.number <= self._heard:
            return
        self._heard = span.number
        for model in {*self._pasts, *span.samples}:
            before = self._pasts.get(model)
            past = remember(before, span.number, span.samples.get(model, 0))
            if past is before:
                continue
            self._fresh.add(model)
            if past is None:
                del self._pasts[model]
            else:
                self._pasts[model] = past

    def usual(self, now: datetime) -> Mapping[str, Usual]:
        """Return model → what usually comes at this time of the week."""
        if not self._is_known:
            return {}
        return {model: usual(past, now.timestamp()) for model, past in self._pasts.items()}

    async def save(self) -> None:
        """Write what is new."""
        for model in sorted(self._fresh):
            past = self._pasts.get(model)
            if past is None:
                await self._registry.drop_notes([PREFIX + model])
            else:
                await self._registry.put_note(PREFIX + model, msgspec.json.encode(past))
            self._fresh.discard(model)
