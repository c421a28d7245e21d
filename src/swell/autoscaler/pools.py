"""A pool as the controller has it: what may be launched, by whom, and what is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

import msgspec

from swell.core.provider import LaunchRequest, Provider


@dataclass(frozen=True, slots=True)
class Pool:
    """Filled by wiring from the settings of `[pools.NAME]`."""

    name: str
    provider: Provider
    #: What the provider is called in the settings.
    provider_name: str
    #: What one worker is asked for with; how many, and the token, are put in.
    request: LaunchRequest
    #: Whether somebody else starts its workers: what is asked for are places, which may wait for
    #: ever, cost nothing, and are gone as soon as they are taken back.
    is_external: bool = False
    #: Names of its models, as far as the settings tell them: what a worker serves is known once it
    #: has registered.
    models: tuple[str, ...] = ()
    least: int = 0
    most: int = 1
    #: Millionths of a dollar; None where it is not known.
    hour_micros: int | None = None
    #: Who says so, for people; of which day that is, where it is of a list or a cloud; when its
    #: cloud told it, and what else is to be known of it.
    price_source: str = ""
    price_read_on: date | None = None
    price_told_at: datetime | None = None
    price_note: str = ""
    launch_micros: int = 0
    least_billed_s: float = 0.0
    is_spot: bool = False
    losses_per_hour: float = 0.0
    location: str = ""
    #: How long one takes until it takes tasks, in seconds, as long as none was seen.
    start_s: float | None = None
    #: Model → samples per second of one worker, as long as none was measured.
    rates: Mapping[str, float] = field(default_factory=dict)
    #: How long one that scaling lets go may go on with what it holds; None for as long as it takes.
    drain_s: float | None = None

    def asking(self, n: int, token: str) -> LaunchRequest:
        """Return the request for `n` workers."""
        return msgspec.structs.replace(self.request, pool=self.name, n=n, token=token)
