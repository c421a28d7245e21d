"""Encoding processes: what they give back, how they die, and what they leave behind."""

import asyncio
import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import PIL.Image
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.dispatch import MemoryDispatch
from swell.core.clock import SystemClock
from swell.runtime.ipc_messages import Blob, Pixels
from swell.settings.worker_settings import WorkerSettings
from swell.worker import encode_image_main as compress
from swell.worker.encode_image_main import KINDS, MODES, in_ascii
from swell.worker.encode_outputs import MAX_NOTE, FileNote, encode, note_text
from swell.worker.encoder_pool import Encoders, EncodingFailed, default_processes
from swell.worker.worker_loop import Worker

NOTE = FileNote("demo/x", "v1", msgspec.Raw(b'{"prompt":"a fox"}'))

#: What programs of tests begin with: `encode_image_main.py` as a module.
PREAMBLE = f"""
import importlib.util, os, pathlib, sys
spec = importlib.util.spec_from_file_location("compress", {compress.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""

#: Dies of a picture of one width, each time that there is still a file to use up.
DIES = """
answer = module._answer
def die_of_it(order, *data):
    if module.ORDER.unpack(order)[0] == 99:
        for life in pathlib.Path({folder!r}).glob("life-*"):
            life.unlink()
            os.kill(os.getpid(), 9)
    return answer(order, *data)
module._answer = die_of_it
module.main()
"""

#: Waits at each picture until there is something to read.
WAITS = """
answer = module._answer
def wait(order, *data):
    with open({pipe!r}, "rb", buffering=0) as pipe:
        pipe.read(1)
    return answer(order, *data)
module._answer = wait
module.main()
"""

#: Has encoders of its own at work, says who they are, and waits to be killed.
OWNER = """
import asyncio, os, sys
from pathlib import Path
import msgspec
from swell.worker.encode_outputs import FileNote
from swell.worker.encoder_pool import Encoders
from swell.runtime.ipc_messages import Pixels

async def main():
    encoders = Encoders(2)
    picture = Pixels("L", 100, 100, bytes(10_000), "png", b"{}", 1)
    note = FileNote("demo/x", "v1", msgspec.Raw(b"{}"))
    await asyncio.gather(*(encoders.encode(picture, 0, "png", note) for _ in range(2)))
    print(*encoders.pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


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
async def encoding(
    processes: int = 1, program: Path | None = None, **limits: float
) -> AsyncIterator[Encoders]:
    encoders = Encoders(processes, program=program, **limits)
    try:
        async with asyncio.timeout(60):
            yield encoders
    finally:
        pids = encoders.pids
        await encoders.close()
        assert not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def a_program(home: Path, text: str, **values: str) -> Path:
    path = home / "program.py"
    path.write_text(PREAMBLE + text.format(**values))
    return path


def a_deadly_program(home: Path, deaths: int) -> Path:
    for number in range(deaths):
        (home / f"life-{number}").touch()
    return a_program(home, DIES, folder=str(home))


# --- what comes back -----------------------------------------------------------------------------


async def test_a_process_gives_the_same_bytes_as_encoding_here() -> None:
    files = [picture(mode=mode, kind=kind) for mode in MODES for kind in KINDS]
    async with encoding() as encoders:
        for index, file in enumerate(files):
            encoded = await encoders.encode(file, index, "png", NOTE)
            assert encoded == encode(file, index, "png", NOTE)
        assert len(encoders.pids) == 1


@pytest.mark.slow
async def test_pictures_larger_and_smaller_than_those_before_come_back_whole() -> None:
    sizes = [(100, 100), (700, 500), (64, 64), (4000, 3000), (80, 80), (700, 500)]
    async with encoding() as encoders:
        for width, height in sizes:
            file = picture(width, height)
            encoded = await encoders.encode(file, 0, "png", NOTE)
            assert PIL.Image.open(io.BytesIO(encoded.data)).tobytes() == file.data


async def test_a_file_may_be_larger_than_its_pixels() -> None:
    file = picture(64, 64, "L", metadata=msgspec.json.encode({"words": "é" * 5_000}))
    async with encoding() as encoders:
        encoded = await encoders.encode(file, 0, "png", NOTE)
    assert len(file.data) < len(encoded.data)
    told = json.loads(PIL.Image.open(io.BytesIO(encoded.data)).text["swell"])
    assert told["words"] == "é" * 5_000


async def test_no_process_is_started_before_there_is_a_picture_for_it() -> None:
    async with encoding(2) as encoders:
        tiny = await encoders.encode(picture(8, 8), 0, "png", NOTE)
        text = await encoders.encode(Blob(b"x", "text/plain", "a.txt"), 1, "png", NOTE)
        assert (tiny.name, text.name, encoders.pids) == ("0.png", "a.txt", [])
        await encoders.encode(picture(), 0, "png", NOTE)
        assert len(encoders.pids) == 1


async def test_a_process_may_be_started_before_its_first_picture() -> None:
    async with encoding(2) as encoders:
        encoders.warm()
        encoders.warm()
        await encoders.encode(picture(), 0, "png", NOTE)
        assert len(encoders.pids) == 1


async def test_as_many_processes_work_as_there_are_pictures(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with encoding(3, a_program(tmp_path, WAITS, pipe=str(pipe))) as encoders:
        with open(os.open(pipe, os.O_RDWR), "wb", buffering=0) as hand:
            calls = [encoders.encode(picture(), n, "png", NOTE) for n in range(5)]
            tasks = [asyncio.ensure_future(call) for call in calls]
            # Each process reads one byte per picture, so five bytes let five pictures through.
            hand.write(b"12345")
            names = [encoded.name for encoded in await asyncio.gather(*tasks)]
        assert names == [f"{n}.png" for n in range(5)]
        assert 1 <= len(encoders.pids) <= 3


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
    assert 1 <= default_processes() <= max(1, min(4, (os.cpu_count() or 1) - 1))


# --- what goes wrong -----------------------------------------------------------------------------


async def test_what_a_format_cannot_hold_is_told_and_costs_no_process() -> None:
    async with encoding() as encoders:
        await encoders.encode(picture(), 0, "webp", NOTE)
        pids = encoders.pids
        with pytest.raises(EncodingFailed, match="encoding error"):
            await encoders.encode(picture(20_000, 1), 0, "webp", NOTE)
        await encoders.encode(picture(), 0, "webp", NOTE)
        assert encoders.pids == pids


async def test_pixels_that_are_not_all_there_are_refused() -> None:
    short = Pixels("RGB", 100, 100, bytes(29_999), "png", b"{}", 7)
    async with encoding() as encoders:
        with pytest.raises(EncodingFailed, match=r"29,999 bytes and needs 30,000"):
            await encoders.encode(short, 0, "png", NOTE)
        with pytest.raises(EncodingFailed):
            await encoders.encode(Pixels("P", 99, 99, bytes(9801), "", b"{}", 7), 0, "png", NOTE)
        assert encoders.pids == []


async def test_a_picture_whose_process_dies_is_encoded_by_another(tmp_path: Path) -> None:
    async with encoding(program=a_deadly_program(tmp_path, 1)) as encoders:
        await encoders.encode(picture(), 0, "png", NOTE)
        before = encoders.pids
        file = picture(99)
        encoded = await encoders.encode(file, 0, "png", NOTE)
        assert PIL.Image.open(io.BytesIO(encoded.data)).tobytes() == file.data
        assert len(encoders.pids) == 1
        assert encoders.pids != before


async def test_a_picture_that_kills_two_processes_fails_alone(tmp_path: Path) -> None:
    async with encoding(2, a_deadly_program(tmp_path, 2)) as encoders:
        good, bad = picture(), picture(99)
        files = [good, bad, good, good]
        calls = [encoders.encode(file, n, "png", NOTE) for n, file in enumerate(files)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[1], EncodingFailed)
        assert str(results[1]).startswith("2 processes ended while they encoded it: one was killed")
        assert [results[n] for n in (0, 2, 3)] == [encode(good, n, "png", NOTE) for n in (0, 2, 3)]
        assert list(tmp_path.glob("life-*")) == []


@pytest.mark.slow
async def test_a_process_that_is_killed_while_idle_costs_no_picture_a_try(tmp_path: Path) -> None:
    async with encoding(program=a_deadly_program(tmp_path, 1)) as encoders:
        await encoders.encode(picture(), 0, "png", NOTE)
        [pid] = encoders.pids
        number = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert select.select([number], [], [], 10)[0]
        os.close(number)
        # It meets the dead one, then one that dies of it, and may go on all the same.
        encoded = await encoders.encode(picture(99), 0, "png", NOTE)
        assert encoded == encode(picture(99), 0, "png", NOTE)


@pytest.mark.slow
async def test_a_process_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = a_program(tmp_path, WAITS, pipe=str(pipe))
    async with encoding(program=program, picture_limit_s=0.2) as encoders:
        with pytest.raises(EncodingFailed, match=r"took longer than 0\.2 s and took longer"):
            await encoders.encode(picture(), 0, "png", NOTE)


async def test_a_program_that_does_not_start_fails_what_waits_for_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("raise SystemExit(3)")
    async with encoding(program=program) as encoders:
        with pytest.raises(EncodingFailed, match="ended with exit code 3"):
            await encoders.encode(picture(), 0, "png", NOTE)


# --- how much at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"max_jobs": 1}, {"max_bytes": 20_000}])
async def test_pictures_beyond_the_limits_wait_outside(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = a_program(tmp_path, WAITS, pipe=str(pipe))
    async with encoding(program=program, **limits) as encoders:
        with open(os.open(pipe, os.O_RDWR), "wb", buffering=0) as hand:
            first = asyncio.ensure_future(encoders.encode(picture(), 0, "png", NOTE))
            await turns()
            assert not encoders.is_full
            second = asyncio.ensure_future(encoders.encode(picture(), 1, "png", NOTE))
            gone = asyncio.ensure_future(encoders.encode(picture(), 2, "png", NOTE))
            await turns()
            assert encoders.is_full
            gone.cancel()
            hand.write(b"12")
            assert [(await first).name, (await second).name] == ["0.png", "1.png"]
            await turns()
            assert not encoders.is_full
            assert gone.cancelled()


@pytest.mark.slow
async def test_a_model_waits_while_its_pictures_pile_up(tmp_path: Path) -> None:
    pipe, model = tmp_path / "pipe", tmp_path / "white.py"
    os.mkfifo(pipe)
    model.write_text(WHITE)
    program = a_program(tmp_path, WAITS, pipe=str(pipe))
    dispatch = MemoryDispatch(SystemClock())
    ids = [await dispatch.submit("test/white") for _ in range(8)]
    encoders = Encoders(1, program=program, max_jobs=1)
    settings = WorkerSettings(name="w", slots=8)
    worker = Worker(settings, dispatch, [str(model)], SystemClock(), encoders=encoders)
    running = asyncio.create_task(worker.run(handle_signals=False))
    async with asyncio.timeout(60):
        with open(os.open(pipe, os.O_RDWR), "wb", buffering=0) as hand:
            while not (encoders.is_full and not worker.models.state.sent):
                await asyncio.sleep(0)
            assert len(worker.tasks.held) == 8
            assert worker.runner._queue
            hand.write(b"12345678")
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


async def test_whoever_waits_hears_of_the_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with encoding(program=a_program(tmp_path, WAITS, pipe=str(pipe))) as encoders:
        calls = [encoders.encode(picture(), n, "png", NOTE) for n in range(3)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await turns()
        await encoders.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in results] == ["the worker ends"] * 3
        with pytest.raises(EncodingFailed, match="the worker ends"):
            await encoders.encode(picture(), 0, "png", NOTE)


@pytest.mark.parametrize("after", range(4))
async def test_who_comes_in_the_moment_of_the_end_hears_of_it(after: int) -> None:
    async with encoding(1) as encoders:
        await encoders.encode(picture(), 0, "png", NOTE)
        last = asyncio.ensure_future(encoders.encode(picture(), 1, "png", NOTE))
        for _ in range(after):
            await asyncio.sleep(0)
        await encoders.close()
        with contextlib.suppress(EncodingFailed):
            await asyncio.wait_for(last, 30)


@pytest.mark.slow
async def test_a_worker_that_goes_leaves_no_process_behind(tmp_path: Path) -> None:
    model = tmp_path / "white.py"
    model.write_text(WHITE)
    dispatch = MemoryDispatch(SystemClock())
    settings = WorkerSettings(name="w", encode_processes=1, picture_format="avif")
    worker = Worker(settings, dispatch, [str(model)], SystemClock())
    running = asyncio.create_task(worker.run(handle_signals=False))
    task = await dispatch.ended(await dispatch.submit("test/white"))
    assert [each.content_type for each in task.artifacts] == ["image/avif"]
    here = psutil.Process()
    living = [each for each in here.children() if each.status() != psutil.STATUS_ZOMBIE]
    pids = [each.pid for each in living if compress.__file__ in each.cmdline()]
    worker.release()
    assert await running == 0
    assert len(pids) == 1
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.slow
def test_no_process_outlives_a_worker_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        numbers = [os.pidfd_open(int(pid)) for pid in owner.stdout.readline().split()]
        owner.kill()
    assert len(numbers) == 2
    for number in numbers:
        assert select.select([number], [], [], 10)[0]
        os.close(number)


def test_the_program_imports_nothing_heavy() -> None:
    heavy = ("swell", "numpy", "pydantic", "asyncio", "msgspec")
    code = f"{PREAMBLE}\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    modules = ran.stdout.decode().split()
    assert "PIL.Image" in modules
    assert [name for name in modules if name.partition(".")[0] in heavy] == []


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
