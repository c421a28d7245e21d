"""What a folder of weights is, from its settings alone; nothing here needs torch."""

import json
import struct
from pathlib import Path
from typing import Any

import pydantic
import pytest
from typer.testing import CliRunner

from swell.cli import app
from swell.cli.added import names_of, with_added
from swell.core.errors import InvalidModel, NotFound
from swell.diffusion.batch_buffers import table_of
from swell.diffusion.families.adapters import encoder_layer
from swell.diffusion.families.detect_family import look, weight_files
from swell.diffusion.families.input_schema import input_type
from swell.diffusion.families.model_config import (
    Entry,
    Extra,
    InvalidEntry,
    added,
    path_of,
    read,
    write,
)
from swell.diffusion.families.model_definition import definition_of
from swell.diffusion.families.pipeline_folder import licence_in
from swell.diffusion.families.schedulers import few_step, sampler_of, with_sampler
from swell.diffusion.families.stable_diffusion_xl import sgm_layer
from swell.sdk.model_loader import load_models
from swell.sdk.step_model import Sampler
from swell.settings.load import load

EULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}

PARTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": [None, None],
}

VAE = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4, "scaling_factor": 0.18}


def safetensors(path: Path, value: bytes = bytes(4)) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + value)


def folder(
    place: Path,
    pipeline: str = "StableDiffusionPipeline",
    *,
    network: Any = None,
    scheduler: Any = None,
    **parts: Any,
) -> Path:
    """Write a folder of settings, with weights of four bytes."""
    index = {"_class_name": pipeline, **PARTS}
    if scheduler is not None and "_class_name" in scheduler:
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    index |= parts
    part = "unet" if index.get("transformer") is None else "transformer"
    if part == "transformer":
        del index["unet"]
    configs = {
        part: network or {"in_channels": 4, "sample_size": 64},
        "vae": VAE,
        "text_encoder": {"model_type": "clip_text_model"},
    }
    for name in index:
        if not name.startswith("_") and index[name][0] and name != "safety_checker":
            (place / name).mkdir(parents=True)
    for name, config in configs.items():
        (place / name / "config.json").write_text(json.dumps(config))
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        safetensors(place / name / f"{stem}.safetensors")
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler or EULER))
    (place / "model_index.json").write_text(json.dumps(index))
    return place


# Families


def test_a_folder_says_its_family_sizes_and_defaults(tmp_path: Path) -> None:
    facts = look(folder(tmp_path))
    assert facts.family.name == "stable-diffusion"
    assert (facts.side_px, facts.stride_px, facts.channels) == (512, 8, 4)
    assert (facts.steps, facts.guidance) == (30, 7.5)
    assert facts.is_guided
    assert not facts.sees_mask


def test_what_was_asked_for_comes_before_the_familys_defaults(tmp_path: Path) -> None:
    facts = look(folder(tmp_path), steps=12, guidance=3.0)
    assert (facts.steps, facts.guidance) == (12, 3.0)


@pytest.mark.parametrize(
    ("few", "steps", "guidance", "kind", "spacing"),
    [
        ("lcm", 4, 1.0, "LCMScheduler", "leading"),
        ("turbo", 1, 0.0, "EulerAncestralDiscreteScheduler", "trailing"),
        ("lightning", 4, 0.0, "EulerDiscreteScheduler", "trailing"),
    ],
)
def test_models_of_few_steps_have_schedulers_of_their_own(
    tmp_path: Path, few: str, steps: int, guidance: float, kind: str, spacing: str
) -> None:
    facts = look(folder(tmp_path), few=few)
    assert (facts.steps, facts.guidance) == (steps, guidance)
    assert facts.scheduler["_class_name"] == kind
    assert facts.scheduler["timestep_spacing"] == spacing
    assert facts.scheduler["beta_start"] == 0.00085, "what training was like stays"


def test_a_network_of_nine_channels_sees_masks(tmp_path: Path) -> None:
    made = folder(tmp_path, "StableDiffusionInpaintPipeline", network={"in_channels": 9})
    assert look(made).sees_mask


def test_flux_is_told_its_guidance_or_has_none(tmp_path: Path) -> None:
    transformer = ["diffusers", "FluxTransformer2DModel"]
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    for told, steps in ((True, 28), (False, 4)):
        made = folder(
            tmp_path / str(told),
            "FluxPipeline",
            network={"guidance_embeds": told, "in_channels": 16},
            scheduler=flow,
            transformer=transformer,
        )
        facts = look(made)
        assert (facts.family.name, facts.steps) == ("flux", steps)
        assert (facts.is_guided, facts.hears_guidance) == (False, told)
        assert facts.stride_px == 16
        assert facts.tokens(1024, 512) == 64 * 32


@pytest.mark.parametrize(
    "changes",
    [
        {"scheduler": {**EULER, "_class_name": "PNDMScheduler"}},
        {"scheduler": {**EULER, "use_beta_sigmas": True}},
        {"scheduler": {**EULER, "prediction_type": "sample"}},
        {"pipeline": "PixArtAlphaPipeline"},
        {"vae": ["diffusers", "AutoencoderTiny"]},
        {"unet": ["diffusers", "UNetMotionModel"]},
        {"requires_aesthetics_score": True, "pipeline": "StableDiffusionXLPipeline"},
    ],
    ids=str,
)
def test_what_the_engine_cannot_do_is_left_to_its_own_loop(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    told = dict(changes)
    score = told.pop("requires_aesthetics_score", None)
    made = folder(tmp_path, **told)
    if score:
        index = json.loads((made / "model_index.json").read_text())
        (made / "model_index.json").write_text(json.dumps(index | {"requires_aesthetics_score": 1}))
    assert look(made).family.name == "pipeline"


def test_another_sampler_brings_it_back_to_the_engine(tmp_path: Path) -> None:
    made = folder(tmp_path, scheduler={**EULER, "_class_name": "PNDMScheduler"})
    assert look(made, sampler="dpmpp_2m").family.name == "stable-diffusion"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda at: (at / "model_index.json").unlink(), "no model_index.json"),
        (lambda at: (at / "model_index.json").write_text("{"), "cannot be read"),
        (lambda at: (at / "model_index.json").write_text("[]"), "no table"),
        (lambda at: (at / "model_index.json").write_text("{}"), "no pipeline"),
        (lambda at: (at / "vae" / "config.json").unlink(), "no vae/config.json"),
        (
            lambda at: (at / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
            "unet/ has no .safetensors",
        ),
        (lambda at: (at / "scheduler" / "scheduler_config.json").unlink(), "no scheduler/"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_with_what_is_missing(
    tmp_path: Path, spoil: Any, why: str
) -> None:
    made = folder(tmp_path)
    spoil(made)
    with pytest.raises(InvalidModel, match=why):
        look(made)


def test_pickles_and_what_is_not_loaded_are_no_files_of_a_model(tmp_path: Path) -> None:
    made = folder(tmp_path)
    (made / "unet" / "model.bin").write_bytes(b"pickle")
    (made / "safety_checker").mkdir()
    safetensors(made / "safety_checker" / "model.safetensors")
    names = weight_files(made)
    assert "unet/diffusion_pytorch_model.safetensors" in names
    assert not [name for name in names if name.endswith(".bin") or "safety" in name]


# Schedulers


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            EULER,
            {"solver": "euler", "spacing": "leading", "offset": 1, "prediction": "epsilon"},
        ),
        ({"_class_name": "EulerDiscreteScheduler"}, {"betas": "linear", "spacing": "linspace"}),
        ({**EULER, "prediction_type": "v_prediction"}, {"prediction": "v"}),
        ({**EULER, "use_karras_sigmas": True}, {"karras": True}),
        (
            {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False},
            {"solver": "ddim", "clip": None, "clean_end": False, "spacing": "leading"},
        ),
        ({"_class_name": "DDIMScheduler"}, {"clip": 1.0}),
        ({"_class_name": "LCMScheduler"}, {"solver": "lcm", "betas": "scaled_linear"}),
        ({"_class_name": "DPMSolverMultistepScheduler"}, {"solver": "dpmpp_2m"}),
        (
            {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1},
            {"solver": "plms", "clean_end": False, "spacing": "leading", "offset": 1},
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
            {"solver": "flow_euler", "shift": 3.0, "spacing": "train"},
        ),
    ],
    ids=lambda value: str(value.get("_class_name", "")),
)
def test_a_scheduler_becomes_a_sampler(config: Any, expected: dict[str, Any]) -> None:
    made = sampler_of(config, 5)
    assert made is not None
    told = {"solver": made.solver, **made.options}
    assert {name: told[name] for name in expected} == expected
    assert len(table_of(made)) == (6 if made.solver == "plms" else 5)


def test_a_flow_that_depends_on_the_size_is_told_its_tokens() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    small, large = (sampler_of(config, 4, tokens=count, even=True) for count in (256, 4096))
    assert small is not None
    assert large is not None
    assert (small.options["mu"], large.options["mu"]) == (0.5, pytest.approx(1.15))


@pytest.mark.parametrize(
    "change",
    [
        {"trained_betas": [0.1]},
        {"rescale_betas_zero_snr": True},
        {"final_sigmas_type": "sigma_min"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"_class_name": "HeunDiscreteScheduler"},
        {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3},
        {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True},
        {"_class_name": "LCMScheduler", "prediction_type": "v_prediction"},
    ],
    ids=str,
)
def test_there_is_no_sampler_for_what_no_solver_does(change: dict[str, Any]) -> None:
    assert sampler_of({**EULER, **change}, 5) is None


def test_settings_that_a_class_does_not_read_are_no_obstacle() -> None:
    told = {**EULER, "solver_order": 3, "algorithm_type": "dpmsolver"}
    assert isinstance(sampler_of(told, 5), Sampler)


@pytest.mark.parametrize(
    "told",
    [
        {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2"},
        {
            "_class_name": "DEISMultistepScheduler",
            "algorithm_type": "deis",
            "solver_type": "logrho",
        },
        {"_class_name": "DDPMScheduler", "variance_type": "fixed_small", "clip_sample": True},
    ],
)
def test_settings_of_other_solvers_are_taken_over_by_dpm(told: dict[str, Any]) -> None:
    made = sampler_of(with_sampler({**EULER, **told}, "dpmpp_2m"), 5)
    assert made == sampler_of(with_sampler(EULER, "dpmpp_2m"), 5)
    assert made is not None
    learned = {**EULER, **told, "variance_type": "learned_range"}
    assert sampler_of(with_sampler(learned, "dpmpp_2m"), 5) is None


def test_samplers_and_ways_to_few_steps_have_names() -> None:
    with pytest.raises(InvalidModel, match="use one of euler"):
        with_sampler(EULER, "heun")
    with pytest.raises(InvalidModel, match="use lcm, turbo, lightning"):
        few_step(EULER, "hyper")


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
FLUX = {"transformer": ["diffusers", "FluxTransformer2DModel"], "network": {"in_channels": 16}}
OTHER = {"transformer": ["diffusers", "SomeTransformer2DModel"]}


@pytest.mark.parametrize("sampler", ["euler", "ddim", "lcm", "plms", "dpmpp_2m"])
def test_samplers_for_noise_do_not_fit_what_says_a_flow(tmp_path: Path, sampler: str) -> None:
    made = folder(tmp_path, "FluxPipeline", **FLUX, scheduler=FLOW)
    with pytest.raises(
        InvalidModel,
        match=rf"--sampler {sampler} is for networks that say noise, .* FluxPipeline says a flow: "
        r"use --sampler flow_euler, or the folder's own",
    ):
        look(made, sampler=sampler)
    assert look(made, sampler="flow_euler").family.name == "flux"


def test_a_sampler_for_flows_does_not_fit_what_says_noise(tmp_path: Path) -> None:
    made = folder(tmp_path)
    with pytest.raises(
        InvalidModel,
        match=r"--sampler flow_euler .* says noise: use --sampler euler or .* or plms,",
    ):
        look(made, sampler="flow_euler")


def test_so_it_is_with_ways_to_few_steps(tmp_path: Path) -> None:
    made = folder(tmp_path, "FluxPipeline", **FLUX, scheduler=FLOW)
    with pytest.raises(InvalidModel, match="--few-step turbo is for networks that say noise"):
        look(made, few="turbo")
    assert look(made, few="turbo", sampler="flow_euler").steps == 4


@pytest.mark.parametrize(
    ("scheduler", "wrong"),
    [
        (FLOW, "ddim"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "ddim"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "ddim"),
        (EULER, "flow_euler"),
        ({"_class_name": "SCMScheduler"}, ""),
    ],
    ids=str,
)
def test_of_other_pipelines_their_scheduler_tells(
    tmp_path: Path, scheduler: dict[str, Any], wrong: str
) -> None:
    made = folder(tmp_path, "SanaPipeline", **OTHER, scheduler=scheduler)
    for sampler in ("ddim", "flow_euler"):
        if sampler == wrong:
            with pytest.raises(InvalidModel, match=f"--sampler {sampler} is for networks"):
                look(made, sampler=sampler)
        else:
            assert look(made, sampler=sampler).family.name == "pipeline"


# What may be asked


def test_fields_stand_where_they_mean_something(tmp_path: Path) -> None:
    facts = look(folder(tmp_path))
    fields = input_type(facts).model_fields
    assert {"negative_prompt", "guidance", "mask", "image", "loras"} <= set(fields)
    assert not {"control", "reference"} & set(fields)
    more = input_type(facts, controlled=True, refers=True).model_fields
    assert {"control", "control_scale", "reference", "reference_scale"} <= set(more)
    own = look(folder(tmp_path / "own", scheduler={**EULER, "_class_name": "PNDMScheduler"}))
    assert {"image", "mask", "loras"} <= set(input_type(own).model_fields)


@pytest.mark.parametrize(
    "asked",
    [
        {"width": 515},
        {"width": 8},
        {"height": 4096},
        {"steps": 0},
        {"guidance": 31},
        {"strength": 0},
        {"seed": -1},
        {"colour": "red"},
    ],
    ids=str,
)
def test_what_is_out_of_bounds_is_refused(tmp_path: Path, asked: dict[str, Any]) -> None:
    kind = input_type(look(folder(tmp_path)))
    assert kind(prompt="a fox").model_dump()["width"] == 512
    with pytest.raises(pydantic.ValidationError):
        kind(prompt="a fox", **asked)


# Entries


def entry_of(place: Path, **more: Any) -> Entry:
    return Entry(name="acme/dreams", folder=str(place), **more)


def test_an_entry_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = entry_of(
        tmp_path / 'an "odd" föld\\er\x7f',
        steps=4,
        guidance=0.5,
        loras=[Extra("a.safetensors", 0.5, "0" * 64), Extra("b.safetensors")],
        compile=False,
    )
    path = path_of(tmp_path, whole.name)
    write(path, whole)
    assert read(path) == whole
    assert added(tmp_path) == [str(path)]


@pytest.mark.parametrize(
    "text", ["name = 3", "name = 'a/b'", "no toml", "name='a/b'\nfolder='x'\nx=1"]
)
def test_a_file_that_is_no_entry_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "models" / "x.toml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InvalidEntry, match="does not describe a model"):
        read(path)
    with pytest.raises(NotFound):
        load_models(str(tmp_path / "none.toml"))


def add(data: Path, source: Path, *more: str) -> Any:
    command = ["models", "add", str(source), "--data", str(data), *more]
    return CliRunner().invoke(app, command)


def test_an_added_model_has_a_card_and_a_version_without_torch(tmp_path: Path) -> None:
    result = add(tmp_path / "data", folder(tmp_path / "dreams"), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["model"], told["family"]) == ("local/dreams", "stable-diffusion")
    [definition] = load_models(told["file"])
    assert definition.version() == told["version"]
    assert definition.facts.step_rows > 0
    assert "StableDiffusion" not in definition.facts.description
    assert "licence" in definition.facts.description


def test_the_card_of_an_added_model_tells_the_licence_that_its_readme_tells(tmp_path: Path) -> None:
    source = folder(tmp_path / "dreams")
    (source / "README.md").write_text("---\nlicense: openrail++\ntags: [a]\n---\n# Dreams\n")
    told = json.loads(add(tmp_path / "data", source, "--json").stdout)
    [definition] = load_models(told["file"])
    assert definition.card().licence == "weights openrail++, as their README says"


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\r\ntags:\r\n- a\r\nlicense: 'apache-2.0'\r\n---\r\nText", "apache-2.0"),
        (
            "---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---",
            "flux-1-dev-non",
        ),
        ("---\nlicense: other\n---\n", ""),
        (f"---\nlicense: {'L' * 80}\n---\n", "L" * 80),
        (f"---\nlicense: {'L' * 81}\n---\n", ""),
        ("---\nlicense: mit\x1b[31m\n---\n", ""),
        ("---\nlicense: mit\x1b]0;title\n---\n", ""),
        ("---\nlicense:\n- mit\n---\n", ""),
        ("# Dreams\nlicense: mit\n", ""),
        ("---\ntitle: a\n---\nlicense: mit\n", ""),
        ("", ""),
    ],
)
def test_the_head_of_a_readme_tells_the_licence(tmp_path: Path, text: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(text, newline="")
    told = licence_in(tmp_path)
    assert told.startswith(f"weights {licence}" if licence else "")
    assert bool(told) is bool(licence)


@pytest.mark.parametrize(
    "change",
    [
        lambda source: safetensors(
            source / "unet" / "diffusion_pytorch_model.safetensors", b"ABCD"
        ),
        lambda source: (source / "tokenizer" / "vocab.json").write_text("{}"),
        lambda source: None,
    ],
    ids=["weights", "a file more", "only steps"],
)
def test_the_version_changes_with_the_weights_and_with_what_was_said(
    tmp_path: Path, change: Any
) -> None:
    source, data = folder(tmp_path / "dreams"), tmp_path / "data"
    first = json.loads(add(data, source, "--json").stdout)
    again = json.loads(add(data, source, "--json").stdout)
    assert first == again
    change(source)
    CliRunner().invoke(app, ["models", "remove", "local/dreams", "--data", str(data)])
    other = json.loads(add(data, source, "--json", "--steps", "7").stdout)
    assert other["version"] != first["version"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--sampler", "heun"], "no sampler is called"),
        (["--few-step", "hyper"], "no way to few steps"),
        (["--name", "Dreams"], "use owner/name"),
        (["--dtype", "int8"], "use one of auto"),
        (["--quantize", "int4"], "use fp8"),
        (["--lora", "none.safetensors"], "there is no LoRA"),
        (["--controlnet", "none"], "there is no control net"),
    ],
)
def test_what_cannot_be_added_says_why(tmp_path: Path, more: list[str], why: str) -> None:
    result = add(tmp_path / "data", folder(tmp_path / "dreams"), *more)
    assert result.exit_code != 0
    told = str(result.exception) + result.output
    assert why in " ".join(told.split())
    assert added(tmp_path / "data") == []


def test_adapters_are_for_families_that_have_them(tmp_path: Path) -> None:
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    made = folder(
        tmp_path / "flux",
        "FluxPipeline",
        network={"in_channels": 16},
        scheduler=flow,
        transformer=["diffusers", "FluxTransformer2DModel"],
    )
    path = path_of(tmp_path, "acme/dreams")
    write(path, entry_of(made, ip_adapter=str(tmp_path)))
    with pytest.raises(InvalidModel, match="flux models cannot have a picture adapter"):
        definition_of(path)


def test_what_was_added_is_served_beside_what_is_named(tmp_path: Path) -> None:
    add(tmp_path, folder(tmp_path / "dreams"), "--name", "acme/dreams")
    flags = {"data_dir": tmp_path, "worker.models": "demo/upper"}
    settings = with_added(load(flags).settings)
    [named, file] = settings.worker.models
    assert (named, Path(file).name) == ("demo/upper", "acme--dreams.toml")
    assert names_of(settings) == ["demo/upper", "acme/dreams"]
    assert with_added(settings) == settings, "nothing is served twice"
    without = load(flags | {"worker.added": "false"}).settings
    assert with_added(without).worker.models == ("demo/upper",)


def test_a_removed_model_is_served_no_more(tmp_path: Path) -> None:
    add(tmp_path, folder(tmp_path / "dreams"), "--name", "acme/dreams")
    command = ["models", "remove", "acme/dreams", "--data", str(tmp_path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert added(tmp_path) == []
    assert (tmp_path / "dreams" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert CliRunner().invoke(app, command).exit_code != 0


# Names of layers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("input_blocks_0_0_", "input_blocks_0_0_"),
        ("input_blocks_1_0_in_layers_2", "down_blocks_0_resnets_0_conv1"),
        ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
        ("input_blocks_8_1_proj_in", "down_blocks_2_attentions_1_proj_in"),
        ("middle_block_1_norm", "mid_block_attentions_0_norm"),
        ("middle_block_2_out_layers_3", "mid_block_resnets_1_conv2"),
        ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
        ("output_blocks_5_1_proj_out", "up_blocks_1_attentions_2_proj_out"),
        ("output_blocks_3_0_skip_connection", "up_blocks_1_resnets_0_conv_shortcut"),
        ("down_blocks_0_resnets_0_conv1", "down_blocks_0_resnets_0_conv1"),
    ],
)
def test_layers_of_the_first_code_have_names_here(name: str, expected: str) -> None:
    assert sgm_layer(name) == expected


class Deep:
    text_model = "has layers"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_te1_text_model_encoder_layers_0_x", "text_encoder_encoder_layers_0_x"),
        ("lora_te_text_model_final_layer_norm.x", "text_encoder_final_layer_norm.x"),
        ("lora_te2_text_model_encoder_layers_0_x", "text_encoder_2_text_model_encoder_layers_0_x"),
        ("lora_te2_encoder_layers_0_x", "text_encoder_2_text_model_encoder_layers_0_x"),
        ("lora_te2_text_projection", "text_encoder_2_text_projection"),
        ("text_encoder.text_model.encoder.layers.0.x", "text_encoder.encoder.layers.0.x"),
        ("text_encoder.encoder.layers.0.x", "text_encoder.encoder.layers.0.x"),
        ("text_encoder_2.encoder.layers.0.x", "text_encoder_2.text_model.encoder.layers.0.x"),
        ("text_encoder_3.text_model.encoder.x", "text_encoder_3.text_model.encoder.x"),
        ("lora_unet_mid", "lora_unet_mid"),
    ],
)
def test_layers_of_text_encoders_have_names_here(name: str, expected: str) -> None:
    encoders = {"text_encoder": object(), "text_encoder_2": Deep()}
    assert encoder_layer(name, encoders) == expected


# Portraits


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--portraits"], "portraits need an image adapter"),
        (["--scenarios", "SCENARIOS"], "scenarios are for portraits"),
        (["--portraits", "--scenarios", "gone.toml"], "no file of scenarios"),
    ],
)
def test_adding_portraits_says_what_is_missing(
    tmp_path: Path, options: list[str], told: str
) -> None:
    scenarios = tmp_path / "mine.toml"
    scenarios.write_text('[bar]\nprompt = "a bar"')
    given = [str(scenarios) if each == "SCENARIOS" else each for each in options]
    source = folder(tmp_path / "weights")
    result = CliRunner().invoke(
        app, ["models", "add", str(source), "--data", str(tmp_path / "data"), "--json", *given]
    )
    assert result.exit_code == 2
    assert told in json.dumps(str(result.exception)) + result.output
    assert not list((tmp_path / "data").rglob("*.toml"))
