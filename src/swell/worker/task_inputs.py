"""Inputs of a task before it runs: files, LoRAs, and the checkpoint of an earlier attempt.

The schema says which properties are files (`x-file`). Data URIs are left to the model process, and
`lora_files.py` downloads LoRAs. A checkpoint file holds the checkpoints of a task's samples, and
what must be equal for the next attempt to end with the same picture; other files are refused.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import structlog

from swell.core.errors import InvalidInput, SwellError, TooLarge
from swell.core.task import Failed
from swell.net.url_policy import bare_url
from swell.protocol.worker_messages import Dispatch, LeasedTask
from swell.runtime.ipc_messages import MAX_INPUT_FILES_BYTES
from swell.runtime.unicode_repair import describe_error
from swell.settings.worker_settings import WorkerSettings
from swell.weights.cache import CacheFull
from swell.weights.lora import WrongLora
from swell.worker.inflight import InflightTask
from swell.worker.lora_files import Loras
from swell.worker.task_results import Uploader, failed

_log = structlog.get_logger("swell.worker")

#: What `x-file` says of a LoRA.
_LORA: Final = "lora"

#: Most files of one task, most concurrent downloads, and their total size in largest files: they
#: are in memory until the task has run. Each running download may add another largest file.
MOST_FILES: Final = 100
FETCHES: Final = 8
MOST_TOGETHER: Final = 4


class FileFields(msgspec.Struct, frozen=True):
    """Names of the input properties that are files, or lists of files."""

    names: tuple[str, ...]
    #: Of those that are LoRAs.
    loras: tuple[str, ...] = ()

    def urls(self, raw: msgspec.Raw) -> list[str]:
        """Return the URLs that an input names, each once."""
        return self._found(raw, self.names)

    def lora_files(self, raw: msgspec.Raw) -> list[str]:
        """Return what an input names as files of LoRAs, each once: URLs, digests, names."""
        return self._found(raw, self.loras)

    def _found(self, raw: msgspec.Raw, names: tuple[str, ...]) -> list[str]:
        if not names:
            return []
        try:
            fields = msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []
        found = [url for name in names for url in _strings(fields.get(name))]
        return list(dict.fromkeys(url for url in found if not url.startswith("data:")))


def file_fields(schema: Mapping[str, Any]) -> FileFields:
    """Return which properties of an input schema are files."""
    kinds = {name: _kinds(prop) for name, prop in schema.get("properties", {}).items()}
    return FileFields(
        tuple(name for name, found in kinds.items() if found - {_LORA}),
        tuple(name for name, found in kinds.items() if _LORA in found),
    )


def _kinds(prop: Any) -> set[str]:
    """Return the kinds of files that a property may be."""
    if not isinstance(prop, Mapping):
        return set()
    found = {str(prop["x-file"])} if "x-file" in prop else set()
    found |= _kinds(prop.get("items"))
    for key in ("anyOf", "allOf", "oneOf"):
        for part in prop.get(key, ()):
            found |= _kinds(part)
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, dict):
        yield from _strings(value.get("file"))


async def fetch_files(
    dispatch: Dispatch, urls: list[str], limit_bytes: int, own_files: Mapping[str, str]
) -> dict[str, tuple[bytes, str]]:
    """Return bytes and media type by URL.

    `own_files` has the URLs of the backend's files (`LeasedTask.own_files`).

    Raises:
        InvalidInput: There are more than `MOST_FILES`.
        TooLarge: One is larger than `limit_bytes`, or all together than `MOST_TOGETHER` such.
        SwellError: One cannot be fetched. The others are given up at once.
    """
    if len(urls) > MOST_FILES:
        raise InvalidInput(f"the input names {len(urls)} files: give at most {MOST_FILES}")
    slots, total = asyncio.Semaphore(FETCHES), 0

    async def one(url: str) -> tuple[bytes, str]:
        nonlocal total
        async with slots:
            data, content_type = await dispatch.fetch(own_files.get(url, url))
            # Without the query, which may hold a signature.
            _check_size(len(data), limit_bytes, f"the input file {bare_url(url)} has more")
            total += len(data)
            _check_size(total, limit_bytes * MOST_TOGETHER, "the input files have together more")
        return data, content_type

    try:
        async with asyncio.TaskGroup() as group:
            fetching = [group.create_task(one(url)) for url in urls]
    except ExceptionGroup as errors:
        # The first is why the others ended.
        raise errors.exceptions[0] from None
    return {url: each.result() for url, each in zip(urls, fetching, strict=True)}


def _check_size(size_bytes: int, limit_bytes: int, told: str) -> None:
    if size_bytes > limit_bytes:
        raise TooLarge(f"{told} than the {limit_bytes:,} bytes that are taken")


CONTENT_TYPE: Final = "application/octet-stream"

#: Of the format.
_VERSION: Final = 1

_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class UnusableCheckpoint(ValueError):
    """A file is broken, or has no checkpoint of this task."""


class Left(msgspec.Struct, frozen=True, array_like=True):
    """Content of the file."""

    version: int
    task_id: str
    model: str
    model_version: str
    #: Such as `cpu` or `cuda`: another kind of device rounds otherwise.
    device: str
    #: Whether all steps have the same number of rows, and so the same rounding. The checkpoint of a
    #: sample for which memory had no room for that says so.
    exact: bool
    count: int
    #: Of the first sample; random if the task has none.
    seed: int
    #: Sample → its checkpoint. One that is not there had not begun.
    samples: dict[int, bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Left).decode


def packed(
    task: LeasedTask, device: str, exact: bool, seed: int, samples: Mapping[int, bytes]
) -> bytes:
    """Return the file: SHA-256 of all that follows, then MessagePack."""
    left = Left(
        _VERSION,
        task.task_id,
        task.model,
        task.version,
        _kind(device),
        exact,
        task.count,
        seed,
        dict(samples),
    )
    body = _encode(left)
    return hashlib.sha256(body).digest() + body


def unpacked(raw: bytes, task: LeasedTask, device: str, exact: bool) -> Left:
    """Return the checkpoints of a task for this device and mode.

    Raises:
        UnusableCheckpoint: It is broken, or of something else; the text says what.
    """
    digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise UnusableCheckpoint("the file is broken")
    try:
        left = _decode(body)
    except msgspec.MsgspecError as error:
        raise UnusableCheckpoint(f"the file is of another format: {error}") from error
    told = {
        "format": (left.version, _VERSION),
        "task": (left.task_id, task.task_id),
        "model": (left.model, task.model),
        "version": (left.model_version, task.version),
        "device": (left.device, _kind(device)),
        "exact": (left.exact, exact),
        "count": (left.count, task.count),
    }
    for what, (theirs, ours) in told.items():
        if theirs != ours:
            raise UnusableCheckpoint(f"it was drawn with {what} {theirs}, and not {ours}")
    # A checkpoint has the settings of its sample and the seed, since only the model knows whether
    # its input has a seed. The same holds for packs, which have more samples than the task's
    # count: samples that the model does not have are ignored.
    if any(index < 0 for index in left.samples):
        raise UnusableCheckpoint("it has samples with numbers below 0")
    return left


def _kind(device: str) -> str:
    return device.partition(":")[0]


_NOT_FETCHED = "An input file cannot be fetched"


class TaskInputs:
    """Loads the checkpoints of held tasks, and stores them for the next worker.

    Args:
        settings: Limits, device and batching.
        dispatch: The backend.
        loras: The LoRAs of this worker.
        uploader: The way to the object store.
    """

    def __init__(
        self, settings: WorkerSettings, dispatch: Dispatch, loras: Loras, uploader: Uploader
    ) -> None:
        self._settings = settings
        self._is_exact = settings.is_exact
        self._dispatch = dispatch
        self._loras = loras
        self._uploader = uploader

    async def fetch(self, held: InflightTask, urls: list[str], loras: list[str]) -> Failed | None:
        """Fetch files and LoRAs of a task; return why its attempt fails, if they do not come."""
        own_files = held.task.own_files
        try:
            held.files = await fetch_files(
                self._dispatch, urls, self._settings.max_file_bytes, own_files
            )
            if held.files_bytes > MAX_INPUT_FILES_BYTES:
                raise InvalidInput(
                    f"the input's files have {held.files_bytes:,} bytes together, and a model "
                    f"gets at most {MAX_INPUT_FILES_BYTES:,}: give smaller ones"
                )
            held.loras = await self._loras.bring(loras, own_files)
        except (InvalidInput, WrongLora) as error:
            return failed("invalid_input", "A value is not allowed", error.detail, retryable=False)
        except CacheFull as error:
            _log.warning("a LoRA has no room", **held.about, detail=error.detail)
            detail = "the worker has no room for this LoRA now"
            return failed("input_unavailable", _NOT_FETCHED, detail, retryable=True)
        except SwellError as error:
            return failed(
                "input_unavailable", _NOT_FETCHED, error.detail, retryable=error.retryable
            )
        except Exception as error:
            _log.exception("fetching failed", **held.about)
            detail = describe_error(error)
            return failed("input_unavailable", _NOT_FETCHED, detail, retryable=True)
        return None

    async def fetch_checkpoint(self, held: InflightTask, url: str) -> None:
        """Load the checkpoints of an earlier attempt; samples without a usable one start again."""
        try:
            raw = await self._uploader.recall(url)
            left = unpacked(raw, held.task, self._settings.device, self._is_exact)
        except Exception as error:
            _log.warning(
                ("checkpoints: an earlier attempt's checkpoint cannot be used, drawing again"),
                **held.about,
                detail=describe_error(error),
            )
            return
        held.checkpoints = left.samples
        if held.seed is None:
            held.seed = left.seed

    async def store_checkpoint(self, held: InflightTask) -> str | None:
        """Store the checkpoints of a task; return their key, or None if that failed."""
        try:
            assert held.seed is not None, "it came with the checkpoints"
            data = packed(
                held.task,
                self._settings.device,
                self._is_exact,
                held.seed,
                held.checkpoints,
            )
            return await self._uploader.leave(held.task.hold, data, CONTENT_TYPE)
        except Exception as error:
            _log.warning(
                "checkpoints: cannot be stored",
                **held.about,
                detail=describe_error(error),
            )
            return None
