"""`swell models push` as an operator runs it: where to, what it says, and how it ends."""

import contextlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from summed import MODEL, write_weights

from buckets import s3_bucket
from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop
from pages import commands
from servers import Server

#: Of two ranges.
SIZE = 20_000_000


def write(folder: Path, fill: int) -> None:
    """Write weights and their listing."""
    write_weights(folder, bytes([fill]) * SIZE)


@pytest.fixture
def swell(tmp_path: Path) -> Swell:
    write(tmp_path / "source", 1)
    return Swell(tmp_path)


def stored(folder: Path) -> list[Path]:
    return sorted(each for each in (folder / "files").glob("*/*") if each.name[0] != ".")


def test_it_says_where_to_before_and_after_and_in_json(swell: Swell) -> None:
    home = f"file:{swell.folder}/.swell/objects/weights"
    done = swell.run("models", "push", "source/weights.toml")
    assert done.returncode == 0, done.stderr
    before, after = done.stderr.index(f"pushing to {home}\n"), done.stderr.index("tests/sum@v1 is")
    assert before < after
    assert f"tests/sum@v1 is in {home}\n" in done.stderr
    assert len(stored(swell.folder / ".swell" / "objects" / "weights")) == 1
    told = swell.run("models", "push", "source/weights.toml", "--to", "file:shelf", "--json")
    [pushed] = json.loads(told.stdout)
    assert pushed["to"] == f"file:{swell.folder}/shelf"
    assert f"pushing to {pushed['to']}\n" in told.stderr
    assert len(stored(swell.folder / "shelf")) == 1


def test_it_says_which_bucket_at_which_endpoint_and_no_secret(
    swell: Swell, moto_server: Server
) -> None:
    bucket = s3_bucket(moto_server)
    settings = {
        "SWELL_WEIGHTS__URL": bucket.url,
        "SWELL_WEIGHTS__ENDPOINT": bucket.access.endpoint,
        "SWELL_WEIGHTS__REGION": bucket.access.region,
        "SWELL_WEIGHTS__KEY_ID": bucket.access.key_id,
        "SWELL_WEIGHTS__SECRET": "hunter2hunter2",
    }
    done = swell.run("models", "push", "source/weights.toml", "--json", **settings)
    assert done.returncode == 0, done.stderr
    [pushed] = json.loads(done.stdout)
    assert pushed["to"] == f"{bucket.url} at {bucket.access.endpoint}"
    assert "hunter2" not in done.stderr + done.stdout
    with_user = {**settings, "SWELL_WEIGHTS__URL": "s3://me:hunter2hunter2@bucket/x"}
    refused = swell.run("models", "push", "source/weights.toml", **with_user)
    assert refused.returncode != 0
    assert "pushing to s3://" in refused.stderr
    assert "hunter2" not in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr


def test_the_commands_of_the_page_push_where_it_says(tmp_path: Path, moto_server: Server) -> None:
    bucket = s3_bucket(moto_server)
    settings = {
        "SWELL_WEIGHTS__ENDPOINT": bucket.access.endpoint,
        "SWELL_WEIGHTS__REGION": bucket.access.region,
        "SWELL_WEIGHTS__KEY_ID": bucket.access.key_id,
        "SWELL_WEIGHTS__SECRET": bucket.access.secret.get_secret_value(),
    }
    write(tmp_path, 1)
    swell = Swell(tmp_path)
    lines = commands("docs/models/weights.md", "swell models push weights.toml --to")
    told = []
    for words, variables in zip(lines, [settings, {}, {}], strict=True):
        here = [bucket.url if word == "s3://acme-models/weights" else word for word in words]
        done = swell.run(*here, "--json", **variables)
        assert done.returncode == 0, done.stderr
        told += json.loads(done.stdout)
    home = f"file:{tmp_path}/.swell/objects/weights"
    there = f"{bucket.url} at {bucket.access.endpoint}"
    assert [(each["to"], each["sent_files"]) for each in told] == [
        (there, 1),
        (home, 1),
        (home, 0),
    ]
    assert len([name for name in bucket.names() if "files/" in name]) == 1
    assert len(stored(tmp_path / ".swell" / "objects" / "weights")) == 1


@pytest.mark.parametrize("url", ["shelf", "ftp://x/y", "s3://[x"])
def test_an_address_of_no_store_is_refused_with_what_to_write(swell: Swell, url: str) -> None:
    done = swell.run("models", "push", "source/weights.toml", "--to", url)
    assert done.returncode == 2
    assert "--to" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_was_changed_is_replaced_where_verify_is_asked_for(swell: Swell) -> None:
    push = ("models", "push", "source/weights.toml", "--to", "file:shelf")
    swell.ok(*push)
    [path] = stored(swell.folder / "shelf")
    right = path.read_bytes()
    path.write_bytes(bytes(len(right)))
    [told] = swell.json(*push)
    assert (told["sent_files"], told["wrong_files"]) == (0, 0)
    done = swell.run(*push, "--verify")
    assert "REPAIRED" in done.stdout
    assert path.read_bytes() == right
    [told] = swell.json(*push, "--verify")
    assert (told["sent_files"], told["wrong_files"]) == (0, 0)


def test_other_weights_of_a_version_are_refused_and_nothing_goes_up(swell: Swell) -> None:
    push = ("models", "push", "source/weights.toml", "--to", "file:shelf")
    swell.ok(*push)
    before = {path: path.stat().st_mtime_ns for path in (swell.folder / "shelf").rglob("*")}
    write(swell.folder / "source", 2)
    refused = swell.run(*push)
    assert refused.returncode == 1
    said = " ".join(refused.stderr.split())
    assert "different files: w.safetensors" in said
    assert "push these as another version" in said
    assert 'version = "v1-2"' in said
    after = {path: path.stat().st_mtime_ns for path in (swell.folder / "shelf").rglob("*")}
    assert after == before


def test_files_that_lie_beside_their_listing_are_read_there_and_not_copied(swell: Swell) -> None:
    [pushed] = swell.json("models", "push", "source/weights.toml")
    assert not list((swell.folder / ".swell").glob("weights/files/*/*"))
    # The manifest stays, by which `swell build --bake` finds them.
    assert [path.stem for path in (swell.folder / ".swell/weights/manifests").iterdir()] == [
        pushed["manifest"]
    ]
    (swell.folder / "source" / "w.safetensors").write_bytes(b"x")
    changed = swell.run("models", "push", "source/weights.toml", "--to", "file:other")
    assert changed.returncode == 2
    assert "w.safetensors" in changed.stderr
    assert not (swell.folder / "other" / "versions").exists()


def test_a_listing_that_names_a_manifest_alone_is_pushed_from_where_it_was_pulled(
    swell: Swell,
) -> None:
    [pushed] = swell.json("models", "push", "source/weights.toml")
    pin = f'model = "tests/sum"\nversion = "v1"\nmanifest = "sha256:{pushed["manifest"]}"\n'
    (swell.folder / "weights.toml").write_text(pin)
    nowhere = swell.run("models", "push", "weights.toml", "--verify")
    assert nowhere.returncode == 3
    assert "swell models pull" in nowhere.stderr
    swell.ok("models", "pull", "source/weights.toml")
    shutil.rmtree(swell.folder / "source")
    [again] = swell.json("models", "push", "weights.toml", "--verify")
    assert again["manifest"] == pushed["manifest"]


@contextlib.contextmanager
def silent() -> Iterator[tuple[str, threading.Event]]:
    """Run a server that takes connections and says nothing; give its URL, and when it has one."""
    is_asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])
                    is_asked.set()

        taking = threading.Thread(target=take, daemon=True)
        taking.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", is_asked
        # Who waits in `accept` is woken by this alone.
        server.shutdown(socket.SHUT_RDWR)
        taking.join(10)
        for each in taken:
            each.close()


def test_an_interrupted_push_ends_at_once_and_says_how_to_go_on(swell: Swell) -> None:
    push = ("models", "push", "source/weights.toml", "--to", "s3://bucket/x")
    with silent() as (url, is_asked):
        settings = {
            "SWELL_WEIGHTS__ENDPOINT": url,
            "SWELL_WEIGHTS__REGION": "us-east-1",
            "SWELL_WEIGHTS__KEY_ID": "id",
            "SWELL_WEIGHTS__SECRET": "secret",
        }
        process = subprocess.Popen(
            [*(sys.executable, "-m", "swell"), *push],
            cwd=swell.folder,
            env=clean_environment() | settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == f"pushing to s3://bucket/x at {url}\n"
            assert is_asked.wait(20)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            said = process.stderr.read()
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    assert "Uploaded files stay" in said
    assert "run the same command to resume" in said
    assert "Traceback" not in said


def worker(swell: Swell, settings: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "worker.txt").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "swell", "worker", "-m", "sum.py"],
            cwd=folder,
            env=clean_environment() | settings,
            stdout=log,
            stderr=log,
        )


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_backend_serves_what_lies_in_a_folder_of_its_own_to_workers_from_elsewhere(
    swell: Swell, is_tls: bool
) -> None:
    tls = '[server]\ntls = "self-signed"\n' if is_tls else ""
    (swell.folder / "swell.toml").write_text(f'{tls}[weights]\nurl = "file:shelf"\n')
    [pushed] = swell.json("models", "push", "source/weights.toml")
    assert pushed["to"] == f"file:{swell.folder}/shelf"
    shutil.rmtree(swell.folder / "source")
    # Elsewhere nobody knows of the folder.
    elsewhere = swell.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sum.py").write_text(MODEL)
    (elsewhere / "weights.toml").write_text(
        f'model = "tests/sum"\nversion = "v1"\nmanifest = "sha256:{pushed["manifest"]}"\n'
    )
    backend = swell.start("serve", "--port", "0", "--json")
    try:
        url = ready_line(backend, swell.folder)["url"]
        key = swell.json("keys", "create", "worker", "--scope", "worker")["key"]
        settings = {"SWELL_WORKER__URL": url, "SWELL_WORKER__TOKEN": key}
        if is_tls:
            assert url.startswith("https:")
            cert = swell.folder / ".swell" / "tls" / "cert.pem"
            settings["SWELL_WORKER__CA_FILE"] = str(cert)
            assert ssl.create_default_context(cafile=str(cert)).get_ca_certs()
        process = worker(swell, settings, elsewhere)
        try:
            until_s = time.monotonic() + PATIENCE_S
            while not swell.json("workers"):
                assert process.poll() is None, (elsewhere / "worker.txt").read_text()
                assert time.monotonic() < until_s
            done = swell.run("tasks", "submit", "tests/sum", "--watch")
            assert str(SIZE) in done.stdout, done.stderr
            # The model may answer before the worker has told that all came.
            while "weights fetched" not in (said := (elsewhere / "worker.txt").read_text()):
                assert time.monotonic() < until_s, said
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait(PATIENCE_S)
        assert str(swell.folder / "shelf") not in (elsewhere / "worker.txt").read_text()
    finally:
        stop(backend)
