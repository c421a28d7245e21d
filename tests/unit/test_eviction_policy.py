"""Who leaves the device so that another model fits."""

from hypothesis import given
from hypothesis import strategies as st

from swell.runtime.eviction_policy import Resident, forgotten, leaving, next_to_leave

residents = st.lists(
    st.builds(
        Resident,
        name=st.uuids().map(str),
        size_bytes=st.integers(0, 20),
        used=st.integers(0, 9),
        is_wanted=st.booleans(),
        is_at_work=st.booleans(),
    ),
    max_size=8,
)


def a_resident(name: str, size_bytes: int, used: int, *, wanted: bool = False) -> Resident:
    return Resident(name=name, size_bytes=size_bytes, used=used, is_wanted=wanted)


def taken(everybody: list[Resident], gone: list[str]) -> int:
    return sum(each.size_bytes for each in everybody if each.name not in gone)


@given(st.integers(0, 30), residents, st.integers(0, 60))
def test_it_fits_when_they_have_left_or_only_those_at_work_are_there(
    size_bytes: int, everybody: list[Resident], budget_bytes: int
) -> None:
    gone = leaving(size_bytes, everybody, budget_bytes)
    fits = taken(everybody, gone) + size_bytes <= budget_bytes
    assert fits or {each.name for each in everybody if not each.is_at_work} == set(gone)
    assert not any(each.is_at_work for each in everybody if each.name in gone)


@given(st.integers(0, 30), residents, st.integers(0, 60))
def test_nobody_leaves_for_nothing(
    size_bytes: int, everybody: list[Resident], budget_bytes: int
) -> None:
    gone = leaving(size_bytes, everybody, budget_bytes)
    if taken(everybody, gone) + size_bytes > budget_bytes:
        return
    for name in gone:
        others = [other for other in gone if other != name]
        assert taken(everybody, others) + size_bytes > budget_bytes


@given(st.integers(0, 30), residents, st.integers(0, 60))
def test_nobody_who_is_wanted_leaves_where_all_others_would_do(
    size_bytes: int, everybody: list[Resident], budget_bytes: int
) -> None:
    idle = [each.name for each in everybody if not each.is_at_work and not each.is_wanted]
    if taken(everybody, idle) + size_bytes <= budget_bytes:
        assert set(leaving(size_bytes, everybody, budget_bytes)) <= set(idle)


def test_the_one_used_longest_ago_leaves_first() -> None:
    everybody = [a_resident("new", 5, 3), a_resident("old", 5, 1), a_resident("middle", 5, 2)]
    assert leaving(5, everybody, 15) == ["old"]
    assert leaving(10, everybody, 15) == ["old", "middle"]
    assert next_to_leave(everybody) == "old"


def test_one_that_somebody_waits_for_leaves_last() -> None:
    everybody = [a_resident("old", 5, 1, wanted=True), a_resident("new", 5, 2)]
    assert leaving(5, everybody, 10) == ["new"]
    assert next_to_leave(everybody) == "new"


def test_a_small_one_stays_if_a_large_one_leaves_anyway() -> None:
    everybody = [a_resident("small", 1, 1), a_resident("large", 9, 2)]
    assert leaving(9, everybody, 10) == ["large"]


def test_a_model_larger_than_everything_has_the_device_to_itself() -> None:
    assert leaving(99, [a_resident("a", 5, 1), a_resident("b", 5, 2)], 10) == ["a", "b"]


def test_nobody_is_left_to_go() -> None:
    assert next_to_leave([]) is None


def test_the_host_forgets_who_left_longest_ago_and_nobody_without_a_budget() -> None:
    copies = [a_resident("new", 5, 2), a_resident("old", 5, 1)]
    assert forgotten(copies, 5) == ["old"]
    assert forgotten(copies, 10) == []
    assert forgotten(copies, 0) == ["old", "new"]
    assert forgotten(copies, None) == []
