"""Encoding threads: what they give back, how many work at once, and how they end."""

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.dispatch import MemoryDispatch
from swell.core.clock import SystemClock
from swell.runtime.ipc_messages import Blob, Pixels
from swell.settings.worker_settings import WorkerSettings
from swell.worker.encode_outputs import KINDS, MAX_NOTE, FileNote, encode, in_ascii, note_text
from swell.worker.encoder_pool import LOWERED_BY, Encoders, EncodingFailed, default_threads
from swell.worker.worker_loop import Worker

NOTE = FileNote("demo/x", "v1", msgspec.Raw(b'{"prompt":"a fox"}'))

WHITE = """
import PIL.Image, swell

@swell.model("test/white")
def white() -> swell.Image:
    return PIL.Image.new("RGB", (100, 100), "white")
"""


def picture(
    width: int = 100, height: int = 50, mode: str = "RGB", kind: str = "", metadata: bytes = b"{}"
) -> Pixels:
    data = bytes(range(251)) * (width * height * len(mode) // 251 + 1)
    return Pixels(mode, width, height, data[: width * height * len(mode)], kind, metadata, 7)


@contextlib.asynccontextmanager
async def encoding(threads: int = 1, **options: Any) -> AsyncIterator[Encoders]:
    encoders = Encoders(threads, **options)
    try:
        async with asyncio.timeout(60):
            yield encoders
    finally:
        encoders.close()


class Gate:
    """Encodes when it is let."""

    def __init__(self) -> None:
        self._passes = threading.Semaphore(0)
        self.niceness: set[int] = set()

    def encode(self, *asked: Any) -> Any:
        self.niceness.add(os.nice(0))
        assert self._passes.acquire(timeout=60)
        return encode(*asked)

    def let(self, count: int) -> None:
        self._passes.release(count)


# --- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
async def test_all_modes_are_encoded_in_all_formats(mode: str, kind: str) -> None:
    file = picture(mode=mode, kind=kind)
    async with encoding() as encoders:
        encoded = await encoders.encode(file, 3, "png", NOTE)
    assert encoded == encode(file, 3, "png", NOTE)
    found = PIL.Image.open(io.BytesIO(encoded.data))
    assert (found.format, found.size) == (kind.upper(), (100, 50))
    if kind == "png":
        assert found.tobytes() == file.data


async def test_a_file_may_be_larger_than_its_pixels() -> None:
    file = picture(64, 64, "L", metadata=msgspec.json.encode({"words": "é" * 5_000}))
    async with encoding() as encoders:
        encoded = await encoders.encode(file, 0, "png", NOTE)
    assert len(file.data) < len(encoded.data)
    found: Any = PIL.Image.open(io.BytesIO(encoded.data))
    assert json.loads(found.text["swell"])["words"] == "é" * 5_000


async def test_names_are_known_before_the_files() -> None:
    target = io.BytesIO()
    PIL.Image.new("RGB", (5, 6)).save(target, "GIF")
    files = [picture(), picture(8, 8, kind="jpeg"), Blob(target.getvalue(), "image/*", "")]
    files.append(Blob(b"x", "text/plain", "poem.txt"))
    async with encoding() as encoders:
        names = await encoders.names(files, "avif")
        for index, file in enumerate(files):
            assert (await encoders.encode(file, index, "avif", NOTE)).name == names[index]
    assert names == ["0.avif", "1.jpg", "2.gif", "poem.txt"]


def test_a_core_is_left_to_the_model() -> None:
    assert 1 <= default_threads() <= max(1, min(4, (os.cpu_count() or 1) - 1))


async def test_threads_come_after_worker_and_model() -> None:
    gate, before = Gate(), os.nice(0)
    gate.let(1)
    async with encoding(encode=gate.encode) as encoders:
        await encoders.encode(picture(), 0, "png", NOTE)
    assert gate.niceness == {min(19, before + LOWERED_BY)}
    assert os.nice(0) == before


# --- what goes wrong -----------------------------------------------------------------------------


async def test_a_picture_that_cannot_be_encoded_fails_alone() -> None:
    async with encoding() as encoders:
        with pytest.raises(EncodingFailed, match="encoding error"):
            await encoders.encode(picture(20_000, 1), 0, "webp", NOTE)
        short = Pixels("RGB", 100, 100, bytes(29_999), "png", b"{}", 7)
        with pytest.raises(EncodingFailed, match="29,999 bytes and needs 30,000"):
            await encoders.encode(short, 0, "png", NOTE)
        await encoders.encode(picture(), 0, "webp", NOTE)


# --- how much at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"max_jobs": 1}, {"max_bytes": 20_000}])
async def test_pictures_beyond_the_limits_wait_outside(limits: dict[str, int]) -> None:
    gate = Gate()
    async with encoding(encode=gate.encode, **limits) as encoders:
        first = asyncio.ensure_future(encoders.encode(picture(), 0, "png", NOTE))
        await turns()
        assert not encoders.is_full
        second = asyncio.ensure_future(encoders.encode(picture(), 1, "png", NOTE))
        gone = asyncio.ensure_future(encoders.encode(picture(), 2, "png", NOTE))
        await turns()
        assert encoders.is_full
        gone.cancel()
        gate.let(2)
        assert [(await first).name, (await second).name] == ["0.png", "1.png"]
        await turns()
        assert not encoders.is_full
        assert gone.cancelled()


@pytest.mark.slow
async def test_a_model_waits_while_its_pictures_pile_up(tmp_path: Path) -> None:
    model = tmp_path / "white.py"
    model.write_text(WHITE)
    dispatch = MemoryDispatch(SystemClock())
    ids = [await dispatch.submit("test/white") for _ in range(8)]
    gate = Gate()
    encoders = Encoders(1, encode=gate.encode, max_jobs=1)
    settings = WorkerSettings(name="w", slots=8)
    worker = Worker(settings, dispatch, [str(model)], SystemClock(), encoders=encoders)
    running = asyncio.create_task(worker.run(handle_signals=False))
    async with asyncio.timeout(60):
        while not (encoders.is_full and not worker.models.state.sent):
            await asyncio.sleep(0.01)
        assert len(worker.tasks.held) == 8
        assert worker.runner._queue
        gate.let(8)
        ended = [await dispatch.ended(task_id) for task_id in ids]
        assert [len(task.artifacts) for task in ended] == [1] * 8
        worker.release()
        assert await running == 0


async def test_a_picture_larger_than_all_room_goes_alone() -> None:
    async with encoding(max_bytes=1000) as encoders:
        encoded = await asyncio.gather(
            *(encoders.encode(picture(), n, "png", NOTE) for n in range(3))
        )
    assert [file.name for file in encoded] == ["0.png", "1.png", "2.png"]


async def turns() -> None:
    """Let everybody who can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


# --- the end -------------------------------------------------------------------------------------


async def test_after_the_end_no_picture_is_encoded() -> None:
    gate = Gate()
    async with encoding(encode=gate.encode) as encoders:
        running, waiting = (
            asyncio.ensure_future(encoders.encode(picture(), n, "png", NOTE)) for n in range(2)
        )
        await turns()
        encoders.close()
        gate.let(1)
        assert (await running).name == "0.png"
        for late in (waiting, encoders.encode(picture(), 2, "png", NOTE)):
            with pytest.raises(EncodingFailed, match="the worker ends"):
                await late


async def test_other_files_pass_pictures_that_wait() -> None:
    gate = Gate()
    sound = Blob(bytes(10), "audio/wav", "a.wav")
    async with encoding(encode=gate.encode, max_bytes=5) as encoders:
        waiting = asyncio.ensure_future(encoders.encode(picture(), 0, "png", NOTE))
        await turns()
        assert await encoders.names([sound], "png") == ["a.wav"]
        assert (await encoders.encode(sound, 0, "png", NOTE)).data == sound.data
        assert not encoders.is_full
        gate.let(1)
        await waiting


def test_a_process_that_ends_does_not_wait_for_a_picture() -> None:
    program = """
import asyncio, time, msgspec
from swell.runtime.ipc_messages import Pixels
from swell.worker.encode_outputs import FileNote
from swell.worker.encoder_pool import Encoders

async def main():
    encoders = Encoders(1, encode=lambda *asked: time.sleep(60))
    note = FileNote("demo/x", "v1", msgspec.Raw(b"{}"))
    picture = Pixels("L", 1, 1, b"x", "png", b"{}", 1)
    task = asyncio.create_task(encoders.encode(picture, 0, "png", note))
    await asyncio.sleep(0.1)
    encoders.close()
    task.cancel()

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


# --- notes ---------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.dictionaries(st.text(), st.text()))
def test_escaped_json_is_ascii_and_means_the_same(value: dict[str, str]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert in_ascii(text).isascii()
    assert json.loads(in_ascii(text)) == json.loads(text)


@pytest.mark.slow
@given(
    st.sampled_from([0, 10, 1_000, 70_000]),
    st.sampled_from([0, 10, 1_000, 70_000]),
    st.sampled_from(["a", "é", "🦊", '"']),
)
def test_a_note_fits_whatever_the_input_holds(image: int, own: int, letter: str) -> None:
    asked = msgspec.json.encode({"prompt": "a fox", "image": letter * image, "more": ["b"] * 3})
    metadata = msgspec.json.encode({"style": letter * own})
    file = picture(8, 8, metadata=metadata)
    note = FileNote("demo/x", "v1", msgspec.Raw(asked))
    text = note_text(file, note)
    told = json.loads(text)
    assert len(in_ascii(text)) <= MAX_NOTE
    assert (told["model"], told["version"], told["seed"]) == ("demo/x", "v1", 7)
    if own <= 1_000:
        assert told["input"]["prompt"] == "a fox"
        assert told["style"] == letter * own
    assert encode(msgspec.structs.replace(file, format="jpeg"), 0, "png", note).name == "0.jpg"
