"""What `swell models rollout` understands; what it does is tested with a server."""

import asyncio
from typing import Any

import pytest
import typer

from swell.cli.adoption import roll_out, share_of
from swell.core.errors import InvalidRequest


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("99.5%", 0.995)])
def test_a_share_is_a_part_or_a_percentage(text: str, share: float) -> None:
    assert share_of(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "100%", "1", "-5%", "much", "", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write such as 5%"):
        share_of(text)


def test_a_canary_names_its_version() -> None:
    with pytest.raises(InvalidRequest, match="demo/upper:VERSION"):
        roll_out("demo/upper", canary=0.1)


def test_one_change_is_made_at_a_time() -> None:
    with pytest.raises(InvalidRequest, match="one of --canary"):
        roll_out("demo/upper:1", promote=True, retire=True)


def connect(monkeypatch: pytest.MonkeyPatch, remote: Any) -> None:
    monkeypatch.setattr("swell.cli.remote.call", lambda _settings, work: asyncio.run(work(remote)))


@pytest.mark.parametrize(
    ("named", "anyway", "body"),
    [
        ("demo/upper", False, {"version": None, "edition": "r1"}),
        ("demo/upper:2", False, {"version": "2"}),
        ("demo/upper:2", True, {"version": "2", "edition": "r1"}),
    ],
)
def test_a_promotion_names_what_it_promotes(
    monkeypatch: pytest.MonkeyPatch, named: str, anyway: bool, body: Any
) -> None:
    told = []

    class Remote:
        async def get(self, path: str) -> Any:
            assert path == "/v1/models/demo/upper/adoption"
            return {"live": "1", "canary": {"version": "2"}, "edition": "r1"}

        async def post(self, path: str, body: Any) -> Any:
            told.append((path, body))
            return {"live": "2", "notice": ""}

    connect(monkeypatch, Remote())
    roll_out(named, promote=True, anyway=anyway)
    assert told == [("/v1/models/demo/upper/promote", body)]


@pytest.mark.parametrize(
    ("named", "canary", "left"),
    [
        ("demo/upper", {"version": "2"}, "2"),
        ("demo/upper", None, "1"),
        ("demo/upper:2", None, "2"),
    ],
)
def test_a_rollback_says_which_version_it_leaves(
    monkeypatch: pytest.MonkeyPatch, named: str, canary: Any, left: str
) -> None:
    told = []

    class Remote:
        async def get(self, path: str) -> Any:
            assert path == "/v1/models/demo/upper/adoption"
            return {"live": "1", "canary": canary}

        async def post(self, path: str, body: Any) -> Any:
            told.append((path, body))
            return {"live": "1", "notice": ""}

    connect(monkeypatch, Remote())
    roll_out(named, rollback=True, reason="six fingers")
    body = {"version": left, "reason": "six fingers"}
    assert told == [("/v1/models/demo/upper/rollback", body)]
