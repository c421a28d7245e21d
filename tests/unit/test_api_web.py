"""The web app as it is served, the key that it asks of, and its words."""

import gzip
import json
import re
from pathlib import Path

import pytest
from api_harness import a_world

from swell.settings.storage_settings import ObjectsSettings

INDEX = "<!doctype html><title>Swell</title><p>the app</p>"
CODE = "console.log('swell');" * 50


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text(INDEX)
    (tmp_path / "assets" / "index-abc.js").write_text(CODE)
    (tmp_path / "assets" / "secret.txt").write_text("no part of the app")
    return tmp_path


async def test_the_app_is_what_browsers_get_and_files_of_it_are_kept_for_ever(built: Path) -> None:
    async with a_world(web_app=built) as world:
        page = await world.stranger("GET", "/")
        assert page.body.decode() == INDEX
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-cache"
        code = await world.stranger("GET", "/assets/index-abc.js")
        assert code.body.decode() == CODE
        assert code.headers["content-type"].startswith("text/javascript")
        assert "immutable" in code.headers["cache-control"]


async def test_a_browser_that_has_it_is_told_so(built: Path) -> None:
    async with a_world(web_app=built) as world:
        tag = (await world.stranger("GET", "/")).headers["etag"]
        again = await world.stranger("GET", "/", headers={"if-none-match": tag})
        assert (again.status, again.body) == (304, b"")
        other = await world.stranger("GET", "/", headers={"if-none-match": "other"})
        assert other.status == 200


async def test_it_comes_compressed_where_that_is_taken(built: Path) -> None:
    async with a_world(web_app=built) as world:
        headers = {"accept-encoding": "br, gzip"}
        code = await world.stranger("GET", "/assets/index-abc.js", headers=headers)
        assert code.headers["content-encoding"] == "gzip"
        assert gzip.decompress(code.body).decode() == CODE
        assert len(code.body) < len(CODE) / 4


async def test_nothing_within_the_app_may_come_from_elsewhere_or_be_inline(built: Path) -> None:
    async with a_world(web_app=built) as world:
        headers = (await world.stranger("GET", "/")).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        # A portrait may be taken with the camera, by the app's own page alone.
        assert "camera=(self)" in headers["permissions-policy"]
        assert "camera=()" in (await world.stranger("GET", "/docs")).headers["permissions-policy"]


async def test_pictures_may_come_from_a_bucket_where_redirects_lead_to_one(built: Path) -> None:
    async with a_world(web_app=built, objects=ObjectsSettings(serve="redirect")) as world:
        policy = (await world.stranger("GET", "/")).headers["content-security-policy"]
        assert re.search(r"img-src [^;]*https:", policy)
        assert re.search(r"default-src 'self';", policy)


@pytest.mark.parametrize(
    "name", ["none.js", "secret.txt", "..%2findex.html", "../index.html", "%2e%2e/index.html"]
)
async def test_only_files_of_the_app_are_served(built: Path, name: str) -> None:
    async with a_world(web_app=built) as world:
        answer = await world.stranger("GET", f"/assets/{name}")
        assert answer.status == 404


async def test_without_a_build_a_page_says_how_and_the_api_works() -> None:
    async with a_world() as world:
        page = (await world.stranger("GET", "/")).body.decode()
        assert "make web" in page
        assert "<script" not in page
        assert (await world.anna("GET", "/v1/models")).status == 200


async def test_a_key_is_told_what_it_may_do_and_not_its_secret() -> None:
    async with a_world() as world:
        for name, scope in (("anna", "client"), ("admin", "admin")):
            told = (await getattr(world, name)("GET", "/v1/keys/self")).json
            assert (told["name"], told["scopes"]) == (name, [scope])
            assert not {"secret", "digest"} & set(told)
        assert (await world.stranger("GET", "/v1/keys/self")).status == 401


LANGUAGES = Path(__file__).parents[2] / "web" / "src" / "lib" / "i18n"


def words(language: str) -> dict[str, object]:
    return json.loads((LANGUAGES / f"{language}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", ["es", "fr", "pt"])
def test_every_word_of_the_app_is_in_every_language_with_the_same_places(language: str) -> None:
    english, other = words("en"), words(language)
    assert list(other) == list(english)
    for name, text in english.items():
        assert places(other[name]) == places(text), name
        assert isinstance(other[name], dict) == isinstance(text, dict), name


def test_words_of_the_app_are_sorted_and_each_is_used() -> None:
    english = words("en")
    assert list(english) == sorted(english)
    sources = "".join(
        path.read_text(encoding="utf-8")
        for path in LANGUAGES.parents[1].rglob("*")
        if path.suffix in (".ts", ".svelte")
    )
    assert [name for name in english if f'"{name}"' not in sources] == []


def places(text: object) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", json.dumps(text)))
