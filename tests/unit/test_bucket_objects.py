"""A bucket that fails in passing, or for good, or is told wrongly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from loopback import listening
from manual_clock import ManualClock
from swell.bootstrap.backend import build_backend, close_backend
from swell.bootstrap.extras import Unusable
from swell.core.errors import InvalidRequest, SwellError, Unavailable
from swell.objects import bucket as bucket_module
from swell.objects.bucket import BucketObjects
from swell.settings.load import load
from swell.settings.storage_settings import ObjectsSettings

DELETED = "<DeleteResult><Deleted><Key>p/writable.txt</Key></Deleted></DeleteResult>"


@dataclass
class Cloud:
    """An S3 that answers what it is told to, in this order; the last one for ever."""

    answers: list[int]
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.method)
        await request.read()
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        headers = {"etag": '"x"', "last-modified": "Thu, 26 Nov 2026 05:00:00 GMT"}
        body = DELETED if request.method == "POST" and status == 200 else ""
        if request.method == "HEAD":
            headers["content-length"] = "0"
        return web.Response(status=status, headers=headers if status == 200 else {}, text=body)


@asynccontextmanager
async def a_cloud(*answers: int) -> AsyncIterator[Cloud]:
    cloud = Cloud(list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", cloud.answer)
    async with listening(app, patience_s=0.1) as cloud.url:
        yield cloud


def objects_of(cloud: Cloud) -> BucketObjects:
    access = ObjectsSettings(
        endpoint=cloud.url, region="r", key_id="id", secret=SecretStr("a-secret")
    )
    return BucketObjects("s3://b/p", access, ManualClock(), bytes(32))


@pytest.mark.slow
async def test_what_fails_in_passing_is_tried_again() -> None:
    async with a_cloud(503, 500, 200) as cloud:
        info = await objects_of(cloud).put("a.txt", b"", "text/plain")
        assert (info.etag, cloud.asked) == ("x", ["PUT", "PUT", "PUT", "HEAD"])


@pytest.mark.slow
async def test_what_keeps_failing_is_given_up_and_tried_again_by_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bucket_module, "_MOST_RETRIES", 2)
    async with a_cloud(503) as cloud:
        objects = objects_of(cloud)
        await objects.check_writable()
        assert cloud.asked == []
        with pytest.raises(Unavailable) as told:
            await objects.put("a.txt", b"1", "text/plain")
        assert cloud.asked == ["PUT"] * 3
        assert "a-secret" not in told.value.detail
        with pytest.raises(Unavailable):
            await objects.check_writable()
        cloud.answers = [200]
        await objects.check_writable()
        n = len(cloud.asked)
        await objects.check_writable()
        assert len(cloud.asked) == n


async def test_no_url_is_signed_for_longer_than_clouds_allow() -> None:
    async with a_cloud() as cloud:
        for days, told_s in ((1, 86_400), (30, 604_800)):
            direct = await objects_of(cloud).direct("GET", "a.png", days * 86_400.0)
            assert direct is not None
            assert f"X-Amz-Expires={told_s}&" in direct.url


async def test_what_is_not_allowed_is_told_at_once() -> None:
    async with a_cloud(403) as cloud:
        with pytest.raises(Unavailable):
            await objects_of(cloud).put("a.txt", b"1", "text/plain")
        assert cloud.asked == ["PUT"]


async def test_a_cloud_that_is_nowhere_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "_MOST_RETRIES", 1)
    async with a_cloud(200) as cloud:
        objects = objects_of(cloud)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(objects.head("a.txt"), 30)


@pytest.mark.parametrize(
    "url",
    ["s3://", "az://account", "ftp://b/p", "s3://b/p?x=1", "gs://b/with space", "az://a/c/ü"],
)
def test_a_url_that_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        BucketObjects(url, ObjectsSettings(region="r"), ManualClock(), bytes(32))


def test_the_secret_is_not_shown() -> None:
    assert "hidden" not in repr(ObjectsSettings(secret=SecretStr("hidden")))


async def test_settings_open_a_bucket_and_a_wrong_one_is_told_at_the_start(
    tmp_path: Path,
) -> None:
    async with a_cloud(200) as cloud:
        flags = {
            "data_dir": tmp_path,
            "objects.url": "s3://b/p",
            "objects.endpoint": cloud.url,
            "objects.region": "r",
            "objects.key_id": "id",
            "objects.secret": "a-secret",
        }
        settings = load(flags, environment={}).settings
        backend = await build_backend(settings, ManualClock())
        assert cloud.asked[0] == "PUT"
        await close_backend(backend)
        cloud.answers = [403]
        with pytest.raises(Unusable, match=r"objects\.url"):
            await build_backend(settings, ManualClock())


def test_retention_is_read_from_the_environment() -> None:
    environment = {
        "SWELL_RETENTION__OUTPUTS_S": "60",
        "SWELL_RETENTION__CLASSES": '{"long": {"models": "a/b,c/d", "outputs_s": 3600}}',
    }
    retention = load(environment=environment).settings.retention
    assert retention.outputs_s == 60
    assert retention.classes["long"].models == ("a/b", "c/d")
    assert retention.classes["long"].inputs_s is None


@pytest.mark.parametrize(
    "classes",
    [
        '{"a": {"models": ["m/m"]}, "b": {"models": ["m/m"]}}',
        '{"a": {"models": []}}',
        '{"a": {"outputs_s": 1}}',
        '{"a": {"models": ["m/m"], "tasks_s": 60}}',
        "{",
    ],
)
def test_classes_that_mean_nothing_are_refused(classes: str) -> None:
    with pytest.raises(SwellError):
        load(environment={"SWELL_RETENTION__CLASSES": classes})


def test_classes_are_tables_of_the_file(tmp_path: Path) -> None:
    text = '[retention]\noutputs_s = 60\n[retention.classes.long]\nmodels = ["a/b"]\n'
    file = tmp_path / "swell.toml"
    file.write_text(text)
    retention = load(environment={}, config=file).settings.retention
    assert retention.classes["long"].models == ("a/b",)
