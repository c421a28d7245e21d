"""What arrived in the last weeks is kept, and says what is usual at this time of the week."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from fleet_cases import MODEL, Yard, one_for_each
from hypothesis import given
from hypothesis import strategies as st

from manual_clock import ManualClock
from sqlite_rig import SqliteRig
from swell.autoscaler.arrivals import SPAN_S, Span, last_span
from swell.autoscaler.chronicle import PREFIX as KEPT
from swell.autoscaler.chronicle import Chronicle
from swell.autoscaler.history import EVERY_S, Past, remember, usual
from swell.autoscaler.outlook import Demand, Observation, Plan, PoolView, State
from swell.autoscaler.policy import PolicySettings, plan
from swell.core.arrival_rates import PREFIX, Arrivals
from swell.core.errors import Unavailable
from swell.db.registry import Registry

DAY = 86_400 // SPAN_S
WEEK = 7 * DAY
#: Number of the span at which a week begins.
MONDAY = 1_767_571_200 // SPAN_S


def weeks_of(*weeks: list[int]) -> Past:
    """Weeks that end on a Monday; each is a day, seven times."""
    counts = tuple(count for week in weeks for count in week * 7)
    return Past(MONDAY - len(counts), counts)


def a_day(night: int, day: int) -> list[int]:
    """Next to nobody comes before nine and after six."""
    return [night] * (9 * 6) + [day] * (9 * 6) + [night] * (6 * 6)


def at(hour: float) -> float:
    return MONDAY * SPAN_S + 3600.0 * hour


# ---- spans


def told(now: datetime, arrivals: Arrivals) -> list[bytes]:
    arrivals.close(now)
    return [arrivals.dump()]


def test_a_span_that_is_over_is_told_once_everybody_has_told_it() -> None:
    begin = datetime.fromtimestamp(MONDAY * SPAN_S, UTC)
    arrivals = Arrivals(begin)
    for second in range(0, SPAN_S, 10):
        arrivals.close(begin + timedelta(seconds=second))
        arrivals.fresh[MODEL] = 2
    end = begin + timedelta(seconds=SPAN_S)
    notes = told(end, arrivals)
    assert last_span(notes, end + timedelta(seconds=1)) is None, "not everybody has told its end"
    assert last_span(notes, end + timedelta(seconds=2)) == Span(MONDAY, {MODEL: 120})
    assert last_span(notes * 2, end + timedelta(seconds=2)) == Span(MONDAY, {MODEL: 240})
    other = Arrivals(begin)
    other.fresh |= {f"{MODEL}:~canary": 3, f"{MODEL}:v2": 4}
    other.close(begin + timedelta(seconds=20))
    versions = [*notes, *told(end, other)]
    assert last_span(versions, end + timedelta(seconds=2)) == Span(MONDAY, {MODEL: 127})
    later = end + timedelta(seconds=SPAN_S + 2)
    assert last_span(notes, later) == Span(MONDAY + 1, {})
    assert last_span([], later) == Span(MONDAY + 1, {}), "nobody asked for anything"
    assert last_span([b"?"], later) == Span(MONDAY + 1, {})


def test_a_span_whose_beginning_nobody_saw_is_not_told() -> None:
    begin = datetime.fromtimestamp(MONDAY * SPAN_S, UTC)
    arrivals = Arrivals(begin + timedelta(seconds=30))
    arrivals.fresh[MODEL] = 2
    notes = told(begin + timedelta(seconds=SPAN_S), arrivals)
    assert last_span(notes, begin + timedelta(seconds=SPAN_S + 2)) is None


# ---- what is remembered


def test_spans_that_nobody_counted_are_gaps_and_none_counts_twice() -> None:
    past = remember(None, 10, 0)
    assert past is None, "there is nothing to be remembered"
    past = remember(past, 11, 4)
    past = remember(past, 14, 2)
    assert past == Past(11, (4, -1, -1, 2))
    assert remember(past, 14, 9) is past
    assert remember(past, 12, 9) is past


def test_what_nobody_has_asked_for_in_weeks_is_forgotten() -> None:
    past = remember(None, 0, 5)
    assert past is not None
    assert remember(past, 3 * WEEK, 0) is not None
    assert remember(past, 6 * WEEK, 0) is None


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(0, 9000))
def test_it_never_grows_beyond_some_weeks(counts: list[int], gap: int) -> None:
    past = None
    for number, count in enumerate([1, *counts]):
        past = remember(past, number * (1 + gap), count)
        assert past is None or len(past.counts) < 5 * WEEK
        assert past is None or past.first + len(past.counts) == number * (1 + gap) + 1


# ---- what is usual


def test_before_two_weeks_nothing_is_usual() -> None:
    assert usual(weeks_of(a_day(0, 600)), at(8)) == ((), ())


def test_a_working_day_is_foretold_before_it_begins() -> None:
    found = usual(weeks_of(a_day(0, 600), a_day(0, 600)), at(8.75))
    assert found.ahead[0] == 0.0
    assert found.ahead[10] == 0.0
    assert found.ahead[20] == pytest.approx(1.0, rel=0.05)
    assert len(found.ahead) == len(found.before) + 1 == 3 * 3600 / EVERY_S + 1
    assert set(found.before) == {0.0}


def test_a_crowd_that_came_once_is_not_awaited_again() -> None:
    once = a_day(600, 600)
    once[60:66] = [6000] * 6
    for past in (
        weeks_of(once, a_day(600, 600)),
        weeks_of(a_day(600, 600), a_day(600, 600), once),
        weeks_of(a_day(600, 600), once, a_day(600, 600), a_day(600, 600)),
    ):
        found = usual(past, at(9.5))
        assert max(found.ahead) == found.ahead[0] == pytest.approx(1.0)


def test_noise_of_some_weeks_is_no_growth() -> None:
    noisy = [600, 690, 540, 620, 660, 580] * 24
    found = usual(weeks_of(noisy, noisy[1:] + noisy[:1], noisy[2:] + noisy[:2]), at(12))
    assert max(found.ahead) == found.ahead[0]


def test_right_after_a_step_no_more_is_usual_than_comes_then() -> None:
    """The mean of what came before says too little of now, and what comes must not be scaled up."""
    for minute in range(0, 60, 5):
        found = usual(weeks_of(a_day(0, 600), a_day(0, 600)), at(9 + minute / 60))
        assert max(found.ahead) <= 1.0


def test_gaps_of_a_week_leave_the_others() -> None:
    holes = weeks_of([-1] * DAY, a_day(0, 600), a_day(0, 600))
    assert usual(holes, at(8.75)) == usual(weeks_of(a_day(0, 600), a_day(0, 600)), at(8.75))
    assert usual(weeks_of([-1] * DAY, a_day(0, 600)), at(8.75)) == ((), ())


# ---- what the policy makes of it


def seen(hour: float, past: Past, *, tens: float = 0.0, ready: int = 0) -> Observation:
    found = usual(past, at(hour))
    demand = Demand(
        model=MODEL,
        minutes=[6 * tens] * 16,
        tens=[tens] * 3,
        usual=found.ahead,
        usual_before=found.before,
    )
    pool = PoolView(pool="gpu", rates={MODEL: 0.5}, ready=ready, most=100, start_p50_s=300.0)
    return Observation(at=at(hour), demands=[demand], pools=[pool], usual_every_s=EVERY_S)


def planned(hours: list[float], past: Past, **fields: float) -> Plan:
    """Have it look at these times, and return the last plan."""
    settings, state = PolicySettings(wait_s=20.0), State()
    for hour in hours:
        last = plan(seen(hour, past, **fields), settings, state)
        state = last.state
    return last


def night_until(hour: float) -> list[float]:
    return [hour - 2 + step / 20 for step in range(41)]


def test_a_pool_that_sleeps_is_up_when_people_usually_come() -> None:
    past = weeks_of(a_day(0, 3000), a_day(0, 3000))
    assert planned(night_until(8.5), past).pools["gpu"].desired == 0
    assert planned(night_until(8.95), past).pools["gpu"].desired >= 8
    assert planned(night_until(8.95), weeks_of(a_day(0, 0))).pools["gpu"].desired == 0


def test_it_sleeps_again_when_nobody_comes_this_time() -> None:
    past = weeks_of(a_day(0, 3000), a_day(0, 3000))
    assert planned(night_until(9.1), past).pools["gpu"].desired >= 5, "they may be late"
    assert planned(night_until(9.5), past).pools["gpu"].desired == 0


# ---- across restarts


class Broken(Registry):
    """Does not tell what was kept, as long as it is down."""

    is_down = False

    async def notes(self, prefix: str) -> dict[str, bytes]:
        if self.is_down and prefix == KEPT:
            raise Unavailable("it does not answer")
        return dict(await super().notes(prefix))


async def kept(registry: Registry) -> Past | None:
    note = await registry.note(KEPT + MODEL)
    return None if note is None else msgspec.json.decode(note, type=Past)


async def test_what_is_not_known_is_not_written_over() -> None:
    clock = ManualClock()
    registry = Broken(SqliteRig(clock).database)
    await registry.put_note(KEPT + MODEL, msgspec.json.encode(Past(5, (1, 2, 3))))
    chronicle = Chronicle(registry)
    registry.is_down = True
    with pytest.raises(Unavailable):
        await chronicle.load()
    chronicle.hear([], clock.now())
    await chronicle.save()
    assert chronicle.usual(clock.now()) == {}
    assert await kept(registry) == Past(5, (1, 2, 3))
    registry.is_down = False
    await chronicle.load()
    chronicle.hear([], clock.now())
    await chronicle.save()
    found = await kept(registry)
    assert found is None or found.first > 5, "that was long ago"


async def test_what_arrived_outlives_whoever_scales_and_reaches_the_policy() -> None:
    yard = Yard()
    now = yard.clock.now().timestamp()
    yard.clock.advance(SPAN_S - now % SPAN_S)
    here = int(yard.clock.now().timestamp() // SPAN_S)
    old = Past(here - 2 * WEEK - DAY, (600,) * (2 * WEEK + DAY))
    await yard.registry.put_note(KEPT + MODEL, msgspec.json.encode(old))
    looked: list[Observation] = []

    def look(observation: Observation, state: State) -> Plan:
        looked.append(observation)
        return one_for_each(observation, state)

    yard.plan = look
    yard.controller = yard.another("one")
    arrivals = Arrivals(yard.clock.now())
    for _ in range(SPAN_S // 10):
        arrivals.fresh[MODEL] = 3
        yard.clock.advance(10)
        arrivals.close(yard.clock.now())
        await yard.registry.put_note(f"{PREFIX}one", arrivals.dump())
    for _ in range(3):
        await yard.step()
    assert looked[-1].usual_every_s == EVERY_S
    assert looked[-1].demands[0].usual[0] == pytest.approx(1.0, rel=0.1)
    assert len(looked[-1].demands[0].usual_before) > 0
    found = await kept(yard.registry)
    assert found is not None
    assert found.counts[-1] == 180, "it was written once, whatever was looked at later"
    assert found.first + len(found.counts) == here + 1
    # Another takes over, and goes on from there.
    yard.controller = yard.another("two")
    yard.clock.advance(SPAN_S)
    await yard.step()
    again = await kept(yard.registry)
    assert again is not None
    assert again.counts[-2:] == (180, 0)
