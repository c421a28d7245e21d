"""Folders of weights as diffusers saves them, of a few bytes, a hub of them, and what adds them."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hub_server import HubServer, Repository
from swell.cli import app

__all__ = ["NEW", "OLD", "add", "dreams", "hub_of_dreams", "models", "remove", "safetensors"]

#: Commits of `acme/dreams`, on the branches `main` and `v2`.
OLD, NEW = "0a1b" * 10, "5f3c" * 10

_PARTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
}

_CONFIGS: dict[str, dict[str, Any]] = {
    "text_encoder": {"model_type": "clip_text_model"},
    "unet": {"in_channels": 4, "sample_size": 64},
    "vae": {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4},
}

_EULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def safetensors(path: Path, seed: int = 0) -> None:
    """Write a file of one number."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", seed))


def dreams(place: Path, seed: int = 0) -> Path:
    """Write a Stable Diffusion of four bytes a part, whose network has its own."""
    for part in _PARTS:
        (place / part).mkdir(parents=True)
    for part, config in _CONFIGS.items():
        (place / part / "config.json").write_text(json.dumps(config))
    for part in ("text_encoder", "vae"):
        safetensors(place / part / "model.safetensors")
    safetensors(place / "unet" / "diffusion_pytorch_model.safetensors", seed)
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(_EULER))
    index = {"_class_name": "StableDiffusionPipeline", **_PARTS}
    (place / "model_index.json").write_text(json.dumps(index))
    return place


@contextmanager
def hub_of_dreams(folder: Path) -> Iterator[HubServer]:
    """Serve `acme/dreams`, whose two commits have other weights."""
    commits = {OLD: dreams(folder / "old", 1), NEW: dreams(folder / "new", 2)}
    server = HubServer({"acme/dreams": Repository(commits, {"main": OLD, "v2": NEW})})
    with server.serve():
        yield server


def add(data: Path, source: Path | str, *more: str) -> Any:
    """Run `swell models add`."""
    return models("add", str(source), "--data", str(data), *more)


def remove(data: Path, name: str) -> Any:
    """Run `swell models remove`."""
    return models("remove", name, "--data", str(data))


def models(*command: str) -> Any:
    """Run a command of `swell models`."""
    return CliRunner().invoke(app, ["models", *command])
