"""Files in the reports of workers: names, enclosed bytes, and checks that they are stored."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from swell.api.early import read_artifact
from swell.api.files import plain_type
from swell.api.fleet import Worker
from swell.api.service import Service
from swell.api.worker_leases import learn_holds
from swell.dispatch import (
    Enclosure,
    Progress,
    Report,
)
from swell.errors import (
    Forbidden,
    InvalidInput,
    InvalidRequest,
    NotFound,
    SwellError,
)
from swell.events import ATTEMPT_STRIDE, EventKind
from swell.store import Hold
from swell.task import (
    Artifact,
    Failed,
    Released,
    Settlement,
    Succeeded,
    TaskError,
)

_log = structlog.get_logger("swell.api")


EVENT_KINDS: Final = {
    "progress": EventKind.PROGRESS,
    "preview": EventKind.PREVIEW,
    "artifact": EventKind.ARTIFACT,
}


async def check_stored(service: Service, told: Report) -> Report:
    """Return a report with failures where a file that an outcome names is not in the bucket."""
    settlements = await asyncio.gather(*(_if_stored(service, each) for each in told.settlements))
    return msgspec.structs.replace(told, settlements=list(settlements))


async def release_failed_uploads(service: Service, told: Report) -> Report:
    """Return a report whose failed uploads count as no attempts while no upload succeeds.

    While the object store takes files, the fault is the file's: the attempt counts.
    """
    if not any(_is_upload_failed(each) for each in told.settlements):
        return told
    if await service.writable.takes_files():
        return told
    settlements = [
        msgspec.structs.replace(
            each, outcome=Released(reason="upload failed", timings=each.outcome.timings)
        )
        if _is_upload_failed(each)
        else each
        for each in told.settlements
    ]
    return msgspec.structs.replace(told, settlements=settlements)


def _is_upload_failed(settlement: Settlement) -> bool:
    outcome = settlement.outcome
    return isinstance(outcome, Failed) and outcome.error.code == "upload_failed"


async def _if_stored(service: Service, settlement: Settlement) -> Settlement:
    outcome = settlement.outcome
    if not isinstance(outcome, Succeeded) or not outcome.artifacts:
        return settlement
    missing = await asyncio.gather(*(_lack(service, each) for each in outcome.artifacts))
    why = next((each for each in missing if each), None)
    if why is None:
        return settlement
    failure = TaskError(code="upload_failed", title="The output could not be stored", detail=why)
    failed = Failed(error=failure, retryable=True, timings=outcome.timings)
    return msgspec.structs.replace(settlement, outcome=failed)


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


def check_artifacts(settlements: Sequence[Settlement]) -> None:
    """Check that outcomes name files of their attempts alone.

    Readers of the task get signed URLs for them, so the key of another file would expose it.
    """
    for each in settlements:
        if not isinstance(each.outcome, Succeeded):
            continue
        for artifact in each.outcome.artifacts:
            _check_output(artifact.key, each.task_id, each.attempt)


def check_told_artifacts(news: Sequence[Progress]) -> None:
    """Check files that are reported before the outcome in the same way."""
    for each in news:
        if EVENT_KINDS.get(each.kind) is EventKind.ARTIFACT and "key" in each.data:
            _check_output(each.data["key"], each.task_id, each.attempt)


def _check_output(key: object, task_id: str, attempt: int) -> None:
    if not isinstance(key, str) or not is_output(key, task_id, attempt):
        raise Forbidden(
            f"{str(key)[:80]!r} is not a file of attempt {attempt} of task "
            f"{task_id[:60]}: use a key under outputs/{task_id[:60]}/{attempt}/"
        )


async def keep_enclosures(service: Service, worker: Worker, told: Report) -> Report:
    """Store the files inside a report; return it with failures where that was refused.

    Raises:
        InvalidInput: A file is none that an outcome or an event in the report names.
    """
    files = {file.key: file for file in told.enclosures}
    parts = [_Part(each, _enclosed(each, files)) for each in told.settlements]
    early = {n: each for n, each in enumerate(told.progress) if _is_enclosed(each, files)}
    named = {str(each.data["key"]) for each in early.values()}
    if strange := set(files).difference(named, *(part.types for part in parts)):
        raise InvalidInput(
            f"{min(strange)[:120]!r} cannot be enclosed: nothing in this report names it as a file "
            "of its attempt, with this size"
        )
    await learn_holds(
        service,
        worker,
        [*(part.hold for part in parts if part.types), *map(_hold_of, early.values())],
    )
    settlements = await asyncio.gather(*(_kept(service, part, files) for part in parts))
    lost = {n for n, each in early.items() if not await _kept_early(service, each, files)}
    progress = [each for n, each in enumerate(told.progress) if n not in lost]
    return msgspec.structs.replace(told, settlements=list(settlements), progress=progress)


def _hold_of(told: Progress) -> Hold:
    return Hold(task_id=told.task_id, attempt=told.attempt, token=told.token)


def _is_enclosed(told: Progress, files: Mapping[str, Enclosure]) -> bool:
    """Whether this is progress about a file that the report encloses."""
    if EVENT_KINDS.get(told.kind) is not EventKind.ARTIFACT:
        return False
    key, data = told.data.get("key"), told.data
    return (
        isinstance(key, str)
        and key in files
        and is_output(key, told.task_id, told.attempt)
        and data.get("bytes") == len(files[key].data)
        and isinstance(data.get("content_type"), str)
    )


async def _kept_early(service: Service, told: Progress, files: Mapping[str, Enclosure]) -> bool:
    """Store a file that came before its outcome; whether it is there.

    The outcome brings it again, and fails where it cannot be stored then either.
    """
    if not service.fleet.is_held(told.task_id, told.attempt, told.token):
        # No event is published for it.
        return True
    key = told.data["key"]
    try:
        await service.objects.put_new(key, files[key].data, plain_type(told.data["content_type"]))
    except SwellError as error:
        _log.warning("a file cannot be stored yet", task=told.task_id, detail=error.detail)
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Part:
    """An outcome, and those of its files that came with it."""

    settlement: Settlement
    #: Key → media type.
    types: Mapping[str, str]

    @property
    def hold(self) -> Hold:
        told = self.settlement
        return Hold(task_id=told.task_id, attempt=told.attempt, token=told.token)


def _enclosed(settlement: Settlement, files: Mapping[str, Enclosure]) -> dict[str, str]:
    """Return the keys and media types of an outcome's files that are enclosed."""
    if not isinstance(settlement.outcome, Succeeded):
        return {}
    return {
        artifact.key: plain_type(artifact.content_type)
        for artifact in settlement.outcome.artifacts
        if artifact.key in files
        and is_output(artifact.key, settlement.task_id, settlement.attempt)
        and artifact.bytes == len(files[artifact.key].data)
    }


async def _kept(service: Service, part: _Part, files: Mapping[str, Enclosure]) -> Settlement:
    """Store the files of one outcome; return it, or that it failed."""
    hold = part.hold
    if not part.types or not service.fleet.is_held(hold.task_id, hold.attempt, hold.token):
        # The store will not take the outcome either, unless it has it already.
        return part.settlement
    try:
        for key, content_type in part.types.items():
            await service.objects.put_new(key, files[key].data, content_type)
    except SwellError as error:
        failure = TaskError(
            code="upload_failed", title="The output could not be stored", detail=error.detail
        )
        failed = Failed(error=failure, retryable=True, timings=part.settlement.outcome.timings)
        return msgspec.structs.replace(part.settlement, outcome=failed)
    return part.settlement


async def without_lost_files(service: Service, news: Sequence[Progress]) -> list[Progress]:
    """Return news without repeated files that were never stored."""
    unsure = [each for each in news if each.again and not _is_remembered(service, each)]
    if not unsure:
        return list(news)
    found = await asyncio.gather(*(_is_stored(service, each.data) for each in unsure))
    lost = {id(each) for each, is_there in zip(unsure, found, strict=True) if not is_there}
    return [each for each in news if id(each) not in lost]


def _is_remembered(service: Service, told: Progress) -> bool:
    """Whether this process has published this progress before."""
    number = told.attempt * ATTEMPT_STRIDE + told.place
    remembered = service.bus.history(told.task_id, after=number - 1)
    return bool(remembered) and remembered[0].id == number


async def _is_stored(service: Service, told: Mapping[str, object]) -> bool:
    """Whether a file lies where a worker says."""
    artifact = read_artifact(told)
    if artifact is None:
        return False
    try:
        return not await _lack(service, artifact)
    except SwellError as error:
        _log.info("files: cannot check a file that was reported twice", detail=error.detail)
        return False
