"""How versions of a model are adopted, as operators set it and see it."""

from collections.abc import Callable, Sequence

import msgspec

from swell.adoption.evidence import Evidence, Side, quantile
from swell.adoption.kept import change_life, forget_evidence, read_evidence
from swell.adoption.life import (
    Canary,
    Life,
    Stage,
    Watch,
    begin,
    check_edition,
    edition_of,
    promote,
    retire,
    roll_back,
    start_canary,
)
from swell.adoption.verdict import judge
from swell.api.call import Call, Reply
from swell.api.canaries import is_canary_served, lost_after_s, tell_of_stages
from swell.api.messages import (
    AdoptionView,
    CanaryRequest,
    CanaryView,
    LifeChangeView,
    NoQuery,
    PromoteRequest,
    RetireRequest,
    RollbackRequest,
    RollbackRules,
    SeenView,
    VerdictView,
    VersionStageView,
)
from swell.api.operators import model_name
from swell.api.reading import Reader, read_query
from swell.api.service import Service
from swell.api.views import encode
from swell.errors import Conflict, InvalidInput, NotFound
from swell.registry import ModelCard
from swell.task import new_id

_canary = Reader(CanaryRequest)
_promote = Reader(PromoteRequest)
_rollback = Reader(RollbackRequest)
_retire = Reader(RetireRequest)


async def show_adoption(service: Service, call: Call) -> Reply:
    """`GET /v1/models/{owner}/{name}/adoption`."""
    read_query(call, NoQuery)
    cards = await _cards(service, model_name(call))
    return Reply(200, encode(await _view(service, cards)))


async def start_version_canary(service: Service, call: Call) -> Reply:
    """`POST /v1/models/{owner}/{name}/canary`."""
    asked: CanaryRequest = await _canary.read_call(call, service.settings.server.max_body_bytes)
    cards = await _cards(service, model_name(call))
    model, now = cards[0].name, service.clock.now()
    _note(call, model, asked.version, f"{asked.share:.4g} of the traffic")
    _check_known(cards, asked.version)
    await _check_served(service, model, asked.version)
    rules = asked.rollback
    canary = Canary(
        id=new_id(now),
        version=asked.version,
        share=asked.share,
        since=now,
        is_by_key=asked.sticky == "key",
        watch=Watch(
            is_automatic=rules.automatic,
            false_alarm=rules.false_alarm,
            failures_by=rules.failures_by,
            p95_by=rules.p95_by,
        ),
    )

    def change(life: Life | None) -> Life:
        staged = life or begin(model, _served_beside(service, cards, asked.version))
        return start_canary(staged, canary, who=call.caller.name)

    return await _changed(service, cards, change, asked.edition)


async def promote_version(service: Service, call: Call) -> Reply:
    """`POST /v1/models/{owner}/{name}/promote`."""
    asked: PromoteRequest = await _promote.read_call(call, service.settings.server.max_body_bytes)
    cards = await _cards(service, model_name(call))
    model, now = cards[0].name, service.clock.now()
    _note(call, model, asked.version or "", "")
    if asked.version is None and asked.edition is None:
        raise InvalidInput(
            "name what to make live: `version`, or `edition` (from GET …/adoption) "
            "for the canary shown there, because it may have changed since"
        )
    if asked.version is None:
        # Which one it is shows when it is changed: a moment ago it may have been rolled back.
        await service.fleet.look_again()
    else:
        _check_known(cards, asked.version)
        await _check_served(service, model, asked.version)

    def change(life: Life | None) -> Life:
        staged = life or begin(model, asked.version or _usual(cards).version)
        has_looked = asked.edition is not None
        changed = promote(
            staged, asked.version, who=call.caller.name, at=now, has_looked=has_looked
        )
        _check_heard_of(service, model, changed.live)
        _note(call, model, changed.live, "")
        return changed

    return await _changed(service, cards, change, asked.edition)


async def roll_back_version(service: Service, call: Call) -> Reply:
    """`POST /v1/models/{owner}/{name}/rollback`."""
    asked: RollbackRequest = await _rollback.read_call(call, service.settings.server.max_body_bytes)
    cards = await _cards(service, model_name(call))
    model, now = cards[0].name, service.clock.now()
    _note(call, model, asked.version or "", asked.reason)
    # Whether a version gets traffic back by it shows when it is changed.
    await service.fleet.look_again()

    def change(life: Life | None) -> Life:
        if life is None:
            raise Conflict(
                f"no version of {model} was staged, so there is none to go back to: promote the "
                "version that you want"
            )
        changed = roll_back(
            life, who=call.caller.name, at=now, reason=asked.reason, version=asked.version
        )
        if changed.live != life.live:
            _check_heard_of(service, model, changed.live)
        return changed

    return await _changed(service, cards, change, asked.edition)


async def retire_version(service: Service, call: Call) -> Reply:
    """`POST /v1/models/{owner}/{name}/retire`."""
    asked: RetireRequest = await _retire.read_call(call, service.settings.server.max_body_bytes)
    cards = await _cards(service, model_name(call))
    model, now = cards[0].name, service.clock.now()
    _note(call, model, asked.version, "")
    _check_known(cards, asked.version)

    def change(life: Life | None) -> Life:
        staged = life or begin(model, _usual(cards).version)
        return retire(staged, asked.version, who=call.caller.name, at=now)

    return await _changed(service, cards, change, asked.edition)


async def _changed(
    service: Service,
    cards: Sequence[ModelCard],
    change: Callable[[Life | None], Life],
    edition: str | None,
) -> Reply:
    """Change a model's stages, if they are what the caller has seen; show them."""
    model = cards[0].name

    def change_seen(life: Life | None) -> Life:
        check_edition(life, model, edition)
        return change(life)

    await change_life(service.registry, model, change_seen)
    await tell_of_stages(service)
    if model not in service.cards.canaries:
        await forget_evidence(service.registry, model)
    return Reply(200, encode(await _view(service, await service.cards.versions(model))))


def _note(call: Call, model: str, version: str, about: str) -> None:
    call.target, call.about = f"{model}:{version}" if version else model, about


async def _cards(service: Service, model: str) -> Sequence[ModelCard]:
    """Return the versions of a model as they are now, newest first.

    Raises:
        NotFound: There is no such model.
        Conflict: It is a pipeline.
    """
    await service.cards.refresh()
    cards = await service.cards.versions(model)
    if cards[0].pipeline is not None:
        raise Conflict(f"{model} is a pipeline: the versions of its stages' models are adopted")
    return cards


def _check_known(cards: Sequence[ModelCard], version: str) -> None:
    if all(card.version != version for card in cards):
        there = ", ".join(card.version for card in cards[:5])
        raise NotFound(f"{cards[0].name} has no version {version[:60]!r}; there are: {there}")


async def _check_served(service: Service, model: str, version: str) -> None:
    """Check that traffic for a version has somewhere to go.

    Raises:
        Conflict: No live worker has it.
    """
    if not service.fleet.is_served(model, version):
        await service.fleet.look_again()
    _check_heard_of(service, model, version)


def _check_heard_of(service: Service, model: str, version: str) -> None:
    """Check that this process has heard of a live worker with a version.

    Raises:
        Conflict: It has not.
    """
    if not service.fleet.is_served(model, version):
        raise Conflict(
            f"no live worker has {model}:{version}: start one first with `swell worker --models …`"
        )


def _usual(cards: Sequence[ModelCard]) -> ModelCard:
    """Return the version that a request without one gets while nothing was staged."""
    live = (card for card in cards if card.stage == Stage.LIVE)
    return next(live, cards[0])


def _served_beside(service: Service, cards: Sequence[ModelCard], version: str) -> str:
    """Return the newest other version that a live worker has.

    Raises:
        Conflict: There is none.
    """
    model = cards[0].name
    for card in cards:
        if card.version != version and service.fleet.is_served(model, card.version):
            return card.version
    raise Conflict(
        f"no live worker has another version of {model} than {version}, so that nothing would be "
        "left for the rest of the traffic: to give it all, promote it"
    )


async def _view(service: Service, cards: Sequence[ModelCard]) -> AdoptionView:
    model = cards[0].name
    kept, lost_s = service.cards.lives.get(model), lost_after_s(service)
    life = kept or begin(model, _usual(cards).version)
    canary = life.canary
    is_served = canary is not None and is_canary_served(service, model, canary)
    share = canary.share if canary is not None and is_served else 0.0
    shares = {life.live: 1.0 - share} | ({canary.version: share} if canary else {})
    shown = None
    if canary is not None:
        evidence = await read_evidence(service.registry, model, canary.id)
        shown = _canary_view(canary, evidence, is_served=is_served)
    return AdoptionView(
        model=model,
        is_staged=kept is not None,
        edition=edition_of(kept),
        live=life.live,
        canary=shown,
        former=list(life.former),
        versions=[
            VersionStageView(
                version=card.version,
                stage=life.stage(card.version).value if kept else card.stage,
                share=shares.get(card.version, 0.0),
                workers=len(service.fleet.live(model, card.version, within_s=lost_s)),
                registered_at=card.registered_at,
            )
            for card in cards
        ],
        history=[LifeChangeView(**msgspec.structs.asdict(each)) for each in life.history],
        notice=_notice(service, life, lost_s, is_staged=kept is not None),
    )


def _notice(service: Service, life: Life, lost_s: float, *, is_staged: bool) -> str:
    """Return what is to be done; empty for nothing."""
    model, canary = life.model, life.canary
    if not is_staged:
        return (
            "the version that was registered last gets what names none: to keep it so when another "
            f"one comes, promote {life.live}"
        )
    if not service.fleet.is_served(model, life.live, within_s=lost_s):
        return (
            f"no live worker has the live version {life.live}: start one, or promote a version "
            "that is served"
        )
    if canary is not None and not is_canary_served(service, model, canary):
        return f"no live worker has the canary {canary.version}: its part goes to {life.live}"
    return ""


def _canary_view(canary: Canary, evidence: Evidence, *, is_served: bool) -> CanaryView:
    watch, verdict = canary.watch, judge(evidence, canary.watch)
    return CanaryView(
        version=canary.version,
        share=canary.share,
        since=canary.since,
        sticky="key" if canary.is_by_key else "user",
        rollback=RollbackRules(
            automatic=watch.is_automatic,
            false_alarm=watch.false_alarm,
            failures_by=watch.failures_by,
            p95_by=watch.p95_by,
        ),
        is_served=is_served,
        evidence=VerdictView(
            verdict=verdict.word.value,
            reason=verdict.reason,
            failures_evidence=verdict.failures_evidence,
            slowness_evidence=verdict.slowness_evidence,
            needed_evidence=verdict.needed_evidence,
            canary=_seen(evidence.canary),
            live=_seen(evidence.live),
        ),
    )


def _seen(side: Side) -> SeenView:
    return SeenView(
        attempts=side.attempts,
        failures=side.failures,
        p95_s=quantile(side.recent_s, 0.95) if side.recent_s else None,
    )
