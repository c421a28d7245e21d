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


def hold(tasks: InflightTasks, task_id: str = "t1", attempt: int = 1) -> InflightTask:
    return tasks.hold(a_leased_task(task_id, attempt), "key", 0.0)


def test_a_slot_is_free_again_once_the_outcome_is_told_and_not_before() -> None:
    tasks = InflightTasks(slots=2)
    held = hold(tasks)
    assert tasks.free == 1
    tasks.settle(held, Canceled())
    assert tasks.free == 1
    tasks.take()
    assert tasks.free == 1
    tasks.told()
    assert tasks.free == 2


def test_of_two_outcomes_the_first_counts() -> None:
    tasks = InflightTasks(slots=2)
    held = hold(tasks)
    tasks.settle(held, Canceled())
    tasks.settle(held, Released())
    assert [each.outcome for each in tasks.take().settlements] == [Canceled()]


def test_what_was_paid_stands_in_whatever_the_task_comes_to() -> None:
    tasks = InflightTasks(slots=2)
    held = hold(tasks)
    tasks.pay(held.handle, 40)
    tasks.pay(held.handle, 2)
    tasks.settle(held, Released(timings=Timings(run_s=3.0)))
    tasks.pay(held.handle, 1)
    assert [each.outcome for each in tasks.take().settlements] == [
        Released(timings=Timings(run_s=3.0, paid_micros=42))
    ]


def test_progress_that_was_not_told_is_replaced_and_places_grow() -> None:
    tasks = InflightTasks(slots=2)
    held = hold(tasks)
    tasks.tell(held, "progress", {"step": 1})
    tasks.tell(held, "preview", {"image": "a"})
    tasks.tell(held, "progress", {"step": 2})
    page = tasks.take()
    assert [(each.kind, each.place) for each in page.progress] == [("preview", 2), ("progress", 3)]
    tasks.told()
    tasks.tell(held, "progress", {"step": 3})
    assert [each.place for each in tasks.take().progress] == [4]


def test_progress_that_has_time_is_small_news_and_goes_with_the_next_report() -> None:
    tasks = InflightTasks(slots=2)
    held = hold(tasks)
    assert not tasks.progress
    tasks.tell(held, "progress", {"step": 1}, soon=False)
    assert (tasks.news.is_set(), tasks.small_news.is_set(), bool(tasks.progress)) == (
        False,
        True,
        True,
    )
    assert [each.kind for each in tasks.take().progress] == ["progress"]
    assert not tasks.progress


def test_an_ended_task_tells_no_progress() -> None:
    tasks = InflightTasks(slots=2)
    held = hold(tasks)
    tasks.settle(held, Canceled())
    tasks.tell(held, "progress", {})
    assert tasks.take().progress == []


def test_leases_are_named_only_when_a_heartbeat_is_due() -> None:
    tasks = InflightTasks(slots=2)
    hold(tasks)
    assert tasks.take().is_empty
    tasks.beat()
    assert [each.task_id for each in tasks.take().holds] == ["t1"]
    assert tasks.take().is_empty


def test_an_empty_desk_does_not_beat() -> None:
    tasks = InflightTasks(slots=2)
    tasks.beat()
    assert not tasks.news.is_set()


def test_the_desk_is_clear_when_everything_is_told() -> None:
    tasks = InflightTasks(slots=2)
    held = hold(tasks)
    assert not tasks.is_clear.is_set()
    tasks.settle(held, Canceled())
    tasks.take()
    assert not tasks.is_clear.is_set()
    tasks.told()
    assert tasks.is_clear.is_set()


def test_a_new_attempt_of_a_task_does_not_end_with_the_old_one() -> None:
    tasks = InflightTasks(slots=2)
    old, new = hold(tasks), hold(tasks, attempt=2)
    tasks.settle(old, Canceled())
    assert tasks.held["t1"] is new
    assert new.alone
    assert not old.alone


def test_a_lease_is_told_again_while_it_is_held_and_of_a_later_stage_also_after_that() -> None:
    tasks = InflightTasks(slots=2)
    first = a_leased_task()
    assert not tasks.is_duplicate_lease(first)
    held = tasks.hold(first, "key", 0.0)
    assert tasks.is_duplicate_lease(first)
    # Another lease of the same task is news.
    second = msgspec.structs.replace(first, attempt=2, token="l", earlier=1)
    assert not tasks.is_duplicate_lease(second)
    tasks.settle(held, Canceled())
    tasks.settle(tasks.hold(second, "key", 0.0), Succeeded(output=msgspec.Raw(b"1")))
    assert tasks.is_duplicate_lease(second)


def text_output(n_bytes: int) -> Succeeded:
    return Succeeded(output=msgspec.Raw(b'"' + b"x" * (n_bytes - 2) + b'"'))


def told_in_pages(tasks: InflightTasks) -> list[ReportPage]:
    pages = []
    while not (page := tasks.take()).is_empty:
        pages.append(page)
        tasks.told()
    return pages


def test_outcomes_that_are_large_together_are_told_in_several_pages() -> None:
    tasks = InflightTasks(slots=9)
    for n in range(5):
        tasks.settle(hold(tasks, f"t{n}"), text_output(PAGE_BYTES // 3))
    first = tasks.take()
    assert [each.task_id for each in first.settlements] == ["t0", "t1"]
    # The rest is news already, and its slots are not free.
    assert tasks.news.is_set()
    assert tasks.free == 9 - 5
    tasks.told()
    assert not tasks.is_clear.is_set()
    assert [[each.task_id for each in page.settlements] for page in told_in_pages(tasks)] == [
        ["t2", "t3"],
        ["t4"],
    ]
    assert tasks.is_clear.is_set()


def test_an_outcome_larger_than_a_page_is_told_alone() -> None:
    tasks = InflightTasks(slots=9)
    for n, size_bytes in enumerate([100, 2 * PAGE_BYTES, 100]):
        tasks.settle(hold(tasks, f"t{n}"), text_output(size_bytes))
    assert [len(page.settlements) for page in told_in_pages(tasks)] == [1, 1, 1]


def a_picture(task_id: str, size_bytes: int) -> tuple[Succeeded, list[Enclosure]]:
    key = f"outputs/{task_id}/1/0.png"
    artifact = Artifact(key=key, content_type="image/png", bytes=size_bytes)
    outcome = Succeeded(output=msgspec.Raw(b"{}"), artifacts=(artifact,))
    return outcome, [Enclosure(key=key, data=bytes(size_bytes))]


def test_files_go_with_their_outcome_until_it_is_told() -> None:
    tasks = InflightTasks(slots=9)
    for name in ("t0", "t1"):
        tasks.settle(hold(tasks, name), *a_picture(name, 3))
    first = tasks.take()
    assert [file.key for file in first.enclosures()] == [
        f"outputs/{name}/1/0.png" for name in ("t0", "t1")
    ]
    tasks.settle(hold(tasks, "t2"), *a_picture("t2", 3))
    # Told again, as after an answer that got lost.
    assert len(first.enclosures()) == 2
    tasks.told()
    assert len(tasks.take().enclosures()) == 1


def test_files_of_an_outcome_that_does_not_count_are_dropped() -> None:
    tasks = InflightTasks(slots=2)
    held = hold(tasks)
    tasks.settle(held, Canceled())
    late, files = a_picture("t1", 3)
    tasks.settle(held, late, files)
    page = tasks.take()
    [settlement] = page.settlements
    late_settlement = msgspec.structs.replace(settlement, outcome=late)
    assert page.enclosures() == []
    assert page._replace(settlements=[late_settlement]).enclosures() == []


def test_files_count_as_what_they_are_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "PAGE_BYTES", 12_500)
    tasks = InflightTasks(slots=9)
    for name in ("t0", "t1", "t2"):
        tasks.settle(hold(tasks, name), *a_picture(name, 3000))
    page = tasks.take()
    assert len(page.settlements) == 2
    told = msgspec.json.encode([page.settlements, page.enclosures()])
    assert len(told) <= 12_500


def test_previews_are_told_in_several_pages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "PAGE_BYTES", 10_000)
    tasks = InflightTasks(slots=9)
    for n in range(4):
        tasks.tell(hold(tasks, f"t{n}"), "preview", {"image": "x" * 3000})
    assert [len(page.progress) for page in told_in_pages(tasks)] == [2, 2]


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
        tasks = InflightTasks(slots=20)
        for n, outcome in enumerate(wanted):
            tasks.settle(hold(tasks, f"{n:032}"), outcome)
        pages = told_in_pages(tasks)
    told = [each.outcome for page in pages for each in page.settlements]
    assert told == wanted
    for page in pages:
        assert len(msgspec.json.encode(page.settlements)) <= limit_bytes


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_halves_of_halves_tell_every_entry_once(n: int, m: int, k: int) -> None:
    tasks = InflightTasks(slots=9)
    for each in range(n):
        tasks.settle(hold(tasks, f"t{each}"), Canceled())
    page = ReportPage(
        tasks.take().settlements,
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


def tell_file(tasks: InflightTasks, held: InflightTask, index: int) -> None:
    tasks.tell_file(held, index, {"index": index}, None, soon=True)


def test_files_are_told_again_in_their_places_before_what_is_not_told_yet() -> None:
    tasks = InflightTasks(slots=2)
    held, other = hold(tasks), hold(tasks, "t2")
    for index in range(2):
        tell_file(tasks, held, index)
    tell_file(tasks, other, 0)
    first = tasks.take().progress
    tasks.told()
    tasks.tell(held, "progress", {"step": 1})
    tell_file(tasks, held, 2)
    tasks.settle(other, Canceled())
    tasks.resend_files()
    told = tasks.take().progress
    assert [(each.kind, each.place, each.again) for each in told] == [
        *(("artifact", 1, True), ("artifact", 2, True)),
        *(("progress", 3, False), ("artifact", 4, False)),
    ]
    assert [each.data for each in told[:2]] == [each.data for each in first[:2]]


def test_without_files_there_is_nothing_to_tell_again() -> None:
    tasks = InflightTasks(slots=1)
    tasks.tell(hold(tasks), "progress", {"step": 1})
    tasks.take()
    tasks.told()
    tasks.news.clear()
    tasks.resend_files()
    assert tasks.take().is_empty
    assert not tasks.news.is_set()


def test_as_many_quick_tasks_are_held_as_run_in_50_ms() -> None:
    tasks = InflightTasks(2)
    tasks.allow(2, fits=True)
    tasks.fit(0.005)
    assert tasks.free == 10
    tasks.fit(1e-6)
    assert tasks.free == MOST_QUICK
    tasks.fit(0.04)
    assert tasks.free == 2
