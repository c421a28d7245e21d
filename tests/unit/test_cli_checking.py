"""`swell models check` says what it does while it does it."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swell.cli import app
from swell.cli.checking import Terms, check
from swell.core.clock import SystemClock
from swell.runtime.venvs import Home

#: A model that goes on once somebody has opened the other end, and another one.
MODELS = """
import swell
from pydantic import BaseModel

class Waits(swell.Model):
    name, batch, Output = "me/waits", swell.Batch(max=4), str

    class Input(BaseModel):
        text: str

    def run(self, items):
        if len(items) == 1:
            open({fifo!r}).close()
        return [item.input.text for item in items]

@swell.model("me/plain")
def plain(text: str) -> str:
    return text
"""


@pytest.mark.slow
def test_each_stage_is_told_when_it_begins(tmp_path: Path) -> None:
    fifo, file = tmp_path / "go", tmp_path / "models.py"
    os.mkfifo(fifo)
    file.write_text(MODELS.format(fifo=str(fifo)))
    heard: list[tuple[str | None, str]] = []

    def tell(name: str | None, doing: str) -> None:
        heard.append((name, doing))
        if heard[-1] == ("me/waits", "running the example"):
            fifo.open("w").close()

    terms = Terms("cpu", limit_s=60, probe_s=0, home=Home())
    reports = check(str(file), terms, SystemClock(), tell)
    assert [(report["model"], report["error"]) for report in reports] == [
        ("me/waits", None),
        ("me/plain", None),
    ]
    begin = [
        (None, "importing"),
        *(
            ("me/waits", doing)
            for doing in (
                "reading files for the version",
                "loading on cpu, and warming up",
                "running the example",
                "running a batch of two",
            )
        ),
    ]
    assert heard[: len(begin)] == begin
    assert heard[len(begin) + 1 :] == [("me/plain", doing) for _, doing in begin[1:4]]


@pytest.mark.slow
def test_the_command_says_it_beside_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("twice.py").write_text(
        "import swell\n\n@swell.model('me/twice')\ndef twice(text: str) -> str:\n"
        "    return text * 2\n"
    )
    done = CliRunner().invoke(app, ["models", "check", "twice.py", "--probe-s", "9"])
    assert done.exit_code == 0, done.output
    assert "me/twice" in done.stdout
    assert "importing" not in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0] == "twice.py: importing"
    assert "me/twice: running with other seeds and inputs for the hints, up to 9 s" in lines
