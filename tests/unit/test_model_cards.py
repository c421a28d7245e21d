"""What a card tells beside the docstring, on each surface that shows it."""

import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import PIL.Image
import pytest
from api_harness import UPPER, World, a_world, succeeded

import swell
from swell.core.errors import InvalidModel, InvalidRequest
from swell.core.records import ModelCard, Sample, Speed
from swell.sdk.card_samples import MOST_BYTES, MOST_SAMPLES, MOST_TEXT_BYTES, read_samples
from swell.sdk.define import Definition, define
from swell.sdk.model_loader import load_models
from swell.server.estimates.eta import ServiceTimes
from swell_models.simulated_gpu import CurveModel

TOLD = """
import swell
from pydantic import BaseModel

FACTS = dict(
    licence="MIT",
    credits="By **somebody**.",
    memory_bytes=1000,
    speed=[swell.Speed("one core", "8 x 8", 0.5, "2026-11-25")],
    samples={"a grey square": "pictures/grey.webp"},
)

@swell.model("me/function", **FACTS)
def function(text: str) -> str:
    return text

class Told(swell.Model):
    name, Output = "me/class", str
    licence, credits, memory_bytes = FACTS["licence"], FACTS["credits"], FACTS["memory_bytes"]
    speed, samples = FACTS["speed"], FACTS["samples"]

    class Input(BaseModel):
        text: str

    def run(self, items):
        return [item.input.text for item in items]
"""


def grey(size_px: int = 16, kind: str = "webp") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (size_px, size_px), "grey").save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def told(tmp_path: Path) -> list[Definition]:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "grey.webp").write_bytes(grey())
    (tmp_path / "told.py").write_text(TOLD)
    return load_models(str(tmp_path / "told.py"))


def test_functions_and_classes_tell_the_same_facts(told: list[Definition]) -> None:
    for card in (definition.card() for definition in told):
        assert (card.licence, card.credits, card.memory_bytes) == ("MIT", "By **somebody**.", 1000)
        assert card.speed == [Speed("one core", "8 x 8", 0.5, "2026-11-25")]
        [sample] = card.samples
        assert (sample.caption, sample.content_type) == ("a grey square", "image/webp")
        assert (sample.width, sample.height, sample.data) == (16, 16, grey())


def test_another_sample_is_another_version(told: list[Definition], tmp_path: Path) -> None:
    before = [definition.version() for definition in told]
    (tmp_path / "pictures" / "grey.webp").write_bytes(grey(17))
    after = [definition.version() for definition in told]
    assert set(before).isdisjoint(after)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"text", "no picture"),
        (grey(64, "bmp"), "kinds"),
        (grey() + bytes(MOST_BYTES), "smaller"),
    ],
)
def test_what_is_no_sample_is_told(
    told: list[Definition], tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "pictures" / "grey.webp").write_bytes(content)
    with pytest.raises(InvalidModel, match=rf"grey\.webp.*{words}"):
        told[0].card()


def test_a_sample_that_is_not_there_is_told(told: list[Definition], tmp_path: Path) -> None:
    (tmp_path / "pictures" / "grey.webp").unlink()
    with pytest.raises(InvalidModel, match=r"grey\.webp cannot be read"):
        told[0].card()


def test_who_tells_nothing_has_an_empty_card() -> None:
    @swell.model("me/silent")
    def silent(text: str) -> str:
        return text

    card = define(silent).card()
    assert (card.licence, card.credits, card.memory_bytes) == ("", "", 0)
    assert (card.speed, card.samples) == ([], [])


def test_a_card_from_before_these_facts_is_read() -> None:
    old = b'{"name": "demo/old", "version": "1", "max_batch": 4}'
    card = msgspec.json.decode(old, type=ModelCard)
    assert (card.max_batch, card.licence, card.samples) == (4, "", [])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


def with_facts(**more: object) -> dict[str, object]:
    sample = {"caption": "<a> grey & square", "content_type": "image/webp", "digest": "made-up"}
    sample |= {"width": 16, "height": 16, "data": base64.b64encode(grey()).decode()}  # type: ignore[dict-item]
    return {
        **UPPER,
        "licence": "Apache-2.0 AND <MIT>",
        "credits": "By **somebody**.",
        "memory_bytes": 5 * 2**20,
        "speed": [{"device": "one core", "what": "8 x 8", "took_s": 0.5}],
        "samples": [sample],
        **more,
    }


async def test_the_api_tells_all_facts_of_a_model(world: World) -> None:
    await world.register(with_facts())
    told = (await world.anna("GET", "/v1/models/demo/upper")).json
    assert told["licence"] == "Apache-2.0 AND <MIT>"
    assert told["credits"] == "By **somebody**."
    assert told["memory_bytes"] == 5 * 2**20
    assert told["speed"][0]["took_s"] == 0.5
    [sample] = told["samples"]
    assert "data" not in sample
    assert len((await world.anna("GET", "/v1/models")).body) < 3_000, "pictures are not in lists"
    path = sample["url"].partition("swell.test")[2]
    shown = await world.stranger("GET", path)
    assert (shown.status, shown.body) == (200, grey())
    assert shown.headers["content-type"] == "image/webp"
    assert "immutable" in shown.headers["cache-control"]
    assert "sandbox" in shown.headers["content-security-policy"]
    again = await world.stranger("GET", path, headers={"If-None-Match": shown.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


async def test_only_pictures_of_that_models_card_are_shown(world: World) -> None:
    await world.register(with_facts())
    for path in ("demo/upper/samples/made-up", "demo/other/samples/made-up"):
        assert (await world.stranger("GET", f"/v1/models/{path}")).status == 404


SOUNDS = {
    "a.wav": (b"RIFF\x24\x00\x00\x00WAVEfmt ", "audio/wav"),
    "a.ogg": (b"OggS\x00\x02", "audio/ogg"),
    "a.mp3": (b"\xff\xfb\x90\x00", "audio/mpeg"),
    "b.mp3": (b"ID3\x04", "audio/mpeg"),
    "a.txt": ("Füchse → foxes\n".encode(), "text/plain"),
}


def test_sounds_and_texts_are_samples_too(tmp_path: Path) -> None:
    for name, (content, _) in SOUNDS.items():
        (tmp_path / name).write_bytes(content)
    found = read_samples({name: tmp_path / name for name in SOUNDS})
    assert [each.content_type for each in found] == [kind for _, kind in SOUNDS.values()]
    assert {(each.width, each.height) for each in found} == {(0, 0)}
    assert [each.text for each in found] == ["", "", "", "", "Füchse → foxes"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.wav", b"RIFF\x24\x00\x00\x00AVI ", "no sound: save it as WAV"),
        ("a.mp3", b"\xff\xd8\xff\xe0", "no sound"),
        ("a.txt", b"\xff\xfe", "not in UTF-8"),
        ("a.txt", b"a" * (MOST_TEXT_BYTES + 1), "shorten it"),
        ("a.txt", b"", "empty"),
    ],
)
def test_what_is_no_sound_and_no_text_is_told(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=words):
        read_samples({"a": tmp_path / name})


async def test_sounds_are_played_and_texts_shown(world: World) -> None:
    def sample(kind: str, content: bytes) -> dict[str, str]:
        data = base64.b64encode(content).decode()
        # Only the content counts: a worker may say what it likes beside it.
        return {
            "caption": kind,
            "content_type": kind,
            "digest": "?",
            "data": data,
            "text": "made up",
        }

    text = "<gato> azul → blue cat"
    samples = [sample("audio/wav", SOUNDS["a.wav"][0]), sample("text/plain", text.encode())]
    await world.register(with_facts(samples=samples))
    told = (await world.anna("GET", "/v1/models/demo/upper")).json["samples"]
    assert [each["text"] for each in told] == ["", text]
    sound = await world.stranger("GET", told[0]["url"].partition("swell.test")[2])
    assert (sound.body, sound.headers["content-type"]) == (SOUNDS["a.wav"][0], "audio/wav")
    shown = await world.stranger("GET", told[1]["url"].partition("swell.test")[2])
    assert (shown.body.decode(), shown.headers["content-type"]) == (
        text,
        "text/plain; charset=utf-8",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content_type": "text/plain"}, "UTF-8"),
        ({"content_type": "image/svg+xml"}, "kinds"),
        ({"data": base64.b64encode(bytes(MOST_BYTES + 1)).decode()}, "smaller"),
        ({"data": ""}, "empty"),
    ],
)
async def test_what_no_card_may_show_is_refused(
    world: World, change: dict[str, str], words: str
) -> None:
    card = with_facts()
    card["samples"] = [{**card["samples"][0], **change}]  # type: ignore[index]
    answer = await world.worker("POST", "/worker/v1/register", {"name": "w", "models": [card]})
    assert answer.status == 422
    assert words in answer.json["detail"]


async def test_a_card_has_room_for_some_samples_only(world: World) -> None:
    card = with_facts()
    card["samples"] = card["samples"] * (MOST_SAMPLES + 1)  # type: ignore[operator]
    answer = await world.worker("POST", "/worker/v1/register", {"name": "w", "models": [card]})
    assert (answer.status, str(MOST_SAMPLES) in answer.json["detail"]) == (422, True)


async def test_language_models_are_told_the_licence(world: World) -> None:
    await world.register(with_facts(), {**UPPER, "name": "demo/silent"})
    lines = (await world.stranger("GET", "/llms.txt")).body.decode().splitlines()
    assert "- licence: Apache-2.0 AND <MIT>" in lines
    assert "- licence: not stated" in lines
    assert "- memory: 5 MiB" in lines
    assert "- takes 0.5 s: 8 x 8, one core" in lines


async def test_what_tasks_took_is_told_by_device(world: World) -> None:
    worker = await world.register(with_facts())
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    timings = {"queue_s": 0, "load_s": 0, "run_s": 1.5, "encode_s": 0, "upload_s": 0.5}
    await world.report(worker, settlements=[succeeded(lease, "A", timings=timings)])
    told = (await world.anna("GET", "/v1/models/demo/upper")).json
    assert told["measured"] == [{"device": "cpu", "tasks": 1, "median_s": 2.0}]


def test_times_by_device_outlive_the_process() -> None:
    times = ServiceTimes()
    for took_s in (3.0, 1.0, 2.0):
        times.observe("demo/a", took_s, 1, "cpu")
    times.observe("demo/a", 0.1, 1, "cuda:0")
    times.observe("demo/a", 9.0)
    later = ServiceTimes()
    later.observe("demo/a", 4.0, 1, "cpu")
    later.load(times.dump())
    assert later.by_device("demo/a") == [("cpu", 4, 2.0), ("cuda:0", 1, 0.1)]
    assert later.by_device("demo/b") == []


def test_a_kept_picture_leaves_the_card() -> None:
    sample = Sample(caption="a", content_type="image/png", digest="d")
    assert msgspec.json.decode(msgspec.json.encode(sample), type=Sample) == sample


async def test_long_files_in_examples_are_cut_for_language_models(world: World) -> None:
    picture = "data:image/svg+xml;base64," + "A" * 400
    await world.register(with_facts(examples=[{"text": "it's", "list": [picture]}]))
    text = (await world.stranger("GET", "/llms.txt")).body.decode()
    assert "svg+xml;base64,AAAA" in text
    assert "A" * 100 not in text


async def test_a_model_with_an_empty_card_is_described(world: World) -> None:
    await world.register({"name": "me/bare", "version": "1"})
    text = (await world.stranger("GET", "/llms.txt")).body.decode()
    assert "- [me/bare](http://swell.test/#/models/me/bare)" in text
    assert "- licence: not stated\n- memory: not known\n" in text


def test_what_a_class_takes_over_lies_beside_the_file_that_says_so() -> None:
    made = define(type("Mine", (CurveModel,), {"name": "demo/mine", "__module__": __name__}))
    assert made.samples == define(CurveModel).samples
    assert made.card().samples == define(CurveModel).card().samples != []
