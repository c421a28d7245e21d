"""The gate, over small folders of tests."""

import sys
from pathlib import Path

import pytest

import gate
from gate import Outcome, Tier

pytestmark = pytest.mark.slow

#: Fails as often as its file says.
UNSTABLE = """
from pathlib import Path

def test_unstable():
    path = Path(__file__).with_name("failures")
    left = int(path.read_text()) if path.exists() else 0
    path.write_text(str(left - 1))
    assert left <= 0, "by chance"

def test_sound():
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_it.py").write_text(UNSTABLE)
    monkeypatch.chdir(tmp_path)
    # Each run of pytest would import all plugins.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return tmp_path


def run(*arguments: str) -> Outcome:
    [outcome] = gate.run_tiers([Tier("small", arguments or ["-q"])])
    return outcome


def test_a_test_that_fails_by_chance_passes_and_is_listed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "failures").write_text("2")
    assert gate.report([run()])
    printed = capsys.readouterr().out
    assert printed.endswith("unstable: test_it.py::test_unstable (failed, failed, passed)\n")
    assert "AssertionError: by chance" in printed


def test_a_test_that_fails_three_times_fails_the_gate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "failures").write_text("3")
    assert not gate.report([run("-q", "-p", "xdist", "-n", "2")])
    printed = capsys.readouterr().out
    assert printed.endswith("failed: test_it.py::test_unstable (failed, failed, failed)\n")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("import nothing_of_this_name", ()),
        ("import os\ndef test_a():\n    os._exit(3)", ()),
        ("import os\ndef test_a():\n    os._exit(3)", ("-q", "-p", "xdist", "-n", "2")),
        ("", ()),
        (
            "import pytest\n@pytest.mark.parametrize('n', range(11))\ndef test_a(n):\n    assert 0",
            (),
        ),
    ],
    ids=["collection", "crash", "crash of a worker", "no tests", "eleven failures"],
)
def test_what_is_no_accident_has_no_second_chance(
    folder: Path, text: str, arguments: tuple[str, ...]
) -> None:
    (folder / "test_it.py").write_text(text)
    outcome = run(*arguments)
    assert outcome.failed
    assert set(outcome.failed.values()) == {"failed"}
    assert not outcome.unstable


def test_tiers_at_the_same_time_have_their_second_chances_afterwards(folder: Path) -> None:
    (folder / "failures").write_text("1")
    (folder / "other").mkdir()
    (folder / "other" / "test_more.py").write_text("def test_more():\n    pass\n")
    tiers = [Tier("small", ["-q", "test_it.py"]), Tier("other", ["-q", "other"])]
    one, other = gate.run_tiers(tiers)
    assert one.unstable
    assert not one.failed
    assert not other.failed
    assert not other.unstable


def test_static_checks_all_run_and_have_no_second_chance() -> None:
    outcome = gate.run_checks([["python", "-c", "raise SystemExit(1)"], ["python", "-c", "pass"]])
    assert list(outcome.failed.values()) == ["failed"]


def test_a_failed_static_check_ends_the_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "CHECKS", [["python", "-c", "raise SystemExit(1)"]])
    monkeypatch.setattr(sys, "argv", ["gate.py", "check"])
    assert gate.main() == 1
    assert capsys.readouterr().out.endswith("failed: python -c raise SystemExit(1) (failed)\n")
