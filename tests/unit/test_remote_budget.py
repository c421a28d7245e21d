"""What remote models may cost in a day, and what is not believed of their answers."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from manual_clock import ManualClock
from swell.core.errors import InvalidModel
from swell.engines.external_api import Budget, BudgetSpent, OpenAIImages, _link, _words_of
from swell.runtime.task_run import fault_of


def test_a_budget_is_shared_by_all_who_have_the_name_and_lasts_a_day(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
    one, other = (Budget("a/b", 100, tmp_path, clock) for _ in range(2))
    day = one.take(60)
    with pytest.raises(BudgetSpent, match="resets on 2026-01-02 at 00:00 UTC"):
        other.take(41)
    other.take(40)
    one.give_back(60, day)
    other.take(60)
    Budget("a/c", 100, tmp_path, clock).take(100)
    with pytest.raises(BudgetSpent):
        one.take(1)
    clock.advance(timedelta(days=1).total_seconds())
    one.take(100)
    # What was taken yesterday is none of today's.
    other.give_back(40, day)
    with pytest.raises(BudgetSpent, match="2026-01-03"):
        one.take(1)


def test_an_attempt_without_money_is_the_last() -> None:
    fault = fault_of(1, BudgetSpent("it begins anew on 2026-01-02 at 00:00 UTC"), 0.0)
    assert (fault.code, fault.retryable) == ("rejected", False)
    assert "2026-01-02" in fault.detail


def test_a_note_that_is_damaged_is_begun_anew(tmp_path: Path) -> None:
    budget = Budget("a/b", 100, tmp_path, ManualClock())
    budget.take(50)
    (file,) = tmp_path.iterdir()
    file.write_text("{half of")
    budget.take(100)


def test_it_is_noted_where_this_user_alone_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    clock = ManualClock()
    Budget("a/b", 100, clock=clock).take(60)
    folder = tmp_path / "state" / "swell" / "budgets"
    (note,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, note.stat().st_mode & 0o777) == (0o700, 0o600)
    folder.chmod(0o755)
    other = Budget("a/b", 100, clock=clock)
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(BudgetSpent):
        other.take(41)


def test_what_somebody_else_has_put_there_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "state" / "swell").mkdir(parents=True)
    (tmp_path / "state" / "swell" / "budgets").symlink_to(tmp_path / "theirs")
    with pytest.raises(InvalidModel, match="budget_folder"):
        Budget("a/b", 100)
    budget = Budget("a/b", 100, tmp_path / "named", ManualClock())
    budget.take(1)
    (note,) = (tmp_path / "named").iterdir()
    note.rename(tmp_path / "theirs" / "note")
    note.symlink_to(tmp_path / "theirs" / "note")
    with pytest.raises(OSError, match="symbolic links"):
        budget.take(1)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidModel, match="budget_folder"):
        Budget("a/b", 100, tmp_path / "file" / "folder")


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_the_note_of_another_user_is_not_used(tmp_path: Path) -> None:
    budget = Budget("a/b", 100, tmp_path, ManualClock())
    budget.take(1)
    (note,) = tmp_path.iterdir()
    os.chown(note, 12345, 12345)
    with pytest.raises(PermissionError, match="another user"):
        budget.take(1)


def test_without_a_limit_nothing_is_noted(tmp_path: Path) -> None:
    Budget("a/b", None, tmp_path, ManualClock()).take(10**9)
    assert list(tmp_path.iterdir()) == []


def test_links_that_lead_elsewhere_are_not_followed_with_the_key() -> None:
    base = "https://api.example/v1"
    evil = {"id": "p1", "urls": {"get": "https://evil.example/p1"}}
    assert _link(evil, "get", base) == "https://api.example/v1/predictions/p1"
    assert _link(evil, "cancel", base) == "https://api.example/v1/predictions/p1/cancel"
    ours = {"id": "p1", "urls": {"get": "https://api.example/x/p1"}}
    assert _link(ours, "get", base) == "https://api.example/x/p1"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b"<html>", ""),
        (b"[1]", ""),
    ],
)
def test_errors_of_every_shape_are_read(said: bytes, words: str) -> None:
    assert _words_of(said) == words


def test_a_model_without_a_place_or_a_key_says_what_to_set(tmp_path: Path) -> None:
    class Nowhere(OpenAIImages):
        name = "a/b"

    with pytest.raises(InvalidModel, match="url"):
        Nowhere().load("cpu")

    class Keyless(OpenAIImages):
        name = "a/b"
        url = "https://api.example/v1"
        key_file = str(tmp_path / "none")

    with pytest.raises(InvalidModel, match="none"):
        Keyless().load("cpu")
