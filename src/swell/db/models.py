"""Registered versions of models."""

from collections.abc import Sequence

from msgspec.structs import replace

from swell.core.records import ModelCard
from swell.db.sql import Database, Transaction, bodies, to_json


class ModelRepository:
    """Versions never change once registered, except for their price."""

    _db: Database

    async def put_models(self, cards: Sequence[ModelCard]) -> None:
        """Register versions. Those already known only become the newest, and take the new price."""
        names = [card.name for card in cards]
        newest = bodies(await self._db.fetch("newest_models", names=names), ModelCard)
        known = {(card.name, card.version, card.price_micros) for card in newest}
        if all((card.name, card.version, card.price_micros) in known for card in cards):
            return

        async def action(tx: Transaction) -> None:
            await tx.lock("models", [""])
            for card in cards:
                version = {"name": card.name, "version": card.version}
                rows = await tx.fetch("put_model", **version, body=to_json(card))
                [kept] = bodies(rows, ModelCard)
                if kept.price_micros != card.price_micros:
                    body = to_json(replace(kept, price_micros=card.price_micros))
                    await tx.fetch("price_model", **version, body=body)

        await self._db.transaction(action)

    async def models(self) -> list[ModelCard]:
        """Return every version, by name, newest first within a name."""
        return bodies(await self._db.fetch("models"), ModelCard)
