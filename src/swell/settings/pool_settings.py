"""Settings of pools that the autoscaler launches, of prices and of budgets."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, SecretStr, model_validator

from swell.settings.group import Group, Json, Words

#: Suffixes of references to files, which contain no model name.
_FILES: Final = (".py", ".toml")

#: Name of a price: provider, machine type, region, and whether it is spot.
_PRICE_NAME: Final = re.compile(r"[a-z0-9-]+/[\w.-]+(@[\w.-]+)?(/spot)?")

_POOL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


class PoolTable(Group):
    """Equal workers that the autoscaler launches on demand.

    Attributes:
        provider: The provider that launches them; `process` for this machine.
        models: The models that they serve, as in `worker.models`.
        least: Smallest number of workers; 0 lets the pool sleep.
        most: Largest number of workers.
        hour_micros: Price of one worker per hour, in millionths of a dollar. Unset for the price of
            its machine types in `prices.hour_micros` or in Swell's list, if there is one.
        launch_micros: Price of each launch, in addition, in millionths of a dollar.
        least_billed_s: Shortest billed time of a worker, in seconds.
        spot: Whether the provider may reclaim them; `options.spot` overrides it.
        losses_per_hour: Expected share of them that the provider reclaims per hour.
        location: Their location. Of spot workers with a location, at most the share
            `autoscale.policy.location_share` runs in one.
        start_s: Expected time from a launch until a worker takes tasks, in seconds, until one is
            measured.
        rates: Model to samples per second of one worker, until it is measured.
        drain_s: Time for a worker to finish its tasks before it hands them over, in seconds; unset
            for no limit.
        device: As `worker.device`.
        slots: As `worker.slots`.
        options: Options of the provider.
    """

    provider: str = Field(default="process", min_length=1)
    models: Words = Field(min_length=1)
    least: int = Field(default=0, ge=0)
    most: int = Field(default=1, ge=1, le=100_000)
    hour_micros: int | None = Field(default=None, ge=0)
    launch_micros: int = Field(default=0, ge=0)
    least_billed_s: float = Field(default=0.0, ge=0)
    spot: bool = False
    losses_per_hour: float = Field(default=0.0, ge=0)
    location: str = Field(default="", max_length=200)
    start_s: float | None = Field(default=None, gt=0)
    rates: Annotated[Mapping[str, float], Json] = {}
    drain_s: float | None = Field(default=None, ge=0)
    device: str | None = None
    slots: int | None = Field(default=None, ge=1)
    options: Annotated[Mapping[str, Any], Json] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, without references to files and modules."""
        names = (ref for ref in self.models if ref.count("/") == 1)
        return tuple(ref for ref in names if not ref.endswith(_FILES))

    @property
    def is_spot(self) -> bool:
        """Whether the provider may reclaim machines: its own option, or else `spot`."""
        spot = self.options.get("spot", self.spot)
        return spot.lower() in ("true", "1", "yes", "on") if isinstance(spot, str) else bool(spot)

    @model_validator(mode="after")
    def _fit_together(self) -> "PoolTable":
        if self.least > self.most:
            raise ValueError(
                f"least ({self.least}) must be at most most ({self.most}): lower it, or raise most"
            )
        are_names = all("/" in ref and not ref.endswith(_FILES) for ref in self.models)
        if are_names and (strange := set(self.rates) - set(self.models)):
            raise ValueError(
                f"rates names {min(strange)}, which is not among models: add it there, or leave it "
                "out"
            )
        if wrong := [model for model, rate in self.rates.items() if not rate > 0]:
            raise ValueError(f"the rate of {wrong[0]} must be above 0: samples per second")
        return self


def check_pool_names(pools: Mapping[str, PoolTable]) -> Mapping[str, PoolTable]:
    """Check the names of pools, and return the pools.

    Raises:
        ValueError: A name is not valid.
    """
    for name in pools:
        if not _POOL_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:60]!r} cannot be a pool's name: use 1 to 40 letters, digits, '-' and '_', "
                "the first a letter"
            )
    return pools


class AutoscaleSettings(Group):
    """Scaling of the pools of `[pools.NAME]`.

    Attributes:
        wait_s: Target time for a task to start, in seconds.
        every_s: Interval of scaling decisions, in seconds.
        stale_s: Age of the state after which the autoscaler removes no workers, in seconds.
        hour_budget_micros: Budget of all pools per hour, in millionths of a dollar; unset for no
            limit.
        day_budget_micros: Budget of all pools per day (UTC), in millionths of a dollar. The
            autoscaler runs fewer workers as it runs out, and none at its end. Unset for no limit.
            `costs.budget_day_micros` raises alarms before that.
        boot_limit_s: Time for a new machine's worker to register, in seconds, shorter where start
            times are well known; after it the autoscaler ends the machine. No limit for pools with
            the provider `external`.
        silent_s: Time without a heartbeat after which the autoscaler ends a worker's machine, in
            seconds.
        url: URL of the backend for launched workers; empty for `server.public_url`, or the address
            that it listens on.
        token: API key with the scope `worker` for launched workers; empty for a generated key that
            is valid while the backend runs, enough for workers that end with it.
        deployment: Name that separates this deployment's machines from others in the same account:
            up to 40 lower-case letters, digits and hyphens.
        policy: Advanced settings of the policy, by name: `[autoscale.policy]` in the file, JSON in
            the environment.
    """

    wait_s: float = Field(default=20.0, gt=0)
    every_s: float = Field(default=3.0, gt=0, le=60)
    stale_s: float = Field(default=60.0, gt=0)
    hour_budget_micros: int | None = Field(default=None, ge=0)
    day_budget_micros: int | None = Field(default=None, ge=0)
    boot_limit_s: float = Field(default=1800.0, gt=0)
    silent_s: float = Field(default=300.0, gt=0)
    url: str = ""
    token: SecretStr = SecretStr("")
    deployment: str = Field(default="swell", pattern="^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")
    policy: Annotated[Mapping[str, Any], Json] = {}


def _check_prices(prices: Mapping[str, int]) -> Mapping[str, int]:
    for name, micros in prices.items():
        if not _PRICE_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:80]!r} names no price: write PROVIDER/KIND, PROVIDER/KIND@REGION, or "
                "either with /spot at its end, such as aws/g6.xlarge@us-east-1/spot"
            )
        if micros < 1:
            raise ValueError(f"the price {name} must be at least 1 millionth of a dollar an hour")
    return prices


class PricesSettings(Group):
    """Prices of machines that override Swell's own list.

    Attributes:
        hour_micros: Your own prices in millionths of a dollar per hour of one GPU, by provider and
            machine type, or of the whole machine for types that Swell's list does not have: lines
            such as `"aws/g6.xlarge/spot" = 410000` under `[prices.hour_micros]` in the file, JSON
            in the environment.
        ask_every_s: Interval at which the autoscaler asks clouds for prices of pools that set none:
            AWS for spot machines, Azure for all. In seconds; 0 for never.
    """

    hour_micros: Annotated[Mapping[str, int], Json, AfterValidator(_check_prices)] = {}
    ask_every_s: float = Field(default=600.0, ge=0)


class CostsSettings(Group):
    """Budgets, and the price of pictures elsewhere.

    Attributes:
        api_image_micros: Price of one picture at an external API, in millionths of a dollar, for
            comparison; 40000 is $0.04. Unset for no comparison.
        budget_day_micros: Budget of all pools per day (UTC), in millionths of a dollar, for alarms
            at 50, 80 and 100 %. It stops nothing; `autoscale.day_budget_micros` does. Unset for no
            alarms.
        budget_month_micros: The same budget per month (UTC).
    """

    api_image_micros: int | None = Field(default=None, ge=0)
    budget_day_micros: int | None = Field(default=None, ge=1)
    budget_month_micros: int | None = Field(default=None, ge=1)
