"""Files of workers: where to put them, and checks of those that reports name or enclose."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import structlog

from swell.core.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidRequest,
    NotFound,
    SwellError,
)
from swell.core.events import ATTEMPT_STRIDE, EventKind
from swell.core.store_types import Hold
from swell.core.task import (
    Artifact,
    Failed,
    Released,
    Settlement,
    Succeeded,
    TaskError,
    checkpoint_key,
)
from swell.objects.object_store import check_key
from swell.protocol.worker_messages import Progress, Report, Upload
from swell.server.decoding import read_body
from swell.server.files.file_routes import plain_type
from swell.server.request import Call, Reply
from swell.server.route import Response, worker_route
from swell.server.service import Service
from swell.server.tasks.partial_artifacts import read_artifact
from swell.server.workers.worker_leases import learn_holds, own_worker
from swell.server.workers.worker_tracker import Worker

_log = structlog.get_logger("swell.api")


EVENT_KINDS: Final = {
    "progress": EventKind.PROGRESS,
    "preview": EventKind.PREVIEW,
    "artifact": EventKind.ARTIFACT,
}


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


_encode = msgspec.json.Encoder().encode


@worker_route(
    "POST /worker/v1/uploads",
    Response("A signed URL for each key", UploadsAnswer),
    body=UploadsRequest,
    errors=(NotFound, Forbidden, Conflict),
    audit="workers.upload",
    operation_id="workers_uploads",
)
async def uploads(service: Service, call: Call) -> Reply:
    """Get upload URLs for outputs.

    Only for the holder of the attempt's lease. A stored file never changes: the same bytes are
    accepted again, others are refused.
    """
    asked = await read_body(service, call, UploadsRequest)
    worker, hold = await own_worker(service, call, asked.worker_id), asked.hold
    checkpoint = checkpoint_key(hold.task_id, hold.attempt)
    for key in asked.keys:
        if key != checkpoint and not is_output(check_key(key), hold.task_id, hold.attempt):
            home = f"outputs/{hold.task_id}/{hold.attempt}/"
            raise Forbidden(
                f"the outputs of this attempt go to {home[:80]}NAME and its checkpoint to "
                f"{checkpoint[:80]}, not {key[:80]!r}"
            )
    await learn_holds(service, worker, [hold])
    if not service.fleet.is_held(hold):
        raise Conflict(
            f"the lease of attempt {hold.attempt} of task {hold.task_id[:60]} has "
            "ended, so the server accepts nothing for it: discard the result"
        )
    found = list(await asyncio.gather(*(_place(service, key) for key in asked.keys)))
    return Reply(200, _encode(UploadsAnswer(uploads=found)))


async def _place(service: Service, key: str) -> Upload:
    """Return where to put a file: straight to the bucket where that is possible."""
    direct = await service.objects.direct("PUT", key, _PUT_URL_S)
    if direct is None:
        return Upload(key=key, url=service.objects.sign("PUT", key, _PUT_URL_S))
    return Upload(key=key, url=direct.url, headers=direct.headers)


async def with_checked_files(service: Service, worker: Worker, report: Report) -> Report:
    """Return a report after all checks of its files, and store those that it encloses.

    An outcome with a file that is not stored fails. Clients get signed URLs of the files that
    outcomes and events name, so the key of another file would expose it.

    Raises:
        Forbidden: An outcome or an event names a file that is not one of its attempt's.
        InvalidInput: An enclosed file is none that an outcome or an event in the report names.
    """
    if report.enclosures:
        report = await _keep_enclosures(service, worker, report)
    settlements = report.settlements
    for each in settlements:
        if isinstance(each.outcome, Succeeded):
            for artifact in each.outcome.artifacts:
                _check_output(artifact.key, each.task_id, each.attempt)
    for event in report.progress:
        if EVENT_KINDS.get(event.kind) is EventKind.ARTIFACT and "key" in event.data:
            _check_output(event.data["key"], event.task_id, event.attempt)
    if not settlements:
        return report
    if not service.objects.is_here:
        settlements = await asyncio.gather(*(_if_stored(service, each) for each in settlements))
    uploads_failed = [
        isinstance(each.outcome, Failed) and each.outcome.error.code == "upload_failed"
        for each in settlements
    ]
    # While the object store takes no files, failed uploads count as no attempts.
    if any(uploads_failed) and not await service.writable.takes_files():
        settlements = [
            _released(each) if is_failed else each
            for each, is_failed in zip(settlements, uploads_failed, strict=True)
        ]
    return msgspec.structs.replace(report, settlements=settlements)


def _released(settlement: Settlement) -> Settlement:
    outcome = Released(reason="upload failed", timings=settlement.outcome.timings)
    return msgspec.structs.replace(settlement, outcome=outcome)


async def _if_stored(service: Service, settlement: Settlement) -> Settlement:
    outcome = settlement.outcome
    if not isinstance(outcome, Succeeded) or not outcome.artifacts:
        return settlement
    missing = await asyncio.gather(*(_lack(service, each) for each in outcome.artifacts))
    why = next((each for each in missing if each), None)
    if why is None:
        return settlement
    return _upload_failed(settlement, why)


async def _lack(service: Service, artifact: Artifact) -> str:
    """Return the problem of a file that a worker reports as stored; empty if none."""
    try:
        info = await service.objects.head(artifact.key)
    except (NotFound, InvalidRequest):
        return f"{artifact.key[:120]!r} is not there"
    if info.bytes != artifact.bytes:
        return f"{artifact.key[:120]!r} has {info.bytes:,} bytes, not {artifact.bytes:,}"
    return ""


def is_output(key: str, task_id: str, attempt: int) -> bool:
    """Return whether a key is one for an output of an attempt."""
    home = f"outputs/{task_id}/{attempt}/"
    return key.startswith(home) and "/" not in key[len(home) :]


def _check_output(key: object, task_id: str, attempt: int) -> None:
    if not isinstance(key, str) or not is_output(key, task_id, attempt):
        raise Forbidden(
            f"{str(key)[:80]!r} is not a file of attempt {attempt} of task "
            f"{task_id[:60]}: use a key under outputs/{task_id[:60]}/{attempt}/"
        )


async def _keep_enclosures(service: Service, worker: Worker, report: Report) -> Report:
    """Store the files inside a report; return it with failures where that was refused.

    Raises:
        InvalidInput: A file is none that an outcome or an event in the report names.
    """
    files = {file.key: file.data for file in report.enclosures}
    types = [_enclosed_types(each, files) for each in report.settlements]
    early = [each for each in report.progress if _is_enclosed(each, files)]
    named = {str(each.data["key"]) for each in early}.union(*types)
    if unnamed := files.keys() - named:
        raise InvalidInput(
            f"{min(unnamed)[:120]!r} cannot be enclosed: nothing in this report names it as a file "
            "of its attempt, with this size"
        )
    settled = list(zip(report.settlements, types, strict=True))
    holding: list[Settlement | Progress] = [each for each, enclosed in settled if enclosed]
    holding += early
    holds = [Hold(task_id=each.task_id, attempt=each.attempt, token=each.token) for each in holding]
    await learn_holds(service, worker, holds)
    settlements = await asyncio.gather(
        *(_with_files(service, each, enclosed, files) for each, enclosed in settled)
    )
    lost = {id(each) for each in early if not await _keep_early(service, each, files)}
    progress = [each for each in report.progress if id(each) not in lost]
    return msgspec.structs.replace(report, settlements=settlements, progress=progress)


def _is_enclosed(event: Progress, files: Mapping[str, bytes]) -> bool:
    """Whether this is progress about a file that the report encloses."""
    key, data = event.data.get("key"), event.data
    return (
        EVENT_KINDS.get(event.kind) is EventKind.ARTIFACT
        and isinstance(key, str)
        and key in files
        and is_output(key, event.task_id, event.attempt)
        and data.get("bytes") == len(files[key])
        and isinstance(data.get("content_type"), str)
    )


async def _keep_early(service: Service, event: Progress, files: Mapping[str, bytes]) -> bool:
    """Store a file that came before its outcome; whether it is there.

    The outcome brings it again, and fails if it cannot be stored then either.
    """
    if not service.fleet.is_held(event):
        # No event is published for it.
        return True
    key = event.data["key"]
    try:
        await service.objects.put_new(key, files[key], plain_type(event.data["content_type"]))
    except SwellError as error:
        _log.warning("a file cannot be stored yet", task=event.task_id, detail=error.detail)
        return False
    return True


def _enclosed_types(settlement: Settlement, files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the keys and media types of an outcome's files that are enclosed."""
    if not isinstance(settlement.outcome, Succeeded):
        return {}
    return {
        artifact.key: plain_type(artifact.content_type)
        for artifact in settlement.outcome.artifacts
        if artifact.key in files
        and is_output(artifact.key, settlement.task_id, settlement.attempt)
        and artifact.bytes == len(files[artifact.key])
    }


async def _with_files(
    service: Service, settlement: Settlement, types: Mapping[str, str], files: Mapping[str, bytes]
) -> Settlement:
    """Store the enclosed files of one outcome; return it, or that it failed."""
    if not types or not service.fleet.is_held(settlement):
        # The store will not take the outcome either, unless it has it already.
        return settlement
    try:
        for key, content_type in types.items():
            await service.objects.put_new(key, files[key], content_type)
    except SwellError as error:
        return _upload_failed(settlement, error.detail)
    return settlement


def _upload_failed(settlement: Settlement, detail: str) -> Settlement:
    error = TaskError(code="upload_failed", title="The output could not be stored", detail=detail)
    failed = Failed(error=error, retryable=True, timings=settlement.outcome.timings)
    return msgspec.structs.replace(settlement, outcome=failed)


async def without_lost_files(service: Service, news: Sequence[Progress]) -> list[Progress]:
    """Return news without repeated files that were never stored."""
    unsure = [each for each in news if each.again and not _is_remembered(service, each)]
    if not unsure:
        return list(news)
    found = await asyncio.gather(*(_is_stored(service, each.data) for each in unsure))
    lost = {id(each) for each, is_there in zip(unsure, found, strict=True) if not is_there}
    return [each for each in news if id(each) not in lost]


def _is_remembered(service: Service, event: Progress) -> bool:
    """Whether this process has published this progress before."""
    number = event.attempt * ATTEMPT_STRIDE + event.place
    remembered = service.bus.history(event.task_id, after=number - 1)
    return bool(remembered) and remembered[0].id == number


async def _is_stored(service: Service, data: Mapping[str, object]) -> bool:
    """Whether the file of an event is in the object store."""
    artifact = read_artifact(data)
    if artifact is None:
        return False
    try:
        return not await _lack(service, artifact)
    except SwellError as error:
        _log.info("files: cannot check a file that was reported twice", detail=error.detail)
        return False
