"""One small model of each family, added by the command and served together; needs torch.

Over HTTP each gives the picture that diffusers' own pipeline gives, and a LoRA changes it and back.
"""

import base64
import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import drawn

from commandline import Swell, ready_line, stop

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
import torch

import tiny_pipelines as tiny

#: Each process imports torch, on a machine that may be busy.
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]

STEPS, SEED, PROMPT = 4, 7, "a red fox"


@dataclass(frozen=True)
class Family:
    """A family's name, how a small one is made, and which of its parts takes LoRAs first."""

    name: str
    build: Callable[[Path], Path]
    network: str


def velocity(folder: Path) -> Path:
    return tiny.stable_diffusion(folder, tiny.ddim(prediction_type="v_prediction"))


def runge_kutta(folder: Path) -> Path:
    scheduler = diffusers.PNDMScheduler(**tiny.BETAS, steps_offset=1)
    return tiny.stable_diffusion(folder, scheduler)


FAMILIES = {
    "sd2": Family("stable-diffusion", velocity, "unet"),
    "xl": Family("stable-diffusion-xl", tiny.stable_diffusion_xl, "unet"),
    "sd3": Family("stable-diffusion-3", tiny.stable_diffusion_3, "transformer"),
    "flux": Family("flux", tiny.flux, "transformer"),
    "loop": Family("pipeline", runge_kutta, "unet"),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    with contextlib.redirect_stderr(io.StringIO()):
        return {name: family.build(folder / name) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def served(weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    """A Swell that serves them all from one data folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        swell = Swell(tmp_path_factory.mktemp("families"))
        for name, folder in weights.items():
            told = swell.json("models", "add", str(folder), "--name", f"test/{name}")
            assert (told["family"], told["in_steps"]) == (FAMILIES[name].name, name != "loop")
        process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
        try:
            ready_line(process, swell.folder)
            yield swell
        finally:
            assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


def asked(swell: Swell, model: str, **more: Any) -> Any:
    told = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "guidance": 5.0} | more
    return drawn(swell, model, **told)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_over_http_what_diffusers_draws(
    served: Swell, weights: dict[str, Path], name: str
) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(weights[name])
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        generator=torch.Generator("cpu").manual_seed(SEED),
    ).images[0]
    mine, other = asked(served, f"test/{name}"), np.asarray(theirs).astype(int)
    assert mine.shape == other.shape
    assert other.std() > 20
    assert np.abs(mine - other).max() <= 1


@pytest.mark.parametrize("has_mask", [False, True], ids=["start", "mask"])
def test_an_own_loop_draws_from_pictures_over_http_what_diffusers_draws(
    served: Swell, weights: dict[str, Path], has_mask: bool
) -> None:
    given = {"image": tiny.picture(side=32), "mask_image": tiny.mask(side=32)}
    for name, picture in given.items():
        picture.save(served.folder / f"{name}.png")
    told = {"image": f"@{served.folder / 'image.png'}", "strength": 0.7}
    if has_mask:
        told["mask"] = f"@{served.folder / 'mask_image.png'}"
    else:
        del given["mask_image"]
    kind = "Inpaint" if has_mask else "Img2Img"
    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_pretrained(weights["loop"])
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT,
        **given,
        strength=0.7,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        generator=torch.Generator("cpu").manual_seed(SEED),
        **({"width": 32, "height": 32} if has_mask else {}),
    ).images[0]
    mine, other = asked(served, "test/loop", **told), np.asarray(theirs).astype(int)
    assert mine.shape == other.shape
    assert np.abs(mine - other).max() <= 1
    assert np.abs(mine - asked(served, "test/loop")).max() > 3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_lora_of_a_task_changes_the_picture_and_is_gone_from_the_next(
    served: Swell, weights: dict[str, Path], name: str
) -> None:
    network = FAMILIES[name].network
    file = tiny.lora(served.folder / f"{name}.safetensors", weights[name], network=network)
    data = base64.b64encode(file.read_bytes()).decode()
    lora = f'["data:application/octet-stream;base64,{data}"]'
    plain = asked(served, f"test/{name}")
    inked = asked(served, f"test/{name}", loras=lora)
    assert np.abs(plain - inked).max() > 3
    assert np.array_equal(plain, asked(served, f"test/{name}"))
