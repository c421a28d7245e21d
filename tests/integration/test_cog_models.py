"""Models of cog, against cog's own server."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import psutil
import pytest
from worker_harness import dispatch, output_of, working

from conformance.dispatch import MemoryDispatch
from pages import blocks
from swell.core.errors import InvalidModel
from swell.engines import cog
from swell.engines.cog_server import ServerFailed, read_json
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.define import define
from swell.sdk.media import File
from swell.sdk.model_loader import load_models

__all__ = ["dispatch"]

#: Where `.ci/services` installs cog.
COG = Path(__file__).parents[2] / ".venv" / "clients" / "cog" / "bin"

RUNNER = """
import asyncio
import os
import time
from typing import Optional

import PIL.Image
from cog import BaseRunner, Input
from cog import Path as CogPath


class Runner(BaseRunner):
    def run(
        self,
        prompt: str = Input(min_length=1),
        steps: int = Input(default=2, ge=1, le=50),
        step_s: float = 0.01,
        style: str = Input(default="a", choices=["a", "b"]),
        image: Optional[CogPath] = Input(default=None),
        seed: int = Input(default=None),
    ) -> list[CogPath]:
        if prompt == "raise":
            raise ValueError("no such fox")
        if prompt == "die":
            os._exit(3)
        for step in range(1, steps + 1):
            time.sleep(step_s)
            print(f"{100 * step // steps:3d}%|{'#' * 10}| {step}/{steps}", flush=True)
        colour = "red" if image is None else PIL.Image.open(image).getpixel((0, 0))
        path = CogPath(f"/tmp/{os.getpid()}-{seed}.png")
        PIL.Image.new("RGB", (16, steps), colour).save(path)
        return [path]


class Together(BaseRunner):
    async def setup(self):
        self.here = 0

    async def run(self, prompt: str) -> str:
        # Nobody gets on before all three are here.
        self.here += 1
        for _ in range(200):
            if self.here >= 3:
                return prompt + "!"
            await asyncio.sleep(0.05)
        raise TimeoutError("the others did not come")


class Broken(BaseRunner):
    def setup(self):
        raise ValueError("no weights on purpose")

    def run(self, prompt: str) -> str:
        return prompt
"""

#: As cog writes it.
SCHEMA = {
    "openapi": "3.0.2",
    "info": {"title": "Foxes", "version": "0.1.0"},
    "paths": {},
    "components": {
        "schemas": {
            "Input": {
                "title": "Input",
                "type": "object",
                "required": ["prompt"],
                "properties": {
                    "prompt": {"title": "Prompt", "type": "string", "minLength": 1, "x-order": 0},
                    "steps": {
                        **{"title": "Steps", "type": "integer", "default": 2, "x-order": 1},
                        **{"minimum": 1, "maximum": 50},
                    },
                    "step_s": {"type": "number", "default": 0.01, "x-order": 2},
                    "style": {
                        "allOf": [{"$ref": "#/components/schemas/style"}],
                        "default": "a",
                        "x-order": 3,
                    },
                    "image": {"type": "string", "format": "uri", "nullable": True, "x-order": 4},
                    "seed": {"type": "integer", "nullable": True, "x-order": 5},
                },
            },
            "style": {"title": "style", "type": "string", "enum": ["a", "b"]},
            "Output": {"type": "array", "items": {"type": "string", "format": "uri"}},
        }
    },
}


class Ears:
    """Hears progress, and cancels when told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        self.is_over = threading.Event()

    def progress(self, done: int, total: int) -> None:
        self.told.append((done, total))

    def preview(self, make: Callable[[], Any]) -> None:
        pass

    def is_cancelled(self) -> bool:
        return self.is_over.is_set()

    def ready(self, index: int, file: Any) -> None:
        pass


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of cog, as its build leaves it."""
    if not (COG / "python").exists():
        if os.environ.get("CI"):
            pytest.fail("cog is not there: .ci/services")
        pytest.skip("cog is not there: .ci/services")
    folder = tmp_path_factory.mktemp("cog")
    (folder / "run.py").write_text(RUNNER)
    (folder / ".cog").mkdir()
    (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(SCHEMA))
    return folder


def variables(runner: str = "Runner") -> dict[str, str]:
    path = f"{COG}{os.pathsep}{os.environ['PATH']}"
    return {"COG_PREDICT_TYPE_STUB": f"run.py:{runner}", "PATH": path}


def foxes(folder: Path, runner: str = "Runner", **facts: Any) -> type[cog.CogModel]:
    command = str(COG / "python"), "-m", "cog.server.http"
    return cog.program("demo/foxes", *command, folder=str(folder), env=variables(runner), **facts)


@pytest.fixture(scope="module")
def model(project: Path) -> Iterator[cog.CogModel]:
    made = foxes(project)()
    made.load("cpu")
    yield made
    made.offload()


def item(model: cog.CogModel, ears: Ears | None = None, **asked: Any) -> Item[Any]:
    checked = define(type(model)).input_type.model_validate(asked)
    return Item(checked, seed=7, listener=ears or Ears())


def picture(colour: str) -> bytes:
    made = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), colour).save(made, "PNG")
    return made.getvalue()


def test_the_schema_of_the_image_is_that_of_the_model(project: Path) -> None:
    definition = define(foxes(project))
    told = definition.input_schema
    assert list(told["properties"]) == ["prompt", "steps", "step_s", "style", "image", "seed"]
    assert told["required"] == ["prompt"]
    assert told["properties"]["steps"]["maximum"] == 50
    assert told["properties"]["style"]["enum"] == ["a", "b"]
    assert told["properties"]["image"]["x-ui"]["widget"] == "image"
    assert definition.facts.description == "Foxes"
    assert definition.card().max_batch == 1


def test_a_picture_comes_back_for_an_input_with_a_file(model: cog.CogModel) -> None:
    ears = Ears()
    uri = f"data:image/png;base64,{base64.b64encode(picture('blue')).decode()}"
    asked = item(model, ears, prompt="a fox", steps=12, step_s=0.1, image=uri)
    [[made]] = model.run([asked])
    assert isinstance(made, File)
    assert made.content_type == "image/png"
    opened = PIL.Image.open(io.BytesIO(made.read()))
    assert (opened.size, opened.getpixel((0, 0))) == ((16, 12), (0, 0, 255))
    assert ears.told
    assert all(total == 12 for _, total in ears.told)


def test_what_it_refuses_and_what_it_fails_at_are_told_apart(model: cog.CogModel) -> None:
    [failed] = model.run([item(model, prompt="raise")])
    assert isinstance(failed, RuntimeError)
    assert "no such fox" in str(failed)
    wrong = item(model, prompt="a")
    wrong.input.__dict__["steps"] = 99
    [refused] = model.run([wrong])
    assert isinstance(refused, Reject)
    assert "steps: 99 is greater" in str(refused)


def test_a_cancelled_prediction_is_cancelled_there(model: cog.CogModel) -> None:
    ears = Ears()
    threading.Timer(0.5, ears.is_over.set).start()
    [ended] = model.run([item(model, ears, prompt="a", steps=50, step_s=1.2)])
    assert isinstance(ended, Cancelled)
    began_s = time.monotonic()
    [made] = model.run([item(model, prompt="a")])
    assert len(made) == 1
    assert time.monotonic() - began_s < 30, "it went on with what was cancelled"


def test_one_that_is_busy_is_waited_for(model: cog.CogModel) -> None:
    results: list[Any] = []
    long = item(model, prompt="a", steps=4, step_s=0.2)
    other = threading.Thread(target=lambda: results.extend(model.run([long])))
    other.start()
    time.sleep(0.2)
    results += model.run([item(model, prompt="b")])
    other.join()
    assert [len(each) for each in results] == [1, 1]


def test_one_that_dies_fails_its_task_and_is_started_again(model: cog.CogModel) -> None:
    [died] = model.run([item(model, prompt="die")])
    assert isinstance(died, RuntimeError)
    [made] = model.run([item(model, prompt="a")])
    assert len(made) == 1


def test_a_server_that_runs_already_is_used_and_left_alone(
    model: cog.CogModel, project: Path
) -> None:
    url = model._server.url
    theirs = cog.server("demo/theirs", url + "/")
    assert define(theirs).input_schema["properties"]["steps"]["maximum"] == 50
    used = theirs()
    used.load("cpu")
    [made] = used.run([item(used, prompt="a")])
    assert len(made) == 1
    used.offload()
    assert read_json(f"{url}/health-check")["status"] == "READY"
    with pytest.raises(InvalidModel, match="start the server first"):
        cog.server("demo/none", "http://127.0.0.1:9")


def test_one_that_left_the_device_ends_and_comes_back(project: Path) -> None:
    turns = foxes(project)()
    turns.load("cpu")
    url = turns._server.url
    assert turns.offload() == 0
    assert read_json(f"{url}/health-check") is None
    turns.onload()
    [made] = turns.run([item(turns, prompt="a")])
    assert len(made) == 1
    turns.offload()


def a_project_of_texts(folder: Path) -> Path:
    """Write a project that takes a prompt and gives a text."""
    schemas = {
        "Input": {
            "type": "object",
            "required": ["prompt"],
            "properties": {"prompt": {"type": "string", "minLength": 1}},
        },
        "Output": {"type": "string"},
    }
    told = SCHEMA | {"components": {"schemas": schemas}}
    (folder / "run.py").write_text(RUNNER)
    (folder / ".cog").mkdir()
    (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(told))
    return folder


def test_as_many_predictions_run_at_once_as_it_was_built_for(project: Path, tmp_path: Path) -> None:
    built = foxes(a_project_of_texts(tmp_path), "Together", concurrency=3)
    assert define(built).card().max_batch == 3
    together = built()
    together.load("cpu")
    try:
        made = together.run([item(together, prompt=f"p{n}") for n in range(3)])
        assert made == ["p0!", "p1!", "p2!"]
        # What finds no room waits for it.
        made = together.run([item(together, prompt=f"p{n}") for n in range(5)])
        assert made == [f"p{n}!" for n in range(5)]
    finally:
        together.offload()


@pytest.mark.parametrize(
    ("variables", "label", "given", "most"),
    [
        ([], "", {}, 1),
        (["PATH=/bin", "COG_MAX_CONCURRENCY=4"], "", {}, 4),
        (["COG_MAX_CONCURRENCY=many"], "", {}, 1),
        ([], '{"concurrency": {"max": 5}}', {}, 5),
        (["COG_MAX_CONCURRENCY=4"], '{"concurrency": {"max": 5}}', {}, 4),
        ([], "no json", {}, 1),
        (["COG_MAX_CONCURRENCY=4"], "", {"concurrency": 2}, 2),
    ],
)
def test_an_image_tells_how_many_predictions_it_makes_at_once(
    tmp_path: Path, variables: list[str], label: str, given: dict[str, int], most: int
) -> None:
    labels = {"run.cog.openapi_schema": json.dumps(SCHEMA), "run.cog.config": label}
    told = [{"Id": "sha256:1", "Config": {"Labels": labels, "Env": variables}}]
    engine = tmp_path / "podman"
    engine.write_text(f"#!{sys.executable}\nprint({json.dumps(told)!r})\n")
    engine.chmod(0o755)
    how = cog.ContainerOptions(engine=str(engine))
    made = cog.image("demo/foxes", "foxes:1", how, **given)
    assert define(made).card().max_batch == most


def test_a_setup_that_fails_says_why(project: Path) -> None:
    broken = foxes(project, "Broken")()
    with pytest.raises(ServerFailed, match="no weights on purpose"):
        broken.load("cpu")


def test_a_program_that_ends_says_what_it_said(project: Path) -> None:
    talk = "import sys; print('no such module'); sys.exit(4)"
    facts = {"folder": str(project)}
    ended = cog.program("demo/ended", sys.executable, "-c", talk, **facts)()
    with pytest.raises(ServerFailed, match="code 4: no such module"):
        ended.load("cpu")


def test_a_file_that_names_models_of_cog_and_ones_own_has_both(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    path = tmp_path / "both.py"
    path.write_text(
        textwrap.dedent(
            f"""
            from pydantic import BaseModel
            import swell
            from swell.engines import cog

            Theirs = cog.program("demo/theirs", "true", schema_file={str(schema)!r})

            class Mine(swell.Model):
                name = "demo/mine"
                class Input(BaseModel):
                    pass
                def run(self, items):
                    return ["" for _ in items]
            """
        )
    )
    found = {each.name: each for each in load_models(str(path))}
    assert set(found) == {"demo/theirs", "demo/mine"}
    assert found["demo/theirs"].source == path


def test_whatever_changes_what_a_program_does_makes_another_version(tmp_path: Path) -> None:
    folder = tmp_path / "third"
    (folder / ".cog").mkdir(parents=True)
    (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(SCHEMA))
    (folder / "run.py").write_text("a")

    def version(*command: str, **env: str) -> str:
        return define(cog.program("demo/third", *command, folder=str(folder), env=env)).version()

    first = version("run")
    assert version("run") == first
    assert version("run", "--fast") != first
    assert version("run", STEPS="4") != first
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "run.pyc").write_text("b")
    assert version("run") == first
    (folder / "run.py").write_text("b")
    assert version("run") != first


def test_a_server_ends_with_the_process_that_started_it(project: Path, tmp_path: Path) -> None:
    script = tmp_path / "starts.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import time
            from swell.engines import cog
            made = cog.program("demo/foxes", {str(COG / "python")!r}, "-m", "cog.server.http",
                               folder={str(project)!r}, env={variables()!r})()
            made.load("cpu")
            print(made._server._running.process.pid, flush=True)
            time.sleep(60)
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    _, left = psutil.wait_procs([child], timeout=10)
    assert not left


BLOCKS = blocks("docs/models/cog.md")

IMAGES = ["foxes:1", *re.findall(r'"(registry\.example/[^"]+)"', "".join(BLOCKS))]

#: An engine of containers that runs cog's server as a process.
ENGINE = """#!{python}
import json, os, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps(words), file=log)
if words[:2] == ["image", "inspect"]:
    if words[2] not in {images!r}:
        sys.exit("no such image")
    schema = open({schema!r}).read()
    labels = {{"run.cog.openapi_schema": schema}}
    print(json.dumps([{{"Id": "sha256:1", "Config": {{"Labels": labels}}}}]))
elif words[0] == "pull":
    sys.exit("manifest unknown")
elif words[0] == "run":
    port = words[words.index("--publish") + 1].split(":")[1]
    os.environ.update(PORT=port)
    os.chdir({folder!r})
    os.execv({cog!r}, [{cog!r}, "-m", "cog.server.http"])
"""


@pytest.fixture
def engine(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only `podman` here; beside it is a log of what it was told."""
    made = tmp_path / "podman"
    made.write_text(
        ENGINE.format(
            python=sys.executable,
            log=str(tmp_path / "log"),
            images=IMAGES,
            schema=str(project / ".cog" / "openapi_schema.json"),
            folder=str(project),
            cog=str(COG / "python"),
        )
    )
    made.chmod(0o755)
    monkeypatch.setenv("COG_PREDICT_TYPE_STUB", "run.py:Runner")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{COG}{os.pathsep}{os.environ['PATH']}")
    return made


def told(engine: Path, word: str) -> list[str]:
    """Return the one command that it was told with this word."""
    lines = engine.with_name("log").read_text().splitlines()
    [found] = [command for command in map(json.loads, lines) if command[0] == word]
    return list(found)


async def test_an_image_is_served_by_a_worker(
    engine: Path, tmp_path: Path, dispatch: MemoryDispatch
) -> None:
    models = tmp_path / "models.py"
    models.write_text(
        textwrap.dedent(
            """
            from swell.engines import cog

            how = cog.ContainerOptions(
                engine="podman", env={"HF_TOKEN": "canary"}, volumes=("/a:/b",)
            )
            Foxes = cog.image("demo/foxes", "foxes:1", how)
            """
        )
    )
    [definition] = load_models(str(models))
    assert definition.input_schema["x-cog-image"] == "sha256:1"
    async with working(dispatch, str(models)):
        task = await dispatch.ended(await dispatch.submit("demo/foxes", {"prompt": "a"}, seed=3))
    assert output_of(task) == [{"$artifact": 0}]
    assert (task.artifacts[0].content_type, task.artifacts[0].width) == ("image/png", 16)
    run = told(engine, "run")
    assert run[1:3] == ["--rm", "--name"]
    assert run[run.index("--publish") + 1].startswith("127.0.0.1:")
    assert run[-5:] == ["--env", "HF_TOKEN", "--volume", "/a:/b", "foxes:1"]
    assert "canary" not in (tmp_path / "log").read_text()
    with pytest.raises(InvalidModel, match="manifest unknown"):
        cog.image("demo/none", "none:1", cog.ContainerOptions(engine="podman"))
    assert shutil.which("podman") == str(engine)


async def test_the_three_ways_of_the_page_are_served_by_a_worker(
    engine: Path,
    model: cog.CogModel,
    tmp_path: Path,
    dispatch: MemoryDispatch,
    monkeypatch: pytest.MonkeyPatch,
    project: Path,
) -> None:
    lines, there = BLOCKS[0], "http://127.0.0.1:5000"
    assert there in lines
    (tmp_path / "theirs.py").write_text(lines.replace(there, model._server.url))
    (tmp_path / "third").symlink_to(project)
    monkeypatch.chdir(tmp_path)
    names = ["owner/name", "owner/other", "owner/third"]
    async with working(dispatch, "theirs.py"):
        for name in names:
            task = await dispatch.ended(await dispatch.submit(name, {"prompt": "a"}, seed=3))
            assert output_of(task) == [{"$artifact": 0}], name
    assert told(engine, "run")[-1] == IMAGES[1]


async def test_the_options_of_the_page_reach_the_container(
    engine: Path, tmp_path: Path, dispatch: MemoryDispatch
) -> None:
    (tmp_path / "theirs.py").write_text(f"from swell.engines import cog\n{BLOCKS[1]}")
    async with working(dispatch, str(tmp_path / "theirs.py")):
        task = await dispatch.ended(await dispatch.submit("owner/name", {"prompt": "a"}, seed=3))
    assert output_of(task) == [{"$artifact": 0}]
    run = told(engine, "run")
    assert " ".join(run[run.index("HF_HOME") - 1 :]) == (
        "--env HF_HOME --env-file /run/secrets/cog.env --volume /srv/weights:/cache --memory=32g "
        "registry.example/owner/name:1"
    )
    assert "nvidia.com/gpu" not in " ".join(run), "the worker has none"
