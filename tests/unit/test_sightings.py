"""What is told to end together: one that cannot be told keeps none of the others alive."""

import pytest

from manual_clock import ManualClock
from swell.core.errors import Unavailable
from swell.core.provider import Instance, InstanceState
from swell.providers.sightings import Sightings


async def test_what_one_is_refused_is_raised_once_all_others_were_told() -> None:
    clock, told = ManualClock(), []
    seen = Sightings(clock)
    machines = [
        Instance(id=name, pool="p", state=InstanceState.RUNNING, launched_at=clock.now())
        for name in "abc"
    ]
    seen.launched(machines)

    async def end(name: str) -> None:
        told.append(name)
        if name == "a":
            raise Unavailable("busy")

    with pytest.raises(Unavailable, match="busy"):
        await seen.end_all(["a", "b", "c"], end)
    assert told == ["a", "b", "c"]
    states = {each.id: each.state for each in seen.listed(machines)}
    stopping = InstanceState.STOPPING
    assert states == {"a": InstanceState.RUNNING, "b": stopping, "c": stopping}
