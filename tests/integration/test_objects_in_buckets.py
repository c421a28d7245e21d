"""Files in a bucket, from the worker's upload to the deletion, over HTTP, against each cloud."""

import asyncio
import functools
import io
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import boto3
import pytest
import uvicorn
from PIL import Image
from yarl import URL

from buckets import Bucket, azure_container, gcs_bucket, s3_bucket
from servers import Server
from sqlite_rig import SqliteRig
from swell.core.clock import SystemClock
from swell.core.errors import NotFound
from swell.core.records import ModelCard, Scope
from swell.core.retry import RetryPolicy
from swell.core.task import Artifact, Settlement, Succeeded, Task
from swell.protocol.backend_client import RemoteDispatch
from swell.protocol.worker_messages import Ask, LeasedTask, Registration, Report
from swell.pubsub.local_bus import MemoryBus
from swell.server.app import create_app
from swell.server.auth import create_key
from swell.server.background_jobs import discard, retire
from swell.server.dependencies import ApiSettings, Backend
from swell.server.request import ClientGone
from swell.settings.backend_settings import RetentionSettings
from swell.settings.storage_settings import ObjectsSettings
from swell.worker.encode_outputs import Encoded
from swell.worker.task_results import Uploader

MODEL = "demo/draw"

CLOUDS = {
    "s3": ("moto_server", s3_bucket),
    "gs": ("gcs_server", gcs_bucket),
    "az": ("azurite_server", azure_container),
}


@pytest.fixture(params=list(CLOUDS))
def bucket(request: pytest.FixtureRequest) -> Bucket:
    server, make = CLOUDS[request.param]
    return make(request.getfixturevalue(server))


@dataclass
class Site:
    """A backend that keeps its files in a bucket, a client of it, and a worker's way to it."""

    url: str
    backend: Backend
    app: Any
    client: aiohttp.ClientSession
    dispatch: RemoteDispatch
    worker_id: str = ""

    async def call(self, method: str, path: str, **sent: Any) -> Any:
        async with self.client.request(method, self.url + path, **sent) as answer:
            told = await answer.json()
            assert answer.status < 300, told
            return told

    async def read(self, url: str, **options: Any) -> tuple[int, bytes]:
        async with self.client.get(URL(url, encoded=True), **options) as answer:
            return answer.status, await answer.read()

    async def lease(self, **fields: Any) -> LeasedTask:
        """Have a task accepted, and take it as a worker does."""
        body = {"model": MODEL, "input": {}, **fields}
        await self.call("POST", "/v1/tasks", json=body)
        grant = await self.dispatch.lease(Ask(worker_id=self.worker_id, n=1, wait_s=5))
        return grant.tasks[0]

    async def deliver(self, lease: LeasedTask, *files: bytes) -> tuple[Artifact, ...]:
        courier = Uploader(self.dispatch, SystemClock(), lambda: self.worker_id)

        async def encoded(index: int) -> Encoded:
            return Encoded(files[index], "image/png", names[index], 300, 200)

        names = [f"{number}.png" for number in range(len(files))]
        delivered = await courier.deliver(lease.hold, names, encoded)
        assert delivered.enclosures == ()
        return delivered.artifacts

    async def report(self, lease: LeasedTask, artifacts: tuple[Artifact, ...]) -> Task:
        hold = lease.hold
        outcome = Succeeded(artifacts=artifacts)
        told = Settlement(
            task_id=hold.task_id, attempt=hold.attempt, token=hold.token, outcome=outcome
        )
        await self.dispatch.report(Report(worker_id=self.worker_id, settlements=[told]))
        (task,) = await self.backend.store.get([hold.task_id])
        assert task is not None
        return task


async def serve(bucket: Bucket, serve_files: Literal["through", "redirect"]) -> AsyncIterator[Site]:
    clock = SystemClock()
    rig = SqliteRig(clock, RetryPolicy(base_s=0.0, cap_s=0.0))
    registry = rig.registry
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    backend = Backend(
        store=rig.store,
        broker=rig.broker,
        outbox=rig.outbox,
        bus=MemoryBus(clock),
        objects=bucket.objects(clock),
        registry=registry,
        clock=clock,
        settings=ApiSettings(
            objects=ObjectsSettings(serve=serve_files),
            retention=RetentionSettings(inputs_s=0.0, outputs_s=0.0, uploads_s=0.0),
        ),
    )
    worker_key = (await create_key(registry, clock, "w", frozenset({Scope.WORKER}))).secret
    client_key = (await create_key(registry, clock, "c", frozenset({Scope.CLIENT}))).secret
    app = create_app(backend)
    config = uvicorn.Config(
        app, port=port, log_level="critical", lifespan="on", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    dispatch = RemoteDispatch(url, worker_key)
    headers = {"authorization": f"Bearer {client_key}"}
    async with aiohttp.ClientSession(headers=headers) as client:
        while not server.started:
            await asyncio.sleep(0.01)
        site = Site(url, backend, app, client, dispatch)
        card = ModelCard(name=MODEL, version="1", input_schema={"type": "object"})
        registration = Registration(name="w", pool="p", models=[card], slots=4)
        site.worker_id = (await dispatch.register(registration)).worker_id
        yield site
        await dispatch.close()
        server.should_exit = True
        await serving


@pytest.fixture
async def site(bucket: Bucket) -> AsyncIterator[Site]:
    async for each in serve(bucket, "through"):
        yield each


@pytest.fixture
async def redirecting(bucket: Bucket) -> AsyncIterator[Site]:
    async for each in serve(bucket, "redirect"):
        yield each


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (300, 200), "blue").save(file, "PNG")
    return file.getvalue()


async def test_nothing_is_left_in_the_bucket_of_a_task_that_was_removed(
    site: Site, bucket: Bucket
) -> None:
    upload = await site.call("POST", "/v1/uploads", data=b"an input")
    lease = await site.lease(input={"image": upload["url"]})
    (fresh,) = lease.own_files.values()
    assert (await site.dispatch.fetch(fresh))[0] == b"an input"
    task = await site.report(lease, await site.deliver(lease, picture(), picture()))
    assert task.state == "succeeded"
    told = await site.call("GET", f"/v1/tasks/{task.id}")
    first = told["artifacts"][0]
    # The client sends its key along, which the bucket itself would refuse.
    assert await site.read(first["url"]) == (200, picture())
    status, small = await site.read(first["thumbnail_url"])
    assert (status, Image.open(io.BytesIO(small)).size) == (200, (256, 171))
    assert len(bucket.names()) == 4
    bare = await site.call("DELETE", f"/v1/tasks/{task.id}")
    assert bare["data_removed"] == ["inputs", "outputs"]
    assert bucket.names() == []
    assert (await site.read(first["url"]))[0] == 410


async def test_nothing_is_left_after_its_time(
    site: Site, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the upload's URL had expired.
    monkeypatch.setattr(ApiSettings, "uploads_s", 0.0)
    await site.call("POST", "/v1/uploads", data=b"used by nobody")
    lease = await site.lease()
    task = await site.report(lease, await site.deliver(lease, picture()))
    assert len(bucket.names()) == 2
    service = site.app.service
    await retire(service)
    while await discard(service):
        pass
    assert bucket.names() == []
    assert (await site.call("GET", f"/v1/tasks/{task.id}"))["data_removed"] != []


async def test_a_file_that_is_not_in_the_bucket_as_told_fails_its_attempt(site: Site) -> None:
    lease = await site.lease(max_attempts=1)
    (artifact,) = await site.deliver(lease, picture())
    shorter = Artifact(key=artifact.key, content_type="image/png", bytes=artifact.bytes - 1)
    task = await site.report(lease, (shorter,))
    assert task.error is not None
    assert (task.state, task.error.code) == ("failed", "upload_failed")
    assert "bytes, not" in task.error.detail
    lease = await site.lease(max_attempts=1)
    key = f"outputs/{lease.hold.task_id}/1/never.png"
    task = await site.report(lease, (Artifact(key=key, content_type="image/png", bytes=3),))
    assert task.error is not None
    assert "is not there" in task.error.detail


async def test_a_file_may_be_delivered_again_and_is_not_replaced(site: Site) -> None:
    lease = await site.lease()
    (artifact,) = await site.deliver(lease, picture())
    (upload,) = await site.dispatch.uploads(site.worker_id, lease.hold, [artifact.key])
    assert upload.url.startswith("http")
    await site.dispatch.put(upload, picture(), "image/png")
    if "if-none-match" in upload.headers:
        await site.dispatch.put(upload, b"other", "image/png")
        assert (await site.backend.objects.head(artifact.key)).bytes == len(picture())
    task = await site.report(lease, (artifact,))
    assert task.state == "succeeded"


async def test_ranges_and_validators_come_through(site: Site) -> None:
    data = bytes(range(256)) * 40_000
    upload = await site.call("POST", "/v1/uploads", data=io.BytesIO(data))
    status, part = await site.read(upload["url"], headers={"range": "bytes=5000000-9000000"})
    assert (status, part) == (206, data[5_000_000:9_000_001])
    async with site.client.head(URL(upload["url"], encoded=True)) as answer:
        assert int(answer.headers["content-length"]) == len(data)
        etag = answer.headers["etag"]
    assert (await site.read(upload["url"], headers={"if-none-match": etag}))[0] == 304


async def test_a_redirect_leads_to_the_bucket_where_that_is_wanted(redirecting: Site) -> None:
    site = redirecting
    upload = await site.call("POST", "/v1/uploads", data=b"an input")
    async with site.client.get(URL(upload["url"], encoded=True), allow_redirects=False) as answer:
        assert answer.status == 302
        place = URL(answer.headers["location"], encoded=True)
    async with aiohttp.ClientSession() as stranger, stranger.get(place) as answer:
        assert (answer.status, await answer.read()) == (200, b"an input")
    lease = await site.lease(input={"image": upload["url"]})
    (fresh,) = lease.own_files.values()
    assert (await site.dispatch.fetch(fresh))[0] == b"an input"


async def test_a_file_that_is_gone_is_told_as_gone_before_any_redirect(redirecting: Site) -> None:
    upload = await redirecting.call("POST", "/v1/uploads", data=b"an input")
    await redirecting.backend.objects.delete([upload["key"]])
    assert (await redirecting.read(upload["url"]))[0] == 410
    with pytest.raises(NotFound):
        await redirecting.backend.objects.head(upload["key"])


async def test_an_upload_in_parts_that_nobody_wants_any_more_leaves_none(
    moto_server: Server,
) -> None:
    bucket = s3_bucket(moto_server)
    objects = bucket.objects(SystemClock())
    uploads = functools.partial(parts_left, moto_server, bucket)
    hung_up = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield bytes(6 << 20)
        await hung_up.wait()
        raise ClientGone

    async with asyncio.timeout(60):
        put = asyncio.create_task(objects.put("uploads/a.bin", pieces(), "text/plain"))
        while await asyncio.to_thread(uploads) == 0:
            await asyncio.sleep(0.02)
        hung_up.set()
        with pytest.raises(ClientGone):
            await put
        assert await asyncio.to_thread(uploads) == 0
    assert bucket.names() == []


def parts_left(server: Server, bucket: Bucket) -> int:
    """Return how many uploads in parts were begun and neither completed nor given up."""
    client = boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )
    try:
        name = bucket.url.split("/")[2]
        return len(client.list_multipart_uploads(Bucket=name).get("Uploads", []))
    finally:
        client.close()
