"""Folders of weights that say what they should not; nothing here needs torch, or opens weights."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
from test_families_recognised import EULER, VAE, folder, safetensors

from swell.core.errors import InvalidModel, SwellError
from swell.diffusion.families.detect_family import look, weight_files
from swell.diffusion.families.input_schema import input_type
from swell.diffusion.families.model_config import Entry
from swell.diffusion.families.model_config import write as write_entry
from swell.diffusion.families.model_definition import (
    bucket_of,
    contents,
    definition_of,
    describe,
    with_loop,
)
from swell.diffusion.families.schedulers import sampler_of
from swell.weights.weight_errors import BrokenWeights, RefusedFormat

PNDM = {**EULER, "_class_name": "PNDMScheduler"}


def changed(place: Path, **parts: Any) -> Path:
    """Have `model_index.json` say more."""
    path = place / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    return place


# What a part is called


@pytest.mark.parametrize("name", ["../other/vae", "/tmp/vae", "..", "a/b", "a\\b", "", "a b"])
def test_a_part_is_a_folder_beside_its_index(tmp_path: Path, name: str) -> None:
    made = folder(tmp_path / "dreams")
    other = tmp_path / "other" / "vae"
    other.mkdir(parents=True)
    (other / "config.json").write_text("{}")
    safetensors(other / "model.safetensors")
    changed(made, **{name: ["diffusers", "AutoencoderKL"]})
    with pytest.raises(InvalidModel, match=r"names a part .*a folder in the same place"):
        look(made)


def test_parts_may_be_links_as_in_the_cache_of_a_hub(tmp_path: Path) -> None:
    made = folder(tmp_path / "dreams")
    (made / "unet" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "blob")
    (made / "unet" / "diffusion_pytorch_model.safetensors").symlink_to(tmp_path / "blob")
    (made / "vae").rename(tmp_path / "vae")
    (made / "vae").symlink_to(tmp_path / "vae")
    assert look(made).family.name == "stable-diffusion"


@pytest.mark.parametrize("told", [[1, 2], ["diffusers", None], ["os.path", "x"], [{}, "x"]])
def test_a_part_has_a_library_and_a_class(tmp_path: Path, told: Any) -> None:
    made = changed(folder(tmp_path), vae=told)
    with pytest.raises(InvalidModel, match=r"says of vae .*: give a library and a class"):
        look(made)


# What a part is


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"extra": ["diffusers", "DiffusionPipeline"]}, "has no use for"),
        ({"text_encoder": ["diffusers", "StableDiffusionPipeline"]}, "which is no pipeline"),
        ({"text_encoder": ["transformers", "AutoModel"]}, "begins with no Auto"),
        ({"tokenizer": ["transformers", "AutoTokenizer"]}, "begins with no Auto"),
        ({"vae": ["my_module", "MyVae"]}, "only parts of diffusers and transformers"),
    ],
    ids=str,
)
@pytest.mark.parametrize("pipeline", ["StableDiffusionPipeline"])
def test_what_is_no_part_of_the_family_is_refused(
    tmp_path: Path, pipeline: str, part: dict[str, Any], why: str
) -> None:
    made = folder(tmp_path, pipeline)
    (made / "extra").mkdir()
    changed(made, **part)
    with pytest.raises(InvalidModel, match=why):
        look(made)


def test_a_pipeline_within_an_own_loop_is_refused(tmp_path: Path) -> None:
    made = folder(tmp_path, "PixArtAlphaPipeline", extra=["diffusers", "DiffusionPipeline"])
    with pytest.raises(InvalidModel, match="extra is a DiffusionPipeline"):
        look(made)


# What a part's folder holds


def write(name: str, text: str = "{}") -> Callable[[Path], object]:
    def spoil(part: Path) -> None:
        (part / name).parent.mkdir(exist_ok=True)
        (part / name).write_text(text)

    return spoil


@pytest.mark.parametrize("part", ["tokenizer", "unet", "text_encoder"])
@pytest.mark.parametrize("name", ["model.bin", "model.ckpt", "deep/model.pt"])
def test_pickles_without_safetensors_are_refused_whatever_the_part(
    tmp_path: Path, part: str, name: str
) -> None:
    made = folder(tmp_path)
    for weights in (made / part).glob("*.safetensors"):
        weights.unlink()
    (made / part / "config.json").unlink(missing_ok=True)
    write(name)(made / part)
    with pytest.raises(InvalidModel, match=rf"{part}/ has no .safetensors file and has {name}"):
        look(made)


def test_pickles_beside_safetensors_are_left_alone(tmp_path: Path) -> None:
    made = folder(tmp_path)
    write("diffusion_pytorch_model.bin")(made / "unet")
    assert look(made).family.name == "stable-diffusion"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (write("model_index.json"), "itself a pipeline"),
        (write("inner/model_index.json"), "itself a pipeline"),
        (write("diffusers.py", "raise SystemExit"), "no code from a folder is run"),
        (write("adapter_config.json"), "merge the adapter"),
        (
            write("model.safetensors.index.json", '{"weight_map": {"a": "../../x.safetensors"}}'),
            "weight_map names '../../x.safetensors'",
        ),
        (
            write("model.safetensors.index.json", '{"weight_map": {"a": "model.bin"}}'),
            "weight_map names 'model.bin'",
        ),
        (
            write("model.safetensors.index.json", '{"weight_map": {"a": "x.safetensors"}}'),
            "has no x.safetensors, which model.safetensors.index.json names",
        ),
        (write("model.safetensors.index.json", '{"weight_map": 5}'), "weight_map names"),
        (write("model.safetensors.index.json", '{"weight_map": {}}'), "names no files: take"),
    ],
)
def test_what_would_be_opened_unasked_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    made = folder(tmp_path)
    spoil(made / "text_encoder")
    with pytest.raises(InvalidModel, match=why):
        look(made)


def test_weights_have_the_names_by_which_a_library_finds_them(tmp_path: Path) -> None:
    made = folder(tmp_path / "dreams")
    own, other = (made / "text_encoder" / f"{name}.safetensors" for name in ("model", "pytorch"))
    own.rename(other)
    with pytest.raises(InvalidModel, match=r"text_encoder/ has no model.safetensors, nor an index"):
        look(made)
    other.rename(own.with_name("model.fp16.safetensors"))
    look(made)
    own.with_name("model.fp16.safetensors").rename(own.with_name("model-00001-of-1.safetensors"))
    with pytest.raises(InvalidModel, match=r"text_encoder/ has no model.safetensors, nor an index"):
        look(made)
    told = json.dumps({"weight_map": {"a": "model-00001-of-1.safetensors"}})
    own.with_name("model.safetensors.index.json").write_text(told)
    look(made)


def test_networks_have_the_names_that_diffusers_looks_for_in_its_own_loop(tmp_path: Path) -> None:
    made = folder(tmp_path / "steps")
    own = made / "vae" / "diffusion_pytorch_model.safetensors"
    own.rename(own.with_name("model.safetensors"))
    assert look(made).family.name == "stable-diffusion", "Swell reads it itself, under any name"
    made = folder(tmp_path / "loop", "PixArtAlphaPipeline")
    own = made / "vae" / "diffusion_pytorch_model.safetensors"
    own.rename(own.with_name("model.safetensors"))
    with pytest.raises(InvalidModel, match=r"vae/ has no diffusion_pytorch_model.safetensors"):
        look(made)


LONG = "A" * 81


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("model_index.json", LONG + "Pipeline"),
        ("model_index.json", ["pipeline_of_mine", "StableDiffusionPipeline"]),
        ("scheduler/scheduler_config.json", LONG),
        ("scheduler/scheduler_config.json", "Euler |x|\n\n# A heading"),
        ("scheduler/scheduler_config.json", "Eul\u00e9r"),
        ("scheduler/scheduler_config.json", ["EulerDiscreteScheduler"]),
    ],
)
def test_names_of_classes_are_short_identifiers(tmp_path: Path, file: str, name: object) -> None:
    made = folder(tmp_path)
    told = json.loads((made / file).read_text())
    (made / file).write_text(json.dumps(told | {"_class_name": name}))
    with pytest.raises(InvalidModel, match=r"_class_name is .*: it must be the name of a class"):
        look(made)
    entry = Entry(name="acme/dreams", folder=str(made))
    with pytest.raises(InvalidModel) as caught:
        describe(with_loop(entry))
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize(
    "told", [["diffusers", LONG], ["L" * 81, "AutoencoderKL"], ["diffusers", "É"]]
)
def test_parts_have_classes_with_short_names(tmp_path: Path, told: list[str]) -> None:
    made = folder(tmp_path)
    index = json.loads((made / "model_index.json").read_text())
    (made / "model_index.json").write_text(json.dumps(index | {"vae": told}))
    with pytest.raises(InvalidModel, match=r"says of vae .*: give a library and a class"):
        look(made)


# Pictures that a pipeline needs beside words

NET = {"controlnet": ["diffusers", "ControlNetModel"]}


def with_net(place: Path, pipeline: str, **more: Any) -> Path:
    made = folder(place, pipeline, **NET, **more)
    (made / "controlnet" / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    safetensors(made / "controlnet" / "model.safetensors")
    return made


@pytest.mark.parametrize(
    ("pipeline", "family"),
    [
        ("StableDiffusionControlNetPipeline", "stable-diffusion"),
        ("StableDiffusionControlNetInpaintPipeline", "stable-diffusion"),
        ("StableDiffusionXLControlNetImg2ImgPipeline", "stable-diffusion-xl"),
    ],
)
def test_a_folder_with_a_control_net_is_drawn_in_steps_with_it(
    tmp_path: Path, pipeline: str, family: str
) -> None:
    made = with_net(tmp_path, pipeline)
    described = describe(Entry(name="acme/dreams", folder=str(made)))
    assert described.facts.family.name == family
    assert described.net is not None
    assert described.net.folder == made / "controlnet"
    net = tmp_path / "net"
    shutil.copytree(made / "controlnet", net)
    given = describe(Entry(name="acme/dreams", folder=str(made), controlnet=str(net)))
    assert given.net is not None
    assert given.net.folder == net, "what was given comes first"


@pytest.mark.parametrize(
    ("pipeline", "more", "why"),
    [
        ("StableDiffusionControlNetPipeline", {"scheduler": PNDM}, "add --sampler dpmpp_2m"),
        (
            "StableDiffusionControlNetPipeline",
            {"controlnet": ["diffusers", "MultiControlNetModel"]},
            "its controlnet is MultiControlNetModel",
        ),
        ("FluxFillPipeline", {"scheduler": PNDM}, "needs other pictures than one to change"),
    ],
)
def test_an_own_loop_that_needs_other_pictures_is_refused(
    tmp_path: Path, pipeline: str, more: dict[str, Any], why: str
) -> None:
    told = {name: more[name] for name in ("scheduler",) if name in more}
    if "ControlNet" in pipeline:
        made = with_net(tmp_path, pipeline, **told)
    else:
        network = {"transformer": ["diffusers", "FluxTransformer2DModel"]}
        made = folder(tmp_path, pipeline, **network, **told)
    changed(made, **{name: value for name, value in more.items() if name not in told})
    with pytest.raises(InvalidModel, match=why):
        look(made)


@pytest.mark.parametrize(
    "pipeline",
    [
        "StableDiffusionUpscalePipeline",
        "AudioLDM2Pipeline",
        "TextToVideoSDPipeline",
        "KandinskyPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
        "FluxControlPipeline",
        "NoSuchPipeline",
        "DiffusionPipeline",
    ],
)
def test_what_does_not_make_pictures_of_words_alone_is_refused(
    tmp_path: Path, pipeline: str
) -> None:
    with pytest.raises(InvalidModel, match=f"{pipeline} is not a known text-to-image pipeline"):
        look(folder(tmp_path, pipeline))


# What was said and an own loop cannot do


@pytest.mark.parametrize(
    "said",
    [{"quantize": "fp8"}, {"offload": "always"}, {"controlnet": "/srv/net"}, {"bucket": 4}],
    ids=str,
)
def test_what_an_own_loop_cannot_do_is_refused_with_a_way_out(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    made = folder(tmp_path, scheduler=PNDM)
    with pytest.raises(InvalidModel, match="add --sampler dpmpp_2m"):
        describe(Entry(name="acme/dreams", folder=str(made), **said))
    plain = describe(Entry(name="acme/dreams", folder=str(made)))
    assert plain.facts.family.name == "pipeline"


# Rows of exact mode


@pytest.mark.parametrize(
    ("said", "is_guided", "side", "rows"),
    [
        (None, True, 1024, 2),
        (None, True, 512, 2),
        (None, False, 1024, 1),
        (None, False, 512, 2),
        (4, True, 1024, 4),
        (4, False, 512, 4),
        (1, True, 512, 1),
    ],
)
def test_a_picture_that_fills_a_gpu_does_not_wait_for_padding(
    said: int | None, is_guided: bool, side: int, rows: int
) -> None:
    entry = Entry(name="acme/dreams", folder="/srv/dreams", bucket=said)
    assert bucket_of(entry, is_guided=is_guided, width=side, height=side) == rows


@pytest.mark.parametrize("bucket", [-1, 0, 17])
def test_a_bucket_that_no_step_can_have_is_refused(tmp_path: Path, bucket: int) -> None:
    made = folder(tmp_path)
    with pytest.raises(InvalidModel, match=f"bucket {bucket}: a step has 1 to 16 rows"):
        describe(Entry(name="acme/dreams", folder=str(made), bucket=bucket))


# Files that are not whole


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_were_cut_off_are_refused_by_name(tmp_path: Path, part: str) -> None:
    made = folder(tmp_path)
    [weights] = (made / part).glob("*.safetensors")
    cut(weights)
    with pytest.raises(BrokenWeights, match=rf"{part}/{weights.name} .* it was cut off"):
        describe(Entry(name="acme/dreams", folder=str(made)))


def test_a_pickle_under_another_name_is_refused(tmp_path: Path) -> None:
    made = folder(tmp_path)
    (made / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(
        RefusedFormat, match=r"unet/diffusion_pytorch_model.safetensors is an archive or a pickle"
    ):
        describe(Entry(name="acme/dreams", folder=str(made)))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda net: cut(net / "model.safetensors"), "net/model.safetensors .* it was cut off"),
        (lambda net: (net / "model.safetensors").unlink(), "net/ has no .safetensors file"),
        (lambda net: (net / "config.json").unlink(), "no config.json"),
        (
            lambda net: (net / "config.json").write_text('{"_class_name": "T2IAdapter"}'),
            "net/ is a T2IAdapter: give a control net",
        ),
    ],
)
def test_a_control_net_is_looked_at_when_it_is_given(
    tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    net = tmp_path / "net"
    net.mkdir()
    (net / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    safetensors(net / "model.safetensors")
    spoil(net)
    made = folder(tmp_path / "dreams")
    with pytest.raises(SwellError, match=why):
        describe(Entry(name="acme/dreams", folder=str(made), controlnet=str(net)))


def test_a_file_that_was_changed_in_place_is_not_what_was_added(tmp_path: Path) -> None:
    """Its size is as it was; that it is younger than the entry tells."""
    made, entry = folder(tmp_path / "dreams"), tmp_path / "models" / "acme--dreams.toml"
    names = weight_files(made)
    write_entry(entry, Entry(name="acme/dreams", folder=str(made), weights=contents(made, names)))
    definition = definition_of(entry)
    weights = made / "unet" / "diffusion_pytorch_model.safetensors"
    later = entry.stat().st_mtime_ns + 10**9
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"!")
    os.utime(weights, ns=(later, later))
    with pytest.raises(
        InvalidModel, match=r"unet/diffusion_pytorch_model.safetensors has changed since"
    ):
        definition.make()


def test_a_link_into_a_cache_is_not_read_again_for_it_is_younger(tmp_path: Path) -> None:
    """Whoever fetched it has read it whole; an entry in an image is older than what is fetched."""
    made, entry = folder(tmp_path / "dreams"), tmp_path / "models" / "acme--dreams.toml"
    names = weight_files(made)
    held = contents(made, names)
    write_entry(entry, Entry(name="acme/dreams", folder=str(made), weights=held))
    definition = definition_of(entry)
    name = "unet/diffusion_pytorch_model.safetensors"
    digest = held[name].sha256
    cached = tmp_path / "cache" / "files" / digest[:2] / digest
    cached.parent.mkdir(parents=True)
    # That it is another one would show if it were read.
    cached.write_bytes((made / name).read_bytes()[:-1] + b"!")
    (made / name).unlink()
    (made / name).symlink_to(cached)
    later = entry.stat().st_mtime_ns + 10**9
    os.utime(cached, ns=(later, later))

    def refused() -> str:
        try:
            definition.make()
        except InvalidModel as error:
            return error.detail
        return ""

    # It may be refused for want of torch.
    assert "has changed" not in refused()
    (made / name).unlink()
    (made / name).write_bytes(cached.read_bytes())
    os.utime(made / name, ns=(later, later))
    assert "has changed" in refused()


# Settings that mean nothing

SETTINGS: dict[str, dict[str, Any]] = {
    "unet": {"in_channels": 4, "sample_size": 64},
    "vae": VAE,
    "scheduler": EULER,
}
FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("vae", "block_out_channels", 5),
        ("vae", "block_out_channels", []),
        ("vae", "block_out_channels", [64] * 200),
        ("vae", "block_out_channels", ["x"]),
        ("vae", "latent_channels", None),
        ("vae", "latent_channels", "x"),
        ("vae", "latent_channels", True),
        ("vae", "scaling_factor", float("nan")),
        ("vae", "shift_factor", {}),
        ("unet", "sample_size", -64),
        ("unet", "sample_size", 10**9),
        ("unet", "sample_size", 1024),
        ("unet", "sample_size", "64"),
        ("unet", "sample_size", ["a"]),
        ("unet", "in_channels", None),
        ("unet", "time_cond_proj_dim", "x"),
        ("scheduler", "num_train_timesteps", None),
        ("scheduler", "num_train_timesteps", 0),
        ("scheduler", "steps_offset", None),
        ("scheduler", "steps_offset", -1),
        ("scheduler", "beta_start", "x"),
        ("scheduler", "beta_start", 0),
        ("scheduler", "beta_end", float("inf")),
        ("scheduler", "timestep_spacing", ["leading"]),
    ],
)
def test_a_setting_that_means_nothing_is_named_with_its_file(
    tmp_path: Path, part: str, name: str, value: Any
) -> None:
    made = folder(tmp_path)
    (made / FILES[part]).write_text(json.dumps({**SETTINGS[part], name: value}))
    with pytest.raises(InvalidModel, match=rf"{FILES[part]}: {name} .*(must be|px a side)"):
        look(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shift", 0),
        ("shift", "x"),
        ("num_train_timesteps", []),
        ("shift_terminal", 2),
        ("use_dynamic_shifting base_image_seq_len", "x"),
        ("use_dynamic_shifting max_image_seq_len", 256),
        ("use_dynamic_shifting max_shift", None),
    ],
)
def test_settings_of_a_flow_are_numbers_too(name: str, value: Any) -> None:
    *switches, setting = name.split()
    config = dict.fromkeys(switches, True) | {setting: value}
    with pytest.raises(InvalidModel, match=f"scheduler_config.json: {setting} is"):
        sampler_of({"_class_name": "FlowMatchEulerDiscreteScheduler", **config}, 4, tokens=256)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "\ud800"])
@pytest.mark.parametrize("name", ["model_index.json", *FILES.values()])
def test_a_file_of_settings_that_nobody_can_read_is_named(
    tmp_path: Path, name: str, text: str
) -> None:
    made = folder(tmp_path)
    (made / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidModel, match=rf"{name} (cannot be read|is no table)"):
        look(made)


def test_what_a_folder_may_have_asked_for_is_bounded(tmp_path: Path) -> None:
    made = folder(tmp_path, network={"in_channels": 4, "sample_size": 512})
    assert input_type(look(made))(prompt="a fox", width=4096).width == 4096  # type: ignore[attr-defined]
    with pytest.raises(pydantic.ValidationError):
        input_type(look(made))(prompt="a fox", width=4104)


def test_the_usual_side_is_one_that_may_be_asked_for(tmp_path: Path) -> None:
    made = folder(
        tmp_path,
        "StableDiffusion3Pipeline",
        network={"in_channels": 4, "sample_size": 65, "patch_size": 2},
        scheduler={"_class_name": "FlowMatchEulerDiscreteScheduler"},
        transformer=["diffusers", "SD3Transformer2DModel"],
    )
    facts = look(made)
    assert (facts.side_px, facts.stride_px) == (512, 16)
    assert input_type(facts)(prompt="a fox", width=facts.side_px)


def test_an_own_loop_whose_network_says_pixels_has_a_usual_side(tmp_path: Path) -> None:
    made = folder(tmp_path, "PRXPixelPipeline", network={"sample_size": 1024})
    assert look(made).side_px == 1024
