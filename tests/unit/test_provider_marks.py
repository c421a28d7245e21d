"""How instances are marked, and what is made of what was seen of them."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manual_clock import ManualClock
from swell.core.errors import InvalidRequest
from swell.core.provider import Instance, InstanceState
from swell.providers.marks import Marks, as_label, moment
from swell.providers.options import NAME, MachineOptions, checked
from swell.providers.sightings import Sightings

WHEN = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)


def marks(pool: str = "gpu", token: str = "launch-1", deployment: str = "shop") -> Marks:
    return Marks(deployment=deployment, pool=pool, token=token, asked_at=WHEN)


@given(st.text(max_size=100), st.text(max_size=60), st.text(max_size=60))
def test_names_and_labels_are_such_as_every_provider_takes(
    token: str, pool: str, deployment: str
) -> None:
    made = marks(pool, token, deployment)
    assert len(made.name()) <= 44
    assert NAME.fullmatch(made.name().removeprefix("swell-"))
    assert all(len(each) <= 63 and each.isascii() for each in made.labels.values())
    assert msgspec.structs.replace(Marks.read(made.texts, asked_at=WHEN)) == made


@given(st.text(max_size=80), st.text(max_size=80))
def test_different_texts_have_different_labels(one: str, other: str) -> None:
    assert (as_label(one) == as_label(other)) == (one == other)


def test_a_launch_that_is_repeated_has_the_same_name_and_no_other_has() -> None:
    assert marks().name() == marks().name()
    others = [marks(pool="cpu"), marks(token="launch-2"), marks(deployment="blog"), marks(token="")]
    assert len({each.name() for each in (marks(), *others, marks(token=""))}) == 6


@pytest.mark.parametrize(
    "text",
    ["2026-11-26T09:30:00Z", "2026-11-26T09:30:00.000000000Z", "2026-11-26T10:30:00+01:00",
     "2026-11-26 09:30:00"],
)  # fmt: skip
def test_times_are_read_as_providers_write_them(text: str) -> None:
    assert moment(text) == WHEN


# ---- what was seen


def instance(name: str = "a", state: InstanceState = InstanceState.RUNNING) -> Instance:
    return Instance(id=name, pool="gpu", state=state, launched_at=WHEN)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(WHEN)


def test_what_is_listed_late_is_waited_for_by_our_own_clock() -> None:
    clock = ManualClock(WHEN)
    seen = Sightings(clock, late_s=60)
    # The cloud's clock, by which it was launched, is behind.
    early = instance(state=InstanceState.STARTING)
    seen.launched([msgspec.structs.replace(early, launched_at=WHEN - timedelta(minutes=5))])
    for advance_s, state in ((0, "starting"), (59, "starting"), (2, "ended")):
        clock.advance(advance_s)
        assert [each.state for each in seen.listed([])] == [state]


@pytest.mark.parametrize("told", ["", "yesterday", "2026-13-01", "9" * 30])
def test_a_mark_that_somebody_has_written_over_blinds_nobody(told: str) -> None:
    texts = marks().texts | {"swell-asked-at": told}
    assert Marks.read(texts, asked_at=WHEN) == marks()


def test_what_was_launched_is_listed_before_the_provider_lists_it(clock: ManualClock) -> None:
    seen = Sightings(clock, late_s=60)
    seen.launched([instance(state=InstanceState.STARTING)])
    assert [each.state for each in seen.listed([])] == [InstanceState.STARTING]
    clock.advance(61)
    assert [each.state for each in seen.listed([])] == [InstanceState.ENDED]


def test_what_is_listed_no_more_has_ended(clock: ManualClock) -> None:
    seen = Sightings(clock)
    seen.listed([instance(), instance("b")])
    clock.advance(5)
    seen.listed([instance("b")])
    clock.advance(5)
    found = {each.id: each for each in seen.listed([instance("b")])}
    assert found["a"].state is InstanceState.ENDED
    assert found["a"].ended_at == WHEN + timedelta(seconds=5)
    assert found["b"].state is InstanceState.RUNNING


def test_a_list_of_one_pool_says_nothing_of_another(clock: ManualClock) -> None:
    seen = Sightings(clock)
    seen.listed([instance()])
    assert seen.listed([], "cpu") == []
    assert [each.state for each in seen.listed([instance()])] == [InstanceState.RUNNING]


def test_what_was_told_to_go_is_stopping_whatever_a_late_list_says(clock: ManualClock) -> None:
    seen = Sightings(clock)
    seen.listed([instance()])
    seen.told_to_go(["a", "stranger"])
    assert [each.state for each in seen.listed([instance()])] == [InstanceState.STOPPING]
    assert [each.state for each in seen.listed([])] == [InstanceState.ENDED]
    assert [each.state for each in seen.listed([instance()])] == [InstanceState.ENDED]


def test_what_one_list_leaves_out_has_not_ended(clock: ManualClock) -> None:
    seen = Sightings(clock)
    for _ in range(3):
        seen.listed([instance()])
        clock.advance(5)
        for _ in range(2):  # at the same time
            assert [each.state for each in seen.listed([])] == [InstanceState.RUNNING]
        clock.advance(4)
        assert [each.state for each in seen.listed([])] == [InstanceState.RUNNING]


def test_what_is_there_again_was_not_lost(clock: ManualClock) -> None:
    seen = Sightings(clock)
    seen.listed([instance()])
    seen.listed([])
    clock.advance(5)
    assert [each.state for each in seen.listed([])] == [InstanceState.ENDED]
    assert [each.state for each in seen.listed([instance()])] == [InstanceState.RUNNING]


def test_what_was_told_to_go_and_does_not_is_told_as_running_again(clock: ManualClock) -> None:
    seen = Sightings(clock)
    seen.listed([instance()])
    seen.told_to_go(["a"])
    clock.advance(599)
    assert [each.state for each in seen.listed([instance()])] == [InstanceState.STOPPING]
    clock.advance(2)
    assert [each.state for each in seen.listed([instance()])] == [InstanceState.RUNNING]


def test_when_something_ended_is_told_once(clock: ManualClock) -> None:
    seen = Sightings(clock)
    seen.listed([instance()])
    clock.advance(5)
    for _ in range(3):
        [ended] = seen.listed([instance(state=InstanceState.ENDED)])
        assert ended.ended_at == WHEN + timedelta(seconds=5)
        clock.advance(5)


def test_what_has_ended_is_forgotten_after_an_hour(clock: ManualClock) -> None:
    seen = Sightings(clock)
    seen.listed([instance()])
    seen.listed([])
    clock.advance(5)
    seen.listed([])
    clock.advance(3594)
    assert len(seen.listed([])) == 1
    clock.advance(2)
    assert seen.listed([]) == []


# ---- options


def test_options_that_do_not_exist_are_missing_or_wrong_are_told() -> None:
    with pytest.raises(InvalidRequest, match=r"pools\.gpu\.options\.image is missing"):
        checked(MachineOptions, {}, "pools.gpu.options")
    with pytest.raises(InvalidRequest, match=r"options\.spott does not exist: did you mean spot\?"):
        checked(MachineOptions, {"image": "x", "spott": True}, "options")
    with pytest.raises(InvalidRequest, match=r"options\.disk_gib: .*greater than or equal to 8"):
        checked(MachineOptions, {"image": "x", "disk_gib": 1}, "options")
    assert checked(MachineOptions, {"image": "x", "spot": True}, "options").spot
