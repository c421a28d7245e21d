"""`swell run`, as far as it needs no weights."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swell.cli import app

PICKY = """
import swell
from pydantic import BaseModel


@swell.model("test/function")
def function(word: str) -> str:
    raise swell.Reject("No word was found: give one.")


class Raises(swell.Model):
    name = "test/raises"

    class Input(BaseModel):
        word: str

    def run(self, items):
        raise swell.Reject("No word was found: give one.")
"""


@pytest.mark.parametrize("attribute", ["function", "Raises"])
def test_a_refusal_is_told_as_the_model_said_it(tmp_path: Path, attribute: str) -> None:
    (tmp_path / "picky.py").write_text(PICKY)
    command = ["run", f"{tmp_path / 'picky.py'}:{attribute}", "-i", "word=a"]
    result = CliRunner().invoke(app, [*command, "--data", str(tmp_path / "data")])
    assert result.exit_code != 0
    told = " ".join(result.output.split())
    assert "The model refused this input" in told
    assert "No word was found: give one." in told
    assert "Reject" not in told
    assert "failed" not in told


@pytest.mark.parametrize("ref", ["demo/poster:b81e02d4c6aa", "owner/none"])
def test_what_is_not_here_is_to_be_asked_of_a_server(tmp_path: Path, ref: str) -> None:
    result = CliRunner().invoke(app, ["run", ref, "--data", str(tmp_path / "data")])
    told = " ".join(f"{result.output} {result.exception}".split())
    assert f"swell tasks submit {ref}" in told


BROKEN = """
import swell


def inner() -> str:
    raise RuntimeError("boom")


@swell.model("test/broken")
def broken(word: str, kind: str = "a") -> str:
    return inner()
"""


def test_an_author_sees_the_lines_of_the_model_that_failed(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    data = ("--data", str(tmp_path / "data"))
    result = CliRunner().invoke(app, ["run", str(tmp_path / "broken.py"), "hello", *data])
    assert result.exit_code == 1
    assert 'broken.py", line 6, in inner' in result.stderr
    assert "RuntimeError: boom" in result.stderr
    assert "swell/worker" not in result.stderr


def test_a_wrong_field_gets_a_suggestion_as_at_the_server(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    command = ["run", str(tmp_path / "broken.py"), "-i", "wrod=x"]
    result = CliRunner().invoke(app, [*command, "--data", str(tmp_path / "data")])
    assert result.exit_code == 2
    assert "there is no field 'wrod'; did you mean 'word'?" in result.stderr
    assert "'word' is required" in result.stderr


UNSURE = """
import swell


@swell.model("test/unsure")
def unsure(word: str, ctx: swell.Context) -> str:
    ctx.warn("unknown_word", f"{word} is unknown.", suggestions=["fox", "box"])
    return word
"""


def test_warnings_are_printed(tmp_path: Path) -> None:
    (tmp_path / "unsure.py").write_text(UNSURE)
    command = ["run", str(tmp_path / "unsure.py"), "foks", "--data", str(tmp_path / "data")]
    result = CliRunner().invoke(app, command)
    assert "warning: foks is unknown. Try: fox, box." in result.output
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [each["code"] for each in told["warnings"]] == ["unknown_word"]
