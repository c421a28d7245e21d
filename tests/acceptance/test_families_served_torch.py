"""Models of diffusers from the command that adds them to the picture over HTTP; needs torch."""

import base64
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from drawn import done, drawn, fetched

from commandline import Swell, ready_line, stop

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
import torch

import tiny_pipelines as tiny
from hub_server import HubServer, Repository
from swell.models.pictures import sample
from swell.sdk.media import Image
from swell_models.added_portraits import FaceFinder, read_scenarios

#: Each process imports torch, on a machine that may be busy.
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with contextlib.redirect_stderr(io.StringIO()):
        return tiny.stable_diffusion(tmp_path_factory.mktemp("weights") / "dreams")


@pytest.fixture(scope="module")
def served(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    """A Swell that serves two models that were added, and one that is named."""
    # Small networks are the fastest with one thread, whoever else is at work.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        swell = Swell(tmp_path_factory.mktemp("swell"))
        ink = tiny.lora(swell.folder / "ink.safetensors", weights)
        told = swell.json("models", "add", str(weights), "--name", "test/dreams")
        assert (told["family"], told["in_steps"]) == ("stable-diffusion", True)
        swell.json("models", "add", str(weights), "--name", "test/inked", "--lora", str(ink))
        adapter = tiny.ip_adapter(swell.folder / "adapter", weights, "plus")
        portraits = ("--portraits", "--ip-adapter", str(adapter))
        swell.json("models", "add", str(weights), "--name", "test/faces", *portraits)
        process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
        try:
            ready_line(process, swell.folder)
            yield swell
        finally:
            assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


def test_a_picture_over_http_is_the_one_that_diffusers_draws(served: Swell, weights: Path) -> None:
    asked = {"prompt": "a red fox", "negative_prompt": "a dog", "seed": 7, "steps": 5}
    mine = drawn(served, "test/dreams", **asked, guidance=6.0)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(weights)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red fox",
        negative_prompt="a dog",
        num_inference_steps=5,
        guidance_scale=6.0,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    assert np.abs(mine - np.asarray(theirs)).max() <= 1
    assert np.abs(mine - drawn(served, "test/inked", **asked, guidance=6.0)).max() > 3


def test_one_picture_of_a_face_becomes_a_pack_over_http(served: Swell, weights: Path) -> None:
    """Asked as `swell/portraits` is; each is diffusers' picture of prompt, face and next seed."""
    scenarios = ["snow", "portrait of a chef in a kitchen"]
    asked = {"image": sample(), "scenarios": json.dumps(scenarios), "steps": 4, "guidance": 5.0}
    shown = done(served, "test/faces", **asked, seed=7)
    assert shown["output"] == [artifact["url"] for artifact in shown["artifacts"]]
    assert len(shown["output"]) == 2
    pipeline = diffusers.DiffusionPipeline.from_pretrained(weights)
    folder = served.folder / "adapter"
    pipeline.load_ip_adapter(str(folder), subfolder="", weight_name="ip-adapter.safetensors")
    pipeline.set_ip_adapter_scale(0.6)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [read_scenarios()["snow"].prompt, scenarios[1]]
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(sample().partition(",")[2])))
    for number, (prompt, url) in enumerate(zip(prompts, shown["output"], strict=True)):
        theirs = pipeline(
            prompt,
            ip_adapter_image=FaceFinder()(Image(picture)),
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=torch.Generator("cpu").manual_seed(7 + number),
        ).images[0]
        assert np.abs(fetched(url) - np.asarray(theirs)).max() <= 1


def test_a_picture_without_a_face_fails_the_task_and_says_what_to_give(served: Swell) -> None:
    file = served.folder / "flat.png"
    PIL.Image.new("RGB", (96, 96), "grey").save(file)
    task = served.ok("tasks", "submit", "test/faces", "-i", f"image=@{file}").strip()
    served.run("tasks", "watch", task)
    error = served.json("tasks", "show", task)["error"]
    assert error["code"] == "rejected"
    assert "No face found. Use a well-lit picture" in error["detail"]


def test_all_models_are_there_and_what_is_removed_is_gone_with_the_next_start(
    served: Swell,
) -> None:
    names = {card["name"] for card in served.json("models", "ls")}
    assert names == {"demo/upper", "test/dreams", "test/faces", "test/inked"}
    file = served.folder / ".swell" / "models" / "test--gone.toml"
    file.write_text((file.parent / "test--dreams.toml").read_text())
    served.ok("models", "remove", "test/gone")
    assert not file.exists()
    refused = served.run("models", "remove", "test/gone")
    assert refused.returncode != 0
    assert "test/dreams" in refused.stderr


def test_a_model_comes_from_a_repository_of_a_hub_without_its_pickles(
    swell: Swell, weights: Path, tmp_path: Path
) -> None:
    commit = "5f3c" * 10
    repository = tmp_path / "repository"
    for path in weights.rglob("*.*"):
        target = repository / path.relative_to(weights)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    half = "diffusion_pytorch_model.fp16.safetensors"
    whole = repository / "unet" / "diffusion_pytorch_model.safetensors"
    (repository / "unet" / half).write_bytes(whole.read_bytes())
    alone = repository / "vae" / "diffusion_pytorch_model.safetensors"
    alone.rename(alone.with_name(half))
    only = repository / "text_encoder" / "model.safetensors"
    only.rename(only.with_name("model.fp16.safetensors"))
    (repository / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (repository / "dreams-whole.safetensors").write_bytes(b"what nobody needs")
    hub = HubServer({"acme/Dreams": Repository({commit: repository}, {"main": commit})})
    with hub.serve():
        done = swell.run("models", "add", "hf:acme/Dreams", "--json", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["model"], told["family"]) == ("acme/dreams", "stable-diffusion")
    entry = Path(told["file"]).read_text()
    assert f"hf://acme/Dreams@{commit}" in entry
    assert "unet/diffusion_pytorch_model.safetensors" not in entry
    assert f"unet/{half}" in entry
    assert f"vae/{half}" in entry
    assert ".bin" not in entry
    assert "dreams-whole" not in entry
    made = swell.json("run", told["file"], "-i", "prompt=a fox", "-i", "steps=1")
    assert made["seed"] >= 0
