"""Pools name providers, and give them options."""

import sys
from pathlib import Path
from typing import Any

import pytest

from manual_clock import ManualClock
from swell.bootstrap.autoscaler import provider_of as wired
from swell.core.billing.price_book import PriceBook
from swell.core.errors import InvalidRequest
from swell.core.provider import InstanceState, LaunchRequest, Provider
from swell.providers.factory import KINDS, options_of, provider_of
from swell.providers.options import MachineOptions
from swell.settings.load import Settings
from swell.settings.pool_prices import pool_price

AWS: dict[str, object] = {
    "image": "x",
    "region": "us-east-1",
    "ami": "ami-1",
    "types": ["g6.xlarge"],
}
AZURE: dict[str, object] = {
    "image": "x",
    "subscription": "s",
    "group": "g",
    "location": "eastus",
    "sizes": ["Standard_NC4as_T4_v3"],
    "source_image": "/subscriptions/s/images/gpu",
    "subnet": "/subscriptions/s/subnet",
    "ssh_key": "ssh-ed25519 AAAA",
}
KUBECONFIG = """
current-context: here
contexts: [{name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: u, user: {token: t}}]
"""


def made(name: str, options: dict[str, object], deployment: str = "shop", **more: bool) -> Provider:
    where = "pools.gpu.options"
    return provider_of(name, options, ManualClock(), deployment=deployment, where=where, **more)


def test_a_provider_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(InvalidRequest, match="did you mean aws"):
        made("awss", {})
    with pytest.raises(InvalidRequest, match="use one of process, container, aws"):
        made("mainframe", {})


def test_options_are_checked_under_the_name_that_they_were_written_by() -> None:
    with pytest.raises(InvalidRequest, match=r"pools\.gpu\.options\.region is missing"):
        made("aws", {"image": "x", "ami": "ami-1", "types": ["a"]})
    with pytest.raises(InvalidRequest, match=r"pools\.gpu\.options\.regoin does not exist.*region"):
        made("aws", AWS | {"regoin": "x"})


def test_a_pool_that_may_be_taken_back_asks_for_spot_unless_its_options_say_otherwise(
    tmp_path: Path,
) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    whole: dict[str, dict[str, object]] = {
        "aws": AWS,
        "gcp": {"image": "x", "project": "p", "region": "r", "types": ["t"], "source_image": "i"},
        "azure": AZURE,
        "kubernetes": {"image": "x", "kubeconfig": str(tmp_path / "config")},
        "skypilot": {"image": "x", "program": sys.executable},
    }
    there = {name for name in KINDS if "spot" in options_of(name).model_fields}
    assert there == whole.keys()
    for name, table in whole.items():
        asked = [made(name, table, spot=True), made(name, table | {"spot": False}, spot=True)]
        assert [each._options.spot for each in asked] == [True, False], name  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("told", "is_spot"),
    [
        ({}, False),
        ({"spot": True}, True),
        ({"options": {"spot": True}}, True),
        ({"options": {"spot": "true"}}, True),
        ({"spot": True, "options": {"spot": False}}, False),
        ({"spot": True, "options": {"spot": "off"}}, False),
    ],
)
def test_whether_a_pool_may_be_taken_back_is_the_same_for_all_who_ask(
    told: dict[str, Any], is_spot: bool, tmp_path: Path
) -> None:
    table = {"provider": "aws", "models": ["a/b"]} | told
    pools = {"gpu": table | {"options": AWS | told.get("options", {})}}
    settings = Settings.model_validate({"pools": pools, "data_dir": tmp_path})
    pool = settings.pools["gpu"]
    provider = wired("gpu", pool, settings, ManualClock())
    assert pool.is_spot == is_spot
    assert provider._options.spot == is_spot  # type: ignore[attr-defined]
    price = pool_price("gpu", pool, PriceBook([], {"aws/g6.xlarge": 2, "aws/g6.xlarge/spot": 1}))
    assert price is not None
    assert price.hour_micros == (1 if is_spot else 2)


def test_other_providers_hear_that_a_pool_may_be_taken_back_too(container_engine: Path) -> None:
    asked = made("skypilot", {"image": "x", "program": "sh"}, spot=True)
    assert asked._options.spot  # type: ignore[attr-defined]
    made("container", {"image": "x"}, spot=True)  # which knows no such thing


@pytest.mark.parametrize("deployment", ["", "Shop", "a b", "x" * 41, "-a", "a_b"])
def test_a_name_of_a_deployment_that_no_label_can_hold_is_refused(deployment: str) -> None:
    with pytest.raises(InvalidRequest, match="deployment"):
        made("aws", AWS, deployment=deployment)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.extra])
def test_a_library_that_is_missing_is_told_by_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"aws": "boto3", "kubernetes": "yaml", "gcp": "cryptography"}[name]
    for module in list(sys.modules):
        if module == missing or module.startswith(f"{missing}."):
            monkeypatch.setitem(sys.modules, module, None)
        if module.startswith("swell.providers.") and module != "swell.providers.factory":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InvalidRequest, match=rf"swell\[{KINDS[name].extra}\]"):
        options_of(name)


async def test_places_for_workers_of_somebody_else_are_waited_for_and_taken_back() -> None:
    provider = made("external", {})
    one, other = await provider.launch(LaunchRequest(pool="p", n=2))
    assert {one.state, other.state} == {InstanceState.STARTING}
    await provider.terminate([one.id], grace_s=0)
    assert [each.id for each in await provider.instances("p")] == [other.id]
    await provider.close()
    assert await provider.instances("p") == []


@pytest.mark.parametrize("name", list(KINDS))
def test_every_option_is_described(name: str) -> None:
    fields = options_of(name).model_fields
    assert {field for field, told in fields.items() if not told.description} == set()
    assert issubclass(options_of(name), MachineOptions) == (name in ("aws", "gcp", "azure"))
