"""The compose files: what they set and run exists, and the same settings work on real servers."""

import json
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop
from pages import Reader, block
from postgres_databases import PostgresDatabases
from servers import MotoServer, NatsServer
from swell.cli import app
from swell.cli.deployment import Deployment
from swell.settings.describe import describe
from swell.settings.load import load

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "compose"
FILES = sorted(FOLDER.glob("*.yml"))


def services(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["services"]
    return found


def own(path: Path) -> dict[str, dict[str, Any]]:
    """The services that run Swell's commands."""
    return {
        n: each
        for n, each in services(path).items()
        if "SWELL_IMAGE" in each["image"] and "-c" not in each.get("entrypoint", ())
    }


def asked(path: Path) -> set[str]:
    """The variables that a file has its values from."""
    given = {
        each["environment"] for each in yaml.safe_load(path.read_text()).get("secrets", {}).values()
    }
    return given | set(re.findall(r"\$\{(\w+)", path.read_text()))


def plain(text: str) -> str:
    """A value as compose would give it, with those variables set that must be."""
    return re.sub(r"\$\{\w+:\?[^}]*\}", "secret", re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))


def test_there_is_one_for_one_machine_and_one_for_many() -> None:
    assert [path.name for path in FILES] == ["embedded.yml", "scaled.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_setting_exists_and_has_a_value_that_is_allowed(path: Path, tmp_path: Path) -> None:
    known = {each.variable: each for each in describe()}
    assert own(path)
    for name, service in own(path).items():
        told = {key: plain(value) for key, value in service.get("environment", {}).items()}
        for variable in told:
            is_file = variable.removesuffix("_FILE") in known and variable.endswith("_FILE")
            assert variable in known or is_file, f"{name}: {variable}"
            if is_file:
                told[variable] = str(tmp_path / "secret")
        (tmp_path / "secret").write_text("x")
        load(environment=told, folder=tmp_path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_command_line_is_one(path: Path) -> None:
    for service in own(path).values():
        words = service.get("command", ["worker"])
        root: Any = get_command(app)
        with root.make_context("swell", list(words)) as context:
            name, command, rest = root.resolve_command(context, list(words))
            with command.make_context(name, rest, parent=context) as inner:
                assert inner.params


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_who_is_waited_for_and_what_is_mounted_is_there(path: Path) -> None:
    whole = yaml.safe_load(path.read_text())
    for service in whole["services"].values():
        assert set(service.get("depends_on", ())) <= set(whole["services"])
        named = [volume.partition(":")[0] for volume in service.get("volumes", ())]
        assert set(named) <= set(whole["volumes"])
        assert set(service.get("secrets", ())) <= set(whole.get("secrets", {}))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_variable_is_explained_and_none_is_a_file_that_is_not_there(path: Path) -> None:
    words = (FOLDER / "README.md").read_text()
    assert {name for name in asked(path) if f"`{name}`" not in words} == set()
    # What is set in one step is asked for in none before it.
    first = words.index("up --detach backend")
    needed = {name for name in asked(path) if f"${{{name}:?" in path.read_text()}
    assert {name for name in needed if f"{name}=" not in words[:first]} == set()


def test_the_file_of_variables_has_all_that_must_be_set_and_is_nobody_elses(tmp_path: Path) -> None:
    (tmp_path / "deploy" / "compose").mkdir(parents=True)
    Reader(tmp_path).does(block("deploy/compose/README.md", "umask 077", "sh"))
    path = tmp_path / "deploy" / "compose" / ".env"
    assert path.stat().st_mode & 0o777 == 0o600
    told = dict(line.split("=", 1) for line in path.read_text().splitlines())
    scaled = FOLDER / "scaled.yml"
    needed = {name for name in asked(scaled) if f"${{{name}:?" in scaled.read_text()}
    # The key of workers is made by the backend, later.
    assert needed - set(told) <= {"WORKER_KEY"}
    assert all(told.values())
    assert re.fullmatch(r"[0-9a-f]{48}", told["POSTGRES_PASSWORD"])


def test_what_holds_secrets_is_not_taken_by_git() -> None:
    ignored = (FOLDER.parents[1] / ".gitignore").read_text().splitlines()
    assert {"/deploy/compose/.env", "/deploy/compose/secrets/"} <= set(ignored)


@pytest.mark.slow
def test_the_bucket_is_made_once(tmp_path: Path, moto_server: MotoServer) -> None:
    """By the service's own program, on a server that has none."""
    service = services(FOLDER / "scaled.yml")["bucket"]
    bucket = f"c{uuid.uuid4().hex[:8]}"
    (tmp_path / "objects").write_text("secret\n")
    told = service["environment"] | {
        "SWELL_OBJECTS__URL": f"s3://{bucket}/objects",
        "SWELL_OBJECTS__ENDPOINT": moto_server.url,
        "SWELL_OBJECTS__SECRET_FILE": str(tmp_path / "objects"),
    }
    [program] = service["command"]
    # Compose would read it as the name of a variable.
    assert "$" not in program
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], env=clean_environment() | told, check=True)
        found = subprocess.run(
            ["curl", "-sf", "-o", "-", f"{moto_server.url}/{bucket}?location"], check=False
        )
        assert found.returncode == 0


@pytest.mark.parametrize(("name", "service"), [("embedded", "swell"), ("scaled", "backend")])
def test_a_backend_knows_that_others_reach_it(name: str, service: str, tmp_path: Path) -> None:
    """By its variables alone, which are all that `swell deploy` in its container sees."""
    found = own(FOLDER / f"{name}.yml")[service]
    (tmp_path / "objects").write_text("secret")
    given = {key: plain(value) for key, value in found["environment"].items()}
    given |= {key: str(tmp_path / "objects") for key in given if key.endswith("_FILE")}
    assert Deployment(load(environment=given, folder=tmp_path).settings).is_open
    assert "--host" not in found["command"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_services_have_longer_to_end_than_they_take(path: Path) -> None:
    for service in own(path).values():
        grace_s = float(service["stop_grace_period"].removesuffix("s"))
        told = service["environment"]
        drains = [float(told[name]) for name in told if name.endswith("DRAIN_S")]
        assert sum(drains) < grace_s


@pytest.mark.slow
async def test_the_settings_of_the_scaled_one_serve_on_real_servers(
    tmp_path: Path,
    postgres_databases: PostgresDatabases,
    nats_server: NatsServer,
    moto_server: MotoServer,
) -> None:
    name = f"c{uuid.uuid4().hex[:8]}"
    subprocess.run(["curl", "-sf", "-X", "PUT", f"{moto_server.url}/{name}"], check=True)
    (tmp_path / "objects").write_text("secret")
    elsewhere = {
        "SWELL_STORE__URL": await postgres_databases.new(),
        "SWELL_BUS__URL": f"{nats_server.url}/{name}",
        "SWELL_OBJECTS__URL": f"s3://{name}/objects",
        "SWELL_OBJECTS__ENDPOINT": moto_server.url,
        "SWELL_OBJECTS__SECRET_FILE": str(tmp_path / "objects"),
    }
    scaled = own(FOLDER / "scaled.yml")
    backend, worker = scaled["backend"], scaled["worker"]
    told = {key: plain(value) for key, value in backend["environment"].items()} | elsewhere
    # What is replaced is only where servers are.
    assert set(elsewhere) <= set(backend["environment"])
    told["SWELL_SERVER__HOST"] = "127.0.0.1"
    with (tmp_path / "stderr.txt").open("w") as log:
        serving = subprocess.Popen(
            [sys.executable, "-m", "swell", *backend["command"], "--json", "--port", "0"],
            cwd=tmp_path,
            env=clean_environment() | told,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        ready = ready_line(serving, tmp_path)
        swell = Swell(tmp_path)
        made = swell.run(
            *("keys", "create", "workers", "--scope", "worker", "--json"),
            SWELL_URL=ready["url"],
            SWELL_KEY=ready["key"],
        )
        (tmp_path / "key").write_text(json.loads(made.stdout)["key"])
        mine = dict(worker["environment"]) | {
            "SWELL_WORKER__URL": ready["url"],
            "SWELL_WORKER__TOKEN_FILE": str(tmp_path / "key"),
            "SWELL_WORKER__MODELS": "demo/upper",
        }
        with (tmp_path / "worker.txt").open("w") as log:
            working = subprocess.Popen(
                [sys.executable, "-m", "swell", "worker"],
                cwd=tmp_path,
                env=clean_environment() | mine,
                stdout=log,
                stderr=log,
                text=True,
            )
        try:
            access = {"SWELL_URL": ready["url"], "SWELL_KEY": ready["key"]}
            ends_s = time.monotonic() + PATIENCE_S
            asked = ("tasks", "submit", "demo/upper", "-i", "text=composed")
            while (sent := swell.run(*asked, **access)).returncode:
                # Until the worker has joined there is no such model.
                assert time.monotonic() < ends_s, (
                    sent.stderr + (tmp_path / "worker.txt").read_text()
                )
            watched = swell.run("tasks", "watch", sent.stdout.strip(), **access)
            assert watched.returncode == 0, watched.stderr
            shown = swell.run("tasks", "show", sent.stdout.strip(), "--json", **access)
            assert json.loads(shown.stdout)["output"] == "COMPOSED"
        finally:
            assert stop(working) == 0
    finally:
        stop(serving)
