"""openai-python, unmodified."""

from collections.abc import Callable
from typing import Any

import pytest
from client_harness import Served
from programs import Program

_BEGIN = """
import base64, io, openai
client = openai.OpenAI()
def kind(text): return base64.b64decode(text)[:4].hex()
def swell(path):
    import urllib.request
    headers = {"authorization": "Bearer " + client.api_key}
    asked = urllib.request.Request(home + path, headers=headers)
    return json.load(urllib.request.urlopen(asked))
"""

PNG, JPEG, RIFF = "89504e47", "ffd8ff", "52494646"


@pytest.fixture(scope="module")
def client(served: Served, python: Callable[..., Program]) -> Callable[..., Any]:
    base = f"{served.url}/openai/v1"
    program = python("python", served, OPENAI_BASE_URL=base, OPENAI_API_KEY=served.key)

    def run(text: str, **values: Any) -> Any:
        return program(_BEGIN + text, home=served.url, **values)

    return run


def test_pictures_come_from_words(client: Callable[..., Any]) -> None:
    told = client(
        """
made = client.images.generate(
    model="demo/echo-picture", prompt="a fox", n=2, size="64x32", output_format="webp",
    extra_body={"seed": 7, "steps": 2},
)
again = client.images.generate(
    model="demo/echo-picture", prompt="a fox", size="64x32", output_format="webp",
    extra_body={"seed": 7, "steps": 2},
)
tell(
    n=len(made.data), kind=kind(made.data[0].b64_json), size=made.size, told=made.output_format,
    usage=made.usage.total_tokens, seed=made.swell["seed"],
    same=made.data[0].b64_json == again.data[0].b64_json,
)
"""
    )
    assert told == {
        "n": 2,
        "kind": RIFF,
        "size": "64x32",
        "told": "webp",
        "usage": 0,
        "seed": 7,
        "same": True,
    }


def test_a_picture_comes_as_a_url_too(client: Callable[..., Any], served: Served) -> None:
    told = client(
        """
import urllib.request
made = client.images.generate(
    model="swell/icons", prompt="a fox", response_format="url", size="1024x1024"
)
url = made.data[0].url
tell(url=url, size=made.size, data=urllib.request.urlopen(url).read()[:4].hex())
"""
    )
    assert told["url"].startswith(served.url)
    assert (told["data"], told["size"]) == (PNG, "512x512")


def test_names_that_are_hard_coded_mean_what_the_operator_says(client: Callable[..., Any]) -> None:
    told = client(
        """
made = client.images.generate(model="gpt-image-1", prompt="a fox", quality="low")
ids = [each.id for each in client.models.list()]
tell(model=made.swell["model"], ids=ids, one=client.models.retrieve("gpt-image-1").owned_by)
tell(slash=client.models.retrieve("swell/icons").id)
"""
    )
    assert told["model"] == "demo/echo-picture"
    assert {"gpt-image-1", "swell/icons", "demo/echo-picture"} <= set(told["ids"])
    assert (told["one"], told["slash"]) == ("demo", "swell/icons")


def test_files_are_edited(client: Callable[..., Any]) -> None:
    told = client(
        """
picture = base64.b64decode(
    client.images.generate(model="demo/echo-picture", prompt="a", size="64x32").data[0].b64_json
)
one = ("a.png", picture, "image/png")
made = client.images.edit(model="tests/edit", image=one, mask=one, prompt="a hat", n=1)
listed = client.images.edit(model="tests/edit", image=[one], prompt="a hat")
tell(size=made.size, listed=listed.size)
try:
    client.images.edit(model="tests/edit", image=[one, one], prompt="a hat")
except openai.BadRequestError as error:
    tell(several=error.message)
"""
    )
    assert told["size"] == told["listed"] == "64x32"
    assert "takes one picture" in told["several"]


def test_urls_that_lead_inside_are_not_fetched(client: Callable[..., Any]) -> None:
    told = client(
        """
urls = ("http://169.254.169.254/latest/meta-data", "http://127.0.0.1:1/a.png", "file:///etc/passwd")
for number, url in enumerate(urls):
    try:
        client.post(
            "/images/edits",
            body={"model": "tests/edit", "prompt": "a", "images": [{"image_url": url}]},
            cast_to=object,
        )
    except openai.BadRequestError as error:
        tell(**{f"at{number}": error.message})
"""
    )
    assert "private" in told["at0"]
    assert "private" in told["at1"]
    assert "http or https" in told["at2"]


def test_partial_images_come_before_the_picture(client: Callable[..., Any]) -> None:
    told = client(
        """
stream = client.images.generate(
    model="demo/echo-picture", prompt="a", stream=True, partial_images=2,
    extra_body={"steps": 50, "step_s": 0.1},
)
events = list(stream)
last = events[-1]
tell(types=[each.type for each in events], size=last.size, usage=last.usage.total_tokens)
tell(indices=[getattr(each, "partial_image_index", None) for each in events])
tell(kinds=[kind(each.b64_json)[:6] for each in events])
edited = client.images.edit(
    model="tests/edit", image=("a.png", base64.b64decode(events[-1].b64_json), "image/png"),
    prompt="a", stream=True,
)
tell(edited=[each.type for each in edited])
"""
    )
    assert told["types"] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert told["indices"] == [0, 1, None]
    assert told["kinds"] == [JPEG, JPEG, PNG[:6]]
    assert (told["size"], told["usage"]) == ("128x128", 0)
    assert told["edited"] == ["image_edit.completed"]


def test_each_of_several_pictures_comes_when_it_is_there(client: Callable[..., Any]) -> None:
    told = client(
        """
import time
stream = client.images.generate(
    model="demo/echo-picture", prompt="a", stream=True, n=3,
    extra_body={"steps": 1, "step_s": 1.6, "width": 32, "height": 32},
)
events, at = [], []
for each in stream:
    events.append(each)
    at.append(time.monotonic())
tell(types=[each.type for each in events], sizes=[each.size for each in events])
tell(different=len({each.b64_json for each in events}), took_s=at[-1] - at[0])
"""
    )
    assert told["types"] == ["image_generation.completed"] * 3
    assert (told["sizes"], told["different"]) == (["32x32"] * 3, 3)
    assert told["took_s"] > 0.5, "they all came at the end"


def test_errors_have_their_classes_and_say_what_to_do(client: Callable[..., Any]) -> None:
    told = client(
        """
def failed(name, **fields):
    try:
        client.images.generate(**{"model": "tests/moody", "prompt": "a", **fields})
    except openai.APIStatusError as error:
        told = [type(error).__name__, error.status_code, error.message, error.code, error.param]
        tell(**{name: [*told, bool(error.request_id)]})
failed("model", model="dall-e-9")
failed("field", extra_body={"colour": "red"})
failed("background", background="transparent")
failed("reject", prompt="reject")
failed("broken", prompt="break")
failed("text", model="demo/upper")
client = openai.OpenAI(api_key="wrong")
failed("key")
"""
    )
    assert told["model"][:2] == ["NotFoundError", 404]
    assert "swell/icons" in told["model"][2]
    assert told["model"][3:] == ["model_not_found", "model", True]
    assert told["field"][:2] == ["BadRequestError", 400]
    assert told["field"][4] == "colour"
    assert told["background"][4] == "background"
    assert told["reject"][:2] == ["BadRequestError", 400]
    assert "not that" in told["reject"][2]
    # It has been tried as often as it may be: the client does not try again.
    assert told["broken"][:2] == ["InternalServerError", 500]
    assert told["text"][4] == "model"
    assert told["key"][:2] == ["AuthenticationError", 401]


def test_what_is_final_is_not_asked_again(client: Callable[..., Any]) -> None:
    told = client(
        """
before = len(swell("/v1/tasks?limit=100&model=tests/moody")["tasks"])
try:
    client.images.generate(model="tests/moody", prompt="break")
except openai.InternalServerError as error:
    tell(header=error.response.headers["x-should-retry"])
tell(new=len(swell("/v1/tasks?limit=100&model=tests/moody")["tasks"]) - before)
"""
    )
    assert told == {"header": "false", "new": 1}


def test_a_client_that_lost_patience_gets_the_picture_that_is_being_drawn(
    client: Callable[..., Any],
) -> None:
    told = client(
        """
def count(): return len(swell("/v1/tasks?limit=100&model=demo/echo-picture")["tasks"])
before = count()
hasty = openai.OpenAI(timeout=2.0, max_retries=20)
made = hasty.images.generate(
    model="demo/echo-picture", prompt="slow", extra_body={"steps": 30, "step_s": 0.1}
)
tell(new=count() - before, kind=kind(made.data[0].b64_json))
"""
    )
    assert told == {"new": 1, "kind": PNG}


def test_a_canceled_picture_is_a_conflict(client: Callable[..., Any]) -> None:
    told = client(
        """
import threading, time, urllib.request
def cancel():
    while True:
        for task in swell("/v1/tasks?model=demo/echo-picture&state=running")["tasks"]:
            asked = urllib.request.Request(
                task["urls"]["cancel"], method="POST",
                headers={"authorization": "Bearer " + client.api_key},
            )
            return urllib.request.urlopen(asked).read()
        time.sleep(0.02)
thread = threading.Thread(target=cancel)
thread.start()
try:
    client.images.generate(
        model="demo/echo-picture", prompt="long", extra_body={"steps": 500, "step_s": 0.1}
    )
except openai.ConflictError as error:
    tell(code=error.code)
thread.join()
"""
    )
    assert told == {"code": "canceled"}


def test_the_base_url_may_lack_its_version(served: Served, python: Callable[..., Program]) -> None:
    base = f"{served.url}/openai"
    program = python("python", served, OPENAI_BASE_URL=base, OPENAI_API_KEY=served.key)
    told = program("import openai\ntell(n=len(list(openai.OpenAI().models.list())))")
    assert told["n"] > 0
