"""Weights that were pushed reach workers that have a URL and a key only, right or not at all."""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from summed import MODEL, push, served_to_workers, worker_elsewhere, write_weights

from commandline import PATIENCE_S, Swell

#: Of three ranges.
SIZE = 50_000_000


@pytest.fixture
def swell(tmp_path: Path) -> Swell:
    write_weights(tmp_path / "source", bytes(range(250)) * (SIZE // 250))
    (tmp_path / "sum.py").write_text(MODEL)
    return Swell(tmp_path)


@pytest.fixture
def served(swell: Swell) -> Iterator[dict[str, str]]:
    """Serve; give the environment of a worker from elsewhere."""
    with served_to_workers(swell) as environment:
        yield environment


def test_workers_of_one_machine_share_what_the_first_fetches(
    swell: Swell, served: dict[str, str]
) -> None:
    pushed = push(swell)
    assert pushed["sent_files"] == 1
    shutil.rmtree(swell.folder / "source")
    workers = [worker_elsewhere(swell, served, "elsewhere") for _ in range(2)]
    try:
        until_s = time.monotonic() + PATIENCE_S
        while len(swell.json("workers")) < len(workers):
            assert time.monotonic() < until_s, (swell.folder / "elsewhere.txt").read_text()
        done = swell.run("tasks", "submit", "tests/sum", "--watch")
        assert str(sum(range(250)) * (SIZE // 250)) in done.stdout, done.stderr
        # Whoever only found them there may be sooner than whoever fetched them.
        came = -1
        while came != pushed["bytes"]:
            assert time.monotonic() < until_s, (swell.folder / "elsewhere.txt").read_text()
            time.sleep(0.1)
            fetched = [
                line
                for line in (swell.folder / "elsewhere.txt").read_text().splitlines()
                if "weights fetched" in line
            ]
            numbers = [re.search(r"bytes.*?=.*?(\d+)", line) for line in fetched]
            came = sum(int(each[1]) for each in numbers if each)
            assert came <= pushed["bytes"]
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
    process = worker_elsewhere(swell, environment, "elsewhere")
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
    files = sorted((swell.folder / ".swell" / "objects" / "weights" / "files").glob("*/*"))
    changed = next(path for path in files if re.fullmatch("[0-9a-f]{64}", path.name))
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    process = worker_elsewhere(swell, served, "elsewhere")
    try:
        assert process.wait(PATIENCE_S) != 0
    finally:
        process.kill()
        process.wait(PATIENCE_S)
    said = " ".join((swell.folder / "elsewhere.txt").read_text().split())
    assert "w.safetensors of tests/sum: its SHA-256 is" in said
    assert hashlib.sha256(content).hexdigest() in said
    assert changed.name in said
    assert swell.json("workers") == []
    assert not list((swell.folder / "elsewhere" / "weights").glob("files/*/*"))
