"""Pictures to files, and where files go."""

import asyncio
import io
import json
import struct
import zlib
from collections.abc import Callable

import msgspec
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.dispatch import MemoryDispatch
from conformance.factories import a_settlement
from manual_clock import ManualClock
from swell.core.errors import Conflict, Unavailable
from swell.core.records import ModelCard
from swell.core.store_types import Hold
from swell.protocol.worker_messages import Ask, Registration, Upload
from swell.runtime.ipc_messages import Blob, Pixels
from swell.worker.encode_outputs import Encoded, FileNote, encode, file_names, wanted_format
from swell.worker.task_inputs import FileFields, file_fields
from swell.worker.task_results import Delivered, Uploader

NOTE = FileNote("demo/x", "v1", msgspec.Raw(b'{"prompt":"a fox"}'))


def pixels(mode: str = "RGB", kind: str = "", metadata: bytes = b"{}") -> Pixels:
    bands = len(PIL.Image.new(mode, (1, 1)).getbands())
    return Pixels(mode, 4, 2, bytes(range(8 * bands)), kind, metadata, 7)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_png_keeps_every_pixel(mode: str) -> None:
    given = pixels(mode)
    encoded = encode(given, 0, "png", NOTE)
    assert PIL.Image.open(io.BytesIO(encoded.data)).tobytes() == given.data
    assert (encoded.name, encoded.width, encoded.height) == ("0.png", 4, 2)


def test_the_file_tells_how_it_came_to_be() -> None:
    encoded = encode(pixels(metadata=b'{"style":"ink"}'), 3, "png", NOTE)
    picture = PIL.Image.open(io.BytesIO(encoded.data))
    assert json.loads(picture.text["swell"]) == {
        "model": "demo/x",
        "version": "v1",
        "seed": 7,
        "input": {"prompt": "a fox"},
        "style": "ink",
    }
    assert encoded.name == "3.png"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("kind", ["webp", "jpeg", "avif"])
def test_the_models_own_format_wins(kind: str, mode: str) -> None:
    encoded = encode(pixels(mode, kind), 0, "png", NOTE)
    assert encoded.content_type == f"image/{kind}"


def test_an_encoded_picture_is_delivered_as_it_is() -> None:
    target = io.BytesIO()
    PIL.Image.new("RGB", (5, 6)).save(target, "GIF")
    encoded = encode(Blob(target.getvalue(), "image/*", ""), 1, "png", NOTE)
    assert encoded.data == target.getvalue()
    assert (encoded.content_type, encoded.name) == ("image/gif", "1.gif")
    assert (encoded.width, encoded.height) == (5, 6)


def png_head(width: int, height: int) -> bytes:
    """Return what a PNG of this size begins with, and none of its pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")]
    whole = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


@pytest.mark.parametrize(
    ("data", "said", "told", "name"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml", "image/svg+xml", "0.svg"),
        (png_head(16384, 16384), "image/png", "image/png", "0.png"),
        (png_head(16384, 16384), "image/*", "image/png", "0.png"),
        (b"of no kind", "image/x-own", "image/x-own", "0.bin"),
        (b"of no kind", "image/*", "application/octet-stream", "0.bin"),
    ],
)
def test_a_picture_that_cannot_be_looked_at_is_delivered_all_the_same(
    data: bytes, said: str, told: str, name: str
) -> None:
    file = Blob(data, said, "")
    assert encode(file, 0, "png", NOTE) == Encoded(data, told, name)
    assert file_names([file], "png") == [name]


def test_a_large_picture_says_its_size() -> None:
    encoded = encode(Blob(png_head(8192, 8192), "image/*", ""), 0, "png", NOTE)
    assert (encoded.content_type, encoded.width, encoded.height) == ("image/png", 8192, 8192)


def test_other_files_keep_their_type_and_name() -> None:
    encoded = encode(Blob(b"RIFF", "audio/wav", ""), 0, "png", NOTE)
    assert (encoded.content_type, encoded.name) == ("audio/wav", "0.wav")
    assert encode(Blob(b"x", "text/plain", "poem.txt"), 0, "png", NOTE).name == "poem.txt"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'{"output_format":"webp"}', "webp"),
        (b'{"format":"JPG"}', "jpeg"),
        (b'{"format":"AVIF"}', "avif"),
        (b'{"format":"markdown"}', "png"),
        (b"{}", "png"),
        (b"[]", "png"),
    ],
)
def test_the_input_may_name_the_format(raw: bytes, kind: str) -> None:
    assert wanted_format(msgspec.Raw(raw), "png") == kind


# --- deliver -------------------------------------------------------------------------------------


async def a_hold(dispatch: MemoryDispatch) -> Hold:
    """Return the lease of a task that a worker has just taken."""
    card = ModelCard(name="test/files", version="1")
    worker = await dispatch.register(Registration(name="w", models=[card]))
    await dispatch.submit("test/files")
    grant = await dispatch.lease(Ask(worker_id=worker.worker_id, n=1))
    return grant.tasks[0].hold


class Watched(MemoryDispatch):
    """Counts how many files are on their way at once."""

    most_at_once = 0
    at_once = 0
    on_put: Callable[[Upload], None] = staticmethod(lambda upload: None)

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        await super().put(upload, data, content_type)
        self.at_once -= 1
        self.on_put(upload)


async def deliver(dispatch: MemoryDispatch, hold: Hold, files: list[Encoded]) -> Delivered:
    """Deliver what is encoded already."""

    async def encoded(index: int) -> Encoded:
        return files[index]

    courier = Uploader(dispatch, dispatch.clock, lambda: "w")
    return await courier.deliver(hold, [file.name for file in files], encoded)


async def test_files_are_stored_in_order_under_task_and_attempt() -> None:
    clock = ManualClock()
    dispatch = MemoryDispatch(clock)
    files = [Encoded(b"a", "image/png", "0.png", 1, 1), Encoded(b"b", "text/plain", "../b c.txt")]
    hold = await a_hold(dispatch)
    artifacts = (await deliver(dispatch, hold, files)).artifacts
    home = f"outputs/{hold.task_id}/{hold.attempt}"
    assert [each.key for each in artifacts] == [f"{home}/0.png", f"{home}/-b-c.txt"]
    assert dispatch.objects[f"{home}/-b-c.txt"] == (b"b", "text/plain")


async def test_files_of_a_lost_lease_are_not_stored() -> None:
    dispatch = MemoryDispatch(ManualClock())
    hold = await a_hold(dispatch)
    await dispatch.store.settle([a_settlement(await dispatch.task(hold.task_id))])
    with pytest.raises(Conflict):
        await deliver(dispatch, hold, [Encoded(b"a", "text/plain", "a.txt")])
    assert dispatch.objects == {}


async def test_two_files_of_one_name_do_not_replace_each_other() -> None:
    clock = ManualClock()
    dispatch = MemoryDispatch(clock)
    files = [Encoded(b"a", "text/plain", "a.txt"), Encoded(b"b", "text/plain", "a.txt")]
    hold = await a_hold(dispatch)
    artifacts = (await deliver(dispatch, hold, files)).artifacts
    assert [each.key for each in artifacts] == [
        f"outputs/{hold.task_id}/1/{name}" for name in ("a.txt", "1-a.txt")
    ]
    assert [dispatch.objects[each.key][0] for each in artifacts] == [b"a", b"b"]


async def test_a_store_that_is_away_is_tried_again() -> None:
    class Flaky(MemoryDispatch):
        failures = 2

        async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
            if self.failures:
                self.failures -= 1
                clock.advance(0)
                raise Unavailable("later")
            await super().put(upload, data, content_type)

    class Restless(ManualClock):
        async def sleep(self, duration_s: float) -> None:
            self.advance(duration_s)

    clock = Restless()
    dispatch = Flaky(clock)
    hold = await a_hold(dispatch)
    [artifact] = (await deliver(dispatch, hold, [Encoded(b"a", "image/png", "0.png")])).artifacts
    assert dispatch.objects[artifact.key][0] == b"a"
    assert clock.monotonic_s() > 0


async def test_a_file_is_on_its_way_while_the_next_one_is_encoded() -> None:
    dispatch = Watched(ManualClock())
    is_stored = asyncio.Event()
    dispatch.on_put = lambda _: is_stored.set()

    async def encoded(index: int) -> Encoded:
        if index == 1:
            # Only comes to be once the first one lies in the store.
            await is_stored.wait()
        return Encoded(b"a", "text/plain", f"{index}.txt")

    courier = Uploader(dispatch, dispatch.clock, lambda: "w")
    async with asyncio.timeout(10):
        delivered = await courier.deliver(await a_hold(dispatch), ["0.txt", "1.txt"], encoded)
    assert [artifact.key[-5:] for artifact in delivered.artifacts] == ["0.txt", "1.txt"]


async def test_files_of_all_tasks_share_a_bounded_number_of_lanes() -> None:
    dispatch = Watched(ManualClock())
    holds = [await a_hold(dispatch), await a_hold(dispatch)]
    files = [Encoded(b"a", "text/plain", f"{n}.txt") for n in range(7)]

    async def encoded(index: int) -> Encoded:
        return files[index]

    courier = Uploader(dispatch, dispatch.clock, lambda: "w", max_uploads=3)
    names = [file.name for file in files]
    await asyncio.gather(*(courier.deliver(hold, names, encoded) for hold in holds))
    assert dispatch.most_at_once == 3
    assert len(dispatch.objects) == 14


async def test_a_file_that_cannot_be_encoded_stops_the_others() -> None:
    dispatch = Watched(ManualClock())
    never = asyncio.Event()

    async def encoded(index: int) -> Encoded:
        if index == 1:
            raise ValueError("no such colour")
        await never.wait()
        raise AssertionError

    courier = Uploader(dispatch, dispatch.clock, lambda: "w")
    async with asyncio.timeout(10):
        with pytest.raises(ValueError, match="no such colour"):
            await courier.deliver(await a_hold(dispatch), ["0.txt", "1.txt"], encoded)
    assert dispatch.objects == {}


async def test_the_times_of_encoding_and_uploading_add_up_to_the_whole() -> None:
    clock = ManualClock()
    dispatch = Watched(clock)
    dispatch.on_put = lambda _: clock.advance(5)

    async def encoded(index: int) -> Encoded:
        clock.advance(2)
        return Encoded(b"a", "text/plain", f"{index}.txt")

    hold = await a_hold(dispatch)
    delivered = await Uploader(dispatch, clock, lambda: "w").deliver(hold, ["0.txt"], encoded)
    assert (delivered.encode_s, delivered.upload_s) == (2, 5)


async def test_small_files_travel_with_the_report_and_large_ones_by_themselves() -> None:
    dispatch = MemoryDispatch(ManualClock())
    hold = await a_hold(dispatch)
    files = [Encoded(b"abc", "text/plain", "s.txt"), Encoded(b"abcd", "text/plain", "l.txt")]

    async def encoded(index: int) -> Encoded:
        return files[index]

    courier = Uploader(dispatch, dispatch.clock, lambda: "w", enclose_bytes=lambda: 3)
    delivered = await courier.deliver(hold, [file.name for file in files], encoded)
    small, large = (artifact.key for artifact in delivered.artifacts)
    assert [(file.key, file.data) for file in delivered.enclosures] == [(small, b"abc")]
    assert dispatch.objects == {large: (b"abcd", "text/plain")}


async def test_files_that_are_small_but_many_travel_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swell.worker.task_results.MAX_ENCLOSED_BYTES", 5)
    dispatch = MemoryDispatch(ManualClock())
    hold = await a_hold(dispatch)

    async def encoded(index: int) -> Encoded:
        return Encoded(b"ab", "text/plain", f"{index}.txt")

    courier = Uploader(dispatch, dispatch.clock, lambda: "w", enclose_bytes=lambda: 2)
    delivered = await courier.deliver(hold, ["0.txt", "1.txt", "2.txt"], encoded)
    assert len(delivered.enclosures) == 2
    assert len(dispatch.objects) == 1


@pytest.mark.slow
@given(st.lists(st.sampled_from(["a", "1-a", "2-a", "2-1-a", "../a", "é"]), max_size=8))
async def test_names_never_collide(names: list[str]) -> None:
    dispatch = MemoryDispatch(ManualClock())
    files = [Encoded(str(n).encode(), "text/plain", name) for n, name in enumerate(names)]
    delivered = await deliver(dispatch, await a_hold(dispatch), files)
    stored = [dispatch.objects[artifact.key][0] for artifact in delivered.artifacts]
    assert stored == [file.data for file in files]


# --- input files ---------------------------------------------------------------------------------


def test_the_schema_says_which_properties_are_files() -> None:
    schema = {
        "properties": {
            "image": {"type": "string", "x-file": "image"},
            "masks": {"anyOf": [{"type": "array", "items": {"x-file": "image"}}, {"type": "null"}]},
            "prompt": {"type": "string"},
        }
    }
    fields = file_fields(schema)
    assert fields == FileFields(("image", "masks"))
    raw = msgspec.Raw(b'{"image":"u","masks":["v","u","data:x;base64,"],"prompt":"w"}')
    assert fields.urls(raw) == ["u", "v"]
    assert fields.urls(msgspec.Raw(b"3")) == []
