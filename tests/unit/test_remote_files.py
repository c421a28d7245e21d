"""What of a remote model's answers is fetched, from where, and with which key."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import PIL.Image
import pytest
from aiohttp import web
from pydantic import BaseModel, TypeAdapter

import swell
from loopback import listening
from swell.core.errors import InvalidModel, InvalidRequest
from swell.engines import external_api as remote
from swell.engines.external_api_outputs import Meant
from swell.sdk.context import Item, Reject


class Said(BaseModel):
    """What the API is to answer with."""

    output: Any


class Both(BaseModel):
    caption: str
    picture: swell.Image | None = None


def picture() -> bytes:
    made = io.BytesIO()
    PIL.Image.new("RGB", (8, 6)).save(made, "PNG")
    return made.getvalue()


class Place:
    """An API that says whatever it is told, and a server on the same machine that is not its."""

    def __init__(self) -> None:
        #: Path and key of whoever asked for a file, there and at the neighbour's.
        self.asked: list[tuple[str, str]] = []
        self.neighbour: list[tuple[str, str]] = []
        self.url = self.near = ""

    async def predict(self, request: web.Request) -> web.Response:
        asked = (await request.json())["input"].get("output")
        return web.json_response({"id": "p", "status": "succeeded", "output": asked})

    async def file(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("authorization", "")))
        if request.headers.get("authorization") != "Bearer its-key":
            raise web.HTTPUnauthorized
        return web.Response(body=picture(), content_type="image/png")

    async def leads(self, request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(request.query["to"])

    async def near_file(self, request: web.Request) -> web.Response:
        self.neighbour.append((request.path, request.headers.get("authorization", "")))
        if "to" in request.query:
            raise web.HTTPFound(request.query["to"])
        return web.Response(body=picture(), content_type="image/png")


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    here = Place()
    api, near = web.Application(), web.Application()
    api.router.add_post("/v1/models/o/n/predictions", here.predict)
    api.router.add_get("/files/{name}", here.file)
    api.router.add_get("/leads", here.leads)
    near.router.add_get("/{name:.*}", here.near_file)
    async with listening(api) as url, listening(near) as other:
        here.url, here.near = url, other
        yield here


async def made(place: Place, folder: Path, kind: Any, output: Any, **more: Any) -> Any:
    (folder / "key").write_text("its-key\n")
    told = {
        "name": "remote/theirs",
        "url": f"{place.url}/v1",
        "key_file": str(folder / "key"),
        "remote_model": "o/n",
        "Input": Said,
        "Output": kind,
    }
    model = type("Theirs", (remote.Predictions,), told | more)()
    model.load("cpu")
    (found,) = await asyncio.to_thread(model.run, [Item(Said(output=output), seed=1)])
    return found


async def test_words_that_look_like_a_url_stay_words(place: Place, tmp_path: Path) -> None:
    for words in (f"{place.near}/meta", "https://example.com is a page", "data:,no"):
        assert await made(place, tmp_path, str, words) == words
        assert await made(place, tmp_path, list[str], [words]) == [words]
        assert await made(place, tmp_path, Any, {"a": [words]}) == {"a": [words]}
        # Where it may be either, it is text.
        assert await made(place, tmp_path, str | swell.Image, words) == words
    assert place.neighbour == []


async def test_the_apis_own_files_are_fetched_with_its_key(place: Place, tmp_path: Path) -> None:
    url = f"{place.url}/files/a.png"
    found = await made(place, tmp_path, swell.Image, url)
    assert found.pil().size == (8, 6)
    assert place.asked == [("/files/a.png", "Bearer its-key")]
    found = await made(place, tmp_path, Both, {"caption": url, "picture": url})
    assert found["caption"] == url
    assert found["picture"].pil().size == (8, 6)
    assert len(await made(place, tmp_path, list[swell.Image], [url, url])) == 2
    # Within the same origin a redirect keeps it.
    kept = await made(place, tmp_path, swell.File, f"{place.url}/leads?to=/files/b.png")
    assert kept.pil().size == (8, 6)


async def test_files_come_as_what_they_are_said_to_be(place: Place, tmp_path: Path) -> None:
    sound = await made(place, tmp_path, swell.Audio, "data:audio/wav;base64,YQ==")
    assert isinstance(sound, swell.Audio)
    assert sound.read() == b"a"
    text = await made(place, tmp_path, swell.Image, "data:text/plain;base64,YQ==")
    assert isinstance(text, RuntimeError)
    broken = await made(place, tmp_path, swell.File, "data:text/plain,a")
    assert isinstance(broken, RuntimeError)


@pytest.mark.parametrize("kind", [swell.File, swell.Image])
async def test_nothing_else_of_the_own_network_is_read(
    place: Place, tmp_path: Path, kind: Any
) -> None:
    port = place.near.rpartition(":")[2]
    for url in (
        f"{place.near}/meta",
        f"HTTP://localhost:{port}/meta",
        f"http://[::ffff:127.0.0.1]:{port}/meta",
        f"{place.url}/leads?to={place.near}/meta",
        f"{place.url}/leads?to=//localhost:{port}/meta",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        place.url.replace("//", "//me:word@") + "/files/a.png",
    ):
        refused = await made(place, tmp_path, kind, url)
        assert isinstance(refused, Reject), (url, refused)
        assert "is not fetched" in str(refused)
    assert place.neighbour == place.asked == []


async def test_what_the_operator_allows_is_read_without_the_key(
    place: Place, tmp_path: Path
) -> None:
    allowed = {"allow_private_urls": ["127.0.0.1:" + place.near.rpartition(":")[2]]}
    for url in (f"{place.near}/a.png", f"{place.url}/leads?to={place.near}/a.png"):
        found = await made(place, tmp_path, swell.Image, url, **allowed)
        assert found.pil().size == (8, 6)
    assert place.neighbour == [("/a.png", "")] * 2
    # Who has led elsewhere does not lead back to what the key opens.
    back = await made(
        place,
        tmp_path,
        swell.Image,
        f"{place.near}/b.png?to={place.url}/files/secret.png",
        allow_private_urls=["127.0.0.0/8"],
    )
    assert isinstance(back, RuntimeError)
    assert "401" in str(back)
    assert place.asked == [("/files/secret.png", "")]


async def test_redirects_end(place: Place, tmp_path: Path) -> None:
    loop = web.Application()

    async def again(request: web.Request) -> web.Response:
        raise web.HTTPFound("/v1/again")

    loop.router.add_get("/v1/again", again)
    loop.router.add_post("/v1/models/o/n/predictions", place.predict)
    async with listening(loop) as url:
        found = await made(place, tmp_path, swell.File, f"{url}/v1/again", url=f"{url}/v1")
    assert isinstance(found, RuntimeError)
    assert "redirects more than 3 times" in str(found)


async def test_an_answer_of_another_shape_says_what_to_set(place: Place, tmp_path: Path) -> None:
    url = f"{place.url}/files/a.png"
    for output in ([url], "a fox", {"file": url}):
        found = await made(place, tmp_path, swell.Image, output)
        assert isinstance(found, RuntimeError)
        assert "`Output` of remote/theirs" in str(found)
    assert await made(place, tmp_path, swell.Image | None, None) is None


async def test_a_model_says_what_it_gives(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="set `Output`"):
        await made(place, tmp_path, None, "a")
    with pytest.raises(InvalidRequest, match="allow_private_urls"):
        await made(place, tmp_path, str, "a", allow_private_urls=["not a word"])


class Leaf(BaseModel):
    file: swell.Video
    more: "list[Leaf]" = []


@pytest.mark.parametrize(
    ("kind", "path", "file"),
    [
        (swell.Image, [], "image"),
        (swell.Image | None, [], "image"),
        (swell.Image | swell.Audio, [], "file"),
        (Annotated[swell.Audio, "a"], [], "audio"),
        (str, [], None),
        (str | swell.File, [], None),
        (Any, [], None),
        (Any, ["a", 0], None),
        (dict[str, swell.File], ["a"], "file"),
        (dict[str, Any], ["a"], None),
        (tuple[str, swell.Image], [0], None),
        (tuple[str, swell.Image], [1], "image"),
        (tuple[str, swell.Image], [2], None),
        (list[list[swell.Image]], [5, 5], "image"),
        (list[swell.Image], [], None),
        (Both, ["picture"], "image"),
        (Both, ["caption"], None),
        (Both, ["else"], None),
        (Leaf, ["more", 0, "more", 3, "file"], "video"),
        (dict[str, swell.Image] | Both, ["caption"], None),
        (int | bool | None, [], None),
    ],
)
def test_only_what_the_schema_says_is_a_file(
    kind: Any, path: list[str | int], file: str | None
) -> None:
    meant = Meant(TypeAdapter(kind).json_schema(mode="serialization"))
    for step in path:
        meant = meant.item(step) if isinstance(step, int) else meant.value(step)
    assert meant.file == file
