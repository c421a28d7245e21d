"""Pictures in small."""

import asyncio
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_harness import World, a_world
from PIL import Image, ImageOps

from swell.core.errors import InvalidRequest
from swell.core.task import THUMBNAIL_WIDTHS, thumbnail_key
from swell.server.background_jobs import discard
from swell.server.files.thumbnails import _shrunk

KEY = "outputs/t/1/a.png"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


async def small(
    world: World, data: bytes, width: object = 256, content_type: str = "image/png"
) -> Any:
    await world.service.objects.put(KEY, data, content_type)
    url = world.service.objects.sign("GET", KEY, 60)
    return await world.stranger("GET", f"{url}&w={width}")


@pytest.mark.slow
@pytest.mark.parametrize("width", THUMBNAIL_WIDTHS)
async def test_a_picture_comes_as_webp_of_the_width_that_is_asked(world: World, width: int) -> None:
    answer = await small(world, encoded(Image.new("RGB", (2500, 1500), "red")), width)
    assert (answer.status, answer.headers["content-type"]) == (200, "image/webp")
    with Image.open(io.BytesIO(answer.body)) as picture:
        assert (picture.format, picture.width) == ("WEBP", width)
        assert abs(picture.height - width * 0.6) <= 1
        assert picture.convert("RGB").getpixel((5, 5))[0] > 240


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
        ("PNG", "I;16"),
        ("PNG", "LA"),
    ],
)
async def test_any_kind_of_picture_that_models_make_is_made_small(
    world: World, kind: str, mode: str
) -> None:
    data = encoded(Image.new(mode, (700, 700)), kind)
    answer = await small(world, data, 128, f"image/{kind.lower()}")
    assert answer.status == 200
    with Image.open(io.BytesIO(answer.body)) as picture:
        assert picture.size == (128, 128)


async def test_a_small_picture_is_not_made_larger_and_a_tall_one_stays_within_bounds(
    world: World,
) -> None:
    answer = await small(world, encoded(Image.new("RGBA", (40, 30))))
    assert Image.open(io.BytesIO(answer.body)).size == (40, 30)
    await world.service.objects.delete([thumbnail_key(KEY, 256)])
    answer = await small(world, encoded(Image.new("L", (30, 20_000))))
    assert Image.open(io.BytesIO(answer.body)).height == 1024


async def test_a_picture_is_turned_as_its_camera_says(world: World) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (400, 200)), "JPEG", exif=exif)
    answer = await small(world, data, 128, "image/jpeg")
    assert Image.open(io.BytesIO(answer.body)).size == (128, 256)


@pytest.mark.parametrize("turn", range(1, 9))
def test_each_of_the_eight_turns_comes_out_as_a_camera_s_software_shows_it(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    picture = Image.new("RGB", (900, 600), "blue")
    picture.paste((255, 0, 0), (0, 0, 450, 300))
    picture.paste((0, 255, 0), (450, 0, 900, 300))
    data = encoded(picture, exif=exif)
    made = Image.open(io.BytesIO(_shrunk(data, 128))).convert("RGB")
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    shown.thumbnail((128, 512))
    assert made.size == shown.size
    for x, y in ((0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8)):
        place = int(x * made.width), int(y * made.height)
        there, wanted = made.getpixel(place), shown.getpixel(place)
        assert all(abs(a - b) < 40 for a, b in zip(there, wanted, strict=True))  # type: ignore[arg-type]


def test_greys_of_sixteen_bits_stay_grey() -> None:
    made = Image.open(io.BytesIO(_shrunk(encoded(Image.new("I;16", (400, 300), 0x8000)), 128)))
    assert all(abs(part - 0x80) < 4 for part in made.convert("RGB").getpixel((50, 50)))  # type: ignore[union-attr]


@pytest.mark.slow
def test_what_is_seen_through_stays_so_when_it_is_made_much_smaller() -> None:
    picture = Image.new("RGBA", (3000, 2000), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (1500, 0, 3000, 2000))
    made = Image.open(io.BytesIO(_shrunk(encoded(picture), 128)))
    assert made.getpixel((10, 40))[3] == 0  # type: ignore[index]
    assert made.getpixel((120, 40))[3] == 255  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["AVIF", "PNG", "JPEG", "WEBP"])
def test_a_broken_picture_is_refused_whatever_its_decoder_raises(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "desc"
    whole = encoded(Image.effect_noise((64, 48), 60).convert("RGB"), kind, exif=exif)
    refused = 0
    for place in range(min(len(whole), 400)):
        data = bytearray(whole)
        data[place] ^= 0xFF
        try:
            _shrunk(bytes(data), 128)
        except InvalidRequest:
            refused += 1
    assert refused


@pytest.mark.slow
def test_a_turned_picture_of_many_pixels_needs_little_memory_beside_its_own(
    tmp_path: Path,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "large.png"
    palette = Image.new("P", (6300, 6300))
    palette.save(path, exif=exif, transparency=0, compress_level=1)
    code = (
        "import resource, sys\n"
        "from swell.server.files.thumbnails import _shrunk\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "before = peak()\n"
        "_shrunk(data, 128)\n"
        "print((peak() - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    # The picture has 38 MiB; in four bytes a pixel it would have 151.
    assert int(done.stdout) < 120


async def test_it_is_made_once_and_kept_beside(world: World) -> None:
    data = encoded(Image.new("RGB", (300, 300)))
    first = await small(world, data)
    kept = await world.service.objects.head(thumbnail_key(KEY, 256))
    # What is kept is what comes, even when the picture itself is another by now.
    answers = await asyncio.gather(*(small(world, b"no picture") for _ in range(4)))
    assert all(answer.body == first.body for answer in answers)
    assert answers[0].headers["etag"] == f'"{kept.etag}"'


async def test_many_who_ask_at_once_have_one_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    put = world.service.objects.put

    async def counted(key: str, data: Any, content_type: str) -> Any:
        made.append(key)
        return await put(key, data, content_type)

    await world.service.objects.put(KEY, encoded(Image.new("RGB", (300, 300))), "image/png")
    monkeypatch.setattr(world.service.thumbnails._objects, "put", counted, raising=False)
    url = world.service.objects.sign("GET", KEY, 60) + "&w=128"
    answers = await asyncio.gather(*(world.stranger("GET", url) for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert made == [thumbnail_key(KEY, 128)]


@pytest.mark.slow
@pytest.mark.parametrize("width", ["0", "100", "1024", "-1", "x", ""])
async def test_other_widths_are_refused(world: World, width: str) -> None:
    answer = await small(world, encoded(Image.new("RGB", (9, 9))), width)
    assert answer.status == 400
    assert "128, 256, 512, 2048" in answer.json["detail"]


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"text", "text/plain"),
        (b"no picture", "image/png"),
        (b"", "image/png"),
        (encoded(Image.new("RGB", (300, 300)))[:200], "image/png"),
        (encoded(Image.new("RGB", (300, 300)), "TIFF"), "image/png"),
        (b"<svg/>", "image/svg+xml"),
    ],
)
async def test_what_is_no_picture_has_none_in_small(
    world: World, data: bytes, content_type: str
) -> None:
    answer = await small(world, data, 256, content_type)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert "leave out w" in answer.json["detail"]


def bomb(side: int) -> bytes:
    """Return a PNG of a few bytes that says it is very large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [6_400, 10_000, 60_000])
async def test_a_picture_that_is_too_large_is_not_decoded(world: World, side: int) -> None:
    answer = await small(world, bomb(side))
    assert answer.status == 400


async def test_uploads_have_none_in_small(world: World) -> None:
    data = encoded(Image.new("RGB", (9, 9)))
    await world.service.objects.put("uploads/k/1.png", data, "image/png")
    url = world.service.objects.sign("GET", "uploads/k/1.png", 60)
    assert (await world.stranger("GET", url + "&w=128")).status == 400


async def test_none_is_left_of_a_picture_that_is_removed_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = world.service.objects.put

    async def removed_first(key: str, data: Any, content_type: str) -> Any:
        await world.service.objects.delete([KEY])
        return await put(key, data, content_type)

    await put(KEY, encoded(Image.new("RGB", (9, 9))), "image/png")
    monkeypatch.setattr(world.service.thumbnails._objects, "put", removed_first, raising=False)
    url = world.service.objects.sign("GET", KEY, 60) + "&w=128"
    # No task is known that it belongs to, so its data counts as removed.
    assert (await world.stranger("GET", url)).status == 410
    await discard(world.service)
    assert not world_has(world, thumbnail_key(KEY, 128))


def world_has(world: World, key: str) -> bool:
    objects: Any = world.service.backend.objects
    return key in getattr(objects, "_files", {})
