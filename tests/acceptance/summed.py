"""A model that adds up its weights, which are pushed and come to workers that lie elsewhere."""

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commandline import Swell, clean_environment, ready_line, stop

__all__ = ["MODEL", "push", "served_to_workers", "serving", "worker_elsewhere", "write_weights"]

#: Of `sum.py`.
MODEL = '''
from pydantic import BaseModel

import swell
from swell.weights.safetensors_loader import load
from swell.weights.declared_weights import provided

WEIGHTS = provided(__file__)

class Sum(swell.Model):
    """Adds up its weights."""

    name = "tests/sum"
    Output = int

    class Input(BaseModel):
        pass

    def load(self, device):
        self.weights = load(WEIGHTS.path("w.safetensors"))

    def run(self, items):
        return [int(self.weights["a"].sum()) for _ in items]
'''


def write_weights(folder: Path, weights: bytes) -> None:
    """Write weights and their listing into a folder."""
    header = {"a": {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}}
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + weights
    folder.mkdir(exist_ok=True)
    (folder / "w.safetensors").write_bytes(content)
    (folder / "weights.toml").write_text(
        'model = "tests/sum"\nversion = "v1"\n[weights]\n'
        f'"w.safetensors" = "{hashlib.sha256(content).hexdigest()}"\n'
    )


def push(swell: Swell) -> Any:
    """Push what is in the folder `source`, and have a listing that names it; say what was sent."""
    [pushed] = swell.json("models", "push", "source/weights.toml")
    (swell.folder / "weights.toml").write_text(
        f'model = "tests/sum"\nversion = "v1"\nmanifest = "sha256:{pushed["manifest"]}"\n'
    )
    return pushed


@contextmanager
def serving(swell: Swell, port: int = 0) -> Iterator[str]:
    """Serve; give the URL."""
    backend = swell.start("serve", "--port", str(port), "--json")
    try:
        yield str(ready_line(backend, swell.folder)["url"])
    finally:
        stop(backend)


@contextmanager
def served_to_workers(swell: Swell) -> Iterator[dict[str, str]]:
    """Serve; give the environment of a worker from elsewhere."""
    with serving(swell) as url:
        key = swell.json("keys", "create", "worker", "--scope", "worker")["key"]
        yield {"SWELL_WORKER__URL": url, "SWELL_WORKER__TOKEN": key}


def worker_elsewhere(
    swell: Swell, environment: Mapping[str, str], data: str
) -> "subprocess.Popen[bytes]":
    """Start a worker whose data lies in another folder, and whose log in a file of that name."""
    told = {**environment, "SWELL_DATA_DIR": str(swell.folder / data)}
    with (swell.folder / f"{data}.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "swell", "worker", "-m", "sum.py"],
            cwd=swell.folder,
            env=clean_environment() | told,
            stdout=log,
            stderr=log,
        )
