"""Pools of the settings, and what they become."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from manual_clock import ManualClock
from swell.bootstrap.autoscaler import (
    Access,
    build_autoscaler,
    check_token,
    needs_token,
    policy_of,
    pool_models,
    provider_of,
)
from swell.bootstrap.backend import build_backend, close_backend
from swell.core.errors import InvalidRequest, UnknownSetting
from swell.settings.load import Settings, load

GPU = """
[pools.gpu]
models = ["swell/icons", "swell/artwork"]
least = 1
most = 4
hour_micros = 805_000
device = "cuda:0"
slots = 3
drain_s = 20
options = {boot_delay_s = 2}

[pools.spare]
models = "swell/icons"
spot = true
rates = {"swell/icons" = 2.5}

[autoscale]
wait_s = 30
policy = {late_share = 0.1}
"""


def settings(folder: Path, text: str = GPU) -> Settings:
    path = folder / "swell.toml"
    path.write_text(text)
    return load({"data_dir": folder}, config=path, environment={}).settings


def test_pools_are_tables_by_name(tmp_path: Path) -> None:
    pools = settings(tmp_path).pools
    assert list(pools) == ["gpu", "spare"]
    assert pools["gpu"].models == ("swell/icons", "swell/artwork")
    assert (pools["gpu"].least, pools["gpu"].most) == (1, 4)
    assert pools["spare"].rates == {"swell/icons": 2.5}


def test_pools_may_come_from_the_environment_as_json(tmp_path: Path) -> None:
    told = json.dumps({"gpu": {"models": ["a/b"], "most": 2}})
    found = load(environment={"SWELL_POOLS": told}, folder=tmp_path).settings
    assert found.pools["gpu"].most == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[pools.gpu]\nmost = 2\n", r"pools\.gpu\.models"),
        ('[pools.gpu]\nmodels = ["a/b"]\nprise = 2\n', r"pools\.gpu\.prise.*no such setting"),
        ('[pools.gpu]\nmodels = ["a/b"]\nmots = 2\n', r"did you mean 'most'"),
        ('[pools.gpu]\nmodels = ["a/b"]\nleast = 3\nmost = 2\n', r"least \(3\) must be at most"),
        ('[pools."my gpu"]\nmodels = ["a/b"]\n', r"cannot be a pool's name"),
        ('[pools.gpu]\nmodels = ["a/b"]\nrates = {"a/c" = 1}\n', r"names a/c, which is not among"),
        ('[pools.gpu]\nmodels = ["a/b"]\nrates = {"a/b" = 0}\n', r"must be above 0"),
        ("[pools]\ngpu = 3\n", r"pools\.gpu"),
    ],
)
def test_a_pool_that_cannot_be_is_refused_with_what_to_do(
    text: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        settings(tmp_path, text)


def test_an_unknown_setting_of_the_autoscaler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownSetting, match=r"autoscale\.wait_s"):
        settings(tmp_path, "[autoscale]\nwait = 3\n")


def test_the_policy_is_told_what_the_settings_say(tmp_path: Path) -> None:
    policy = policy_of(settings(tmp_path))
    assert (policy.wait_s, policy.late_share, policy.hour_budget_micros) == (30.0, 0.1, None)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("{late_shore = 0.1}", r"late_shore does not exist: there are .*late_share"),
        ("{wait_s = 3}", r"wait_s does not exist"),
        ('{late_share = "much"}', r"late_share"),
    ],
)
def test_what_the_policy_does_not_know_is_refused(policy: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=told):
        policy_of(settings(tmp_path, f"[autoscale]\npolicy = {policy}\n"))


def test_models_that_pools_launch_are_known_by_name(tmp_path: Path) -> None:
    text = '[pools.a]\nmodels = ["x/y", "my.module", "m.py"]\n[pools.b]\nmodels = ["x/y", "x/z"]\n'
    assert pool_models(settings(tmp_path, text)) == ["x/y", "x/z"]


def test_workers_that_outlive_the_backend_need_a_key_that_does(tmp_path: Path) -> None:
    text = (
        '[pools.a]\nmodels = ["x/y"]\n'
        '[pools.b]\nmodels = ["x/y"]\noptions = {outlives = true}\n'
        '[pools.c]\nmodels = ["x/y"]\nprovider = "aws"\n'
    )
    chosen = settings(tmp_path, text)
    assert needs_token(chosen) == ["b", "c"]
    with pytest.raises(InvalidRequest, match=r"workers of b, c need a key.*swell keys create"):
        check_token(chosen)
    check_token(settings(tmp_path, text + '[autoscale]\ntoken = "k"\n'))
    check_token(settings(tmp_path, ""))


def test_workers_that_others_start_bring_their_own_key(tmp_path: Path) -> None:
    text = '[pools.a]\nmodels = ["x/y"]\nprovider = "external"\n'
    assert needs_token(settings(tmp_path, text)) == []
    check_token(settings(tmp_path, text))
    with pytest.raises(InvalidRequest, match="workers of b need a key"):
        check_token(settings(tmp_path, text + '[pools.b]\nmodels = ["x/y"]\n'))


async def test_a_worker_of_a_pool_is_told_its_pool_models_and_way(tmp_path: Path) -> None:
    told = await launched(settings(tmp_path), "gpu")
    assert told["SWELL_WORKER__POOL"] == "gpu"
    assert told["SWELL_WORKER__MODELS"] == "swell/icons,swell/artwork"
    assert told["SWELL_WORKER__URL"] == "http://here"
    assert told["SWELL_WORKER__TOKEN"] == "k"
    assert told["SWELL_WORKER__DEVICE"] == "cuda:0"
    assert told["SWELL_WORKER__SLOTS"] == "3"
    assert told["SWELL_WORKER__DRAIN_S"] == "20.0"
    # What it does not know of its own settings may break it.
    assert load(environment=told, folder=tmp_path).settings.worker.pool == "gpu"


async def test_a_worker_elsewhere_is_told_nothing_of_this_machine(
    tmp_path: Path, container_engine: Path
) -> None:
    text = (
        '[pools.away]\nmodels = ["x/y"]\nprovider = "container"\n'
        'options = {image = "swell-worker:1"}\n'
    )
    told = await launched(settings(tmp_path, text), "away")
    assert str(tmp_path) not in str(told)
    assert set(told) == {"SWELL_WORKER__URL", "SWELL_WORKER__TOKEN", "SWELL_WORKER__POOL"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('provider = "awz"', "aws"),
        ("options = {boot_delays = 3}", r"pools\.gpu\.options\.boot_delays"),
    ],
)
def test_a_provider_that_cannot_be_opened_says_what_to_do(
    text: str, told: str, tmp_path: Path
) -> None:
    chosen = settings(tmp_path, f'[pools.gpu]\nmodels = ["a/b"]\n{text}\n')
    with pytest.raises(InvalidRequest, match=told):
        provider_of("gpu", chosen.pools["gpu"], chosen, ManualClock())


async def launched(chosen: Settings, name: str) -> dict[str, Any]:
    """Return the environment of a pool's workers."""
    clock = ManualClock()
    backend = await build_backend(chosen, clock)
    try:
        autoscaler = build_autoscaler(
            chosen, clock, backend, Access("http://here", "k"), wake=nobody
        )
        [pool] = [each for each in autoscaler.pools if each.name == name]
        return dict(pool.request.environment)
    finally:
        await close_backend(backend)


async def test_places_are_asked_for_where_others_start_the_workers(tmp_path: Path) -> None:
    text = '[pools.a]\nmodels = ["x/y"]\nprovider = "external"\n[pools.b]\nmodels = ["x/y"]\n'
    chosen, clock = settings(tmp_path, text), ManualClock()
    backend = await build_backend(chosen, clock)
    try:
        made = build_autoscaler(chosen, clock, backend, Access("http://here", "k"), wake=nobody)
        assert {each.name: each.is_external for each in made.pools} == {"a": True, "b": False}
    finally:
        await close_backend(backend)


async def nobody() -> None:
    """Wake nobody."""


async def test_an_image_keeps_its_own_word_for_where_its_models_lie(tmp_path: Path) -> None:
    text = (
        '[pools.gpu]\nprovider = "aws"\nmodels = ["acme/poster"]\nspot = true\n'
        '[pools.gpu.options]\nimage = "x:1"\nregion = "us-east-1"\nami = "ami-1"\n'
        'types = ["g6.xlarge"]\n[autoscale]\ntoken = "k"\n'
    )
    told = await launched(settings(tmp_path, text), "gpu")
    assert told["SWELL_WORKER__POOL"] == "gpu"
    assert {name for name in told if "MODELS" in name or "ADDED" in name} == set()


async def test_a_price_of_the_list_is_told_at_the_start_and_counts_for_pool_and_ledger(
    tmp_path: Path,
) -> None:
    text = (
        '[pools.gpu]\nprovider = "aws"\nmodels = ["acme/poster"]\n'
        '[pools.gpu.options]\nimage = "x:1"\nregion = "us-east-1"\nami = "ami-1"\n'
        'types = ["g6.xlarge"]\n[autoscale]\ntoken = "k"\nday_budget_micros = 9\n'
        'deployment = "ours"\n'
    )
    chosen = settings(tmp_path, text)
    clock = ManualClock()
    backend = await build_backend(chosen, clock)
    try:
        with capture_logs() as lines:
            autoscaler = build_autoscaler(
                chosen, clock, backend, Access("http://here", "k"), wake=nobody
            )
    finally:
        await close_backend(backend)
    assert dict(backend.settings.hour_micros) == {"gpu": 805_000}
    [pool] = autoscaler.pools
    assert (pool.hour_micros, pool.price_read_on) == (805_000, date(2026, 11, 24))
    assert pool.price_source.startswith("aws/g6.xlarge: ")
    [price, budget] = lines
    assert (price["pool"], price["hour_micros"]) == ("gpu", 805_000)
    assert (price["read_on"], price["source"]) == ("2026-11-24", pool.price_source)
    assert budget["log_level"] == "warning"
    assert "costs.budget_day_micros" in budget["event"]
