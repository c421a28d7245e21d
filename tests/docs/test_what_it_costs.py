"""The simulations of the page about costs run, and its table of dollars is computed."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pages import blocks
from swell.cli import app
from swell.simulator.scenarios import SCENARIOS

PAGE = Path(__file__).parents[2] / "docs" / "what-it-costs.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [
    line for each in blocks("docs/what-it-costs.md", "console") for line in each.splitlines()
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
    section = TEXT.partition("### Your own traffic")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)
    assert listed == list(SCENARIOS)


#: Dollars an hour of the page's table of prices, by GPU and column of the first table.
HOURS = {
    "A100 80 GB": (1.39, 1.79, 2.79, 3.43),
    "A10G": (None, None, None, 1.006),
    "H100 SXM": (2.69, 3.99, 4.29, 6.88),
}


def test_dollars_for_a_thousand_pictures_are_seconds_times_price() -> None:
    rows = re.findall(
        r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \([abc]\) \| (\W.*) \|$", TEXT, re.MULTILINE
    )
    assert len(rows) == 5
    for gpu, seconds, cells in rows:
        for price, cell in zip(HOURS[gpu], cells.split(" | "), strict=True):
            found = re.findall(r"\$([\d.]+)", cell)
            times = [float(each) for each in seconds.split(" to ")] if price else []
            assert found == [f"{each * (price or 0) / 3.6:.2f}" for each in times]
    for price in (1.39, 1.79, 2.79, 3.43, 1.006, 2.69, 3.99, 4.29, 6.88):
        assert str(price) in TEXT
