"""Every command of the page about planning a launch is run."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pages import blocks
from swell.cli import app
from swell.simulator.scenarios import SCENARIOS

PAGE = Path(__file__).parents[2] / "docs" / "plan-a-launch.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [
    line for each in blocks("docs/plan-a-launch.md", "console") for line in each.splitlines()
]

POOLS = """
[pools.spot]
models = ["acme/poster"]
most = 20
spot = true
losses_per_hour = 0.05
hour_micros = 350_000

[pools.owned]
models = ["acme/poster", "acme/sketch"]
least = 1
most = 30
hour_micros = 900_000
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    minutes = "".join(f"{minute},{2.0 + minute / 60}\n" for minute in range(60))
    (tmp_path / "traffic.csv").write_text("minute,images_per_s\n" + minutes)
    (tmp_path / "seconds.txt").write_text("1.5\n2\n2.5\n")
    (tmp_path / "pools.toml").write_text(POOLS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_answers(command: str, home: Path) -> None:
    program, *arguments = shlex.split(command)
    assert program == "swell"
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "lost" in done.output
    if "--svg" in arguments:
        drawn = home / arguments[arguments.index("--svg") + 1]
        assert drawn.read_text().startswith("<svg")


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 5


def test_the_traces_of_the_page_are_those_that_there_are() -> None:
    told = re.findall(r"^\| `([\w-]+)` \|", TEXT, re.MULTILINE)
    assert told == list(SCENARIOS)
