"""Azure's retail prices: what sizes of machines cost in a region, of spot machines and others.

The list is public: nobody says who asks. Prices of spot machines stand among the others, told apart
by the names of their meters. It has one row for each meter, so a size may have several; the dearest
of those that fit counts.

Source:
    https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import quote, urlencode

from swell.core.billing.price_book import LivePrice

PATH: Final = "/api/retail/prices"

#: Meters of machines that are neither ours to rent as they are, nor what we pay.
_OTHERS: Final = ("Windows", "Cloud Services")
_SPOT: Final = " Spot"
_LOW: Final = " Low Priority"


def query_of(sizes: Sequence[str], location: str) -> str:
    """Return the query that asks for the prices of sizes in a region, as it stands in a URL."""
    wanted = " or ".join(f"armSkuName eq '{_quoted(size)}'" for size in sizes)
    terms = (
        "serviceName eq 'Virtual Machines'",
        "priceType eq 'Consumption'",
        f"armRegionName eq '{_quoted(location)}'",
        f"({wanted})",
    )
    # In dollars, whatever the account is billed in: that is what all prices here are.
    query = {"currencyCode": "USD", "$filter": " and ".join(terms)}
    return urlencode(query, quote_via=quote)


def prices_of(items: Iterable[Any], sizes: Sequence[str], *, spot: bool) -> list[LivePrice]:
    """Return the prices among what Azure tells; what cannot be read is left out. Pure.

    Args:
        items: Rows of the list.
        sizes: Which are wanted, as the settings write them.
        spot: Whether those of spot machines are.
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
