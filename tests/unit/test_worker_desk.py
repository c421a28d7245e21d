"""What a worker holds and has to tell."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.core.store_types import Hold
from swell.core.task import (
    Artifact,
    Canceled,
    Failed,
    Outcome,
    Released,
    Succeeded,
    TaskError,
    Timings,
)
from swell.protocol.worker_messages import Enclosure, LeasedTask, Progress
from swell.worker import inflight as desk_module
from swell.worker.inflight import MOST_QUICK, PAGE_BYTES, InflightTask, InflightTasks, ReportPage


def a_leased_task(task_id: str = "t1", attempt: int = 1) -> LeasedTask:
    return LeasedTask(
        task_id=task_id,
        attempt=attempt,
        token="k",
        model="demo/noop",
        version="v",
        input=msgspec.Raw(b"{}"),
    )


def hold(desk: InflightTasks, task_id: str = "t1", attempt: int = 1) -> InflightTask:
    return desk.hold(a_leased_task(task_id, attempt), "key", 0.0)


def test_a_slot_is_free_again_once_the_outcome_is_told_and_not_before() -> None:
    desk = InflightTasks(slots=2)
    held = hold(desk)
    assert desk.free == 1
    desk.settle(held, Canceled())
    assert desk.free == 1
    desk.take()
    assert desk.free == 1
    desk.told()
    assert desk.free == 2


def test_of_two_outcomes_the_first_counts() -> None:
    desk = InflightTasks(slots=2)
    held = hold(desk)
    desk.settle(held, Canceled())
    desk.settle(held, Released())
    assert [each.outcome for each in desk.take().settlements] == [Canceled()]


def test_what_was_paid_stands_in_whatever_the_task_comes_to() -> None:
    desk = InflightTasks(slots=2)
    held = hold(desk)
    desk.pay(held.handle, 40)
    desk.pay(held.handle, 2)
    desk.settle(held, Released(timings=Timings(run_s=3.0)))
    desk.pay(held.handle, 1)
    assert [each.outcome for each in desk.take().settlements] == [
        Released(timings=Timings(run_s=3.0, paid_micros=42))
    ]


def test_progress_that_was_not_told_is_replaced_and_places_grow() -> None:
    desk = InflightTasks(slots=2)
    held = hold(desk)
    desk.tell(held, "progress", {"step": 1})
    desk.tell(held, "preview", {"image": "a"})
    desk.tell(held, "progress", {"step": 2})
    page = desk.take()
    assert [(each.kind, each.place) for each in page.progress] == [("preview", 2), ("progress", 3)]
    desk.told()
    desk.tell(held, "progress", {"step": 3})
    assert [each.place for each in desk.take().progress] == [4]


def test_progress_that_has_time_is_small_news_and_goes_with_the_next_report() -> None:
    desk = InflightTasks(slots=2)
    held = hold(desk)
    assert not desk.progress
    desk.tell(held, "progress", {"step": 1}, soon=False)
    assert (desk.news.is_set(), desk.small_news.is_set(), bool(desk.progress)) == (
        False,
        True,
        True,
    )
    assert [each.kind for each in desk.take().progress] == ["progress"]
    assert not desk.progress


def test_an_ended_task_tells_no_progress() -> None:
    desk = InflightTasks(slots=2)
    held = hold(desk)
    desk.settle(held, Canceled())
    desk.tell(held, "progress", {})
    assert desk.take().progress == []


def test_leases_are_named_only_when_a_heartbeat_is_due() -> None:
    desk = InflightTasks(slots=2)
    hold(desk)
    assert desk.take().is_empty
    desk.beat()
    assert [each.task_id for each in desk.take().holds] == ["t1"]
    assert desk.take().is_empty


def test_an_empty_desk_does_not_beat() -> None:
    desk = InflightTasks(slots=2)
    desk.beat()
    assert not desk.news.is_set()


def test_the_desk_is_clear_when_everything_is_told() -> None:
    desk = InflightTasks(slots=2)
    held = hold(desk)
    assert not desk.is_clear.is_set()
    desk.settle(held, Canceled())
    desk.take()
    assert not desk.is_clear.is_set()
    desk.told()
    assert desk.is_clear.is_set()


def test_a_new_attempt_of_a_task_does_not_end_with_the_old_one() -> None:
    desk = InflightTasks(slots=2)
    old, new = hold(desk), hold(desk, attempt=2)
    desk.settle(old, Canceled())
    assert desk.held["t1"] is new
    assert new.alone
    assert not old.alone


def test_a_lease_is_told_again_while_it_is_held_and_of_a_later_stage_also_after_that() -> None:
    desk = InflightTasks(slots=2)
    first = a_leased_task()
    assert not desk.is_duplicate_lease(first)
    held = desk.hold(first, "key", 0.0)
    assert desk.is_duplicate_lease(first)
    # Another lease of the same task is news.
    second = msgspec.structs.replace(first, attempt=2, token="l", earlier=1)
    assert not desk.is_duplicate_lease(second)
    desk.settle(held, Canceled())
    desk.settle(desk.hold(second, "key", 0.0), Succeeded(output=msgspec.Raw(b"1")))
    assert desk.is_duplicate_lease(second)


def text_output(n_bytes: int) -> Succeeded:
    return Succeeded(output=msgspec.Raw(b'"' + b"x" * (n_bytes - 2) + b'"'))


def told_in_pages(desk: InflightTasks) -> list[ReportPage]:
    pages = []
    while not (page := desk.take()).is_empty:
        pages.append(page)
        desk.told()
    return pages


def test_outcomes_that_are_large_together_are_told_in_several_pages() -> None:
    desk = InflightTasks(slots=9)
    for n in range(5):
        desk.settle(hold(desk, f"t{n}"), text_output(PAGE_BYTES // 3))
    first = desk.take()
    assert [each.task_id for each in first.settlements] == ["t0", "t1"]
    # The rest is news already, and its slots are not free.
    assert desk.news.is_set()
    assert desk.free == 9 - 5
    desk.told()
    assert not desk.is_clear.is_set()
    assert [[each.task_id for each in page.settlements] for page in told_in_pages(desk)] == [
        ["t2", "t3"],
        ["t4"],
    ]
    assert desk.is_clear.is_set()


def test_an_outcome_larger_than_a_page_is_told_alone() -> None:
    desk = InflightTasks(slots=9)
    for n, size_bytes in enumerate([100, 2 * PAGE_BYTES, 100]):
        desk.settle(hold(desk, f"t{n}"), text_output(size_bytes))
    assert [len(page.settlements) for page in told_in_pages(desk)] == [1, 1, 1]


def a_picture(task_id: str, size_bytes: int) -> tuple[Succeeded, list[Enclosure]]:
    key = f"outputs/{task_id}/1/0.png"
    artifact = Artifact(key=key, content_type="image/png", bytes=size_bytes)
    outcome = Succeeded(output=msgspec.Raw(b"{}"), artifacts=(artifact,))
    return outcome, [Enclosure(key=key, data=bytes(size_bytes))]


def test_files_go_with_their_outcome_until_it_is_told() -> None:
    desk = InflightTasks(slots=9)
    for name in ("t0", "t1"):
        desk.settle(hold(desk, name), *a_picture(name, 3))
    first = desk.take()
    assert [file.key for file in first.enclosures()] == [
        f"outputs/{name}/1/0.png" for name in ("t0", "t1")
    ]
    desk.settle(hold(desk, "t2"), *a_picture("t2", 3))
    # Told again, as after an answer that got lost.
    assert len(first.enclosures()) == 2
    desk.told()
    assert len(desk.take().enclosures()) == 1


def test_files_of_an_outcome_that_does_not_count_are_dropped() -> None:
    desk = InflightTasks(slots=2)
    held = hold(desk)
    desk.settle(held, Canceled())
    late, files = a_picture("t1", 3)
    desk.settle(held, late, files)
    page = desk.take()
    [settlement] = page.settlements
    late_settlement = msgspec.structs.replace(settlement, outcome=late)
    assert page.enclosures() == []
    assert page._replace(settlements=[late_settlement]).enclosures() == []


def test_files_count_as_what_they_are_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "PAGE_BYTES", 12_500)
    desk = InflightTasks(slots=9)
    for name in ("t0", "t1", "t2"):
        desk.settle(hold(desk, name), *a_picture(name, 3000))
    page = desk.take()
    assert len(page.settlements) == 2
    told = msgspec.json.encode([page.settlements, page.enclosures()])
    assert len(told) <= 12_500


def test_previews_are_told_in_several_pages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "PAGE_BYTES", 10_000)
    desk = InflightTasks(slots=9)
    for n in range(4):
        desk.tell(hold(desk, f"t{n}"), "preview", {"image": "x" * 3000})
    assert [len(page.progress) for page in told_in_pages(desk)] == [2, 2]


outcomes = st.one_of(
    st.builds(
        lambda size, n: Succeeded(
            output=msgspec.Raw(b'"%s"' % (b"x" * size)),
            artifacts=tuple(
                Artifact(key=f"outputs/{'0' * 32}/1/{'x' * 100}", content_type="image/png", bytes=9)
                for _ in range(n)
            ),
        ),
        st.integers(0, 9000),
        st.integers(0, 4),
    ),
    st.builds(
        lambda c: Failed(error=TaskError(code="model_error", title="The model", detail=c * 2000)),
        st.sampled_from(["a", "\x01", "\N{FOX FACE}"]),
    ),
    st.just(Canceled()),
)


@pytest.mark.slow
@given(st.lists(outcomes, max_size=12))
def test_a_page_is_as_large_as_it_is_taken_for(wanted: list[Outcome]) -> None:
    limit_bytes = 30_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk_module, "PAGE_BYTES", limit_bytes)
        desk = InflightTasks(slots=20)
        for n, outcome in enumerate(wanted):
            desk.settle(hold(desk, f"{n:032}"), outcome)
        pages = told_in_pages(desk)
    told = [each.outcome for page in pages for each in page.settlements]
    assert told == wanted
    for page in pages:
        assert len(msgspec.json.encode(page.settlements)) <= limit_bytes


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_halves_of_halves_tell_every_entry_once(n: int, m: int, k: int) -> None:
    desk = InflightTasks(slots=9)
    for each in range(n):
        desk.settle(hold(desk, f"t{each}"), Canceled())
    page = ReportPage(
        desk.take().settlements,
        [Progress(task_id=f"p{each}", attempt=1, token="", place=1, kind="x") for each in range(m)],
        [Hold(task_id=f"h{each}", attempt=1, token="") for each in range(k)],
    )
    singles = list(split(page))
    assert all(len(each.settlements + each.progress + each.holds) == 1 for each in singles)
    assert [each for page in singles for each in page.settlements] == page.settlements
    assert [each for page in singles for each in page.progress] == page.progress
    assert [each for page in singles for each in page.holds] == page.holds


def split(page: ReportPage) -> list[ReportPage]:
    halves = page.halves()
    if len(halves) <= 1:
        return halves
    return [single for half in halves for single in split(half)]


def tell_file(desk: InflightTasks, held: InflightTask, index: int) -> None:
    desk.tell_file(held, index, {"index": index}, None, soon=True)


def test_files_are_told_again_in_their_places_before_what_is_not_told_yet() -> None:
    desk = InflightTasks(slots=2)
    held, other = hold(desk), hold(desk, "t2")
    for index in range(2):
        tell_file(desk, held, index)
    tell_file(desk, other, 0)
    first = desk.take().progress
    desk.told()
    desk.tell(held, "progress", {"step": 1})
    tell_file(desk, held, 2)
    desk.settle(other, Canceled())
    desk.resend_files()
    told = desk.take().progress
    assert [(each.kind, each.place, each.again) for each in told] == [
        *(("artifact", 1, True), ("artifact", 2, True)),
        *(("progress", 3, False), ("artifact", 4, False)),
    ]
    assert [each.data for each in told[:2]] == [each.data for each in first[:2]]


def test_without_files_there_is_nothing_to_tell_again() -> None:
    desk = InflightTasks(slots=1)
    desk.tell(hold(desk), "progress", {"step": 1})
    desk.take()
    desk.told()
    desk.news.clear()
    desk.resend_files()
    assert desk.take().is_empty
    assert not desk.news.is_set()


def test_as_many_quick_tasks_are_held_as_run_in_50_ms() -> None:
    desk = InflightTasks(2)
    desk.fit(0.005)
    assert desk.free == 10
    desk.fit(1e-6)
    assert desk.free == MOST_QUICK
    desk.fit(0.04)
    assert desk.free == 2
