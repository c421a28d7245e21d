"""VQGAN guided by CLIP from the command that adds it to the picture; needs torch."""

import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import psutil
import pytest

from commandline import Swell, ready_line, stop

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from guided_networks import save_networks
from hub_server import HubServer, Repository

MODEL = "test/guided"

#: Each process imports torch, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Swell, dict[str, Any]]]:
    """A Swell that serves such a model, added as people add it; and what it says when it is up."""
    # Small networks are the fastest with one thread, whoever else is at work.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        swell = Swell(tmp_path_factory.mktemp("swell"))
        save_networks(swell.folder / "dreams")
        told = swell.json("models", "add", "dreams", "--name", MODEL)
        assert told["family"] == "vqgan-clip"
        process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
        try:
            yield swell, ready_line(process, swell.folder) | {"pid": process.pid}
        finally:
            assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


def submit(swell: Swell, **asked: Any) -> str:
    values = {"prompt": "red fox | sea:-0.5", "width": 48, "height": 32, "cutouts": 4} | asked
    given = [part for name, value in values.items() for part in ("-i", f"{name}={value}")]
    return swell.ok("tasks", "submit", MODEL, *given).strip()


def test_the_same_seed_gives_the_same_picture_over_http(
    served: tuple[Swell, dict[str, Any]], tmp_path: Path
) -> None:
    swell, _ = served
    tasks = [submit(swell, steps=4, seed=seed) for seed in (5, 5, 6)]
    for task in tasks:
        swell.ok("tasks", "watch", task)
    shown = [swell.json("tasks", "show", task) for task in tasks]
    assert [each["state"] for each in shown] == ["succeeded"] * 3
    pictures = []
    for each in shown:
        [artifact] = each["artifacts"]
        assert (artifact["width"], artifact["height"]) == (48, 32)
        with urllib.request.urlopen(artifact["url"]) as answer:
            pictures.append(answer.read())
    assert pixels(pictures[0]) == pixels(pictures[1]) != pixels(pictures[2])


def test_what_is_out_of_bounds_is_refused_with_its_name(
    served: tuple[Swell, dict[str, Any]],
) -> None:
    swell, _ = served
    refused = swell.run("tasks", "submit", MODEL, "-i", "prompt=fox", "-i", "width=33")
    assert refused.returncode != 0
    assert "width" in refused.stderr


def test_it_is_added_from_a_repository_of_a_hub(swell: Swell, tmp_path: Path) -> None:
    commit = "5f3c" * 10
    folder = save_networks(tmp_path / "repository")
    with HubServer({"acme/Dreams": Repository({commit: folder}, {"main": commit})}).serve() as hub:
        done = swell.run("models", "add", "hf:acme/Dreams", "--json", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["model"], told["family"]) == ("acme/dreams", "vqgan-clip")
    small = ("-i", "prompt=fox", "-i", "width=32", "-i", "height=32", "-i", "steps=1")
    drawn = swell.json("run", told["file"], *small, "-i", "cutouts=1")
    assert drawn["seed"] >= 0


def test_previews_and_steps_are_told_and_a_cancelled_search_ends(
    served: tuple[Swell, dict[str, Any]],
) -> None:
    swell, ready = served
    task = submit(swell, steps=2000, width=96, height=96, cutouts=16)
    steps: list[int] = []
    kinds: list[str] = []
    searching: set[int] = set()
    for kind, data in events(ready, task):
        kinds.append(kind)
        if kind == "progress":
            steps.append(int(data["step"]))
            assert data["steps"] == 2000
        if kind == "preview" and kinds.count("preview") == 1:
            searching = processes(ready)
            swell.ok("tasks", "cancel", task)
    assert kinds[-1] == "canceled"
    assert steps == sorted(steps)
    assert 0 < steps[-1] < 2000
    assert swell.json("tasks", "show", task)["state"] == "canceled"
    # The process that searched goes on with others: it was not killed and loaded anew.
    swell.ok("tasks", "watch", submit(swell, steps=1))
    assert searching
    assert searching <= processes(ready)


def processes(ready: dict[str, Any]) -> set[int]:
    """Return the workers' processes, and those of their models."""
    return {each.pid for each in psutil.Process(ready["pid"]).children(recursive=True)}


def events(ready: dict[str, Any], task: str) -> Iterator[tuple[str, Any]]:
    """Follow a task; yield the kind and the data of each event."""
    request = urllib.request.Request(
        f"{ready['url']}/v1/tasks/{task}/events",
        headers={"Authorization": f"Bearer {ready['key']}"},
    )
    kind = ""
    with urllib.request.urlopen(request, timeout=60) as stream:
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def pixels(encoded: bytes) -> bytes:
    with PIL.Image.open(io.BytesIO(encoded)) as picture:
        return picture.tobytes()
