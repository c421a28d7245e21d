"""Weights that were pushed reach workers that have a URL and a key only, right or not at all."""

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop

MODEL = '''
from pydantic import BaseModel

import swell
from swell.weights import load
from swell.weights.provided import provided

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

#: Of three chunks, and a bit.
SIZE = 50_000_000


@pytest.fixture
def swell(tmp_path: Path) -> Swell:
    header = {"a": {"dtype": "U8", "shape": [SIZE], "data_offsets": [0, SIZE]}}
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(range(250)) * (SIZE // 250)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "w.safetensors").write_bytes(content)
    (tmp_path / "source" / "weights.toml").write_text(
        'model = "tests/sum"\nversion = "v1"\n[weights]\n'
        f'"w.safetensors" = "{hashlib.sha256(content).hexdigest()}"\n'
    )
    (tmp_path / "sum.py").write_text(MODEL)
    return Swell(tmp_path)


@pytest.fixture
def served(swell: Swell) -> Iterator[dict[str, str]]:
    """Serve; give the environment of a worker from elsewhere."""
    backend = swell.start("serve", "--port", "0", "--json")
    try:
        url = ready_line(backend, swell.folder)["url"]
        key = swell.json("keys", "create", "worker", "--scope", "worker")["key"]
        yield {"SWELL_WORKER__URL": url, "SWELL_WORKER__TOKEN": key}
    finally:
        stop(backend)


def push(swell: Swell) -> Any:
    [pushed] = swell.json("models", "push", "source/weights.toml")
    (swell.folder / "weights.toml").write_text(
        f'model = "tests/sum"\nversion = "v1"\nmanifest = "sha256:{pushed["manifest"]}"\n'
    )
    return pushed


def worker(swell: Swell, served: dict[str, str], data: str) -> "subprocess.Popen[bytes]":
    environment = served | {"SWELL_DATA_DIR": str(swell.folder / data)}
    with (swell.folder / f"{data}.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "swell", "worker", "-m", "sum.py"],
            cwd=swell.folder,
            env=clean_environment() | environment,
            stdout=log,
            stderr=log,
        )


def test_workers_of_one_machine_share_what_the_first_fetches(
    swell: Swell, served: dict[str, str]
) -> None:
    pushed = push(swell)
    assert pushed["sent_chunks"] == 3
    shutil.rmtree(swell.folder / "source")
    workers = [worker(swell, served, "elsewhere") for _ in range(2)]
    try:
        until_s = time.monotonic() + PATIENCE_S
        while len(swell.json("workers")) < len(workers):
            assert time.monotonic() < until_s, (swell.folder / "elsewhere.txt").read_text()
        done = swell.run("tasks", "submit", "tests/sum", "--watch")
        assert str(sum(range(250)) * (SIZE // 250)) in done.stdout, done.stderr
        fetched = [
            line
            for line in (swell.folder / "elsewhere.txt").read_text().splitlines()
            if "weights fetched" in line
        ]
        came = sum(int(re.search(r"bytes.*?=.*?(\d+)", line)[1]) for line in fetched)  # type: ignore[index]
        assert came == pushed["bytes"]
    finally:
        for each in workers:
            each.kill()
            each.wait(PATIENCE_S)


def test_files_that_are_links_to_pushed_weights_are_there_before_a_model_loads(
    swell: Swell, served: dict[str, str]
) -> None:
    swell.ok("models", "pull", "source/weights.toml")
    push(swell)
    (swell.folder / "weights.toml").unlink()
    [listing] = (swell.folder / ".swell" / "weights" / "listings").rglob("*.json")
    told = json.loads(listing.read_text())
    (swell.folder / "list.json").write_text(json.dumps([told]))
    shutil.rmtree(swell.folder / "source")
    digest = told["files"]["w.safetensors"]["sha256"]
    content = swell.folder / "elsewhere" / "weights" / "files" / digest[:2] / digest
    (swell.folder / "linked.safetensors").symlink_to(content)
    (swell.folder / "sum.py").write_text(
        MODEL.replace("WEIGHTS = provided(__file__)", "from pathlib import Path").replace(
            'WEIGHTS.path("w.safetensors")', 'Path("linked.safetensors")'
        )
    )
    environment = served | {"SWELL_WORKER__WEIGHTS_FILE": str(swell.folder / "list.json")}
    process = worker(swell, environment, "elsewhere")
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not swell.json("workers"):
            assert process.poll() is None, (swell.folder / "elsewhere.txt").read_text()
            assert time.monotonic() < until_s
        done = swell.run("tasks", "submit", "tests/sum", "--watch")
        assert str(sum(range(250)) * (SIZE // 250)) in done.stdout, done.stderr
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def test_a_worker_ends_where_its_weights_were_changed_on_the_way(
    swell: Swell, served: dict[str, str]
) -> None:
    push(swell)
    chunks = sorted((swell.folder / ".swell" / "objects" / "weights" / "chunks").glob("*/*"))
    changed = next(path for path in chunks if re.fullmatch("[0-9a-f]{64}", path.name))
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    process = worker(swell, served, "elsewhere")
    try:
        assert process.wait(PATIENCE_S) != 0
    finally:
        process.kill()
        process.wait(PATIENCE_S)
    said = " ".join((swell.folder / "elsewhere.txt").read_text().split())
    assert "w.safetensors of tests/sum, chunk" in said
    assert hashlib.sha256(content).hexdigest() in said
    assert changed.name in said
    assert swell.json("workers") == []
    assert not list((swell.folder / "elsewhere" / "weights").glob("files/*/*"))
