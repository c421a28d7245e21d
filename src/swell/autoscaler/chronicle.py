"""Stores the arrivals of the last weeks, as one note per model in the registry.

The leader writes the note every ten minutes, and the next leader reads it. A span is written only
once, so that no arrival counts twice.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

import msgspec

from swell.autoscaler.arrivals import last_span
from swell.autoscaler.history import Past, Usual, remember, usual
from swell.db.registry import Registry
from swell.protocol.autoscaler_messages import read

#: Prefix of the notes' names, before the model.
PREFIX: Final = "autoscaler.history "


class Chronicle:
    """Arrivals of all models.

    Args:
        registry: The registry with the notes.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pasts: dict[str, Past] = {}
        self._is_known = False
        #: Number of the last recorded span, and models with unsaved changes.
        self._heard = -1
        self._fresh: set[str] = set()

    async def load(self) -> None:
        """Read the notes, unless they are loaded."""
        if self._is_known:
            return
        notes = await self._registry.notes(PREFIX)
        found = {name.removeprefix(PREFIX): read(note, Past) for name, note in notes.items()}
        self._pasts = {model: past for model, past in found.items() if past is not None}
        self._heard, self._is_known = -1, True
        self._fresh.clear()

    def forget(self) -> None:
        """Discard the notes: another process may have written them."""
        self._is_known = False

    def hear(self, notes: Collection[bytes], now: datetime) -> None:
        """Record the last complete span.

        Args:
            notes: Arrival notes of the backends.
            now: The time.
        """
        if not self._is_known:
            return  # do not overwrite notes that were not read
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
        """Return the usual arrivals at this time of the week, by model."""
        if not self._is_known:
            return {}
        return {model: usual(past, now.timestamp()) for model, past in self._pasts.items()}

    async def save(self) -> None:
        """Write the changed notes."""
        for model in sorted(self._fresh):
            past = self._pasts.get(model)
            if past is None:
                await self._registry.drop_notes([PREFIX + model])
            else:
                await self._registry.put_note(PREFIX + model, msgspec.json.encode(past))
            self._fresh.discard(model)
