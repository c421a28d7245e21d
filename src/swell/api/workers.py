"""The workers' protocol: `/worker/v1/register`, `lease`, `report`, `uploads`."""

import asyncio
from typing import Final

import msgspec

from swell.api.auth import check_worker
from swell.api.call import Call, Reply
from swell.api.reading import Reader
from swell.api.reported_files import is_output
from swell.api.route import Response, route
from swell.api.service import Service
from swell.api.worker_leases import find_worker, learn_holds, lease_tasks, undo_leases
from swell.api.worker_registration import register_worker
from swell.api.worker_reports import take_report
from swell.dispatch import (
    Ask,
    Grant,
    Registration,
    Report,
    ReportAnswer,
    Upload,
    Welcome,
)
from swell.errors import (
    Conflict,
    Forbidden,
    NotFound,
)
from swell.objects import check_key
from swell.registry import Scope
from swell.store import Hold
from swell.task import (
    checkpoint_key,
)

_encode = msgspec.json.Encoder().encode


#: A signed PUT must outlive a slow upload.
_PUT_URL_S: Final = 3600.0


class UploadsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask where to put the files of one attempt."""

    worker_id: str
    #: The attempt, by its lease.
    hold: Hold
    #: `outputs/TASK/ATTEMPT/NAME` each, or `checkpoints/TASK-ATTEMPT.bin`.
    keys: list[str]


class UploadsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Where to put them, in the same order."""

    uploads: list[Upload]


_registration = Reader(Registration)


_ask = Reader(Ask)


_report = Reader(Report)


_uploads = Reader(UploadsRequest)


@route(
    "POST /worker/v1/register",
    "Workers",
    {200: Response("The worker's id and intervals", Welcome)},
    scope=Scope.WORKER,
    body=Registration,
    errors=(Conflict,),
    audit="workers.register",
)
async def register(service: Service, call: Call) -> Reply:
    """Register a worker."""
    registration = await _registration.read_call(call, service.settings.server.max_body_bytes)
    names = [card.name for card in registration.models]
    check_worker(call.caller, registration.pool, names)
    call.of_others = Scope.ADMIN in call.caller.scopes
    call.about = f"{registration.name!r} with {', '.join(names)}"
    welcome = await register_worker(service, registration, call.caller.id)
    call.target = welcome.worker_id
    return Reply(200, _encode(welcome))


@route(
    "POST /worker/v1/lease",
    "Workers",
    {200: Response("Tasks, cancellations, or nothing", Grant)},
    scope=Scope.WORKER,
    body=Ask,
    errors=(NotFound,),
    audit="workers.lease",
)
async def lease(service: Service, call: Call) -> Reply:
    """Lease tasks."""
    ask = await _ask.read_call(call, service.settings.server.max_body_bytes)
    await _check_own(service, call, ask.worker_id)
    grant = await lease_tasks(service, ask, call.is_gone, lambda: service.check_again(call))
    return _answer(service, grant)


@route(
    "POST /worker/v1/report",
    "Workers",
    {200: Response("The stored result", ReportAnswer)},
    scope=Scope.WORKER,
    body=Report,
    errors=(NotFound,),
    audit="workers.report",
)
async def report(service: Service, call: Call) -> Reply:
    """Report progress and outcomes."""
    told = await _report.read_call(call, service.settings.server.max_upload_bytes)
    await _check_own(service, call, told.worker_id)
    return _answer(service, await take_report(service, told))


@route(
    "POST /worker/v1/uploads",
    "Workers",
    {200: Response("A signed URL for each key", UploadsAnswer)},
    scope=Scope.WORKER,
    body=UploadsRequest,
    errors=(NotFound, Forbidden, Conflict),
    audit="workers.upload",
)
async def uploads(service: Service, call: Call) -> Reply:
    """Get upload URLs for outputs.

    Only for the holder of the attempt's lease. A stored file never changes: the same bytes are
    accepted again, others are refused.
    """
    asked = await _uploads.read_call(call, service.settings.server.max_body_bytes)
    await _check_own(service, call, asked.worker_id)
    worker, hold = await find_worker(service, asked.worker_id), asked.hold
    checkpoint = checkpoint_key(hold.task_id, hold.attempt)
    for key in asked.keys:
        if key != checkpoint and not is_output(check_key(key), hold.task_id, hold.attempt):
            home = f"outputs/{hold.task_id}/{hold.attempt}/"
            raise Forbidden(
                f"the outputs of this attempt go to {home[:80]}NAME and its checkpoint to "
                f"{checkpoint[:80]}, not {key[:80]!r}"
            )
    await learn_holds(service, worker, [hold])
    if not service.fleet.is_held(hold.task_id, hold.attempt, hold.token):
        raise Conflict(
            f"the lease of attempt {hold.attempt} of task {hold.task_id[:60]} has "
            "ended, so the server accepts nothing for it: discard the result"
        )
    found = list(await asyncio.gather(*(_place(service, key) for key in asked.keys)))
    return Reply(200, _encode(UploadsAnswer(uploads=found)))


def _answer(service: Service, told: Grant | ReportAnswer) -> Reply:
    """Return an answer; if it does not reach the worker, its leases are undone."""
    reply = Reply(200, _encode(told))
    if told.tasks:
        holds = [task.hold for task in told.tasks]
        reply.lost = lambda: undo_leases(service, holds)
    return reply


async def _place(service: Service, key: str) -> Upload:
    """Return where to put a file: straight to the bucket where that is possible."""
    direct = await service.objects.direct("PUT", key, _PUT_URL_S)
    if direct is None:
        return Upload(key=key, url=service.objects.sign("PUT", key, _PUT_URL_S))
    return Upload(key=key, url=direct.url, headers=direct.headers)


async def _check_own(service: Service, call: Call, worker_id: str) -> None:
    """Check that a worker was registered with the key that speaks for it now, or an operator's.

    What operators do for workers of others is written down.

    Raises:
        NotFound: There is no such worker.
        Forbidden: It is another key's.
    """
    owner = (await find_worker(service, worker_id)).info.key_id
    if not owner or owner == call.caller.id:
        return
    if Scope.ADMIN not in call.caller.scopes:
        raise Forbidden(
            f"worker {worker_id[:60]!r} was registered with another key: use that one, or register "
            "again"
        )
    call.of_others, call.target = True, worker_id
