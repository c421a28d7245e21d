"""What each family must agree on with diffusers: the same folder, the same input, the same seed.

A case saves a small pipeline to disk, adds it with the command `swell models add`, loads what that
wrote, draws with the engine, and has diffusers' own pipeline draw the same.
"""

import contextlib
import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import tiny_pipelines as tiny
from swell.cli import app
from swell.models.pictures import sample
from swell.sdk.context import Item
from swell.sdk.define import Definition
from swell.sdk.media import Image
from swell.sdk.model import Model
from swell.sdk.model_loader import load_models
from swell_models.added_portraits import FaceFinder, read_scenarios

Pixels = NDArray[np.uint8]

PROMPT, UNWANTED, SEED = "a red fox", "a dog", 11

SCENARIOS = ["forest", "portrait of a chef in a kitchen", "space"]


def add(source: Path, data: Path, name: str, *options: str) -> Path:
    """Run `swell models add`, and return the file that it wrote."""
    command = [
        "models",
        "add",
        str(source),
        "--name",
        name,
        "--data",
        str(data),
        "--json",
        *options,
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return Path(json.loads(result.stdout)["file"])


def loaded(file: Path) -> tuple[Definition, Any]:
    """Return a definition and its model, loaded on the CPU."""
    [definition] = load_models(str(file))
    model = definition.make()
    model.load("cpu")
    return definition, model


def draw(definition: Definition, model: Model, *, seed: int = SEED, **asked: Any) -> Pixels:
    """Draw one picture, its input checked as a worker checks it."""
    given = definition.input_type(**{"prompt": PROMPT, **asked})
    [result] = model.run([Item(given, seed=seed)])
    if isinstance(result, Exception):
        raise result
    return np.asarray(result.pil())


@contextlib.contextmanager
def overflowing(vae: Any) -> Iterator[None]:
    """Have a decoder give NaN for a colour, as one in half precision may."""
    bias = vae.decoder.conv_out.bias.data
    kept = bias.clone()
    bias[0] = float("nan")
    yield
    bias.copy_(kept)


def generator(seed: int = SEED) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


@dataclass(frozen=True)
class Case:
    """One thing that a family can do."""

    name: str
    build: Callable[[Path], Path]
    #: Pipeline of diffusers that draws the same; its own where None.
    pipeline: str = ""
    #: What Swell is asked, and what diffusers is given, beside the prompt and the seed.
    asked: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    #: Options of `swell models add`; a folder's name in braces is where `beside` made it.
    options: tuple[str, ...] = ()
    #: What is made beside the model: name → function of its folder and of the model's.
    beside: Mapping[str, Callable[[Path, Path], Path]] = field(default_factory=dict)
    #: Whether the engine draws it, step by step.
    in_steps: bool = True
    #: Scheduler that diffusers takes over from the folder's.
    scheduler: tuple[str, Mapping[str, Any]] = ("", {})

    def run(self, folder: Path) -> tuple[Pixels, Pixels]:
        """Return Swell's picture and diffusers'."""
        with contextlib.redirect_stderr(io.StringIO()):
            model_folder = self.build(folder / "weights")
            made = {name: make(folder / name, model_folder) for name, make in self.beside.items()}
            options = [each.format(**made) for each in self.options]
            file = add(model_folder, folder / "data", "test/it", *options)
            definition, model = loaded(file)
            assert (definition.facts.step_rows > 0) == self.in_steps
            mine = draw(definition, model, **self.asked)
            return mine, self.reference(model_folder, made)

    def reference(self, folder: Path, made: Mapping[str, Path]) -> Pixels:
        index = json.loads((folder / "model_index.json").read_text())
        kind = getattr(diffusers, self.pipeline or index["_class_name"])
        extra: dict[str, Any] = {}
        if "net" in made:
            extra["controlnet"] = diffusers.ControlNetModel.from_pretrained(made["net"])
        # What a folder is without, diffusers wants to be told.
        missing = {part: None for part, told in index.items() if told == [None, None]}
        pipeline = kind.from_pretrained(folder, **extra, **missing)
        name, changes = self.scheduler
        if name:
            pipeline.scheduler = getattr(diffusers, name).from_config(
                pipeline.scheduler.config, **changes
            )
        if "adapter" in made:
            pipeline.load_ip_adapter(
                str(made["adapter"].parent), subfolder="", weight_name=made["adapter"].name
            )
            pipeline.set_ip_adapter_scale(self.asked["reference_scale"])
        pipeline.set_progress_bar_config(disable=True)
        given = {"prompt": PROMPT, "generator": generator(), **self.given}
        return np.asarray(pipeline(**given).images[0])


@dataclass(frozen=True)
class Pack(Case):
    """Portraits: the pack below each other, and what diffusers draws of each scenario's prompt."""

    def run(self, folder: Path) -> tuple[Pixels, Pixels]:
        with contextlib.redirect_stderr(io.StringIO()):
            weights = self.build(folder / "weights")
            made = {name: make(folder / name, weights) for name, make in self.beside.items()}
            options = [each.format(**made) for each in self.options]
            file = add(weights, folder / "data", "test/it", "--portraits", *options)
            definition, model = loaded(file)
            asked = definition.input_type(image=sample(), scenarios=SCENARIOS, **self.asked)
            [pack] = model.run([Item(asked, seed=SEED)])
            if isinstance(pack, Exception):
                raise pack
            mine = [np.asarray(portrait.pil()) for portrait in pack]
            theirs = [
                self.portrait(number, asked, weights, made) for number in range(len(SCENARIOS))
            ]
            return np.concatenate(mine), np.concatenate(theirs)

    def portrait(self, number: int, asked: Any, folder: Path, made: Mapping[str, Path]) -> Pixels:
        known, scenario = read_scenarios(), SCENARIOS[number]
        told = {
            "prompt": known[scenario].prompt if scenario in known else scenario,
            "ip_adapter_image": FaceFinder()(asked.image),
            "generator": generator(SEED + number),
        }
        drawn: Pixels = replace(self, given={**self.given, **told}).reference(folder, made)
        return drawn


def guided(steps: int = 6, guidance: float = 6.0) -> dict[str, Mapping[str, Any]]:
    """What is asked of a model with guidance by a second row, and what diffusers is given."""
    return {
        "asked": {"negative_prompt": UNWANTED, "steps": steps, "guidance": guidance},
        "given": {
            "negative_prompt": UNWANTED, "num_inference_steps": steps, "guidance_scale": guidance
        },
    }  # fmt: skip


def plain(steps: int, guidance: float, **more: Any) -> dict[str, Mapping[str, Any]]:
    return {
        "asked": {"steps": steps, "guidance": guidance},
        "given": {"num_inference_steps": steps, "guidance_scale": guidance, **more},
    }


def pictured(asked: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    numbers = guided(7, 5.0)
    return {"asked": {**numbers["asked"], **asked}, "given": {**numbers["given"], **given}}


PHOTO, MASK = tiny.picture(), tiny.mask()
SMALL = PHOTO.resize((32, 32))
SIZE = {"width": 32, "height": 32}
LONG = {"width": 64, "height": 96}


def started(strength: float, photo: Any = SMALL) -> dict[str, Mapping[str, Any]]:
    return pictured(
        {"image": Image(photo), "strength": strength}, {"image": photo, "strength": strength}
    )


def masked(strength: float) -> dict[str, Mapping[str, Any]]:
    return pictured(
        {"image": Image(PHOTO), "mask": Image(MASK), "strength": strength},
        {"image": PHOTO, "mask_image": MASK, "strength": strength, **SIZE},
    )


def controlled(scale: float) -> dict[str, Mapping[str, Any]]:
    return pictured(
        {"control": Image(PHOTO), "control_scale": scale},
        {"image": PHOTO, "controlnet_conditioning_scale": scale, **SIZE},
    )


def referred(scale: float) -> dict[str, Mapping[str, Any]]:
    return pictured(
        {"reference": Image(PHOTO), "reference_scale": scale}, {"ip_adapter_image": PHOTO}
    )


def portrayed(scale: float) -> dict[str, Mapping[str, Any]]:
    return pictured({"reference_scale": scale}, {})


def sd(scheduler: Callable[[], Any] = tiny.euler, **extra: Any) -> Callable[[Path], Path]:
    return lambda folder: tiny.stable_diffusion(folder, scheduler(), **extra)


def rewritten(scheduler: Callable[[], Any], **settings: Any) -> Callable[[Path], Path]:
    """The same with settings as older folders have them, which pipelines mend when they save."""

    def build(folder: Path) -> Path:
        sd(scheduler)(folder)
        config = folder / "scheduler" / "scheduler_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | settings))
        return folder

    return build


def as_consistency_model(folder: Path) -> Path:
    """Its pipeline takes the scheduler as it is."""
    rewritten(tiny.ddim, clip_sample=True, steps_offset=0)(folder)
    path = folder / "model_index.json"
    told = json.loads(path.read_text()) | {"_class_name": "LatentConsistencyModelPipeline"}
    told["scheduler"] = ["diffusers", "LCMScheduler"]
    path.write_text(json.dumps(told))
    config = folder / "scheduler" / "scheduler_config.json"
    told = json.loads(config.read_text()) | {"_class_name": "LCMScheduler"}
    config.write_text(json.dumps(told))
    network = tiny.unet(time_cond_proj_dim=16)
    network.save_pretrained(folder / "unet")
    return folder


def otherwise_scheduled(folder: Path) -> Path:
    """Its scheduler's own file is that of another class."""
    sd()(folder)
    path = folder / "model_index.json"
    told = json.loads(path.read_text())
    told["scheduler"] = ["diffusers", "EulerAncestralDiscreteScheduler"]
    path.write_text(json.dumps(told))
    return folder


# Made when they are needed: some of them warn.


def ancestral() -> Any:
    return diffusers.EulerAncestralDiscreteScheduler(**tiny.BETAS, timestep_spacing="trailing")


def karras() -> Any:
    return diffusers.DPMSolverMultistepScheduler(**tiny.BETAS, use_karras_sigmas=True)


def pndm() -> Any:
    return diffusers.PNDMScheduler(**tiny.BETAS, skip_prk_steps=True, steps_offset=1)


def runge_kutta() -> Any:
    return diffusers.PNDMScheduler(**tiny.BETAS, steps_offset=1)


def velocity() -> Any:
    return tiny.ddim(prediction_type="v_prediction")


def euler_velocity() -> Any:
    return tiny.euler(prediction_type="v_prediction")


def no_t5(folder: Path) -> Path:
    return tiny.stable_diffusion_3(folder, with_t5=False)


def schnell(folder: Path) -> Path:
    return tiny.flux(folder, hears_guidance=False)


CONTROL = {"beside": {"net": tiny.control_net}, "options": ("--controlnet", "{net}")}


def pooled_net(folder: Path, model: Path) -> Path:
    """Make a control net that says the same of each place."""
    file = tiny.control_net(folder, model) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"global_pool_conditions": True}))
    return folder


POOLED = {"beside": {"net": pooled_net}, "options": ("--controlnet", "{net}")}


def adapted(kind: str = "plain") -> dict[str, Any]:
    """A case with a picture adapter of this kind."""
    return {
        "beside": {"adapter": functools.partial(tiny.ip_adapter, kind=kind)},
        "options": ("--ip-adapter", "{adapter}"),
    }


START, MASKED = "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"
XL_START, XL_MASKED = "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"
CONTROLLED = "StableDiffusionControlNetPipeline"

CASES = [
    Case("sd 1, euler", sd(), **guided()),
    Case("sd 1, ddim", sd(tiny.ddim), **guided()),
    Case("sd 1, ancestral", sd(ancestral), **guided()),
    Case("sd 1, dpm++ 2m karras", sd(karras), **guided()),
    Case("sd 1, pndm", sd(pndm), **guided()),
    Case("sd 1, pndm in its own loop", sd(runge_kutta), in_steps=False, **guided()),
    Case("sd 2, v by ddim", sd(velocity), **guided()),
    Case("sd 2, v by euler", sd(euler_velocity), **guided()),
    Case(
        "sd 1, another sampler",
        sd(pndm),
        options=("--sampler", "dpmpp_2m"),
        scheduler=("DPMSolverMultistepScheduler", {}),
        **guided(),
    ),
    Case(
        "lcm",
        sd(pndm),
        options=("--few-step", "lcm"),
        scheduler=("LCMScheduler", {}),
        **plain(4, 1.0),
    ),
    Case(
        "lcm, told its guidance", sd(diffusers.LCMScheduler, time_cond_proj_dim=16), **plain(4, 8.5)
    ),
    Case("sdxl", tiny.stable_diffusion_xl, **guided()),
    Case("sdxl, nothing unwanted", tiny.stable_diffusion_xl, **plain(6, 6.0)),
    Case(
        "sdxl turbo",
        tiny.stable_diffusion_xl,
        options=("--few-step", "turbo"),
        scheduler=("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
        **plain(2, 0.0),
    ),
    Case(
        "sdxl lightning",
        tiny.stable_diffusion_xl,
        options=("--few-step", "lightning"),
        scheduler=("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
        **plain(4, 0.0),
    ),
    Case("sd 3", tiny.stable_diffusion_3, **guided()),
    Case("sd 3 without t5", no_t5, **guided()),
    Case(
        "flux",
        tiny.flux,
        asked={"steps": 5, "guidance": 3.5, **LONG},
        given={"num_inference_steps": 5, "guidance_scale": 3.5, **LONG},
    ),
    Case(
        "flux schnell",
        schnell,
        asked=LONG,
        given={"num_inference_steps": 4, "guidance_scale": 0.0, **LONG},
    ),
    Case("start, sd 1", sd(), START, **started(0.6)),
    Case("start, sd 1 ancestral", sd(ancestral), START, **started(0.8)),
    Case("start, sd 1 pndm", sd(pndm), START, **started(0.6)),
    Case("start, sd 1 pndm, less than a step", sd(pndm), START, **started(0.1)),
    Case("sd 1, pndm without an offset", rewritten(pndm, steps_offset=0), **guided()),
    Case("sd 1, euler without an offset", rewritten(tiny.euler, steps_offset=0), **guided()),
    Case("sd 1, ddim that clips", rewritten(tiny.ddim, clip_sample=True), **guided()),
    Case(
        "start, sd 1 ddim that clips", rewritten(tiny.ddim, clip_sample=True), START, **started(0.6)
    ),
    Case("mask, pndm without an offset", rewritten(pndm, steps_offset=0), MASKED, **masked(0.6)),
    Case("lcm that clips", as_consistency_model, **plain(4, 8.5)),
    Case(
        "start, lcm",
        as_consistency_model,
        "LatentConsistencyModelImg2ImgPipeline",
        asked={"steps": 4, "guidance": 8.5, "image": Image(SMALL), "strength": 0.5},
        given={
            "num_inference_steps": 4,
            "guidance_scale": 8.5,
            "image": SMALL,
            "strength": 0.5,
        },
    ),
    Case("a scheduler that the index alone says", otherwise_scheduled, **guided()),
    Case("start, sdxl", tiny.stable_diffusion_xl, XL_START, **started(0.6)),
    Case(
        "start, sd 3",
        tiny.stable_diffusion_3,
        "StableDiffusion3Img2ImgPipeline",
        **{key: {**value, **SIZE} for key, value in started(0.55).items()},
    ),
    Case(
        "start, flux",
        schnell,
        "FluxImg2ImgPipeline",
        asked={"steps": 10, "image": Image(PHOTO), "strength": 0.55, **LONG},
        given={
            "num_inference_steps": 10,
            "image": PHOTO,
            "strength": 0.55,
            "guidance_scale": 0.0,
            **LONG,
        },
    ),
    Case("mask, 4 channels", sd(), MASKED, **masked(0.6)),
    Case("mask, 4 channels, from noise", sd(karras), MASKED, **masked(1.0)),
    Case("mask, 4 channels, ancestral", sd(ancestral), MASKED, **masked(0.8)),
    Case("mask, 4 channels, pndm", sd(pndm), MASKED, **masked(0.6)),
    Case("mask, 4 channels, pndm from noise", sd(pndm), MASKED, **masked(1.0)),
    Case("mask, sdxl", tiny.stable_diffusion_xl, XL_MASKED, **masked(0.7)),
    Case("mask, 9 channels", sd(channels=9), **masked(0.6)),
    Case("mask, 9 channels, from noise", sd(ancestral, channels=9), **masked(1.0)),
    Case("control, sd 1", sd(), CONTROLLED, **controlled(0.7), **CONTROL),
    Case("control, sd 1 pooled", sd(), CONTROLLED, **controlled(0.7), **POOLED),
    Case(
        "control, sdxl",
        tiny.stable_diffusion_xl,
        "StableDiffusionXLControlNetPipeline",
        **controlled(0.7),
        **CONTROL,
    ),
    Case("reference, sd 1", sd(), **referred(0.6), **adapted()),
    Case("reference, sd 1 full", sd(), **referred(0.6), **adapted("full")),
    Case("reference, sdxl", tiny.stable_diffusion_xl, **referred(0.6), **adapted()),
    Case("reference, sdxl plus", tiny.stable_diffusion_xl, **referred(0.6), **adapted("plus")),
    Pack("portraits, sd 1 full", sd(), **portrayed(0.7), **adapted("full")),
    Pack("portraits, sdxl plus", tiny.stable_diffusion_xl, **portrayed(0.7), **adapted("plus")),
]
