"""The units for systemd: it takes them, they give little away, and what they set and run exists."""

import ctypes
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from typer.main import get_command

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop
from pages import Reader, block
from swell.cli import app
from swell.settings.describe import describe
from swell.settings.load import load

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PROGRAM = "/opt/swell/venv/bin/swell"

#: prctl(2): what systemd asks for with MemoryDenyWriteExecute; programs that are run later keep it.
_PR_SET_MDWE, _REFUSE_EXEC_GAIN = 65, 1


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    why = "systemd-analyze is missing: apt-get install systemd"
    if found is None and os.environ.get("CI"):
        pytest.fail(why)
    if found is None:
        pytest.skip(why)
    return found


def service(path: Path) -> dict[str, list[str]]:
    """Return the section [Service]: keys may stand more than once."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if head := re.fullmatch(r"\[(\w+)\]", line):
            section = head[1]
        elif section == "Service" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def variables(path: Path) -> dict[str, str]:
    """Return what a unit and its file of variables set."""
    told = [word for line in service(path).get("Environment", ()) for word in line.split()]
    for name in service(path)["EnvironmentFile"]:
        lines = (FOLDER / Path(name).name).read_text().splitlines()
        told += [line for line in lines if line and not line.startswith("#")]
    return dict(word.split("=", 1) for word in told)


def test_systemd_takes_them(analyze: str, tmp_path: Path) -> None:
    there = Path(sys.executable).with_name("swell")
    assert there.exists()
    for path in UNITS:
        # Its program lies elsewhere on this machine.
        text = path.read_text().replace(PROGRAM, str(there))
        (tmp_path / path.name.replace("@.", "@0.")).write_text(text)
    units = sorted(tmp_path.glob("*.service"))
    checked = run(analyze, "verify", "--man=no", "--recursive-errors=no", *map(str, units))
    assert (checked.returncode, checked.stderr) == (0, "")
    # The check sees what is wrong.
    units[0].write_text(
        units[0].read_text().replace("KillMode=", "KilMode=").replace("Type=", "X=")
    )
    assert "Unknown key" in run(analyze, "verify", "--man=no", str(units[0])).stderr


@pytest.mark.parametrize(
    ("name", "most"), [("swell", 20), ("swell-migrate", 20), ("swell-worker@", 40)]
)
def test_they_give_little_away(analyze: str, name: str, most: int) -> None:
    """By systemd's own scale, from 0 (safe) to 100."""
    path = FOLDER / f"{name}.service"
    judged = run(
        analyze, "security", "--offline=true", f"--threshold={most}", "--no-pager", str(path)
    )
    assert judged.returncode == 0, judged.stdout
    assert service(path)["User"] == ["swell"]


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_setting_exists_and_every_command_line_is_one(tmp_path: Path) -> None:
    known = {each.variable for each in describe()}
    assert {path.name for path in UNITS} == {
        "swell.service",
        "swell-migrate.service",
        "swell-worker@.service",
    }
    for path in UNITS:
        told = {n: value for n, value in variables(path).items() if n.startswith("SWELL_")}
        assert set(told) <= known, path
        load(environment=told, folder=tmp_path)
        [line] = service(path)["ExecStart"]
        program, *words = line.split()
        assert program == PROGRAM
        inner: Any = get_command(app)
        while hasattr(inner, "resolve_command"):
            with inner.make_context("swell", list(words), resilient_parsing=True) as context:
                _, inner, words = inner.resolve_command(context, list(words))
        with inner.make_context("last", list(words)) as context:
            assert context.params


def test_they_have_longer_to_end_than_they_take() -> None:
    for path in UNITS:
        [grace] = service(path).get("TimeoutStopSec", ["90"])
        told = variables(path)
        takes = [float(told[name]) for name in told if name.endswith(("DRAIN_S", "KILLED_AFTER_S"))]
        assert sum(takes) < float(grace), path


def test_the_steps_name_files_and_units_that_exist() -> None:
    text = (FOLDER / "README.md").read_text()
    for each in re.findall(r"deploy/systemd/([\w.@-]+)", text):
        assert (FOLDER / each).exists(), each
    names = {path.name for path in UNITS}
    for each in re.findall(r"\b(swell[\w-]*(?:@\d)?\.service)\b", text):
        assert re.sub(r"@\d", "@", each) in names, each
    told = set(re.findall(r"`([\w@-]+\.(?:service|env))`", text))
    assert told == {path.name for path in FOLDER.iterdir() if path.suffix in (".service", ".env")}


def test_settings_and_secrets_are_looked_at_by_the_command_of_the_steps(tmp_path: Path) -> None:
    check, *_ = block("deploy/systemd/README.md", "systemctl daemon-reload", "sh").splitlines()
    (tmp_path / "swell.toml").write_text("[log]\njson_lines = true\n")
    (tmp_path / "swell.toml").chmod(0o640)
    shutil.copy(FOLDER / "swell.env", tmp_path)
    folder = variables(FOLDER / "swell.service")["SWELL_DATA_DIR"]
    here = (PROGRAM, "swell"), ("/etc/swell/", f"{tmp_path}/"), (folder, f"{tmp_path}/data")
    said = Reader(tmp_path).does(check, *here).stdout
    assert "settings file" in said
    # The service's own folder is tried, and none beside it.
    assert f"{tmp_path}/data/swell.db" in said
    assert not (tmp_path / ".swell").exists()


@pytest.mark.slow
def test_a_backend_says_when_it_is_ready_and_makes_no_programs(tmp_path: Path) -> None:
    """As systemd has it: told by a socket, and with memory that is never both written and run."""
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        with (tmp_path / "stderr.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "swell", "serve", "--json", "--port", "0"],
                cwd=tmp_path,
                env=clean_environment() | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                preexec_fn=lambda: libc.prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0),
            )
        try:
            ready = ready_line(process, tmp_path)
            assert manager.recv(100) == b"READY=1"
            with urlopen(f"{ready['url']}/health/ready", timeout=PATIENCE_S) as answer:
                assert answer.status == 200
        finally:
            assert stop(process) == 0


def test_without_somebody_to_tell_nothing_changes(tmp_path: Path) -> None:
    swell = Swell(tmp_path)
    process = swell.start("serve", "--json", "--port", "0")
    try:
        assert ready_line(process, tmp_path)["ready"] is True
    finally:
        assert stop(process) == 0
