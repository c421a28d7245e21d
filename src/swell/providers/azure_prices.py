"""Azure's retail prices by size and region, for regular and spot machines.

The price list is public and needs no credentials. It has one row per meter, so a size can have
several rows; the highest price counts. The meter name marks spot prices.

Source:
    https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import quote, urlencode

from swell.core.billing.price_book import LivePrice

PATH: Final = "/api/retail/prices"

#: Products that Swell does not rent.
_OTHERS: Final = ("Windows", "Cloud Services")
_SPOT: Final = " Spot"
_LOW: Final = " Low Priority"


def query_of(sizes: Sequence[str], location: str) -> str:
    """Return the URL query for the prices of sizes in a region."""
    wanted = " or ".join(f"armSkuName eq '{_quoted(size)}'" for size in sizes)
    terms = (
        "serviceName eq 'Virtual Machines'",
        "priceType eq 'Consumption'",
        f"armRegionName eq '{_quoted(location)}'",
        f"({wanted})",
    )
    # Swell's prices are in dollars, regardless of the account's currency.
    query = {"currencyCode": "USD", "$filter": " and ".join(terms)}
    return urlencode(query, quote_via=quote)


def prices_of(items: Iterable[Any], sizes: Sequence[str], *, spot: bool) -> list[LivePrice]:
    """Return the valid prices among rows of the list; invalid rows are skipped. Pure.

    Args:
        items: Rows of the list.
        sizes: Sizes, as the settings spell them.
        spot: Whether to return spot prices.
    """
    names = {size.lower(): size for size in sizes}
    found: dict[tuple[str, str], int] = {}
    for each in items:
        if not isinstance(each, Mapping) or not _fits(each, spot=spot):
            continue
        size = names.get(str(each.get("armSkuName", "")).lower())
        micros = _micros(each.get("retailPrice"))
        if size is None or micros is None:
            continue
        key = (size, str(each.get("armRegionName", "")))
        found[key] = max(micros, found.get(key, 0))
    return [LivePrice(size, place, micros) for (size, place), micros in found.items()]


def _fits(row: Mapping[str, Any], *, spot: bool) -> bool:
    product, sku = str(row.get("productName", "")), str(row.get("skuName", ""))
    if any(each in product for each in _OTHERS) or sku.endswith(_LOW):
        return False
    is_hourly = row.get("unitOfMeasure") == "1 Hour" and row.get("currencyCode") == "USD"
    return is_hourly and sku.endswith(_SPOT) == spot


def _micros(told: Any) -> int | None:
    try:
        micros = round(Decimal(str(told)) * 1_000_000)
    except (InvalidOperation, ValueError, OverflowError):
        return None
    return micros if micros > 0 else None


def _quoted(text: str) -> str:
    return text.replace("'", "''")
