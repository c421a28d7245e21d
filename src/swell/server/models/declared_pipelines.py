"""Pipelines that the settings declare become model cards once their stages' models have theirs."""

import msgspec
import structlog

from swell.core.card_limits import check_card
from swell.core.errors import InvalidInput, InvalidModel
from swell.core.records import ModelCard
from swell.sdk.pipeline_cards import Declared, Unknown, card_of
from swell.server.service import Service

_log = structlog.get_logger("swell.api")


async def register_pipelines(service: Service) -> None:
    """Register the cards of declared pipelines that changed, once their models are known."""
    declared, cards = service.settings.pipelines, service.cards
    if not declared:
        return
    await cards.refresh()
    current = {card.name: card.version for card in cards.newest()}
    found = [card for each in declared if (card := _card_of(service, each)) is not None]
    now = service.clock.now()
    fresh = [
        msgspec.structs.replace(card, registered_at=now)
        for card in found
        if current.get(card.name) != card.version
    ]
    if fresh:
        await service.registry.put_models(fresh)
        await cards.refresh()
        for card in fresh:
            _log.info("pipeline registered", model=card.name, version=card.version)


def _card_of(service: Service, declared: Declared) -> ModelCard | None:
    """Return a pipeline's card; None, logged once, until its models are known."""
    lacks = service.cards.lacks
    try:
        card = card_of(declared, service.cards.find)
        check_card(card)
    except (Unknown, InvalidModel, InvalidInput) as error:
        stages = declared.pipeline.stages
        # No log for a default pipeline without any of its models.
        is_begun = any(service.cards.find(stage.queue) for stage in stages)
        detail = error.detail if is_begun else _waits_for_all(declared)
        if lacks.get(declared.name) != detail:
            known = _log.info if is_begun else _log.debug
            tell = known if isinstance(error, Unknown) else _log.error
            tell("pipeline not ready", model=declared.name, detail=detail)
        lacks[declared.name] = detail
        return None
    lacks.pop(declared.name, None)
    return card


def _waits_for_all(declared: Declared) -> str:
    names = dict.fromkeys(stage.queue for stage in declared.pipeline.stages)
    return f"{declared.name} waits for workers that serve {', '.join(names)}"
