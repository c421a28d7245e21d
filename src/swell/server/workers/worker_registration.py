"""Registration of workers and their models: `POST /worker/v1/register`."""

from typing import Final

import msgspec

from swell.core.card_limits import check_card
from swell.core.errors import Conflict, InvalidInput
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.records import MOST_PRICE_MICROS, ModelCard, Scope, WorkerInfo
from swell.core.task import new_id
from swell.protocol.worker_messages import Registration, Welcome
from swell.server.auth import check_worker
from swell.server.decoding import read_body
from swell.server.models.declared_pipelines import register_pipelines
from swell.server.models.model_cards import is_model_name, is_plain_word
from swell.server.models.sample_routes import keep_samples
from swell.server.request import Call, Reply
from swell.server.rollouts.version_routing import staged_queues
from swell.server.route import Response, worker_route
from swell.server.service import Service
from swell.server.workers.startups import account_told, keep_startups

#: Larger files come by themselves: this much of a report is decoded before the next call's turn.
_ENCLOSE_BYTES: Final = 256 * 1024

_encode = msgspec.json.Encoder().encode


@worker_route(
    "POST /worker/v1/register",
    Response("The worker's id and intervals", Welcome),
    body=Registration,
    errors=(Conflict,),
    audit="workers.register",
    operation_id="workers_register",
)
async def register(service: Service, call: Call) -> Reply:
    """Register a worker."""
    registration = await read_body(service, call, Registration)
    names = [card.name for card in registration.models]
    check_worker(call.caller, registration.pool, names)
    call.of_others = Scope.ADMIN in call.caller.scopes
    call.about = f"{registration.name!r} with {', '.join(names)}"
    welcome = await register_worker(service, registration, call.caller.id)
    call.target = welcome.worker_id
    return Reply(200, _encode(welcome))


async def register_worker(
    service: Service, registration: Registration, key_id: str = ""
) -> Welcome:
    """Register a worker and its models.

    Args:
        service: The backend.
        registration: What the worker declares.
        key_id: The key that speaks for it; empty for any.

    Raises:
        InvalidInput: It has no model, or a card's schema or a picture on it cannot be used.
        Conflict: A version is known with other schemas.
    """
    await _check(service, registration)
    now, settings = service.clock.now(), service.settings
    account, launched_at = account_told(registration, now)
    hour_micros, launch_micros, least_billed_s = await _price(service, registration, account)
    cards = [
        card if card.registered_at else msgspec.structs.replace(card, registered_at=now)
        for card in [await keep_samples(service, card) for card in registration.models]
    ]
    await service.registry.put_models(cards)
    await service.cards.refresh()
    await register_pipelines(service)
    info = WorkerInfo(
        id=new_id(now),
        name=registration.name,
        pool=registration.pool,
        models={card.name: card.version for card in cards},
        slots=max(1, registration.slots),
        device=registration.device,
        host=registration.host,
        pid=registration.pid,
        instance=registration.instance,
        release=registration.release[:40],
        clock_ahead_s=((registration.sent_at or now) - now).total_seconds(),
        registered_at=now,
        seen_at=now,
        key_id=key_id,
        account=account,
        launched_at=launched_at,
        hour_micros=hour_micros,
        launch_micros=launch_micros,
        least_billed_s=least_billed_s,
        dearest_micros=max(card.price_micros for card in cards),
    )
    await service.fleet.add(info)
    await service.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])
    if registration.startup is not None:
        await keep_startups(service, [registration.startup], info, is_ready=True)
    return Welcome(
        worker_id=info.id,
        lease_s=settings.delivery.lease_s,
        heartbeat_s=settings.delivery.heartbeat_s,
        max_wait_s=settings.delivery.worker_wait_s,
        enclose_bytes=_ENCLOSE_BYTES if service.objects.is_here else 0,
        staged=staged_queues(service, info),
    )


async def _check(service: Service, registration: Registration) -> None:
    if not registration.models:
        raise InvalidInput("a worker needs at least one model")
    _check_texts(registration)
    for card in registration.models:
        _check_names(card.name, card.version)
        check_card(card)
        _check_price(card)
        if card.pipeline is not None:
            raise InvalidInput(
                f"{card.name} is a pipeline, and workers run models: declare it in a file that the "
                "backend reads (server.pipelines)"
            )
        await _check_unchanged(service, card)


async def _price(
    service: Service, registration: Registration, account: str
) -> tuple[int | None, int, float]:
    """Return a worker's price per hour, the price of its launch, and its shortest billed time.

    A machine keeps its first price when its worker registers again: with another one, its charges
    would not add up to its bill. `Tariffs` applies changes of the pool's price.
    """
    startup, pool = registration.startup, registration.pool
    if startup is not None and startup.ready_s is not None and startup.age_s > startup.ready_s:
        listed = await service.registry.workers()
        known = [service.tariffs.priced(each) for each in listed if each.account == account]
        priced = [each for each in known if each.hour_micros is not None]
        if priced:
            first = min(priced, key=lambda each: (each.registered_at, each.id))
            return first.hour_micros, first.launch_micros, first.least_billed_s
    tariffs = service.tariffs
    if tariffs.now_micros(pool) is None:
        # The autoscaler may have published the price since the last read.
        await service.scaling.listen()
    return tariffs.now_micros(pool), tariffs.launch_micros(pool), tariffs.least_billed_s(pool)


def _check_texts(registration: Registration) -> None:
    """Check the texts of a worker, which operators read in lists, logs and metrics."""
    for what in ("name", "pool", "device", "host", "instance"):
        text = getattr(registration, what)
        if len(text) > 200 or not all(each == " " or each.isprintable() for each in text):
            raise InvalidInput(
                f"the worker's {what} {text[:60]!r} cannot be shown: use at most 200 printable "
                "characters"
            )


def _check_price(card: ModelCard) -> None:
    if not 0 <= card.price_micros <= MOST_PRICE_MICROS:
        raise InvalidInput(
            f"{card.name}: price_micros = {card.price_micros} must be from 0 to "
            f"{MOST_PRICE_MICROS:_} millionths of a dollar"
        )


async def _check_unchanged(service: Service, card: ModelCard) -> None:
    """Check that the schemas of a known version have not changed.

    A card without a schema does not change it.

    Raises:
        Conflict: It does not.
    """
    known = await service.cards.registered(card.name, card.version)
    if known is None:
        return
    for what in ("input_schema", "output_schema"):
        before, now = getattr(known, what), getattr(card, what)
        if before and now and before != now:
            raise Conflict(
                f"version {card.version} of {card.name} is already registered with a "
                f"different {what}, and versions never change: register the change as a "
                "new version (Swell does this itself for versions that it derives from "
                "code and files)"
            )


def _check_names(name: str, version: str) -> None:
    if not (is_model_name(name) and is_plain_word(version)):
        raise InvalidInput(
            f"{name[:120]!r} version {version[:60]!r} cannot be a model's name: use owner/name and "
            "a version of letters, digits, '-', '_' and '.'"
        )
