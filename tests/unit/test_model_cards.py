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
from swell.api.card_page import took_in_words
from swell.api.eta import ServiceTimes
from swell.api.fields import described, fields
from swell.api.markdown import parted, to_html
from swell.errors import InvalidModel, InvalidRequest
from swell.registry import ModelCard, Sample, Speed
from swell.samples import MOST_BYTES, MOST_SAMPLES, MOST_TEXT_BYTES, read_samples
from swell.sdk.define import Definition, define
from swell.sdk.load import load_models
from swell.zoo.curve import CurveModel

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
    page = (await world.stranger("GET", "/models/demo/upper")).body.decode()
    assert "<blockquote>&lt;gato&gt; azul → blue cat</blockquote>" in page
    source = page.partition('preload="metadata" src="../../')[2].partition('"')[0]
    sound = await world.stranger("GET", f"/{source}")
    assert (sound.body, sound.headers["content-type"]) == (SOUNDS["a.wav"][0], "audio/wav")
    told = (await world.anna("GET", "/v1/models/demo/upper")).json["samples"]
    assert [each["text"] for each in told] == ["", text]
    shown = await world.stranger("GET", told[1]["url"].partition("swell.test")[2])
    assert (shown.body.decode(), shown.headers["content-type"]) == (
        text,
        "text/plain; charset=utf-8",
    )
    assert "♪" in (await world.stranger("GET", "/")).body.decode()


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


async def test_the_page_shows_facts_and_pictures_of_a_model(world: World) -> None:
    await world.register(with_facts())
    page = (await world.stranger("GET", "/models/demo/upper")).body.decode()
    assert "Apache-2.0 AND &lt;MIT&gt;" in page
    assert "By <strong>somebody</strong>." in page
    assert "5 MiB" in page
    assert "<td>one core</td><td>8 x 8</td><td>500 ms</td>" in page
    assert "<h1>demo/upper</h1>\n<p>Upper</p>" in page
    assert "<p>Makes text large.</p>" in page
    assert "one input at a time" in page
    assert 'alt="&lt;a&gt; grey &amp; square"' in page
    source = page.partition('<img src="../../')[2].partition('"')[0]
    assert (await world.stranger("GET", f"/{source}")).body == grey()


async def test_language_models_are_told_the_licence(world: World) -> None:
    await world.register(with_facts(), {**UPPER, "name": "demo/silent"})
    lines = (await world.stranger("GET", "/llms.txt")).body.decode().splitlines()
    assert "- licence: Apache-2.0 AND <MIT>" in lines
    assert "- licence: not stated" in lines
    assert "- memory: 5 MiB" in lines
    assert "- takes 500 ms: 8 x 8, one core" in lines


async def test_what_tasks_took_is_told_by_device(world: World) -> None:
    worker = await world.register(with_facts())
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    timings = {"queue_s": 0, "load_s": 0, "run_s": 1.5, "encode_s": 0, "upload_s": 0.5}
    await world.report(worker, settlements=[succeeded(lease, "A", timings=timings)])
    told = (await world.anna("GET", "/v1/models/demo/upper")).json
    assert told["measured"] == [{"device": "cpu", "tasks": 1, "median_s": 2.0}]
    page = (await world.stranger("GET", "/models/demo/upper")).body.decode()
    assert "<td>cpu</td><td>half of the last 1 tasks</td><td>2 s</td><td>here</td>" in page


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


async def test_the_home_page_shows_each_models_first_picture(world: World) -> None:
    await world.register(with_facts(), {**UPPER, "name": "me/silent", "licence": "MIT"})
    page = (await world.stranger("GET", "/")).body.decode()
    assert page.index('href="models/me/silent"') < page.index('href="models/demo/upper"')
    source = page.partition('<img class="face" src="')[2].partition('"')[0]
    assert (await world.stranger("GET", f"/{source}")).body == grey()
    assert '<span class="face" aria-hidden="true">S</span>' in page


async def test_pictures_of_example_inputs_are_shown_and_other_files_cut(world: World) -> None:
    picture = f"data:image/webp;base64,{base64.b64encode(grey()).decode()}"
    evil = "data:image/svg+xml;base64," + "A" * 400
    examples = [{"text": "it's", "image": picture, "list": [evil]}, {"text": evil}]
    await world.register(with_facts(examples=examples))
    page = (await world.stranger("GET", "/models/demo/upper")).body.decode()
    assert f'<img src="{picture}" alt="image">' in page
    assert "svg+xml;base64,AAAAAAAAA" in page
    assert "A" * 100 not in page
    assert "it&#x27;&quot;&#x27;&quot;&#x27;s" in page, "as a shell takes it"
    assert "-i image=@FILE" in page


async def test_a_model_that_tells_nothing_has_a_page(world: World) -> None:
    await world.register({"name": "me/bare", "version": "1"})
    page = (await world.stranger("GET", "/models/me/bare")).body.decode()
    for words in ("licence not stated", "not known", "Its author gave none", "once tasks have run"):
        assert words in page
    assert '<div class="samples">' not in page


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "x-file": "image"}, "picture"),
        ({"enum": ["a", 1]}, "one of a, 1"),
        ({"enum": list(range(99))}, "and 69 more"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "whole number"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "whole number or text"),
        ({"type": "array", "items": {"$ref": "#/$defs/style"}}, "list, each one of a, b"),
        ({"type": "array", "items": {"type": "number"}}, "list of numbers"),
        ({"type": "array", "items": {"type": "boolean"}}, "list, each yes or no"),
        ({"type": ["string", "null"]}, "text or nothing"),
        ({"$ref": "#/$defs/loop"}, "anything"),
        ({}, "anything"),
    ],
)
def test_what_a_field_takes_is_said_in_words(schema: dict[str, object], words: str) -> None:
    defs = {"style": {"enum": ["a", "b"]}, "loop": {"$ref": "#/$defs/loop"}}
    assert words in described(schema, {"$defs": defs})


def test_bounds_and_defaults_of_fields_are_told() -> None:
    schema = {
        "required": ["text"],
        "properties": {
            "text": {"type": "string", "maxLength": 2000, "description": "It is `said`."},
            "steps": {"type": "integer", "minimum": 1, "maximum": 50, "default": 20},
            "seed": {
                "anyOf": [{"type": "integer", "minimum": 0, "maximum": 2**63}, {"type": "null"}]
            },
            "keep_it": {"type": "string", "title": "Keep It"},
            "keep": {"type": "boolean", "default": False},
        },
    }
    shown = fields(schema)
    assert "text · up to 2,000 characters · required" in shown
    assert "It is <code>said</code>." in shown
    assert "whole number · 1 to 50 · default 20" in shown
    assert "whole number · from 0</small>" in shown
    assert "Keep It" not in shown, "its name says so"
    assert "required" not in fields(schema, are_asked=False)
    assert "yes or no · default no" in shown
    assert fields({"type": "string", "x-file": "image"}) == "<p>Picture.</p>"


@pytest.mark.parametrize(
    ("took_s", "words"),
    [(12.34, "12.3 s"), (1, "1 s"), (0.07, "70 ms"), (0.0001, "less than 1 ms")],
)
def test_seconds_are_said_in_words(took_s: float, words: str) -> None:
    assert took_in_words(took_s) == words


def test_a_markdown_table_without_a_head_has_none() -> None:
    assert "<th>" not in to_html("| | |\n|---|---|\n| a | b |")
    assert "<th>a</th>" in to_html("| a | b |\n|---|---|\n| c | d |")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("", "")),
        ("# Upper\nMore.", ("Upper", "More.")),
        ("\nOne\ntwo.\n\nThree.", ("One\ntwo.", "\nThree.")),
    ],
)
def test_the_first_paragraph_is_told_apart(text: str, parts: tuple[str, str]) -> None:
    assert parted(text) == parts


def test_what_a_class_takes_over_lies_beside_the_file_that_says_so() -> None:
    made = define(type("Mine", (CurveModel,), {"name": "demo/mine", "__module__": __name__}))
    assert made.samples == define(CurveModel).samples
    assert made.card().samples == define(CurveModel).card().samples != []
