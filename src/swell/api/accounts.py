"""What keys and users may use and have paid for, as operators set it and callers see it."""

import secrets
from collections.abc import Sequence

import msgspec

from swell.api.call import Call, Reply
from swell.api.messages import (
    AccountView,
    AllowanceView,
    CreditEntryView,
    CreditRequest,
    CreditsList,
    CreditsQuery,
    GrantView,
    NoQuery,
    OwnQuery,
    QuotaList,
    QuotaQuery,
    QuotaRequest,
    QuotaView,
    StandingView,
)
from swell.api.reading import Reader, read_query
from swell.api.service import Service
from swell.api.views import encode
from swell.bus import News, NewsKind
from swell.errors import NotFound
from swell.quotas import (
    ANY_USER,
    Account,
    Credit,
    Place,
    Quota,
    Sheet,
    place_of,
    standing_of,
    user_at,
)

_quota = Reader(QuotaRequest)
_credit = Reader(CreditRequest)


async def list_quotas(service: Service, call: Call) -> Reply:
    """`GET /v1/quotas`."""
    read_query(call, NoQuery)
    quotas = await service.registry.quotas()
    places = [place_of(each.key_id, each.user) for each in quotas]
    sheet = await service.registry.sheet(places, service.clock.now())
    views = [_quota_view(service, each, sheet) for each in quotas]
    return Reply(200, encode(QuotaList(quotas=views)))


async def put_quota(service: Service, call: Call) -> Reply:
    """`PUT /v1/quotas`."""
    asked: QuotaRequest = await _quota.read_call(call, service.settings.server.max_body_bytes)
    await _check_key(service, asked.key_id)
    quota = Quota(**msgspec.structs.asdict(asked))
    call.target, call.about = quota.key_id, f"user {quota.user!r}" if quota.user else ""
    await service.registry.put_quota(quota)
    await _changed(service)
    sheet = await service.registry.sheet([place_of(quota.key_id, quota.user)], service.clock.now())
    return Reply(200, encode(_quota_view(service, quota, sheet)))


async def drop_quota(service: Service, call: Call) -> Reply:
    """`DELETE /v1/quotas`."""
    query = read_query(call, QuotaQuery)
    call.target, call.about = query.key_id, f"user {query.user!r}" if query.user else ""
    if not await service.registry.drop_quota(query.key_id, query.user):
        raise NotFound("there is no such quota: GET /v1/quotas lists them")
    await _changed(service)
    return Reply(200, encode(QuotaList(quotas=[])))


async def list_credits(service: Service, call: Call) -> Reply:
    """`GET /v1/credits`."""
    query = read_query(call, CreditsQuery)
    places = [
        place
        for place in await service.registry.credit_places()
        if query.key_id in (None, place[0])
    ]
    sheet = await service.registry.sheet(places, service.clock.now())
    entries = await service.registry.credits(query.key_id, limit=query.limit)
    view = CreditsList(
        accounts=[_account_view(place, sheet.account(place)) for place in places],
        entries=[
            CreditEntryView(
                id=each.id,
                key_id=each.key_id,
                user=each.user,
                micros=each.micros,
                at=each.at,
                note=each.note,
            )
            for each in entries
        ],
    )
    return Reply(200, encode(view))


async def add_credits(service: Service, call: Call) -> Reply:
    """`POST /v1/credits`."""
    asked: CreditRequest = await _credit.read_call(call, service.settings.server.max_body_bytes)
    await _check_key(service, asked.key_id)
    credit = Credit(
        id=asked.id or secrets.token_hex(16),
        key_id=asked.key_id,
        user=asked.user,
        micros=asked.micros,
        at=service.clock.now(),
        note=asked.note,
    )
    call.target, call.about = credit.key_id, f"{credit.micros} micros, {credit.id}"
    is_new = await service.registry.grant(credit)
    place = place_of(credit.key_id, credit.user)
    sheet = await service.registry.sheet([place], service.clock.now())
    view = GrantView(
        id=credit.id, is_new=is_new, account=_account_view(place, sheet.account(place))
    )
    return Reply(201 if is_new else 200, encode(view))


async def show_allowance(service: Service, call: Call) -> Reply:
    """`GET /v1/quota`."""
    query = read_query(call, OwnQuery)
    key_id = call.caller.id
    places = [place_of(key_id, None)]
    if query.user:
        places.append((key_id, f"={query.user}"))
    sheet = await service.registry.sheet(places, service.clock.now())
    standings = [view for place in places for view in _standings(service, place, sheet)]
    return Reply(200, encode(AllowanceView(limits=standings)))


def _standings(service: Service, place: Place, sheet: Sheet) -> Sequence[StandingView]:
    return [
        StandingView(
            name=each.name,
            user=each.user,
            unit=each.unit,
            period=each.period or None,
            limit=each.limit,
            left=each.left,
        )
        for each in standing_of(sheet, place, service.clock.now())
    ]


def _quota_view(service: Service, quota: Quota, sheet: Sheet) -> QuotaView:
    place = place_of(quota.key_id, quota.user)
    own = [] if quota.user == ANY_USER else _standings(service, place, sheet)
    fields = msgspec.structs.asdict(quota)
    return QuotaView(**fields, left=list(own))


def _account_view(place: Place, account: Account) -> AccountView:
    return AccountView(
        key_id=place[0],
        user=user_at(place),
        granted_micros=account.granted,
        spent_micros=account.spent,
        held_micros=account.held,
        left_micros=account.left,
    )


async def _check_key(service: Service, key_id: str) -> None:
    if all(each.id != key_id for each in await service.registry.keys()):
        raise NotFound(f"there is no key {key_id[:60]!r}: GET /v1/keys lists them")


async def _changed(service: Service) -> None:
    """Have all backends look up which keys have quotas."""
    service.quotas.forget()
    await service.bus.tell([News(kind=NewsKind.KEYS)])
