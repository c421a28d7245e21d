"""Are weights inside an image quicker on a new machine than weights that a worker fetches?

One model with 2.1 GB of weights, two images of `swell build`: one without them, which a worker
fetches from a bucket on this machine (`cold_start.py` says how that is made), and one with them
(`--bake`). What is measured of each, in turns:

    build      with all layers but the code's made before; the weights' layer is timed once
    save       `podman save`, the image as an archive
    load       `podman load` of it into an empty storage, as on a machine that has nothing
    start      `podman run` until the picture of a task is there, sent as soon as one is taken
    second     the same once more on that machine: image, and fetched weights, are there

The archive comes from the disk, not from the page cache. What an image is made of is in the page
cache when it starts, as on a machine that has just unpacked it. Neither costs a network: a real one
adds to both what it takes. The model imports numpy and Pillow only, so that next to nothing hides
the fetch; torch would.

Value: load and start without the weights, over load and start with them; medians of rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import processes
from cold_start import RATE, bucket
from machine import BENCH, ROOT, quiet, report, say
from swell_system import Swell, program, started, worker_key

sys.path.insert(0, str(ROOT / "tests" / "containers"))

from container_rig import _may, build, podman, why_not

NAME = "bench/baked"
FILE = "w.safetensors"
#: Tensors of 128 MiB.
TENSORS = 16
PATIENCE_S = 240.0
OPEN = ("queued", "running")

MODEL = '''
from swell.weights.declared_weights import provided

WEIGHTS = provided(__file__)

import numpy as np
import PIL.Image
from pydantic import BaseModel

import swell
from swell.weights.safetensors_loader import load

TURN = 0


class Pass(swell.Model):
    """A picture that each of its weights has a part in."""

    name = "bench/baked"
    Output = swell.Image

    class Input(BaseModel):
        pass

    def load(self, device):
        self.tensors = load(WEIGHTS.path("w.safetensors"))

    def run(self, items):
        sums = [int(each.view(np.uint8).max()) for _, each in sorted(self.tensors.items())]
        picture = PIL.Image.fromarray(np.full((64, 64, 3), max(sums), np.uint8))
        return [swell.Image(picture) for _ in items]
'''


def make_weights(folder: Path) -> str:
    """Write random weights, which nothing packs; return their digest."""
    size = 128 << 20
    header = {
        f"t{n:02}": {
            "dtype": "F32",
            "shape": [size // 4],
            "data_offsets": [n * size, n * size + size],
        }
        for n in range(TENSORS)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4096)
    rng = np.random.default_rng(0)
    found = hashlib.sha256()
    with (folder / FILE).open("wb") as file:
        for piece in (len(text).to_bytes(8, "little") + text, *(rng.bytes(size) for _ in header)):
            found.update(piece)
            file.write(piece)
    return found.hexdigest()


class Case:
    """The model's folder, and the backend that has its weights."""

    def __init__(self, folder: Path, server: Swell) -> None:
        self.folder = folder
        self.server = server
        self.to = f"file:{folder}/served/bucket/pushed"
        self.turn = 0
        self.models = folder / "models"
        self.models.mkdir()

    def push(self) -> dict[str, Any]:
        """Make weights, push them, and name them beside the code; return what the push told."""
        listing = self.models / "weights.toml"
        digest = make_weights(self.models)
        told = f'model = "{NAME}"\nversion = "v1"\n'
        files = f'[weights]\n"{FILE}" = "{digest}"\n'
        listing.write_text(told + files)
        begun = time.perf_counter()
        command = [program(), "models", "push", str(listing), "--to", self.to, "--json"]
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=os.environ | {"SWELL_DATA_DIR": str(self.server.data)},
        )
        [pushed] = json.loads(done.stdout)
        listing.write_text(f'{told}manifest = "sha256:{pushed["manifest"]}"\n{files}')
        return {"push_s": time.perf_counter() - begun, **pushed}

    def new_code(self) -> None:
        self.turn += 1
        (self.models / "passes.py").write_text(MODEL.replace("TURN = 0", f"TURN = {self.turn}"))

    def built(self, tag: str, *options: str) -> tuple[float, int]:
        """Build; return how long that took, and the image's size in bytes."""
        begun = time.perf_counter()
        words = ("passes.py", "--tag", tag, *options)
        told = build(*words, folder=self.models, SWELL_DATA_DIR=str(self.server.data))
        return time.perf_counter() - begun, int(told["bytes"])


def saved(tag: str, archive: Path) -> float:
    begun = time.perf_counter()
    done = podman("save", "--format", "docker-archive", "--output", str(archive), tag)
    assert done.returncode == 0, done.stderr
    with archive.open("rb") as file:
        os.fsync(file.fileno())
        # It is to come from the disk.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return time.perf_counter() - begun


@contextlib.contextmanager
def new_machine(place: Path) -> Iterator[list[str]]:
    """Give the options of podman with which it has no image, and nothing else."""
    options = ["--root", str(place / "storage"), "--runroot", str(place / "run")]
    try:
        yield options
    finally:
        podman(*options, "system", "reset", "--force")
        shutil.rmtree(place, ignore_errors=True)


def loaded(machine: list[str], archive: Path) -> float:
    begun = time.perf_counter()
    done = podman(*machine, "load", "--quiet", "--input", str(archive))
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - begun


def started_s(machine: list[str], tag: str, case: Case, key: str, weights: Path) -> float:
    """Run a worker; return how long it took until the picture of a task was there, in seconds."""
    url = f"http://127.0.0.1:{case.server.port}"
    command = ["podman", "--runtime", "runc", *machine, "run", "--rm", "--name", "bench-baked"]
    command += [*_may(), "-e", f"SWELL_WORKER__URL={url}", "-e", "SWELL_WORKER__TOKEN"]
    command += ["-v", f"{weights}:/var/lib/swell/weights", tag]
    log = case.folder / "worker.log"
    begun = time.perf_counter()
    with processes.running(command, log, {"SWELL_WORKER__TOKEN": key}) as process:
        task = ""
        while not task or (told := case.server.ask("GET", f"/v1/tasks/{task}"))["state"] in OPEN:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.perf_counter() - begun < PATIENCE_S, log.read_text()[-3000:]
            task = task or submitted(case.server)
            time.sleep(0.01)
        spent = time.perf_counter() - begun
        assert told["state"] == "succeeded", told
        podman(*machine, "stop", "--time", "5", "bench-baked")
        process.wait(PATIENCE_S)
    return spent


def submitted(server: Swell) -> str:
    """Return the id of a task, or nothing while no worker takes any."""
    try:
        return str(server.ask("POST", "/v1/tasks", {"model": NAME, "input": {}})["id"])
    except RuntimeError:
        return ""


def reaching(endpoint: str) -> dict[str, str]:
    """Return the settings by which a backend signs URLs of a bucket that lets everybody read."""
    return {
        "SWELL_WEIGHTS__URL": "s3://bucket/pushed",
        "SWELL_WEIGHTS__ENDPOINT": endpoint,
        "SWELL_WEIGHTS__REGION": "us-east-1",
        "SWELL_WEIGHTS__KEY_ID": "id",
        "SWELL_WEIGHTS__SECRET": "secret",
    }


def measure(rounds: int, rate: int) -> dict[str, Any]:
    tags = {
        "apart": "localhost/swell-bench-apart:latest",
        "baked": "localhost/swell-bench-baked:latest",
    }
    spent: dict[str, dict[str, list[float]]] = {
        name: {what: [] for what in ("build", "save", "load", "start", "second")} for name in tags
    }
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="baked-", dir=BENCH) as made:
        folder = Path(made)
        (folder / "data").mkdir()
        (folder / "served").mkdir()
        with (
            bucket(folder, rate) as endpoint,
            started("serve", folder / "data", settings=reaching(endpoint)) as server,
        ):
            case, key = Case(folder, server), worker_key(server)
            pushed = case.push()
            case.new_code()
            # Of what both have in common.
            first_s, _ = case.built(tags["apart"])
            layer_s, _ = case.built(tags["baked"], "--bake")
            say(f"push {pushed['push_s']:.1f} s, builds {first_s:.1f} and {layer_s:.1f} s")
            for turn in range(rounds):
                for name, tag in tags.items():
                    case.new_code()
                    arm = spent[name]
                    build_s, sizes[name] = case.built(tag, *(["--bake"] if name == "baked" else []))
                    arm["build"].append(build_s)
                    archive = folder / f"{name}.tar"
                    arm["save"].append(saved(tag, archive))
                    with new_machine(folder / "machine") as machine:
                        weights = folder / "weights"
                        weights.mkdir(mode=0o777)
                        weights.chmod(0o777)
                        arm["load"].append(loaded(machine, archive))
                        for what in ("start", "second"):
                            arm[what].append(started_s(machine, tag, case, key, weights))
                        shutil.rmtree(weights)
                    sizes[f"{name}_archive"] = archive.stat().st_size
                    archive.unlink()
                    say(
                        f"{turn} {name}: " + ", ".join(f"{w} {s[-1]:.1f} s" for w, s in arm.items())
                    )
    podman("rmi", "--force", *tags.values())
    return {
        "weights_bytes": pushed["bytes"],
        "sizes_bytes": sizes,
        "first_build_s": round(first_s, 2),
        "weights_layer_build_s": round(layer_s, 2),
        "push_s": round(pushed["push_s"], 2),
        "median_s": {
            name: {what: round(statistics.median(s), 2) for what, s in arm.items()}
            for name, arm in spent.items()
        },
        "all_s": {
            name: {what: [round(each, 2) for each in s] for what, s in arm.items()}
            for name, arm in spent.items()
        },
        "rounds": rounds,
        "bytes_per_s_of_a_connection": rate or None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unlimited", action="store_true", help="no 90 MB/s a connection")
    asked = parser.parse_args()
    if why := why_not():
        report(None, {"error": why}, ok=False)
        return 1
    BENCH.mkdir(exist_ok=True)
    with quiet():
        told = measure(asked.rounds, 0 if asked.unlimited else RATE)
    until = {name: arm["load"] + arm["start"] for name, arm in told["median_s"].items()}
    told["new_machine_s"] = {name: round(s, 2) for name, s in until.items()}
    report(until["apart"] / until["baked"], told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
