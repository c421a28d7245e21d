"""How long until the first picture of a worker that has nothing, with 2 GB of weights in a bucket?

A backend runs; the weights were pushed. `swell worker` begins with an empty cache, a URL
and a key, and the clock runs until the task that waits has succeeded: the interpreter,
registration, the fetch of every range through URLs that the backend signs, SHA-256 of all of them,
the libraries' import, the load, one pass, encoding and upload. In turns with it, from the same
server in the same run:

    raw      the same file by curl, 12 ranges at once, to the disk
    import   the libraries of the model, in a fresh interpreter
    naive    what a container does that has no weights: download over one connection, import,
             `from_pretrained`, one pass, a saved picture
    second   another worker on the same machine while the first one lives: the pages of its weights
             are there; in the details only

The server is nginx, which answers the GETs of the S3 protocol from a folder and gives each
connection 90 MB/s, as Amazon S3 does; `--unlimited` gives each all that the machine has. The
files lie in the page cache in all arms. Nothing limits the sum of connections but the cores.

Value: the larger of first / (raw + import) / 1.3 and first / naive / 0.4, by medians of rounds.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html
(85 to 90 MB/s per request).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
from engine_cold import LIBRARIES, pixels
from engine_load import environment_with_swell
from machine import BENCH, ROOT, quiet, report, say
from services import need, version_of
from swell_system import Swell, idle_worker, program, started, worker_key
from systems import versions

MODEL = "bench/cold"
SCRIPT = Path(__file__).with_name("cold_start_model.py")
FILE = "diffusion_pytorch_model.safetensors"
FOLDER = BENCH / "checkpoint" / "unet-2gb"
PATIENCE_S = 180.0
RANGES = 12
#: Bytes per second of one connection.
RATE = 90_000_000
CONFIG: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (256, 544, 1024),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 768,
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (4, 8, 16),
}
IMPORTS = (
    "import accelerate, PIL.Image, pydantic, torch\n"
    "from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel"
)


# --- what is there before ------------------------------------------------------------------------


def make_weights(python: Path) -> None:
    if (FOLDER / FILE).exists():
        return
    say("making a model of 2 GB")
    code = (
        "import torch; torch.manual_seed(0)\n"
        "from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel\n"
        f"UNet2DConditionModel(**{CONFIG!r}).save_pretrained({str(FOLDER)!r})"
    )
    subprocess.run([python, "-c", code], check=True, stderr=subprocess.DEVNULL)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def push(place: Path, data: Path) -> str:
    """Push the weights to a folder; return the digest of their manifest."""
    listing = place / "weights.toml"
    listing.write_text(
        f'model = "{MODEL}"\nversion = "v1"\nbase = "{FOLDER}"\n[weights]\n'
        + "".join(f'"{n}" = "{digest(FOLDER / n)}"\n' for n in ("config.json", FILE))
    )
    to = f"file:{place / 'bucket' / 'pushed'}"
    command = [program(), "models", "push", listing, "--to", to, "--data", data, "--json"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return str(json.loads(said)[0]["manifest"])


@contextlib.contextmanager
def bucket(place: Path, rate: int) -> Iterator[str]:
    """Serve a folder as a bucket is served; give its endpoint."""
    port = processes.free_port()
    limit = f"limit_rate {rate};" if rate else ""
    (place / "nginx.conf").write_text(
        f"daemon off; worker_processes 2; user root; pid {place}/nginx.pid; error_log stderr;\n"
        "events { worker_connections 256; }\n"
        f"http {{ access_log off; sendfile on; sendfile_max_chunk 2m; tcp_nopush on; {limit}\n"
        f"  server {{ listen 127.0.0.1:{port}; root {place}/served;\n"
        "    default_type application/octet-stream; } }\n"
    )
    command = [need("nginx"), "-p", place, "-c", place / "nginx.conf"]
    with processes.running(command, place / "nginx.log"):
        processes.until(lambda: processes.listens(port), 10, "nginx", place / "nginx.log")
        yield f"http://127.0.0.1:{port}"


# --- the arms ------------------------------------------------------------------------------------


class Arms:
    """Every way to a first picture."""

    def __init__(self, server: Swell, place: Path, endpoint: str, python: Path) -> None:
        self.server = server
        self.place = place
        self.endpoint = endpoint
        self.python = python
        self.key = worker_key(server)

    def raw(self) -> float:
        """Run curl to the disk where a cache would be: as many ranges as Swell asks for."""
        size = (FOLDER / FILE).stat().st_size
        with tempfile.TemporaryDirectory(dir=self.place) as made:
            words = ["curl", "-s", "--fail", "--parallel", "--parallel-immediate"]
            words += ["--parallel-max", str(RANGES)]
            share = -(-size // RANGES)
            for number in range(RANGES):
                ends = f"{number * share}-{min((number + 1) * share, size) - 1}"
                part = ["-r", ends, "-o", f"{made}/{number}", f"{self.endpoint}/plain/{FILE}"]
                words += [*(["--next", "-s", "--fail"] if number else []), *part]
            begun = time.perf_counter()
            subprocess.run(words, check=True)
            spent = time.perf_counter() - begun
            assert sum(path.stat().st_size for path in Path(made).iterdir()) == size
        return spent

    def imports(self) -> float:
        begun = time.perf_counter()
        subprocess.run([self.python, "-c", IMPORTS], check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - begun

    def naive(self) -> tuple[float, bytes]:
        with tempfile.TemporaryDirectory(dir=self.place) as made:
            path = Path(made, "plain.png")
            words = [self.python, SCRIPT, f"{self.endpoint}/plain", made, path]
            begun = time.perf_counter()
            with subprocess.Popen(
                [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"saved\n"
                spent = time.perf_counter() - begun
            return spent, pixels(path.read_bytes())

    def first_and_second(self) -> tuple[float, float, set[bytes]]:
        with tempfile.TemporaryDirectory(dir=self.place) as made:
            data = Path(made)
            # The second task must go to the second worker: the first has one slot, and holds one.
            with (
                self._picture(data) as (first, one),
                self._holding(),
                self._picture(data) as (second, two),
            ):
                return first, second, {one, two}

    @contextlib.contextmanager
    def _holding(self) -> Iterator[None]:
        """Have the worker that is there hold a task that takes no time of a core."""
        body = {"model": MODEL, "input": {"hold_s": 60.0}, "max_attempts": 1}
        task = str(self.server.ask("POST", "/v1/tasks", body)["id"])
        path = f"/v1/tasks/{task}"
        processes.until(lambda: self.server.ask("GET", path)["state"] == "running", 10, "a hold")
        yield
        assert self.server.ask("GET", path)["state"] == "running"
        self.server.ask("POST", f"{path}/cancel")

    @contextlib.contextmanager
    def _picture(self, data: Path) -> Iterator[tuple[float, bytes]]:
        """Start a worker for a task that waits; give seconds and pixels while it lives."""
        task = str(self.server.ask("POST", "/v1/tasks", {"model": MODEL, "input": {}})["id"])
        place = ["--url", f"http://127.0.0.1:{self.server.port}", "--data", str(data)]
        command = [self.python.parent / "swell", "worker", *place]
        command += ["--models", str(self.place / SCRIPT.name)]
        begun = time.perf_counter()
        log = self.place / "worker.log"
        told = {"SWELL_WORKER__TOKEN": self.key, "SWELL_WORKER__SLOTS": "1"}
        with processes.running(command, log, told, cwd=ROOT):
            while (said := self.server.ask("GET", f"/v1/tasks/{task}"))["state"] != "succeeded":
                assert said["state"] in ("queued", "running"), said
                assert time.perf_counter() - begun < PATIENCE_S, log.read_text()[-3000:]
                time.sleep(0.01)
            spent = time.perf_counter() - begun
            with urllib.request.urlopen(said["artifacts"][0]["url"]) as answer:
                yield spent, pixels(answer.read())


def read_once(path: Path) -> None:
    """Have the page cache hold what the server gives away."""
    for each in path.rglob("*"):
        if each.is_file():
            with each.open("rb", buffering=0) as file:
                block = bytearray(16 << 20)
                while file.readinto(block):
                    pass


# --- the rounds ----------------------------------------------------------------------------------


def measure(rounds: int, rate: int) -> None:
    python = environment_with_swell()
    make_weights(python)
    with tempfile.TemporaryDirectory(dir=BENCH) as made, quiet():
        place = Path(made)
        manifest = push(place, place / "pusher")
        shutil.copyfile(SCRIPT, place / SCRIPT.name)
        (place / "weights.toml").write_text(
            f'model = "{MODEL}"\nversion = "v1"\nmanifest = "sha256:{manifest}"\n'
        )
        root = place / "served"
        root.mkdir()
        (place / "bucket").rename(root / "bucket")
        (root / "plain").symlink_to(FOLDER)
        with bucket(place, rate) as endpoint:
            settings = {
                "SWELL_WEIGHTS__URL": "s3://bucket/pushed",
                "SWELL_WEIGHTS__ENDPOINT": endpoint,
                "SWELL_WEIGHTS__REGION": "us-east-1",
                "SWELL_WEIGHTS__KEY_ID": "id",
                "SWELL_WEIGHTS__SECRET": "secret",
            }
            with started("serve", place, settings=settings) as server:
                arms = Arms(server, place, endpoint, python)
                with _known(arms):
                    report_on(take_turns(arms, rounds, root), rounds, rate, versions_of(python))


@contextlib.contextmanager
def _known(arms: Arms) -> Iterator[None]:
    """Have the backend know the model, and a worker that lives and takes nothing."""
    with tempfile.TemporaryDirectory(dir=arms.place) as made:
        place = ["--url", f"http://127.0.0.1:{arms.server.port}", "--data", made]
        command = [arms.python.parent / "swell", "worker", *place]
        command += ["--models", str(arms.place / SCRIPT.name)]
        log = arms.place / "worker.log"
        with processes.running(command, log, {"SWELL_WORKER__TOKEN": arms.key}, cwd=ROOT):
            processes.until(lambda: knows(arms.server), PATIENCE_S, MODEL, log)
    with idle_worker(arms.server, MODEL):
        yield


def knows(server: Swell) -> bool:
    try:
        return bool(server.ask("GET", f"/v1/models/{MODEL}"))
    except RuntimeError:
        return False


def take_turns(arms: Arms, rounds: int, root: Path) -> dict[str, Any]:
    spent: dict[str, list[float]] = {
        name: [] for name in ("raw", "import", "naive", "first", "second")
    }
    pictures: set[bytes] = set()
    for turn in range(rounds):
        read_once(root / "bucket")
        read_once(FOLDER)
        spent["raw"].append(arms.raw())
        spent["import"].append(arms.imports())
        naive, said = arms.naive()
        first, second, others = arms.first_and_second()
        pictures |= {said, *others}
        for name, seconds in (("naive", naive), ("first", first), ("second", second)):
            spent[name].append(seconds)
        say(f"{turn}: " + ", ".join(f"{name} {s[-1]:.2f} s" for name, s in spent.items()))
    return {"spent": spent, "agree": len(pictures) == 1}


def versions_of(python: Path) -> dict[str, str]:
    """What both ways to a first picture are made with, and what serves the weights."""
    return versions(python, LIBRARIES) | {"nginx": version_of(need("nginx"), "-v")}


def report_on(found: dict[str, Any], rounds: int, rate: int, made_with: dict[str, str]) -> None:
    spent = {name: statistics.median(s) for name, s in found["spent"].items()}
    ratios = {
        "first_over_raw_and_import": spent["first"] / (spent["raw"] + spent["import"]),
        "first_over_naive": spent["first"] / spent["naive"],
    }
    detail = {
        "bytes": (FOLDER / FILE).stat().st_size,
        "bytes_per_s_of_a_connection": rate or None,
        "rounds": rounds,
        "median_s": {name: round(s, 3) for name, s in spent.items()},
        "range_s": {n: [round(min(s), 3), round(max(s), 3)] for n, s in found["spent"].items()},
        **{name: round(ratio, 3) for name, ratio in ratios.items()},
        "second_over_first": round(spent["second"] / spent["first"], 3),
        "pictures_agree": found["agree"],
        "versions": made_with,
    }
    value = max(value / most for value, most in zip(ratios.values(), (1.3, 0.4), strict=True))
    report(value, detail, ok=found["agree"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--unlimited", action="store_true")
    asked = parser.parse_args()
    measure(asked.rounds, 0 if asked.unlimited else RATE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
