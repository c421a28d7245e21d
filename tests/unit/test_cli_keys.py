"""Times and rates as people write them."""

import pytest
import typer

from swell.cli.keys import duration_s, rate_per_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("15 min", 900), ("24h", 86_400), ("1.5d", 129_600), ("0", 0)],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "rate"), [("10/s", 10), ("600/min", 10), ("36000 / h", 10), ("0.5/s", 0.5), ("0", 0)]
)
def test_rates_have_units(text: str, rate: float) -> None:
    assert rate_per_s(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "10", "-1s", "1w", "s", "1e9s", "10/", "/s", "10/fortnight"])
def test_what_is_neither_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write such as"):
        duration_s(text)
    with pytest.raises(typer.BadParameter, match="write such as"):
        rate_per_s(text)
