"""Folders of weights that say what they should not; nothing here needs torch, or opens weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_families_recognised import folder, safetensors

from swell.families.recognise import look
from swell.model import InvalidModel


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
    with pytest.raises(InvalidModel, match=r"names a part .*a folder beside that file"):
        look(made)


def test_parts_may_be_links_as_in_the_cache_of_a_hub(tmp_path: Path) -> None:
    made = folder(tmp_path / "dreams")
    (made / "unet" / "model.safetensors").rename(tmp_path / "blob")
    (made / "unet" / "model.safetensors").symlink_to(tmp_path / "blob")
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
    (made / part / "model.safetensors").unlink(missing_ok=True)
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
        (write("model_index.json"), "a pipeline of its own"),
        (write("inner/model_index.json"), "a pipeline of its own"),
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
    ],
)
def test_what_would_be_opened_unasked_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    made = folder(tmp_path)
    spoil(made / "text_encoder")
    with pytest.raises(InvalidModel, match=why):
        look(made)
