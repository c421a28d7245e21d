"""Which picture adapters fit, told by the headers of their files; nothing here needs torch."""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from swell.core.errors import InvalidModel
from swell.diffusion.families.adapters import read_adapter
from swell.weights.weight_errors import RefusedFormat

NETWORK = {"cross_attention_dim": 64}

PLAIN = {"image_proj.proj.weight": (256, 24), "image_proj.norm.weight": (64,)}
PLUS = {
    "image_proj.latents": (1, 16, 128),
    "image_proj.proj_in.weight": (128, 32),
    "image_proj.proj_out.weight": (64, 128),
}
FULL = {"image_proj.proj.0.weight": (32, 32), "image_proj.proj.3.weight": (64,)}


def written(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Write a file of float32 zeros."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    told = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(told)) + told + bytes(at))
    return path


def encoder(folder: Path, **settings: int) -> Path:
    (folder / "image_encoder").mkdir(parents=True)
    (folder / "image_encoder" / "config.json").write_text(json.dumps(settings))
    return folder / "image_encoder"


@pytest.mark.parametrize(
    ("kind", "shapes", "hears_states"),
    [("plain", PLAIN, False), ("plus", PLUS, True), ("full", FULL, True)],
)
def test_the_kind_shows_in_the_names_of_tensors(
    tmp_path: Path, kind: str, shapes: Mapping[str, tuple[int, ...]], hears_states: bool
) -> None:
    beside = encoder(tmp_path / "adapters", hidden_size=32, projection_dim=24)
    path = written(tmp_path / "adapters" / "a.safetensors", shapes)
    found = read_adapter(path, tmp_path / "model", NETWORK)
    assert (found.kind, found.encoder, found.hears_states) == (kind, beside, hears_states)


def test_of_several_image_encoders_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    """As in the makers' own folders: a larger one for SDXL beside, the smaller one elsewhere."""
    encoder(tmp_path / "sdxl_models", hidden_size=48, projection_dim=40)
    small = encoder(tmp_path / "models", hidden_size=32, projection_dim=24)
    path = written(tmp_path / "sdxl_models" / "plus-face_vit-h.safetensors", PLUS)
    assert read_adapter(path, tmp_path / "model", NETWORK).encoder == small


def test_an_image_encoder_of_the_models_own_comes_first(tmp_path: Path) -> None:
    own = encoder(tmp_path / "model", hidden_size=32, projection_dim=24)
    encoder(tmp_path / "adapters", hidden_size=32, projection_dim=24)
    path = written(tmp_path / "adapters" / "a.safetensors", PLUS)
    assert read_adapter(path, tmp_path / "model", NETWORK).encoder == own


def test_without_a_fitting_image_encoder_it_says_which_one_is_needed(tmp_path: Path) -> None:
    encoder(tmp_path / "adapters", hidden_size=48, projection_dim=40)
    path = written(tmp_path / "adapters" / "a.safetensors", PLUS)
    with pytest.raises(InvalidModel, match=r"needs image_encoder/ with hidden_size 32.* has 48"):
        read_adapter(path, tmp_path / "model", NETWORK)


def test_an_image_encoder_whose_settings_are_a_pipe_is_none(tmp_path: Path) -> None:
    (tmp_path / "model" / "image_encoder").mkdir(parents=True)
    os.mkfifo(tmp_path / "model" / "image_encoder" / "config.json")
    beside = encoder(tmp_path / "adapters", hidden_size=32, projection_dim=24)
    path = written(tmp_path / "adapters" / "a.safetensors", PLUS)
    assert read_adapter(path, tmp_path / "model", NETWORK).encoder == beside


def test_an_adapter_for_another_network_is_refused(tmp_path: Path) -> None:
    encoder(tmp_path, hidden_size=32, projection_dim=24)
    path = written(tmp_path / "a.safetensors", PLAIN)
    with pytest.raises(InvalidModel, match=r"network with 64 features.* 2048"):
        read_adapter(path, tmp_path / "model", {"cross_attention_dim": 2048})


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"image_proj.proj.0.weight": (32, 512), "image_proj.norm.weight": (64,)}, "plus-face"),
        ({"image_proj.perceiver_resampler.proj_in.weight": (32, 32)}, "plus-face"),
        ({"image_proj.what": (3,)}, "no projection that is known"),
        ({"lora_unet_a.lora_up.weight": (3, 3)}, "has a tensor 'lora_unet_a"),
        ({"image_proj.latents": (1, 4, 8)}, "is missing"),
    ],
    ids=["face id", "face id plus", "unknown", "lora", "cut"],
)
def test_what_cannot_be_served_says_why(
    tmp_path: Path, shapes: Mapping[str, tuple[int, ...]], told: str
) -> None:
    path = written(tmp_path / "a.safetensors", shapes)
    with pytest.raises(InvalidModel, match=told):
        read_adapter(path, tmp_path / "model", NETWORK)


def test_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\x80\x02")
    with pytest.raises(RefusedFormat):
        read_adapter(tmp_path / "a.bin", tmp_path, NETWORK)
    with pytest.raises(InvalidModel, match="there is no IP-Adapter"):
        read_adapter(tmp_path / "gone.safetensors", tmp_path, NETWORK)
