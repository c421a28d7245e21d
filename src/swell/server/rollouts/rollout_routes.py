"""Rollouts of models' versions: the endpoints for operators."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from swell.core.errors import Conflict, InvalidInput, InvalidRequest, NotFound
from swell.core.records import ModelCard, Scope
from swell.core.rollouts.canary_test import judge
from swell.core.rollouts.rollout_state import (
    Canary,
    Life,
    check_edition,
    edition_of,
    promote,
    retire,
    roll_back,
    start_canary,
)
from swell.core.task import new_id
from swell.db.rollouts import change_life, read_evidence
from swell.server.admin.admin_routes import model_name
from swell.server.common_schemas import NoQuery
from swell.server.decoding import read_body, read_query
from swell.server.request import Call, Reply
from swell.server.rollouts.canary_monitor import is_canary_served, lost_after_s, tell_of_stages
from swell.server.rollouts.rollout_schemas import (
    AdoptionView,
    CanaryRequest,
    CanaryView,
    PromoteRequest,
    RetireRequest,
    RollbackRequest,
    VersionStageView,
)
from swell.server.route import Body, Handler, Response, group_route
from swell.server.serializers import encode, project
from swell.server.service import Service

_route = group_route("Models", scope=Scope.ADMIN)
_ADOPTION: Final = Response("The stages of the model's versions", AdoptionView)


@_route(
    "GET /v1/models/{owner}/{name}/adoption",
    _ADOPTION,
    errors=(InvalidRequest, InvalidInput, NotFound, Conflict),
)
async def show_adoption(service: Service, call: Call) -> Reply:
    """Show the rollout of a model."""
    read_query(call, NoQuery)
    cards = await _cards(service, model_name(call))
    return Reply(200, encode(await _view(service, cards)))


#: Returns the new stages, given the request, the cards of the versions and the stages so far.
_Change = Callable[[Any, Sequence[ModelCard], Life | None], Life]


def _change_route(action: str, message: type[Any], **example: Any) -> Callable[[Handler], Handler]:
    return _route(
        f"POST /v1/models/{{owner}}/{{name}}/{action}",
        _ADOPTION,
        body=Body(message, example=example),
        errors=(NotFound, Conflict),
        audit=f"models.{action}",
    )


@_change_route("canary", CanaryRequest, version="3f2a9c1be07d", share=0.05)
async def start_version_canary(service: Service, call: Call) -> Reply:
    """Start a canary.

    Gives a version a share of the tasks that name no version; a live worker must have it. A
    second request can change the share and keeps the evidence. Swell rolls the canary back if
    it fails significantly more often, or takes significantly longer, than the live version.
    """

    def change(asked: CanaryRequest, cards: Sequence[ModelCard], life: Life | None) -> Life:
        model, now = cards[0].name, service.clock.now()
        call.about = f"{asked.share:.4g} of the traffic"
        _check_served(service, model, asked.version)
        staged = life or Life(model=model, live=_other_served(service, cards, asked.version))
        canary = project(Canary, asked, id=new_id(now), since=now)
        return start_canary(staged, canary, who=call.caller.name)

    return await _change(service, call, CanaryRequest, change)


@_change_route("promote", PromoteRequest, version="3f2a9c1be07d")
async def promote_version(service: Service, call: Call) -> Reply:
    """Promote a version.

    Makes a version live: the one named, or the canary. Versions registered later get only tasks
    that name them.
    """

    def change(asked: PromoteRequest, cards: Sequence[ModelCard], life: Life | None) -> Life:
        if asked.version is None and asked.edition is None:
            raise InvalidInput(
                "name what to make live: `version`, or `edition` (from GET …/adoption) "
                "for the canary shown there, because it may have changed since"
            )
        model = cards[0].name
        changed = promote(
            life or Life(model=model, live=asked.version or _usual_version(cards)),
            asked.version,
            who=call.caller.name,
            at=service.clock.now(),
            has_looked=asked.edition is not None,
        )
        _check_served(service, model, changed.live)
        call.target = f"{model}:{changed.live}"
        return changed

    return await _change(service, call, PromoteRequest, change)


@_change_route("rollback", RollbackRequest, reason="hands have six fingers")
async def roll_back_version(service: Service, call: Call) -> Reply:
    """Roll back a version.

    Ends the canary; without a canary, the previous live version becomes live again.
    """

    def change(asked: RollbackRequest, cards: Sequence[ModelCard], life: Life | None) -> Life:
        call.about = asked.reason
        if life is None:
            raise Conflict(
                f"no version of {cards[0].name} was staged, so there is none to go back to: "
                "promote the version that you want"
            )
        who, now = call.caller.name, service.clock.now()
        changed = roll_back(life, who=who, at=now, reason=asked.reason, version=asked.version)
        if changed.live != life.live:
            _check_served(service, life.model, changed.live)
        return changed

    return await _change(service, call, RollbackRequest, change)


@_change_route("retire", RetireRequest, version="3f2a9c1be07d")
async def retire_version(service: Service, call: Call) -> Reply:
    """Retire a version.

    A retired version gets no tasks, even those that name it. Promoting it, or making it a
    canary, reverses this.
    """

    def change(asked: RetireRequest, cards: Sequence[ModelCard], life: Life | None) -> Life:
        staged = life or Life(model=cards[0].name, live=_usual_version(cards))
        return retire(staged, asked.version, who=call.caller.name, at=service.clock.now())

    return await _change(service, call, RetireRequest, change)


async def _change(service: Service, call: Call, message: type[Any], change: _Change) -> Reply:
    """Change the stages of a model as a request asks for, and show them."""
    asked = await read_body(service, call, message)
    cards = await _cards(service, model_name(call))
    model, version = cards[0].name, asked.version
    call.target = f"{model}:{version}" if version else model
    if version and all(card.version != version for card in cards):
        known = ", ".join(card.version for card in cards[:5])
        raise NotFound(f"{model} has no version {version[:60]!r}; there are: {known}")
    await service.fleet.look_again()

    def change_seen(life: Life | None) -> Life:
        check_edition(life, model, asked.edition)
        return change(asked, cards, life)

    await change_life(service.registry, model, change_seen)
    await tell_of_stages(service)
    return Reply(200, encode(await _view(service, await service.cards.versions(model))))


async def _cards(service: Service, model: str) -> list[ModelCard]:
    """Return the current versions of a model, newest first.

    Raises:
        NotFound: There is no such model.
        Conflict: It is a pipeline.
    """
    await service.cards.refresh()
    cards = await service.cards.versions(model)
    if cards[0].pipeline is not None:
        raise Conflict(f"{model} is a pipeline: the versions of its stages' models are adopted")
    return cards


def _check_served(service: Service, model: str, version: str) -> None:
    if not service.fleet.live(model, version):
        raise Conflict(
            f"no live worker has {model}:{version}: start one first with `swell worker --models …`"
        )


def _usual_version(cards: Sequence[ModelCard]) -> str:
    """Return the version that gets all traffic while the model has no stages."""
    return next((card.version for card in cards if card.stage == "live"), cards[0].version)


def _other_served(service: Service, cards: Sequence[ModelCard], version: str) -> str:
    """Return the newest other version that a live worker has.

    Raises:
        Conflict: There is none.
    """
    model = cards[0].name
    for card in cards:
        if card.version != version and service.fleet.live(model, card.version):
            return card.version
    raise Conflict(
        f"no live worker has another version of {model} than {version}, so that nothing would be "
        "left for the rest of the traffic: to give it all, promote it"
    )


async def _view(service: Service, cards: Sequence[ModelCard]) -> AdoptionView:
    model = cards[0].name
    known = service.cards.lives.get(model)
    life = known or Life(model=model, live=_usual_version(cards))
    canary, lost_s = life.canary, lost_after_s(service)
    shares, shown = {life.live: 1.0}, None
    if canary is not None:
        is_served = is_canary_served(service, model, canary)
        share = canary.share if is_served else 0.0
        shares = {life.live: 1.0 - share, canary.version: share}
        evidence = await read_evidence(service.registry, model, canary)
        verdict = judge(evidence, canary.rollback)
        shown = project(CanaryView, canary, is_served=is_served, evidence=verdict)
    return project(
        AdoptionView,
        life,
        is_staged=known is not None,
        edition=edition_of(known),
        canary=shown,
        versions=[
            project(
                VersionStageView,
                card,
                stage=life.stage(card.version).value if known else card.stage,
                share=shares.get(card.version, 0.0),
                workers=len(service.fleet.live(model, card.version, within_s=lost_s)),
            )
            for card in cards
        ],
        notice=_notice(service, known, life.live),
    )


def _notice(service: Service, life: Life | None, live: str) -> str:
    """Return what an operator should do; empty for nothing."""
    if life is None:
        return (
            "the newest version gets all tasks that name no version: to keep it so when another "
            f"one is registered, promote {live}"
        )
    if not service.fleet.live(life.model, live, within_s=lost_after_s(service)):
        return (
            f"no live worker has the live version {live}: start one, or promote a version "
            "that is served"
        )
    canary = life.canary
    if canary is not None and not is_canary_served(service, life.model, canary):
        return f"no live worker has the canary {canary.version}: its part goes to {live}"
    return ""
