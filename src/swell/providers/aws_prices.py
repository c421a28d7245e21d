"""Amazon EC2's spot prices, by instance type and zone. Pure.

Source:
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSpotPriceHistory.html: a
    history that starts now contains the current prices.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from swell.core.billing.price_book import LivePrice


def asked(
    types: Iterable[str], zones: Iterable[str], product: str, now: datetime
) -> dict[str, Any]:
    """Return the parameters of `DescribeSpotPriceHistory`.

    Args:
        types: Instance types.
        zones: Availability zones; empty for the whole region.
        product: EC2's name of the operating system.
        now: The time.
    """
    told = {
        "InstanceTypes": list(types),
        "ProductDescriptions": [product],
        "StartTime": now,
    }
    if zones := list(zones):
        told["Filters"] = [{"Name": "availability-zone", "Values": zones}]
    return told


def prices_of(rows: Iterable[Mapping[str, Any]]) -> list[LivePrice]:
    """Return the newest price of each type and zone; invalid rows are skipped."""
    newest: dict[tuple[str, str], tuple[datetime, int]] = {}
    for row in rows:
        key, at = (row["InstanceType"], row["AvailabilityZone"]), row["Timestamp"]
        try:
            micros = round(Decimal(row["SpotPrice"]) * 1_000_000)
        except (InvalidOperation, ValueError, OverflowError):
            continue
        if micros > 0 and (key not in newest or newest[key][0] < at):
            newest[key] = at, micros
    return [LivePrice(kind, zone, micros) for (kind, zone), (_, micros) in newest.items()]
