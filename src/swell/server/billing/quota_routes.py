"""HTTP endpoints of quotas and credits."""

import secrets

from swell.core.errors import InvalidInput, InvalidRequest, NotFound
from swell.core.quota import ANY_USER, Credit, Place, Quota, Sheet, place_of, places_of, user_at
from swell.server.admin.admin_routes import find_key, keys_changed
from swell.server.billing.billing_schemas import (
    AccountView,
    AllowanceView,
    CreditRequest,
    CreditsList,
    CreditsQuery,
    GrantView,
    OwnQuery,
    QuotaList,
    QuotaQuery,
    QuotaRequest,
    QuotaView,
)
from swell.server.common_schemas import NoQuery
from swell.server.decoding import read_body, read_query
from swell.server.request import Call, Reply
from swell.server.route import Body, Response, admin_route, task_route
from swell.server.serializers import encode, project
from swell.server.service import Service


@admin_route(
    "GET /v1/quotas",
    Response("Quotas and their remainder", QuotaList),
    errors=(InvalidRequest, InvalidInput),
)
async def list_quotas(service: Service, call: Call) -> Reply:
    """List quotas."""
    read_query(call, NoQuery)
    quotas = await service.registry.quotas()
    places = [place_of(each.key_id, each.user) for each in quotas]
    sheet = await service.registry.sheet(places, service.clock.now())
    views = [_quota_view(service, each, sheet) for each in quotas]
    return Reply(200, encode(QuotaList(quotas=views)))


@admin_route(
    "PUT /v1/quotas",
    Response("The quota and its remainder", QuotaView),
    body=Body(QuotaRequest, example={"key_id": "k1", "user": "*", "samples_per_day": 50}),
    errors=(NotFound,),
    audit="quotas.put",
)
async def put_quota(service: Service, call: Call) -> Reply:
    """Set a quota.

    Replaces the quota of a key or user. Usage since the start of the day or month counts, if
    there was a quota by then. Other backends apply it within two seconds.
    """
    asked = await read_body(service, call, QuotaRequest)
    await find_key(service, asked.key_id)
    quota = project(Quota, asked)
    call.target, call.about = quota.key_id, f"user {quota.user!r}" if quota.user else ""
    await service.registry.put_quota(quota)
    await keys_changed(service)
    sheet = await service.registry.sheet([place_of(quota.key_id, quota.user)], service.clock.now())
    return Reply(200, encode(_quota_view(service, quota, sheet)))


@admin_route(
    "DELETE /v1/quotas",
    Response("An empty list", QuotaList),
    query=QuotaQuery,
    errors=(NotFound,),
    audit="quotas.drop",
)
async def drop_quota(service: Service, call: Call) -> Reply:
    """Delete a quota."""
    query = read_query(call, QuotaQuery)
    call.target, call.about = query.key_id, f"user {query.user!r}" if query.user else ""
    if not await service.registry.drop_quota(query.key_id, query.user):
        raise NotFound("there is no such quota: GET /v1/quotas lists them")
    await keys_changed(service)
    return Reply(200, encode(QuotaList(quotas=[])))


@admin_route("GET /v1/credits", Response("Accounts and grants", CreditsList), query=CreditsQuery)
async def list_credits(service: Service, call: Call) -> Reply:
    """List credits."""
    query = read_query(call, CreditsQuery)
    places = await service.registry.credit_places()
    places = [place for place in places if query.key_id in (None, place[0])]
    sheet = await service.registry.sheet(places, service.clock.now())
    entries = await service.registry.credits(query.key_id, limit=query.limit)
    accounts = [_account_view(place, sheet) for place in places]
    return Reply(200, encode(CreditsList(accounts=accounts, entries=entries)))


@admin_route(
    "POST /v1/credits",
    {
        200: Response("This id was granted before", GrantView),
        201: Response("The new balance", GrantView),
    },
    body=Body(CreditRequest, example={"key_id": "k1", "micros": 5_000_000, "id": "inv-7"}),
    errors=(NotFound,),
    audit="credits.add",
)
async def add_credits(service: Service, call: Call) -> Reply:
    """Add or remove credits.

    Needed for quotas with `is_prepaid`.
    """
    asked = await read_body(service, call, CreditRequest)
    await find_key(service, asked.key_id)
    now = service.clock.now()
    credit = project(Credit, asked, id=asked.id or secrets.token_hex(16), at=now)
    call.target, call.about = credit.key_id, f"{credit.micros} micros, {credit.id}"
    is_new = await service.registry.grant(credit)
    place = place_of(credit.key_id, credit.user)
    sheet = await service.registry.sheet([place], now)
    view = GrantView(id=credit.id, is_new=is_new, account=_account_view(place, sheet))
    return Reply(201 if is_new else 200, encode(view))


@task_route("GET /v1/quota", Response("The remainder of each limit", AllowanceView), query=OwnQuery)
async def show_allowance(service: Service, call: Call) -> Reply:
    """Show the remaining quota.

    For the caller's key, and for one of its users if `user` is given.
    """
    query = read_query(call, OwnQuery)
    places = places_of(call.caller.id, query.user)
    now = service.clock.now()
    sheet = await service.registry.sheet(places, now)
    limits = [each for place in places for each in sheet.standings(place, now)]
    return Reply(200, encode(AllowanceView(limits=limits)))


def _quota_view(service: Service, quota: Quota, sheet: Sheet) -> QuotaView:
    place = place_of(quota.key_id, quota.user)
    left = [] if quota.user == ANY_USER else sheet.standings(place, service.clock.now())
    return project(QuotaView, quota, left=left)


def _account_view(place: Place, sheet: Sheet) -> AccountView:
    account = sheet.account(place)
    return AccountView(
        key_id=place[0],
        user=user_at(place),
        granted_micros=account.granted,
        spent_micros=account.spent,
        held_micros=account.held,
        left_micros=account.left,
    )
