"""The policy: what it decides, over anything that it may see."""

import msgspec

from swell.autoscaler.outlook import Demand, Observation, PoolView, State
from swell.autoscaler.policy import PolicySettings, plan

MODEL = "demo/picture"


def steady(at: float = 0.0, rate: float = 4.0, ready: int = 12, busy: int = 8) -> Observation:
    """A service to which as much comes as ever."""
    demand = Demand(model=MODEL, leased=busy, minutes=[60.0 * rate] * 16, tens=[10.0 * rate] * 3)
    pool = PoolView(pool="a", rates={MODEL: 0.5}, ready=ready, busy=busy, hour_micros=1_000_000)
    return Observation(at=1e9 + at, demands=[demand], pools=[pool])


def test_too_few_workers_are_made_more_and_the_reason_has_its_numbers() -> None:
    found = plan(steady(ready=4, busy=4), PolicySettings(), State())
    assert found.pools["a"].launch >= 4
    texts = [each.text for each in found.reasons if each.about == "a"]
    assert f"{found.pools['a'].launch} more are asked for" in texts[0]


def test_state_survives_json() -> None:
    found = plan(steady(), PolicySettings(), State())
    again = msgspec.json.decode(msgspec.json.encode(found.state), type=State)
    assert plan(steady(10), PolicySettings(), again) == plan(
        steady(10), PolicySettings(), found.state
    )
