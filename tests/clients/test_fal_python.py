"""fal-client, unmodified, over TLS: it speaks nothing else."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from client_harness import Receiver, Served
from programs import Program

_BEGIN = """
import urllib.request
import fal_client
from fal_client import Completed, InProgress, Queued
"""

SLOW = {"prompt": "slow", "num_inference_steps": 15, "step_s": 0.1}


@pytest.fixture(scope="module")
def client(served: Served, python: Callable[..., Program]) -> Callable[..., Any]:
    program = python(
        "python",
        served,
        FAL_KEY=served.key,
        FAL_RUN_HOST=f"{served.host}/fal/run",
        FAL_QUEUE_RUN_HOST=f"{served.host}/fal/queue",
    )

    def run(text: str, **values: Any) -> Any:
        return program(_BEGIN + text, slow=SLOW, **values)

    return run


def test_run_waits_for_pictures(client: Callable[..., Any]) -> None:
    told = client(
        """
told = fal_client.run("demo/echo-picture", {
    "prompt": "a fox", "image_size": {"width": 64, "height": 32}, "num_images": 2, "seed": 7,
    "num_inference_steps": 2,
})
image = told["images"][0]
tell(
    n=len(told["images"]), size=[image["width"], image["height"]], kind=image["content_type"],
    data=urllib.request.urlopen(image["url"]).read()[:4].hex(), seed=told["seed"],
    prompt=told["prompt"], nsfw=told["has_nsfw_concepts"], timings=list(told["timings"]),
)
square = fal_client.run("demo/echo-picture", {"prompt": "a", "image_size": "square"})
tell(square=square["images"][0]["width"])
inline = fal_client.run("demo/echo-picture", {"prompt": "a", "sync_mode": True})
tell(inline=inline["images"][0]["url"][:22])
"""
    )
    assert told == {
        "n": 2,
        "size": [64, 32],
        "kind": "image/png",
        "data": "89504e47",
        "seed": 7,
        "prompt": "a fox",
        "nsfw": [False, False],
        "timings": ["inference"],
        "square": 512,
        "inline": "data:image/png;base64,",
    }


def test_a_request_is_queued_followed_and_fetched(client: Callable[..., Any]) -> None:
    told = client(
        """
handle = fal_client.submit("demo/echo-picture/some/path", slow)
seen, messages = [], []
for event in handle.iter_events(with_logs=True, interval=0.05):
    name = type(event).__name__
    if name not in seen: seen.append(name)
    messages += [] if isinstance(event, Queued) else [line["message"] for line in event.logs]
result = handle.get()
tell(seen=seen, n=len(result["images"]), steps=any("of 15" in line for line in messages))
tell(urls=[handle.response_url, handle.status_url, handle.cancel_url], id=handle.request_id)
late = fal_client.status("demo/echo-picture", handle.request_id)
tell(late=type(late).__name__, logs=late.logs, metrics=list(late.metrics))
again = fal_client.result("demo/echo-picture", handle.request_id)
tell(same=again["images"][0]["width"] == result["images"][0]["width"])
subscribed = fal_client.subscribe("demo/echo-picture", {"prompt": "a"})
tell(subscribed=len(subscribed["images"]))
"""
    )
    assert told["seen"][-2:] == ["InProgress", "Completed"]
    assert (told["n"], told["steps"], told["subscribed"]) == (1, True, 1)
    home = f"/fal/queue/demo/echo-picture/requests/{told['id']}"
    assert [url.partition("/fal/")[2] for url in told["urls"]] == [
        home.removeprefix("/fal/") + end for end in ("", "/status", "/cancel")
    ]
    assert (told["late"], told["logs"], told["metrics"]) == ("Completed", None, ["inference_time"])
    assert told["same"] is True


def test_a_request_is_canceled(client: Callable[..., Any]) -> None:
    told = client(
        """
handle = fal_client.submit("demo/echo-picture", {**slow, "num_inference_steps": 900})
handle.cancel()
for event in handle.iter_events(interval=0.05): pass
tell(error_type=event.error_type)
for name, call in (("result", handle.get), ("again", handle.cancel)):
    try: call()
    except fal_client.FalClientHTTPError as error:
        tell(**{name: [error.status_code, error.error_type]})
"""
    )
    assert told["error_type"] == "request_canceled"
    assert told["result"] == [400, "request_canceled"]
    assert told["again"][0] == 400


def test_a_stream_shows_pictures_on_their_way(client: Callable[..., Any]) -> None:
    told = client(
        """
longer = {**slow, "num_inference_steps": 45}
events = list(fal_client.stream("demo/echo-picture", longer))
urls = [each["images"][0]["url"] for each in events]
tell(partial=[bool(each.get("partial")) for each in events], last=urls[-1][:8], first=urls[0][:11])
"""
    )
    assert len(told["partial"]) >= 2
    assert told["partial"][:-1] == [True] * (len(told["partial"]) - 1)
    assert (told["partial"][-1], told["last"]) == (False, "https://")
    assert told["first"] == "data:image/"


def test_files_go_in_as_data_uris(client: Callable[..., Any]) -> None:
    told = client(
        """
import tempfile
made = fal_client.run("demo/echo-picture", {"prompt": "a", "image_size": "square"})
url = made["images"][0]["url"]
with tempfile.NamedTemporaryFile(suffix=".png") as file:
    file.write(urllib.request.urlopen(url).read()); file.flush()
    uri = fal_client.encode_file(file.name)
made = fal_client.run("tests/edit", {"prompt": "a", "image_url": uri})
by_url = fal_client.run("tests/edit", {"prompt": "a", "image_url": url})
tell(long=len(uri) > 4096, sizes=[each["images"][0]["width"] for each in (made, by_url)])
"""
    )
    assert told == {"long": True, "sizes": [512, 512]}


def test_errors_say_what_to_do(client: Callable[..., Any]) -> None:
    told = client(
        """
def failed(name, app="tests/moody", **arguments):
    try: fal_client.run(app, {"prompt": "a", **arguments})
    except fal_client.FalClientHTTPError as error:
        has_id = bool(error.response_headers.get("x-fal-request-id"))
        tell(**{name: [error.status_code, error.error_type, str(error.message), has_id]})
failed("app", app="demo/nothing")
failed("field", app="tests/moody", colour="red")
failed("reject", prompt="reject")
failed("broken", prompt="break")
failed("url", app="tests/edit", image_url="http://169.254.169.254/latest/meta-data")
handle = fal_client.submit("tests/moody", {"prompt": "reject"})
for event in handle.iter_events(interval=0.05): pass
tell(queued=[event.error_type, "not that" in event.error, event.logs])
try: handle.get()
except fal_client.FalClientHTTPError as error:
    tell(got=[error.status_code, error.message[0]["loc"]])
"""
    )
    assert told["app"][:2] == [404, "not_found"]
    assert told["field"][0] == 422
    assert "colour" in told["field"][2]
    assert told["reject"][:2] == [422, "rejected"]
    assert told["broken"][0] == 500
    assert "private" in told["url"][2]
    assert all(each[3] for each in (told["app"], told["field"], told["reject"], told["broken"]))
    assert told["queued"] == ["rejected", True, None]
    assert told["got"] == [422, ["body"]]


def test_a_request_that_does_not_start_in_time_is_not_tried_again(
    client: Callable[..., Any],
) -> None:
    told = client(
        """
import logging
asked = []
logging.getLogger("httpx").setLevel("INFO")
logging.getLogger("httpx").addFilter(lambda record: asked.append(record.getMessage()))
endless = {**slow, "num_inference_steps": 900}
running = [fal_client.submit("demo/echo-picture", endless) for _ in range(12)]
once = len(asked) / 12
asked.clear()
try: fal_client.run("demo/echo-picture", {"prompt": "a"}, start_timeout=1.5)
except fal_client.FalClientHTTPError as error:
    tell(status=error.status_code, kind=error.response_headers.get("x-fal-request-timeout-type"))
tell(tries=len(asked) / once)
for handle in running: handle.cancel()
"""
    )
    assert told == {"status": 504, "kind": "user", "tries": 1}


def test_the_asynchronous_client_does_the_same(client: Callable[..., Any]) -> None:
    told = client(
        """
import asyncio
async def main():
    result = await fal_client.subscribe_async("demo/echo-picture", {"prompt": "a"}, priority="low")
    tell(n=len(result["images"]))
asyncio.run(main())
"""
    )
    assert told == {"n": 1}


class Cutting:
    """Passes connections on, and cuts the first half a second after it brought a request."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._cuts = 1
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._pass, "127.0.0.1", 0)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for each in asyncio.all_tasks(self._loop):
            each.cancel()
        self._server.close()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        wait_s = 0.5 if self._cuts else None
        self._cuts = 0
        back.write(await reader.read(65536))
        ways = [
            asyncio.create_task(self._copy(reader, back)),
            asyncio.create_task(self._copy(there, writer)),
        ]
        await asyncio.wait(ways, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, back):
            each.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@pytest.fixture
def cutting(served: Served) -> Iterator[Cutting]:
    proxy = Cutting(int(served.host.rpartition(":")[2]))
    yield proxy
    proxy.close()


def test_a_request_that_is_sent_again_after_a_broken_connection_draws_once(
    served: Served, python: Callable[..., Program], cutting: Cutting
) -> None:
    host = f"127.0.0.1:{cutting.port}"
    program = python(
        "python",
        served,
        FAL_KEY=served.key,
        FAL_RUN_HOST=f"{host}/fal/run",
        FAL_QUEUE_RUN_HOST=f"{host}/fal/queue",
    )
    told = program(
        _BEGIN
        + """
arguments = {**slow, "prompt": "cut once"}
made = fal_client.run("demo/echo-picture", arguments)
headers = {"authorization": "Key " + os.environ["FAL_KEY"]}
asked = urllib.request.Request(home + "/v1/tasks?limit=50&model=demo/echo-picture", headers=headers)
tasks = json.load(urllib.request.urlopen(asked))["tasks"]
tell(n=len(made["images"]), drawn=sum(task["input"]["prompt"] == "cut once" for task in tasks))
""",
        slow=SLOW,
        home=served.url,
    )
    assert told == {"n": 1, "drawn": 1}


def test_a_webhook_tells_of_the_request_that_the_client_submitted(
    client: Callable[..., Any], receiver: Receiver
) -> None:
    told = client(
        """
good = fal_client.submit("demo/upper", {"text": "a"}, webhook_url=url)
bad = fal_client.submit("tests/moody", {"prompt": "reject"}, webhook_url=url)
tell(ids=[good.request_id, bad.request_id])
""",
        url=receiver.url,
    )
    receiver.wait_for(lambda bodies: len(bodies) >= 2)
    by_id = {each["request_id"]: each for each in receiver.bodies()}
    good, bad = (by_id[each] for each in told["ids"])
    assert (good["status"], good["payload"]) == ("OK", {"output": "A"})
    assert (bad["status"], bad["payload"]["error_type"]) == ("ERROR", "rejected")
