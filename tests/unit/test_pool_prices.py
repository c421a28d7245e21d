"""The price of a pool: its own setting, then the operator's prices, then the list."""

from datetime import date
from typing import Any

import pytest

from swell.autoscaler.live_prices import live_price, may_change
from swell.bootstrap.autoscaler import advice
from swell.core.billing.price_book import LIST, LivePrice, MachinePrice, PriceBook
from swell.settings.load import Settings
from swell.settings.pool_prices import pool_price, pool_prices
from swell.settings.pool_settings import PoolTable


def a_table(provider: str = "aws", **fields: Any) -> PoolTable:
    return PoolTable(models=("me/poster",), provider=provider, **fields)


def settings(pools: dict[str, Any], **groups: Any) -> Settings:
    tables = {name: {"models": ["me/poster"]} | table for name, table in pools.items()}
    return Settings.model_validate({"pools": tables} | groups)


L4 = {"region": "us-east-1", "types": ["g6.xlarge"]}


def test_a_pool_without_a_price_has_that_of_its_kind_of_machine_with_source_and_date() -> None:
    price = pool_price("l4", a_table(options=L4), PriceBook(LIST))
    assert price == MachinePrice(
        805_000, "aws/g6.xlarge: SkyPilot catalogue, AWS v8, commit 00148f2a", date(2026, 11, 24)
    )


def test_what_the_pool_says_wins_and_then_what_the_operator_says() -> None:
    book = PriceBook(LIST, {"aws/g6.xlarge@us-east-1": 700_000})
    told = pool_price("l4", a_table(options=L4, hour_micros=600_000), book)
    assert told == MachinePrice(600_000, "pools.l4.hour_micros")
    own = pool_price("l4", a_table(options=L4), book)
    assert own == MachinePrice(700_000, "prices.hour_micros, aws/g6.xlarge@us-east-1")


def test_nothing_costs_nothing_but_where_the_pool_says_so() -> None:
    assert pool_price("own", a_table("process", hour_micros=0), PriceBook(LIST)) == MachinePrice(
        0, "pools.own.hour_micros"
    )
    for table in (
        a_table("process"),
        a_table("container", options={"image": "x"}),
        a_table("kubernetes", options={"types": ["g6.xlarge"]}),
        a_table(options={"region": "us-east-1", "types": ["x9.huge"]}),
        a_table(options={}),
        a_table(options={"types": 3}),
    ):
        assert pool_price("a", table, PriceBook(LIST)) is None


@pytest.mark.parametrize(
    ("table", "hour_micros"),
    [
        (a_table("gcp", options={"region": "us-central1", "types": "g2-standard-4"}), 710_000),
        (a_table("azure", options={"location": "eastus", "sizes": ["S"]}), 900_000),
        (
            a_table(options=L4 | {"types": ["g6e.xlarge"], "region": "us-east-2", "spot": True}),
            530_000,
        ),
        (a_table(spot=True, options={"types": ["g6e.xlarge"], "region": "us-east-2"}), 530_000),
        (a_table(spot=True, options=L4 | {"types": ["g6e.xlarge"], "spot": False}), 1_861_000),
        (
            a_table(
                "gcp",
                options={
                    "region": "r",
                    "types": ["n1"],
                    "accelerator": "nvidia-tesla-t4",
                    "accelerators": 2,
                },
            ),
            600_000,
        ),
    ],
)
def test_each_cloud_names_its_machines_and_places(table: PoolTable, hour_micros: int) -> None:
    own = {"azure/S@eastus": 900_000, "gcp/n1": 300_000}
    price = pool_price("a", table, PriceBook(LIST, own))
    assert price is not None
    assert price.hour_micros == hour_micros


def test_a_machine_with_eight_gpus_costs_all_of_them() -> None:
    price = pool_price("a", a_table(options=L4 | {"types": ["p4d.24xlarge"]}), PriceBook(LIST))
    [listed] = [each for each in LIST if each.kind == "p4d.24xlarge"]
    assert price is not None
    assert price.hour_micros == listed.gpus * listed.hour_micros > 8_000_000


def test_the_highest_price_of_several_types_counts_and_unknown_types_are_named() -> None:
    kinds = ["g6.xlarge", "g5.xlarge", "x9.huge"]
    price = pool_price("a", a_table(options=L4 | {"types": kinds}), PriceBook(LIST))
    assert price is not None
    assert price.hour_micros == 1_006_000
    assert price.source.endswith("; no price is known of x9.huge")


def test_a_price_of_one_zone_counts_only_where_machines_stand_in_no_other() -> None:
    book = PriceBook(LIST, {"aws/g6.xlarge@us-east-1b": 1})
    one = pool_price("a", a_table(options=L4 | {"zones": ["us-east-1b"]}), book)
    two = pool_price("a", a_table(options=L4 | {"zones": ["us-east-1b", "us-east-1c"]}), book)
    assert one is not None
    assert two is not None
    assert (one.hour_micros, two.hour_micros) == (1, 805_000)


def test_prices_of_the_settings_reach_pools_by_name() -> None:
    found = pool_prices(
        settings(
            {
                "cloud": {"provider": "aws", "options": L4},
                "here": {},
                "told": {"hour_micros": 5},
            },
            prices={"hour_micros": {"aws/g6.xlarge": 7}},
        )
    )
    assert {name: price.hour_micros for name, price in found.items()} == {"cloud": 7, "told": 5}


# --- probable mistakes ---


def told(pools: dict[str, Any], **groups: Any) -> list[str]:
    chosen = settings(pools, **groups)
    return advice(chosen, pool_prices(chosen))


def test_a_pool_without_a_price_gives_a_warning() -> None:
    unknown = {"provider": "aws", "options": {"types": ["x9.huge"]}}
    ours = {"deployment": "ours"}
    pools = {"away": unknown, "here": {}, "known": {"provider": "aws", "options": L4}}
    [line] = told(pools, autoscale=ours)
    assert line.startswith("the pool away has no price")
    assert "set pools.away.hour_micros" in line
    lines = told({"here": {}}, autoscale={"hour_budget_micros": 1})
    assert [line.split(" has")[0] for line in lines] == ["the pool here"]


def test_an_alarm_without_a_limit_and_a_limit_without_an_alarm_give_warnings() -> None:
    pools = {"here": {"hour_micros": 1}}
    limit, alarm = {"day_budget_micros": 5}, {"budget_day_micros": 4}
    [line] = told(pools, costs=alarm)
    assert line.startswith("costs.budget_day_micros gives alarms and stops nothing")
    [line] = told(pools, autoscale=limit)
    assert line.startswith("autoscale.day_budget_micros shrinks pools without an earlier alarm")
    assert told(pools, autoscale=limit, costs=alarm) == []
    assert told(pools) == []
    # Without pools in these settings, another process has the limit.
    assert told({}, costs=alarm) == []


def test_the_default_deployment_name_gives_a_warning_on_clouds() -> None:
    cloud = {"away": {"provider": "aws", "options": L4}}
    [line] = told(cloud)
    assert line.startswith("autoscale.deployment")
    assert told(cloud, autoscale={"deployment": "ours"}) == []
    assert told({"here": {"hour_micros": 1}}) == []


def test_a_price_of_an_unknown_machine_type_gives_a_warning() -> None:
    own = {"aws/g6.xlrage/spot": 7, "aws/g6.xlarge@us-east-1": 7, "aws/mine.large": 7}
    pools = {"away": {"provider": "aws", "options": {**L4, "types": ["g6.xlarge", "mine.large"]}}}
    lines = told(pools, autoscale={"deployment": "ours"}, prices={"hour_micros": own})
    assert [line for line in lines if "look for a slip" in line] == [lines[0]]
    assert "aws/g6.xlrage/spot" in lines[0]


def test_a_spot_pool_without_a_location_gives_a_warning() -> None:
    pools = {"spot": {"hour_micros": 1, "spot": True}, "owned": {"hour_micros": 2}}
    [line] = told(pools)
    assert line.startswith("autoscale.policy.location_share does not apply to spot")
    assert "set pools.spot.location" in line
    assert told({**pools, "spot": {**pools["spot"], "location": "east"}}) == []
    assert told(pools, autoscale={"policy": {"location_share": 1}}) == []
    assert told({"spot": pools["spot"]}) == [], "there is no other"


# ---- quotes of clouds

SPOT = {"region": "us-east-1", "types": ["g6.xlarge", "g5.xlarge"], "spot": True}
TOLD = [
    LivePrice("g6.xlarge", "us-east-1a", 300_000),
    LivePrice("g6.xlarge", "us-east-1b", 400_000),
    LivePrice("g5.xlarge", "us-east-1a", 500_000),
]


def live(
    options: dict[str, Any],
    told: list[LivePrice],
    standing: dict[tuple[str, str], int] | None = None,
    own: dict[str, int] | None = None,
    **fields: Any,
) -> MachinePrice | None:
    table = a_table(options=options, **fields)
    return live_price("a", table, PriceBook(LIST, own), told, standing or {})


def test_where_nothing_stands_the_dearest_counts_of_all_that_may_be_had() -> None:
    price = live(SPOT, TOLD)
    assert price == MachinePrice(500_000, "aws/g5.xlarge@us-east-1a/spot: EC2's spot price history")
    # The A10G has no quote, and its listed on-demand price is higher.
    price = live(SPOT, TOLD[:2])
    assert price is not None
    assert price.hour_micros == 1_006_000
    assert price.source.endswith("on-demand price")


def test_running_machines_have_the_mean_of_their_prices() -> None:
    standing = {("g6.xlarge", "us-east-1a"): 3, ("g6.xlarge", "us-east-1b"): 1}
    price = live(SPOT, TOLD, standing)
    assert price is not None
    assert 4 * price.hour_micros == 3 * 300_000 + 400_000
    assert price.source == (
        "aws/g6.xlarge@us-east-1a/spot, aws/g6.xlarge@us-east-1b/spot: EC2's spot price history, "
        "the mean"
    )
    # In a zone without a quote the highest price of the machine type counts.
    price = live(SPOT, TOLD, {("g6.xlarge", "us-east-1f"): 1, ("x9.huge", "us-east-1a"): 5})
    assert price is not None
    assert price.hour_micros == 400_000


def test_an_outlier_is_believed_within_bounds_and_none_costs_nothing() -> None:
    options = SPOT | {"types": ["g6.4xlarge"]}
    for told, micros in ((50_000_000, 2_700_000), (10, 180_000), (0, 900_000), (600_000, 600_000)):
        price = live(options, [LivePrice("g6.4xlarge", "us-east-1a", told)])
        assert price is not None
        assert price.hour_micros == micros
    unlisted = SPOT | {"types": ["x9.huge"]}
    assert live(unlisted, [LivePrice("x9.huge", "us-east-1a", 0)]) is None
    price = live(unlisted, [LivePrice("x9.huge", "us-east-1a", 7)])
    assert price is not None
    assert price.hour_micros == 7


def test_the_operators_price_counts_instead_of_the_quote() -> None:
    price = live(SPOT, TOLD, {("g5.xlarge", "us-east-1a"): 1}, {"aws/g5.xlarge/spot": 123_000})
    assert price is not None
    assert price.hour_micros == 123_000


def test_clouds_are_asked_only_for_prices_that_change_and_are_not_set() -> None:
    book, own = PriceBook(LIST), PriceBook(LIST, {"aws/g6.xlarge/spot": 1, "aws/g5.xlarge/spot": 2})
    assert may_change(a_table(options=SPOT), book)
    assert not may_change(a_table(options=SPOT), own)
    assert not may_change(a_table(options=SPOT | {"spot": False}), book)
    assert not may_change(a_table(options=SPOT, hour_micros=5), book)
    assert not may_change(a_table("gcp", options=SPOT), book)
    assert not may_change(a_table("process"), book)
    assert may_change(a_table("azure", options={"location": "eastus", "sizes": ["S"]}), book)


def test_a_pool_whose_cloud_is_asked_counts_as_one_with_a_price() -> None:
    pools = {"away": {"provider": "aws", "options": SPOT | {"types": ["x9.huge"]}}}
    ours = {"deployment": "ours"}
    assert told(pools, autoscale=ours) == []
    [line] = told(pools, autoscale=ours, prices={"ask_every_s": 0})
    assert line.startswith("the pool away has no price")
