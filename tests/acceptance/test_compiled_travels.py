"""What one machine has compiled is run by another, if it was signed by whom that one trusts."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop
from pages import commands

#: It compiles a program of Python, which is code as that of torch is, and needs no torch.
MODEL = '''
import importlib.util
import marshal
import sys

from pydantic import BaseModel

import swell
from swell.weights.compiled import CompiledKey, processor, workers_cache
from swell.weights.provided import provided

WEIGHTS = provided(__file__)

class Count(swell.Model):
    """Says by which program it counts."""

    name = "tests/count"
    Output = str

    class Input(BaseModel):
        pass

    def load(self, device):
        WEIGHTS.path("w.safetensors")
        key = CompiledKey(("DIGEST",), "1", {"python": sys.version}, device, processor())
        cache = workers_cache()
        found = cache.find(key)
        if found is None:
            found = marshal.dumps(compile("said = 'by program'", "count", "exec"))
            cache.put(key, found)
            self.how = "compiled"
        else:
            self.how = "found"
        self.program = marshal.loads(found)

    def run(self, items):
        names = {}
        exec(self.program, names)
        return [f"{self.how} {names['said']}" for _ in items]
'''


@pytest.fixture
def swell(tmp_path: Path) -> Swell:
    header = {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + b"1234"
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "w.safetensors").write_bytes(content)
    (tmp_path / "weights.toml").write_text(
        f'model = "tests/count"\nversion = "v1"\n[weights]\n"w.safetensors" = "{digest}"\n'
    )
    (tmp_path / "count.py").write_text(MODEL.replace("DIGEST", digest))
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


def said_by_a_worker(swell: Swell, served: dict[str, str], data: str, keys: str = "") -> str:
    """Run a worker on a machine of its own; return its answer to a task."""
    environment = served | {"SWELL_DATA_DIR": str(swell.folder / data)}
    environment |= {"SWELL_WORKER__COMPILED_KEYS": keys} if keys else {}
    with (swell.folder / f"{data}.txt").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "swell", "worker", "-m", "count.py"],
            cwd=swell.folder,
            env=clean_environment() | environment,
            stdout=log,
            stderr=log,
        )
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not swell.json("workers"):
            assert process.poll() is None, log_of(swell, data)
            assert time.monotonic() < until_s, log_of(swell, data)
        done = swell.run("tasks", "submit", "tests/count", "--watch")
        assert done.returncode == 0, done.stderr + log_of(swell, data)
        return "found" if "found by program" in done.stdout else done.stdout
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def log_of(swell: Swell, data: str) -> str:
    return " ".join((swell.folder / f"{data}.txt").read_text().split())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_new_machine_runs_what_another_has_compiled(swell: Swell, served: dict[str, str]) -> None:
    page = commands("docs/models/weights.md", "swell models push --keygen operator.pem")
    keygen, push_weights, worker, push_compiled = page
    assert worker[0] == "worker", "said_by_a_worker starts it"
    public = swell.ok(*keygen).strip()
    assert public == swell.ok("models", "push", "--keygen", "operator.pem").strip()
    swell.ok(*push_weights)
    assert "compiled by program" in said_by_a_worker(swell, served, "first", public)

    refused = swell.run("models", "push", "weights.toml", "--compiled")
    assert refused.returncode != 0
    assert "--key" in refused.stderr
    (swell.folder / "operator.pem").chmod(0o644)
    push = (*push_compiled, "--json")
    first = {"SWELL_WORKER__COMPILED_DIR": str(swell.folder / "first" / "compiled")}
    refused = swell.run(*push, **first)
    assert refused.returncode != 0
    assert "chmod 600" in refused.stderr
    (swell.folder / "operator.pem").chmod(0o600)
    [told] = json.loads(swell.run(*push, **first).stdout)
    assert [each["device"] for each in told["compiled"]] == ["cpu"]

    assert said_by_a_worker(swell, served, "second", public) == "found"
    assert "compiled program fetched" in log_of(swell, "second")
    # One that trusts nobody, or somebody else, compiles.
    other = swell.ok("models", "push", "--keygen", "other.pem").strip()
    assert "compiled by program" in said_by_a_worker(swell, served, "third")
    assert "compiled by program" in said_by_a_worker(swell, served, "fourth", other)
    assert "is not trusted" in log_of(swell, "fourth")
    # While one key follows the other, both count.
    assert said_by_a_worker(swell, served, "fifth", f"{other},{public}") == "found"

    [note] = (swell.folder / ".swell" / "objects" / "weights" / "compiled").rglob("*.json")
    forged = json.loads(note.read_text())
    forged["signature"] = "AAAA" + forged["signature"][4:]
    note.write_text(json.dumps(forged))
    assert "compiled by program" in said_by_a_worker(swell, served, "sixth", public)
    assert "does not hold" in log_of(swell, "sixth")
    secret = (swell.folder / "operator.pem").read_text().splitlines()[1]
    logs = "".join(path.read_text() for path in swell.folder.glob("*.txt"))
    assert secret not in logs
    shutil.rmtree(swell.folder / "first")
