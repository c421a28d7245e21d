"""Pipelines with a backend and workers as processes."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from site_harness import BackendAndWorkers, kill

from commandline import PATIENCE_S, Swell, ready_line, stop

MODELS = """
import pathlib
import time

import PIL.Image
import pydantic

import swell

HOME = pathlib.Path(__file__).parent


def note(name):
    with (HOME / "ran.txt").open("a") as file:
        file.write(name + "\\n")


class Text(pydantic.BaseModel):
    text: str


@swell.model("demo/english")
def english(text: str) -> Text:
    note("english")
    return Text(text=text.upper())


@swell.model("demo/draw")
def draw(prompt: str, ctx: swell.Context) -> swell.Image:
    note("draw")
    if prompt == "REFUSED" and not (HOME / "allowed").exists():
        raise swell.Reject("not this")
    while prompt == "SLOW" and not (HOME / "quick").exists():
        ctx.check()
        time.sleep(0.02)
    return swell.Image(PIL.Image.new("RGB", (len(prompt), 8)))


class Size(pydantic.BaseModel):
    widths: list[int]


@swell.model("demo/measure")
def measure(pictures: list[swell.Image]) -> Size:
    note("measure")
    return Size(widths=[each.pil().width for each in pictures])
"""

TOML = """
[pipelines."demo/chain"]
description = "Translates, draws and measures."
output = { picture = "stages.draw.output", widths = "stages.measure.output.widths" }

[pipelines."demo/chain".input.text]
like = "english.text"

[[pipelines."demo/chain".stages]]
name = "english"
model = "demo/english"
take = { text = "input.text" }

[[pipelines."demo/chain".stages]]
name = "draw"
model = "demo/draw"
take = { prompt = "stages.english.output.text" }

[[pipelines."demo/chain".stages]]
name = "measure"
model = "demo/measure"
take = { pictures = "stages.draw.artifacts" }
"""

PYTHON = '''
import pydantic

import swell


@swell.pipeline("demo/short")
class Short:
    """Translates and draws."""

    class Input(pydantic.BaseModel):
        text: str

    english = swell.Stage("demo/english", take={"text": "input.text"})
    draw = swell.Stage("demo/draw", take={"prompt": "stages.english.output.text"})
'''


class Site(BackendAndWorkers):
    """`swell serve` with pipelines, and workers of some models."""

    def __init__(self, swell: Swell) -> None:
        (swell.folder / "models.py").write_text(MODELS)
        (swell.folder / "chains.toml").write_text(TOML)
        (swell.folder / "chains.py").write_text(PYTHON)
        (swell.folder / "swell.toml").write_text(
            '[server]\npipelines = ["chains.toml", "chains.py"]\n'
            "[delivery]\nlease_s = 3\nheartbeat_s = 1\nbackoff_base_s = 0.1\n"
        )
        super().__init__(swell)

    def work(self, *models: str) -> subprocess.Popen[str]:
        return self.join(*(word for each in models for word in ("-m", f"models.py:{each}")))

    def submit(self, text: str, model: str = "demo/chain") -> str:
        return str(self.call("/v1/tasks", {"model": model, "input": {"text": text}})["id"])

    def states(self, task_id: str) -> list[str]:
        return [stage["state"] for stage in self.task(task_id)["stages"]]

    def ended(self, task_id: str) -> dict[str, Any]:
        live = ("queued", "running")
        self.until(lambda: self.task(task_id)["state"] not in live)
        return self.task(task_id)

    def events(
        self, task_id: str, heard: Callable[[], None] = lambda: None
    ) -> list[tuple[str, str]]:
        """Follow a task to its end; return (event, stage) of each that tells one.

        `heard` is called with each event.
        """
        request = urllib.request.Request(
            f"{self.url}/v1/tasks/{task_id}/events",
            headers={"authorization": f"Bearer {self.key}"},
        )
        found, kind = [], ""
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as stream:
            for line in stream:
                name, _, value = line.decode().strip().partition(": ")
                if name == "event":
                    kind = value
                    heard()
                elif name == "data" and "stage" in (told := json.loads(value)):
                    found.append((kind, told["stage"]))
        return found

    def ran(self) -> list[str]:
        path = self.swell.folder / "ran.txt"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(Swell(tmp_path))
    yield site
    site.end()


def test_each_stage_runs_where_its_model_is(site: Site) -> None:
    for model in ("english", "draw", "measure"):
        site.work(model)
    task_id = site.submit("slow")
    # It is drawn once its reader is there.
    events = site.events(task_id, (site.swell.folder / "quick").touch)
    task = site.task(task_id)
    assert task["state"] == "succeeded", task
    assert task["output"]["widths"] == [4]
    assert task["output"]["picture"] == task["artifacts"][0]["url"]
    with urllib.request.urlopen(task["artifacts"][0]["url"], timeout=PATIENCE_S) as picture:
        assert picture.read(4) in (b"RIFF", b"\x89PNG")
    assert len({stage["worker"] for stage in task["stages"]}) == 3
    # It came into the queue of each stage; what was before a reader was there is left out.
    assert ("started", "measure") in events
    assert site.ran() == ["english", "draw", "measure"]
    assert [stage["attempts"] for stage in task["stages"]] == [1, 1, 1]
    assert all(stage["timings"]["run_s"] > 0 for stage in task["stages"])


def test_a_worker_that_has_all_models_goes_on_without_the_queue(site: Site) -> None:
    site.work("english", "draw", "measure")
    task_id = site.submit("slow")
    site.until(lambda: site.states(task_id)[1] == "running")
    (site.swell.folder / "quick").touch()
    events = site.events(task_id)
    task = site.task(task_id)
    assert task["state"] == "succeeded", task
    assert len({stage["worker"] for stage in task["stages"]}) == 1
    # Between the end of one stage and the start of the next it never waited.
    assert [event for event in events if event[0] == "queued"] == []
    waited = [stage["timings"]["queue_s"] for stage in task["stages"]]
    assert waited[1:] == [0.0, 0.0]
    assert site.ran() == ["english", "draw", "measure"]


def test_what_a_killed_worker_had_is_done_by_another_from_that_stage_on(site: Site) -> None:
    site.work("english")
    first = site.work("draw")
    site.work("measure")
    task_id = site.submit("slow")
    site.until(lambda: site.ran() == ["english", "draw"])
    kill(first)
    (site.swell.folder / "quick").touch()
    site.work("draw")
    task = site.ended(task_id)
    assert task["state"] == "succeeded", task
    assert site.ran() == ["english", "draw", "draw", "measure"]
    assert [stage["attempts"] for stage in task["stages"]] == [1, 2, 1]


def test_a_backend_that_is_killed_between_stages_forgets_none(site: Site) -> None:
    worker = site.work("english")
    others = site.work("draw", "measure")
    ids = [site.submit(f"fox {n}") for n in range(8)] + [site.submit("slow")]
    site.until(lambda: site.ran().count("english") == 9)
    kill(site.backend)
    (site.swell.folder / "quick").touch()
    site.serve()
    for task_id in ids:
        task = site.ended(task_id)
        assert task["state"] == "succeeded", task
        assert [stage["state"] for stage in task["stages"]] == ["succeeded"] * 3
    # What was told before the kill is not done again; what was not told may be.
    assert 9 <= site.ran().count("english") <= 18
    assert worker.poll() is None
    assert others.poll() is None


def test_a_retry_goes_on_at_the_stage_that_failed(site: Site) -> None:
    site.work("english", "draw", "measure")
    task_id = site.submit("refused")
    task = site.ended(task_id)
    assert (task["state"], task["error"]["detail"]) == ("failed", "not this")
    assert site.states(task_id) == ["succeeded", "failed", "not_reached"]
    (site.swell.folder / "allowed").touch()
    again = site.call(f"/v1/tasks/{task_id}/retry", {})
    assert again["stages"][0]["state"] == "succeeded"
    ended = site.ended(again["id"])
    assert (ended["state"], ended["output"]["widths"]) == ("succeeded", [7])
    assert site.ran() == ["english", "draw", "draw", "measure"]


def test_a_pipeline_is_canceled_in_the_middle(site: Site) -> None:
    site.work("english", "draw", "measure")
    task_id = site.submit("slow")
    site.until(lambda: site.states(task_id)[1] == "running")
    site.until(lambda: site.ran() == ["english", "draw"])
    site.call(f"/v1/tasks/{task_id}/cancel", {})
    task = site.ended(task_id)
    assert task["state"] == "canceled"
    assert site.states(task_id) == ["succeeded", "canceled", "not_reached"]
    assert site.ran() == ["english", "draw"]
    # The worker is free again.
    other = site.submit("fox", "demo/short")
    ended = site.ended(other)
    assert (ended["state"], ended["version"]) == (
        "succeeded",
        site.call("/v1/models/demo/short")["version"],
    )


def test_a_stage_that_nobody_can_run_is_told_at_once(site: Site) -> None:
    site.work("english", "draw")
    with pytest.raises(urllib.error.HTTPError) as refused:
        site.submit("fox")
    assert refused.value.code == 404
    assert "demo/measure" in json.load(refused.value)["detail"]


def test_the_pipeline_that_comes_with_swell_draws_a_picture(tmp_path: Path) -> None:
    swell = Swell(tmp_path)
    models = ("translate", "prompt-check", "icons", "paint", "upscale", "safety")
    words = [word for each in models for word in ("-m", f"swell/{each}")]
    process = swell.start("up", "--json", "--port", "0", "--pipelines", "swell/picture", *words)
    try:
        ready = ready_line(process, tmp_path)

        def ask(**asked: Any) -> Any:
            body = {"model": "swell/picture", "input": asked}
            request = urllib.request.Request(
                ready["url"] + "/v1/tasks",
                data=json.dumps(body).encode(),
                headers={
                    "authorization": f"Bearer {ready['key']}",
                    "content-type": "application/json",
                    "prefer": "wait=60",
                },
            )
            with urllib.request.urlopen(request, timeout=2 * PATIENCE_S) as answer:
                return json.load(answer)

        task = ask(prompt="un gato azul", art="mosaic", large=True)
        assert task["state"] == "succeeded", task
        assert [stage["state"] for stage in task["stages"]] == ["succeeded"] * 6
        assert "blue" in task["stages"][0]["output"]["text"]
        [picture] = task["artifacts"]
        assert (picture["width"], picture["height"]) == (1024, 1024)
        assert task["output"] == picture["url"]
        refused = ask(prompt="a naked child")
        assert (refused["state"], refused["error"]["code"]) == ("failed", "rejected")
        assert [stage["state"] for stage in refused["stages"][2:]] == ["not_reached"] * 4
    finally:
        stop(process)
