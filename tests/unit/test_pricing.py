"""Prices: the operator's win, live ones are bounded, and each listed one says where it is from."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.core.billing.price_book import (
    LIST,
    Machine,
    MachinePrice,
    Price,
    PriceBook,
    price_name,
    prices_of,
)

ROW = """
[[price]]
provider = "aws"
kind = "g6.xlarge"
gpu = "L4"
hour_micros = 805_000
read_on = 2026-11-24
source = "a list"
"""


def a_price(**fields: object) -> Price:
    [row] = prices_of(ROW)
    values = {name: getattr(row, name) for name in Price.__struct_fields__}
    return Price(**(values | fields))


def micros(
    book: PriceBook, kind: str = "g6.xlarge", *, provider: str = "aws", **more: Any
) -> int | None:
    """Return the price of a machine."""
    price = book.price(Machine(provider, kind, **more))
    return None if price is None else price.hour_micros


def live(book: PriceBook, quote: int, kind: str = "g6.xlarge") -> int | None:
    """Return the price of an on-demand machine by its cloud's quote."""
    return book.live_micros(Machine("aws", kind), quote)


def test_each_price_of_the_list_says_when_and_where_it_was_read() -> None:
    assert len(LIST) > 20
    for each in LIST:
        assert each.source, each
        assert date(2026, 1, 1) <= each.read_on <= date.today()
        assert 100_000 <= each.hour_micros <= 20_000_000
    names = [
        price_name(each.provider, each.kind, region=each.region, spot=each.spot) for each in LIST
    ]
    assert len(set(names)) == len(names)


def test_spot_is_never_dearer_than_on_demand() -> None:
    book = PriceBook(LIST)
    for each in LIST:
        if each.spot:
            usual = micros(book, each.kind, provider=each.provider)
            assert usual is None or each.gpus * each.hour_micros <= usual, each


def test_a_list_is_refused_that_lacks_a_source_or_has_a_price_of_nothing() -> None:
    with pytest.raises(ValueError, match="source"):
        prices_of(ROW.replace('source = "a list"', ""))
    with pytest.raises(ValueError, match=">= 1"):
        prices_of(ROW.replace("805_000", "0"))
    with pytest.raises(ValueError, match="mood"):
        prices_of(ROW + 'mood = "good"')
    assert prices_of("") == []


def test_the_row_of_a_region_counts_before_that_of_any() -> None:
    book = PriceBook([a_price(), a_price(region="us-east-2", hour_micros=700_000)])
    assert micros(book, places=["us-east-2"]) == 700_000
    assert micros(book, places=["eu-west-1"]) == 805_000
    assert micros(book) == 805_000
    assert micros(book, provider="gcp") is None


def test_without_a_row_for_any_region_the_dearest_counts() -> None:
    book = PriceBook([a_price(region="a"), a_price(region="b", hour_micros=900_000)])
    assert micros(book, places=["c"]) == 900_000


def test_the_operators_price_wins() -> None:
    own = {"aws/g6.xlarge": 1, "aws/g6.xlarge@us-east-2": 2, "own/metal/spot": 3}
    book = PriceBook([a_price()], own)
    assert live(book, 600_000) == 1
    assert micros(book, places=["us-east-2"]) == 2
    assert micros(book, "metal", provider="own", spot=True) == 3


def test_a_live_price_counts_within_bounds() -> None:
    book = PriceBook([a_price()])
    quotes = {0: 805_000, -5: 805_000, 1: 161_000, 500_000: 500_000, 10**9: 2_415_000}
    for quote, counts in quotes.items():
        assert live(book, quote) == counts
    assert live(book, 7, "unknown") == 7
    assert live(book, 0, "unknown") is None


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**9))
def test_no_price_of_nothing_and_no_outlier_wins(quote: int, listed: int) -> None:
    counts = live(PriceBook([a_price(hour_micros=listed)]), quote)
    assert counts is not None
    assert counts >= 1
    assert 0.2 * listed - 1 <= counts <= max(1, 3 * listed + 1)


def test_a_machine_costs_what_all_of_its_gpus_cost() -> None:
    book = PriceBook([a_price(gpus=8)], {"aws/g6.xlarge/spot": 100})
    assert book.price(Machine("aws", "g6.xlarge")) == MachinePrice(
        8 * 805_000, "aws/g6.xlarge: a list", date(2026, 11, 24)
    )
    assert book.price(Machine("aws", "g6.xlarge", spot=True)) == MachinePrice(
        800, "prices.hour_micros, aws/g6.xlarge/spot"
    )
    assert PriceBook([], {"gcp/n1": 5}).price(Machine("gcp", "n1", gpus=2)) == MachinePrice(
        10, "prices.hour_micros, gcp/n1"
    )


def test_the_most_exact_place_of_a_machine_counts_and_the_operator_before_the_list() -> None:
    listed = [a_price(), a_price(region="r", hour_micros=2), a_price(region="r-a", hour_micros=3)]
    for own, places, counts in (
        ({}, ["r-a", "r"], 3),
        ({}, ["r-b", "r"], 2),
        ({}, ["elsewhere"], 805_000),
        ({}, [], 805_000),
        ({"aws/g6.xlarge@r": 7}, ["r-a", "r"], 7),
        ({"aws/g6.xlarge@r": 7, "aws/g6.xlarge@r-a": 8}, ["r-a", "r"], 8),
        ({"aws/g6.xlarge": 9}, ["r-a", "r"], 9),
    ):
        found = PriceBook(listed, own).price(Machine("aws", "g6.xlarge", places=places))
        assert found is not None
        assert found.hour_micros == counts, (own, places)


def test_a_spot_machine_of_which_nothing_is_known_costs_what_others_cost() -> None:
    found = PriceBook([a_price()]).price(Machine("aws", "g6.xlarge", spot=True))
    assert found is not None
    assert found.hour_micros == 805_000
    assert found.source.endswith("on-demand price")
    assert PriceBook([a_price(spot=True)]).price(Machine("aws", "g6.xlarge")) is None
    assert PriceBook([a_price()]).price(Machine("aws", "g7.xlarge", spot=True)) is None
