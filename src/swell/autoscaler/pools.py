"""A pool of the controller: its provider, limits, prices and rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

import msgspec

from swell.core.provider import LaunchRequest, Provider


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool, created from the settings of `[pools.NAME]`."""

    name: str
    provider: Provider
    #: Name of the provider in the settings.
    provider_name: str
    #: Launch request for one worker, without number and token.
    request: LaunchRequest
    #: Whether an external system starts the workers. Instances are then placeholders: they can wait
    #: for ever, cost nothing, and end at once.
    is_external: bool = False
    #: Models in the settings. The models of a worker are known after its registration.
    models: tuple[str, ...] = ()
    least: int = 0
    most: int = 1
    #: Hourly price in millionths of a dollar; None if unknown.
    hour_micros: int | None = None
    #: Source of the price for people, date of the list or of the provider's price, time of the
    #: provider's answer, and a remark.
    price_source: str = ""
    price_read_on: date | None = None
    price_told_at: datetime | None = None
    price_note: str = ""
    launch_micros: int = 0
    least_billed_s: float = 0.0
    is_spot: bool = False
    losses_per_hour: float = 0.0
    location: str = ""
    #: Assumed cold start in seconds, before one is measured.
    start_s: float | None = None
    #: Assumed samples per second of one worker by model, before they are measured.
    rates: Mapping[str, float] = field(default_factory=dict)
    #: Limit of a drain in seconds; None for no limit.
    drain_s: float | None = None

    def asking(self, n: int, token: str) -> LaunchRequest:
        """Return the launch request for `n` workers."""
        return msgspec.structs.replace(self.request, pool=self.name, n=n, token=token)
