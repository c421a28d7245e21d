"""What diffusers' own loop is asked for, by the folder's settings; nothing here needs torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_families_recognised import EULER, folder

from swell.core.errors import InvalidModel
from swell.diffusion.families.detect_family import Facts, look
from swell.diffusion.families.input_schema import examples_of, input_type
from swell.diffusion.families.model_config import Entry, InvalidEntry, read, write
from swell.diffusion.families.model_definition import definition_of, describe, with_loop
from swell.diffusion.families.pipeline_signatures import LOOPS, Loop, words_of

HEUN = {**EULER, "_class_name": "HeunDiscreteScheduler"}
FLOW_HEUN = {"_class_name": "FlowMatchHeunDiscreteScheduler"}
TRANSFORMER = {"transformer": ["diffusers", "SomeTransformer2DModel"]}
PICTURES = {"image", "strength", "mask"}


def fields_of(facts: Facts) -> set[str]:
    return set(input_type(facts).model_fields)


def other(place: Path, pipeline: str, **more: Any) -> Facts:
    """Look at a pipeline that is of no family."""
    return look(folder(place, pipeline, **{**TRANSFORMER, "network": {"in_channels": 64}, **more}))


# What pictures it takes


def test_a_family_takes_its_pictures_in_an_own_loop_too(tmp_path: Path) -> None:
    facts = look(folder(tmp_path, scheduler=HEUN))
    assert facts.family.name == "pipeline"
    assert fields_of(facts) >= {*PICTURES, "negative_prompt", "guidance", "loras"}
    assert facts.loaded_as == "StableDiffusionPipeline"
    assert (facts.steps, facts.guidance) == (30, 7.5), "those of its family"


@pytest.mark.parametrize(
    ("pipeline", "expected"),
    [
        ("PixArtSigmaPipeline", set()),
        ("ChromaPipeline", {"image", "strength"}),
        ("KolorsPipeline", {"image", "strength"}),
        ("QwenImagePipeline", PICTURES),
        ("ZImagePipeline", PICTURES),
        ("Flux2Pipeline", {"image"}),
        ("Flux2KleinPipeline", PICTURES),
    ],
)
def test_pictures_stand_in_the_input_where_diffusers_draws_from_them(
    tmp_path: Path, pipeline: str, expected: set[str]
) -> None:
    assert fields_of(other(tmp_path, pipeline)) & PICTURES == expected


@pytest.mark.parametrize(
    ("saved_by", "read_as"),
    [
        ("StableDiffusionImg2ImgPipeline", "StableDiffusionPipeline"),
        ("StableDiffusionInpaintPipeline", "StableDiffusionPipeline"),
        ("LatentConsistencyModelPipeline", "LatentConsistencyModelPipeline"),
        ("StableDiffusionPAGInpaintPipeline", "StableDiffusionPAGPipeline"),
    ],
)
def test_a_folder_counts_by_its_weights_whichever_pipeline_saved_it(
    tmp_path: Path, saved_by: str, read_as: str
) -> None:
    facts = look(folder(tmp_path, saved_by, scheduler=HEUN))
    assert facts.loaded_as == read_as
    assert "image" in fields_of(facts)
    assert examples_of(facts)[0].keys() == {"prompt"}


@pytest.mark.parametrize("saved_by", ["StableDiffusionInpaintPipeline", "StableDiffusionPipeline"])
def test_a_network_of_nine_channels_paints_into_pictures(tmp_path: Path, saved_by: str) -> None:
    facts = look(folder(tmp_path, saved_by, scheduler=HEUN, network={"in_channels": 9}))
    assert facts.loaded_as == "StableDiffusionInpaintPipeline"
    assert examples_of(facts)[0].keys() == {"prompt", "image", "mask"}


def test_a_refiner_starts_from_pictures(tmp_path: Path) -> None:
    made = folder(tmp_path, "StableDiffusionXLImg2ImgPipeline")
    index = json.loads((made / "model_index.json").read_text())
    (made / "model_index.json").write_text(json.dumps(index | {"requires_aesthetics_score": True}))
    facts = look(made)
    assert facts.loaded_as == "StableDiffusionXLImg2ImgPipeline"
    assert examples_of(facts)[0].keys() == {"prompt", "image"}


# What else it takes


@pytest.mark.parametrize(
    ("pipeline", "missing"),
    [
        ("Flux2Pipeline", {"negative_prompt"}),
        ("HunyuanImagePipeline", {"guidance"}),
        ("UnCLIPPipeline", {"negative_prompt", "guidance", "steps", "width", "height"}),
        ("QwenImagePipeline", set()),
    ],
)
def test_an_input_has_no_field_that_means_nothing(
    tmp_path: Path, pipeline: str, missing: set[str]
) -> None:
    all_of_them = {"negative_prompt", "guidance", "steps", "width", "height"}
    assert all_of_them - fields_of(other(tmp_path, pipeline)) == missing


def test_loras_are_for_networks_that_they_are_made_for(tmp_path: Path) -> None:
    assert "loras" in fields_of(other(tmp_path / "a", "QwenImagePipeline"))
    made = folder(tmp_path / "b", "WuerstchenCombinedPipeline")
    index = json.loads((made / "model_index.json").read_text())
    index["decoder"] = index.pop("unet")
    (made / "unet").rename(made / "decoder")
    (made / "model_index.json").write_text(json.dumps(index))
    assert "loras" not in fields_of(look(made))


def test_defaults_are_those_of_the_pipeline(tmp_path: Path) -> None:
    facts = other(tmp_path, "SanaSprintPipeline")
    assert (facts.steps, facts.guidance) == (2, 4.5)
    assert look(tmp_path, steps=4, guidance=3.0).steps == 4


def test_sides_of_a_transformer_are_of_whole_tokens(tmp_path: Path) -> None:
    facts = other(tmp_path / "a", "QwenImagePipeline")
    assert (facts.side_px, facts.stride_px) == (1024, 16)
    deep = folder(tmp_path / "b", "SanaPipeline", **TRANSFORMER, network={"sample_size": 32})
    (deep / "vae" / "config.json").write_text('{"encoder_block_out_channels": [1, 1, 1, 1, 1, 1]}')
    facts = look(deep)
    assert (facts.scale_px, facts.side_px, facts.stride_px) == (32, 1024, 64)


def test_each_sibling_leads_back_to_one_pipeline() -> None:
    siblings = [each for loop in LOOPS.values() for each in (loop.image, loop.mask) if each]
    assert len(siblings) == len(set(siblings))
    assert {words_of(name) for name in LOOPS} == set(LOOPS)


def test_flux_that_hears_no_guidance_is_asked_for_none(tmp_path: Path) -> None:
    part = {"transformer": ["diffusers", "FluxTransformer2DModel"]}
    for name, told in (("dev", True), ("schnell", False)):
        network = {"in_channels": 16, "guidance_embeds": told}
        made = folder(tmp_path / name, "FluxPipeline", **part, network=network, scheduler=FLOW_HEUN)
        facts = look(made)
        assert facts.loop is not None
        assert ("guidance" in fields_of(facts)) == told


def test_a_pipeline_without_an_autoencoder_draws_pixels(tmp_path: Path) -> None:
    made = folder(tmp_path, "IFPipeline")
    index = json.loads((made / "model_index.json").read_text())
    del index["vae"]
    (made / "model_index.json").write_text(json.dumps(index))
    facts = look(made)
    assert (facts.scale_px, facts.side_px, facts.stride_px) == (1, 64, 8)


def test_a_strength_says_what_it_is_of(tmp_path: Path) -> None:
    def told(pipeline: str) -> str:
        fields = input_type(other(tmp_path / pipeline, pipeline)).model_fields
        return str(fields["strength"].description)

    assert told("KandinskyCombinedPipeline").startswith("Without a mask: how far")
    assert told("Flux2KleinPipeline").startswith("Under the mask: how far")
    assert told("QwenImagePipeline").startswith("How far")


def test_a_scheduler_of_other_networks_is_refused_with_one_that_fits(tmp_path: Path) -> None:
    kind = "FlowMatchHeunDiscreteScheduler"
    made = folder(tmp_path, scheduler={"_class_name": kind})
    with pytest.raises(
        InvalidModel, match=f"{kind} is not for networks of stable-diffusion: add --sampler dpmpp"
    ):
        look(made)
    assert look(made, sampler="flow_euler").loop is None


def test_so_is_one_for_noise_where_a_network_says_a_flow(tmp_path: Path) -> None:
    part = {"transformer": ["diffusers", "FluxTransformer2DModel"]}
    made = folder(tmp_path, "FluxPipeline", **part, network={"in_channels": 16}, scheduler=HEUN)
    with pytest.raises(InvalidModel, match="is not for networks of flux: add --sampler flow_eul"):
        look(made)


# Pipelines that no table knows

NEW = Loop(steps=9, guidance=2.0, image="NewImg2ImgPipeline", strength=["image"])


def test_an_entry_says_what_no_table_does(tmp_path: Path) -> None:
    """Whoever serves it may have no diffusers to ask."""
    made = folder(tmp_path / "new", "NewPipeline", **TRANSFORMER)
    path = tmp_path / "models" / "acme--new.toml"
    write(path, Entry(name="acme/new", folder=str(made), loop=NEW))
    assert read(path).loop == NEW
    definition = definition_of(path)
    asked = definition.input_type(prompt="a fox")
    assert (asked.steps, asked.guidance, asked.strength) == (9, 2.0, 0.8)  # type: ignore[attr-defined]
    assert "mask" not in definition.input_type.model_fields
    assert describe(read(path)).facts.loaded_as == "NewPipeline"


@pytest.mark.parametrize(
    "line",
    [
        "steps = 151",
        "steps = -1",
        "guidance = nan",
        "guidance = inf",
        "guidance = 30.5",
        'guided_by = "prompt"',
        'image = "os.system"',
        'mask = "../Pipeline"',
        'strength = ["prompt"]',
        "sides = true",
    ],
)
def test_an_entry_that_was_edited_is_read_with_suspicion(tmp_path: Path, line: str) -> None:
    path = tmp_path / "models" / "acme--new.toml"
    write(path, Entry(name="acme/new", folder="/srv/new", loop=Loop(steps=9)))
    told = path.read_text()
    assert "steps = 9\n" in told
    path.write_text(told.replace("steps = 9\n", f"{line}\n"))
    with pytest.raises(InvalidEntry, match=r"loop"):
        read(path)


ADD_WITHOUT_TORCH = """
import sys
for name in ("torch", "diffusers", "transformers"):
    sys.modules[name] = None
from swell.cli import app
app(sys.argv[1:])
"""


@pytest.mark.slow
def test_where_diffusers_is_not_at_hand_a_refusal_says_what_to_install(tmp_path: Path) -> None:
    made = folder(tmp_path / "new", "NewPipeline", **TRANSFORMER)
    command = ["models", "add", str(made), "--data", str(tmp_path / "data")]
    ended = subprocess.run(
        [sys.executable, "-c", ADD_WITHOUT_TORCH, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    told = " ".join(ended.stderr.split())
    assert ended.returncode != 0
    assert "NewPipeline is not a known text-to-image pipeline" in told
    assert "pip install 'swell[diffusers]'" in told
    assert not list((tmp_path / "data").glob("models/*"))


def test_what_is_known_needs_no_diffusers(tmp_path: Path) -> None:
    entry = Entry(name="acme/it", folder=str(folder(tmp_path, "ChromaPipeline", **TRANSFORMER)))
    assert with_loop(entry) is entry


def test_a_folder_that_names_no_pipeline_is_refused_as_before(tmp_path: Path) -> None:
    entry = Entry(name="acme/it", folder=str(folder(tmp_path, "SomeModel")))
    with pytest.raises(InvalidModel, match="_class_name ends with Pipeline"):
        describe(with_loop(entry))
