"""Runs a model in a process of its separate environment, as a worker does."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from swell.cli.inputs import InputFile, as_data_uri
from swell.core.clock import Clock
from swell.core.errors import InvalidInput, InvalidRequest
from swell.core.records import ModelCard
from swell.runtime.ipc_messages import (
    DRAWN,
    Done,
    Fault,
    Frame,
    Order,
    Results,
    Run,
    Step,
    StepEngineConfig,
    Watch,
)
from swell.runtime.local_run import InputRejected, LocalResult, RunFailed
from swell.runtime.model_process_client import ModelProcess, ProcessDied, describe_exit
from swell.runtime.model_process_main import SEED_BITS
from swell.runtime.venvs import Home
from swell.sdk.media import File
from swell.settings.worker_settings import WorkerSettings
from swell.worker.encode_outputs import FileNote, encode, wanted_format


@dataclass(frozen=True, slots=True)
class Ran:
    """Result of a run."""

    card: ModelCard
    #: The input after files were replaced.
    values: Mapping[str, Any]
    result: LocalResult
    load_s: float


async def run_beside(
    ref: str,
    home: Home,
    settings: WorkerSettings,
    clock: Clock,
    *,
    read: Callable[[ModelCard], Mapping[str, Any]],
    seed: int | None,
    tell: Callable[[int, int], None],
) -> Ran:
    """Run one input in a process of the model's environment.

    Args:
        ref: Reference of one model, for `load_models`.
        home: The model's environment.
        settings: Device and format of pictures.
        clock: The time.
        read: Returns the input for the model's card.
        seed: Seed of the run; None for the input's seed, or a random one.
        tell: Called with progress.

    Raises:
        InvalidRequest: The reference names several models, or the input does not fit.
        ModelRefused, InvalidModel, NotFound, ProcessDied: The model cannot be loaded.
        RunFailed: The model refused the input or failed.
    """
    talk = _Talk(tell)
    process = ModelProcess(home.python, talk.on_frame, variables=home.variables)
    try:
        started_s = clock.monotonic_s()
        cards = await process.start([ref], settings.device)
        if len(cards) > 1:
            names = ", ".join(card.name for card in cards)
            raise InvalidRequest(f"{ref} holds several models ({names}): add :NAME of one of them")
        [card] = cards
        values = {
            name: as_data_uri(value) if isinstance(value, InputFile) else value
            for name, value in read(card).items()
        }
        if card.step_bucket:
            process.send(StepEngineConfig(exact=settings.is_exact))
        await process.ready()
        load_s = clock.monotonic_s() - started_s
        raw = msgspec.json.encode(values)
        chosen = secrets.randbits(SEED_BITS) if seed is None else seed
        batch = DRAWN if card.step_bucket else 1
        process.send(Run(batch, card.name, [Order(1, raw, chosen)]))
        process.send(Watch([1]))
        ended = asyncio.ensure_future(process.wait())
        ends: set[asyncio.Future[Any]] = {talk.done, ended}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not talk.done.done():
            raise ProcessDied(f"the model process {describe_exit(ended.result())}")
        done = talk.done.result()
    finally:
        await process.kill()
    note = FileNote(card.name, card.version, msgspec.Raw(raw))
    kind = wanted_format(note.input, settings.picture_format)
    encoded = [encode(file, index, kind, note) for index, file in enumerate(done.files)]
    result = LocalResult(
        output=msgspec.json.decode(done.output),
        files=[File(each.data, content_type=each.content_type) for each in encoded],
        seed=done.seed,
        run_s=done.run_s,
        warnings=done.warnings,
    )
    return Ran(card, values, result, load_s)


class _Talk:
    """Handles the messages of the process about the task."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        self.done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()

    def on_frame(self, frame: Frame) -> None:
        match frame:
            case Step():
                self._tell(frame.done, frame.total)
            case Results(done=[done]):
                self._end(done)
            case Results(faults=[fault]):
                self._end(_error_of(fault))

    def _end(self, what: Done | Exception) -> None:
        if self.done.done():
            return
        if isinstance(what, Done):
            self.done.set_result(what)
        else:
            self.done.set_exception(what)
            # Marks the exception as retrieved, in case the caller has stopped waiting.
            self.done.exception()


def _error_of(fault: Fault) -> Exception:
    if fault.code == "invalid_input":
        return InvalidInput(fault.detail)
    if fault.code == "rejected":
        return InputRejected(fault.detail)
    failed = RunFailed(f"{fault.title}: {fault.detail}")
    if fault.traceback:
        failed.add_note(fault.traceback)
    return failed
