"""What a task needs before it can run: input files, LoRAs, and what an earlier attempt has left."""

import structlog

from swell.core.errors import InvalidInput, SwellError
from swell.core.task import Failed
from swell.protocol.worker_messages import Dispatch
from swell.runtime.ipc_messages import MAX_INPUT_FILES_BYTES
from swell.runtime.unicode_repair import describe_error
from swell.settings.worker_settings import WorkerSettings
from swell.weights.cache import CacheFull
from swell.weights.lora import WrongLora
from swell.worker.checkpoint_handoff import CONTENT_TYPE, packed, unpacked
from swell.worker.inflight import InflightTask
from swell.worker.input_files import fetch_files
from swell.worker.lora_files import Loras
from swell.worker.task_results import failed
from swell.worker.upload import Uploader

_log = structlog.get_logger("swell.worker")

_NOT_FETCHED = "An input file cannot be fetched"


class TaskInputs:
    """Brings what held tasks need, and leaves what they have drawn to whoever goes on with it.

    Args:
        settings: Limits, device and batching.
        dispatch: The backend.
        loras: The LoRAs of this worker.
        courier: The way to the object store.
    """

    def __init__(
        self, settings: WorkerSettings, dispatch: Dispatch, loras: Loras, courier: Uploader
    ) -> None:
        self._settings = settings
        self._is_exact = settings.is_exact
        self._dispatch = dispatch
        self._loras = loras
        self._courier = courier

    async def bring(self, held: InflightTask, urls: list[str], loras: list[str]) -> Failed | None:
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

    async def recall(self, held: InflightTask, url: str) -> None:
        """Take over what an earlier attempt has left; what cannot be used is drawn anew."""
        try:
            raw = await self._courier.recall(url)
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

    async def leave(self, held: InflightTask) -> str | None:
        """Store what was drawn of a task; return where it lies, or None if that failed."""
        try:
            assert held.seed is not None, "it came with the checkpoints"
            data = packed(
                held.task,
                self._settings.device,
                self._is_exact,
                held.seed,
                held.checkpoints,
            )
            return await self._courier.leave(held.task.hold, data, CONTENT_TYPE)
        except Exception as error:
            _log.warning(
                "checkpoints: cannot be stored",
                **held.about,
                detail=describe_error(error),
            )
            return None
