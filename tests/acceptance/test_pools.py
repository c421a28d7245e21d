"""Pools of the settings, as `swell up` scales them on one machine."""

import json
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from commandline import Swell, ready_line, stop

POOLS = """
[pools.small]
models = ["demo/upper"]
most = 2
start_s = 3
rates = {"demo/upper" = 2}
hour_micros = 100_000

[autoscale]
every_s = 0.3
policy = {first_wait_s = 1}
"""


@pytest.fixture
def swell(tmp_path: Path) -> Swell:
    (tmp_path / "swell.toml").write_text(POOLS)
    return Swell(tmp_path)


def pool(swell: Swell) -> dict[str, Any]:
    told = swell.run("pools", "--json")
    assert told.returncode == 0, told.stderr
    found = [each for each in json.loads(told.stdout) if each["pool"] == "small"]
    return dict(found[0]["scaling"] or {}) if found else {}


def until_asleep(swell: Swell, limit_s: float) -> None:
    """Wait until workers were launched, and none is there any more."""
    ends_s = time.monotonic() + limit_s
    seen: dict[str, Any] = {}
    while time.monotonic() < ends_s:
        seen = pool(swell)
        has_gone = bool(seen) and bool(seen["counts"].get("drain"))
        if has_gone and not any(seen[state] for state in ("ready", "booting", "draining")):
            return
        time.sleep(0.2)
    raise AssertionError(seen)


@pytest.mark.timeout(240)
def test_a_pool_sleeps_wakes_for_a_task_and_ends_with_swell_up(swell: Swell) -> None:
    process = swell.start("up", "--json", "--port", "0")
    try:
        ready_line(process, swell.folder)
        # Its first worker tells what it can do, and goes.
        until_asleep(swell, 60)
        done = swell.run("tasks", "submit", "demo/upper", "-i", "text=a", "--watch")
        assert done.returncode == 0, done.stderr
        told = swell.run("pools")
        assert "small" in told.stdout
        assert "0.100" in told.stdout
        last = r"small: last decision, \d+ \w+ ago: \w+ 1 \(.+\)"
        assert re.search(last, told.stderr), told.stderr
        decided = swell.run("pools", "--decisions").stdout
        assert "launch" in decided
        assert "drain" in decided
    finally:
        assert stop(process) == 0
    left = [
        each
        for each in psutil.process_iter(["cmdline"])
        if str(swell.folder) in " ".join(each.info["cmdline"] or [])
    ]
    assert left == []


def test_what_would_be_done_is_told_without_doing_it(swell: Swell) -> None:
    told = swell.run("autoscale", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "small" in told.stdout
    assert "DESIRED" in told.stdout
    as_json = json.loads(swell.run("autoscale", "--dry-run", "--json").stdout)
    assert as_json["plan"]["pools"]["small"]["launch"] == 1
    assert as_json["queues_left_alone"] == []
    assert not (swell.folder / ".swell" / "logs").exists()


def test_an_embedded_database_is_scaled_by_its_own_process(swell: Swell) -> None:
    refused = swell.run("autoscale")
    assert refused.returncode == 2
    assert "swell up" in refused.stderr


def test_without_pools_there_is_nothing_to_scale(tmp_path: Path) -> None:
    refused = Swell(tmp_path).run("autoscale", "--dry-run")
    assert refused.returncode == 2
    assert "[pools.NAME]" in refused.stderr


def test_how_many_workers_there_are_is_said_by_pools_or_by_options(swell: Swell) -> None:
    refused = swell.run("up", "--port", "0", "--workers", "3")
    assert refused.returncode == 2
    assert "leave out --workers" in refused.stderr


def test_a_pool_that_cannot_be_is_told_before_anything_runs(swell: Swell) -> None:
    (swell.folder / "swell.toml").write_text(
        POOLS.replace("[pools.small]", "[pools.small]\nleast = 9")
    )
    refused = swell.run("up", "--port", "0")
    assert refused.returncode == 2
    assert "least (9) must be at most most (2)" in refused.stderr
