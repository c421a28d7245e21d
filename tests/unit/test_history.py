from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from conformance.history import (
    Accepted,
    Ask,
    CancelTold,
    FileRead,
    Final,
    History,
    Outcome,
    Recovery,
    Refused,
    Run,
    Seen,
    Streamed,
    Trouble,
    Unanswered,
    check,
    overlaps,
    recoveries,
)
from swell.core.task import TaskState

START = datetime(2030, 1, 1, tzinfo=UTC)
DONE = Outcome(state=TaskState.SUCCEEDED, output=b'"A"')
OTHER = Outcome(state=TaskState.SUCCEEDED, output=b'"B"')
WAITING = Outcome(state=TaskState.QUEUED)
RUNNING = Outcome(state=TaskState.RUNNING)
FAILED = Outcome(state=TaskState.FAILED, error="model_error: no")
CANCELED = Outcome(state=TaskState.CANCELED)
EXPIRED = Outcome(state=TaskState.EXPIRED, error="expired: late")


def an_ask(name: str = "a", **fields: Any) -> Ask:
    values: dict[str, Any] = {
        "name": name,
        "may_end": frozenset({TaskState.SUCCEEDED}),
        "max_attempts": 3,
    }
    return Ask(**(values | fields))


def a_final(task_id: str = "1", name: str = "a", **fields: Any) -> Final:
    values: dict[str, Any] = {
        "task_id": task_id,
        "name": name,
        "outcome": DONE,
        "attempt": 1,
        "max_attempts": 3,
        "created_at": START,
        "started_at": START,
        "finished_at": START + timedelta(seconds=1),
    }
    return Final(**(values | fields))


def seen(outcome: Outcome, asked_s: float, told_s: float, attempt: int = 1) -> Seen:
    return Seen(
        task_id="1",
        attempt=attempt,
        outcome=outcome,
        source="get",
        asked_s=asked_s,
        told_s=told_s,
    )


def broken(history: History) -> list[str]:
    return [violation.rule for violation in check(history, lambda ask, output: None)]


def a_history(**fields: Any) -> History:
    """One task that was asked for, accepted, and succeeded."""
    values: dict[str, Any] = {
        "asks": [an_ask()],
        "accepted": [Accepted(name="a", task_id="1", at_s=1.0)],
        "seen": [seen(WAITING, 1.0, 1.1, attempt=0), seen(DONE, 2.0, 2.1)],
        "finals": [a_final()],
    }
    return History(**(values | fields))


def test_a_task_that_was_asked_for_and_ended_once_breaks_nothing() -> None:
    assert broken(a_history()) == []


def test_an_accepted_task_that_is_gone_is_lost() -> None:
    assert broken(a_history(finals=[])) == ["lost"]


@pytest.mark.parametrize("outcome", [WAITING, RUNNING])
def test_a_task_that_has_not_ended_when_all_is_quiet_is_unended(outcome: Outcome) -> None:
    assert broken(a_history(seen=[], finals=[a_final(outcome=outcome)])) == ["unended"]


def test_a_resubmit_that_was_given_another_task_is_doubled() -> None:
    accepted = [Accepted(name="a", task_id=task_id, at_s=1.0) for task_id in ("1", "2")]
    history = a_history(accepted=accepted, finals=[a_final("1"), a_final("2")])
    assert set(broken(history)) == {"doubled"}


def test_two_tasks_for_one_ask_are_doubled_even_if_only_one_was_told() -> None:
    assert broken(a_history(finals=[a_final("1"), a_final("2")])) == ["doubled"]


def test_one_task_told_for_two_asks_is_doubled() -> None:
    history = a_history(
        asks=[an_ask("a"), an_ask("b")],
        accepted=[Accepted(name=name, task_id="1", at_s=1.0) for name in ("a", "b")],
    )
    assert broken(history) == ["doubled"]


def test_an_ask_whose_answer_was_lost_may_exist_or_not() -> None:
    lost = [Unanswered(name="a", at_s=1.0)]
    assert broken(a_history(accepted=[], unanswered=lost)) == []
    assert broken(a_history(accepted=[], seen=[], unanswered=lost, finals=[])) == []


def test_a_task_that_nobody_asked_for_is_unasked() -> None:
    assert broken(a_history(finals=[a_final(), a_final("2", "z")])) == ["unasked"]


def test_a_task_that_was_refused_for_good_must_not_exist() -> None:
    def refused(status: int) -> History:
        told = [Refused(name="a", status=status, code="x", at_s=1.0)]
        return a_history(accepted=[], refused=told)

    assert broken(refused(422)) == ["unasked"]
    assert broken(refused(503)) == []


def test_an_outcome_that_differs_between_two_looks_has_changed() -> None:
    looks = [seen(DONE, 2.0, 2.1), seen(OTHER, 2.0, 2.2)]
    assert broken(a_history(seen=looks)) == ["changed"]


def test_an_outcome_that_differs_from_the_stored_one_has_changed() -> None:
    assert broken(a_history(finals=[a_final(outcome=OTHER)])) == ["changed"]


def test_a_task_seen_alive_after_its_end_was_revived() -> None:
    looks = [seen(DONE, 2.0, 2.1), seen(RUNNING, 2.2, 2.3)]
    assert broken(a_history(seen=looks)) == ["revived"]


def test_looks_that_overlap_have_no_order() -> None:
    looks = [seen(DONE, 2.0, 2.1), seen(RUNNING, 1.9, 2.3, attempt=0)]
    assert broken(a_history(seen=looks)) == []


def test_an_attempt_that_goes_back_was_revived() -> None:
    looks = [seen(RUNNING, 1.0, 1.1, attempt=2), seen(RUNNING, 1.2, 1.3, attempt=1)]
    assert broken(a_history(seen=looks, finals=[a_final(attempt=2)])) == ["revived"]


@pytest.mark.parametrize("outcome", [FAILED, CANCELED])
def test_an_end_that_the_ask_does_not_explain_is_wrong(outcome: Outcome) -> None:
    assert broken(a_history(seen=[], finals=[a_final(outcome=outcome)])) == ["ended wrongly"]


def test_any_task_may_die_of_lost_workers_once_its_attempts_are_used_up() -> None:
    dead = a_final(outcome=FAILED, attempt=4, handed_back=1, is_dead=True)
    assert broken(a_history(seen=[], finals=[dead])) == []
    early = msgspec.structs.replace(dead, attempt=3)
    assert broken(a_history(seen=[], finals=[early])) == ["ended wrongly"]


def test_no_task_may_die_of_uploads_that_failed() -> None:
    refused = Outcome(state=TaskState.FAILED, error="upload_failed: the disk is full")
    dead = a_final(outcome=refused, attempt=3, is_dead=True)
    assert broken(a_history(seen=[], finals=[dead])) == ["ended wrongly"]


def test_a_doomed_task_must_use_every_attempt_and_lie_among_the_dead() -> None:
    ask = an_ask(may_end=frozenset({TaskState.FAILED}), is_doomed=True)

    def ended(**fields: Any) -> History:
        return a_history(asks=[ask], seen=[], finals=[a_final(outcome=FAILED, **fields)])

    assert broken(ended(attempt=3, is_dead=True)) == []
    assert broken(ended(attempt=2, is_dead=True)) == ["ended wrongly"]
    assert broken(ended(attempt=3)) == ["ended wrongly"]


def test_a_rejected_task_does_not_lie_among_the_dead() -> None:
    ask = an_ask(may_end=frozenset({TaskState.FAILED}), is_rejected=True)
    for is_dead, rules in ((False, []), (True, ["ended wrongly"])):
        final = a_final(outcome=FAILED, is_dead=is_dead)
        assert broken(a_history(asks=[ask], seen=[], finals=[final])) == rules


def test_more_attempts_than_allowed_are_told() -> None:
    assert broken(a_history(finals=[a_final(attempt=4)])) == ["attempts"]
    assert broken(a_history(finals=[a_final(attempt=4, handed_back=1)])) == []


def test_an_attempt_that_starts_after_an_answered_cancel_is_told() -> None:
    may_end = frozenset({TaskState.SUCCEEDED, TaskState.CANCELED})
    cancel = [CancelTold(task_id="1", attempt=1, at_s=1.5)]
    for attempt, rules in ((1, []), (2, ["ran after cancel"])):
        history = a_history(
            asks=[an_ask(may_end=may_end)], cancels=cancel, finals=[a_final(attempt=attempt)]
        )
        assert broken(history) == rules


def test_a_start_after_the_deadline_is_told() -> None:
    late = a_final(started_at=START + timedelta(seconds=2), start_by_at=START)
    assert broken(a_history(finals=[late])) == ["deadline"]


def test_an_expiry_needs_a_deadline_that_has_passed() -> None:
    asks = [an_ask(may_end=frozenset({TaskState.EXPIRED}))]
    for after_s, rules in ((0.5, []), (5.0, ["deadline"])):
        final = a_final(
            outcome=EXPIRED, started_at=None, start_by_at=START + timedelta(seconds=after_s)
        )
        assert broken(a_history(asks=asks, seen=[], finals=[final])) == rules


@pytest.mark.parametrize(
    ("ids", "ends"),
    [((1, 3, 2), ()), ((1, 1), ()), ((1, 2), ("succeeded", "succeeded")), ((1,), ("failed",))],
)
def test_events_out_of_order_or_with_another_end_are_told(
    ids: tuple[int, ...], ends: tuple[str, ...]
) -> None:
    streams = [Streamed(task_id="1", event_ids=ids, ends=ends)]
    assert broken(a_history(streams=streams)) == ["event order"]


def test_events_in_order_that_end_as_the_task_did_break_nothing() -> None:
    streams = [Streamed(task_id="1", event_ids=(1, 2, 9), ends=("succeeded",))]
    assert broken(a_history(streams=streams)) == []


@pytest.mark.parametrize("told", [{}, {"1": OTHER}, {"1": DONE, "2": DONE}])
def test_an_api_that_tells_something_else_than_the_store_disagrees(
    told: dict[str, Outcome],
) -> None:
    assert broken(a_history(told_finals=told)) == ["disagreeing"]


def test_the_judge_says_which_output_is_wrong() -> None:
    found = check(a_history(), lambda ask, output: f"{ask.name} gave {output!r}")
    assert [str(each) for each in found] == ["wrong output: 1: a gave b'\"A\"'"]


@pytest.mark.parametrize(
    ("files", "rules"),
    [
        (None, []),
        ([FileRead(task_id="1")], []),
        ([FileRead(task_id="1", wrong="404")], ["bad file"]),
        ([], ["bad file"]),
    ],
)
def test_an_artifact_that_is_not_there_or_was_not_looked_for_is_told(
    files: list[FileRead] | None, rules: list[str]
) -> None:
    assert broken(a_history(files=files, finals=[a_final(has_files=True)])) == rules


def a_run(name: str = "a", mark: str = "x", **fields: Any) -> Run:
    values: dict[str, Any] = {"name": name, "pid": 1, "begun_s": 1.0, "ended_s": 2.0, "mark": mark}
    return Run(**(values | fields))


@pytest.mark.parametrize(
    ("runs", "rules"),
    [
        (None, []),
        ([a_run()], []),
        ([], ["invented"]),
        ([a_run(mark="y")], ["invented"]),
        ([a_run("b")], ["invented"]),
    ],
)
def test_an_output_that_no_run_of_its_ask_gave_is_invented(
    runs: list[Run] | None, rules: list[str]
) -> None:
    assert broken(a_history(runs=runs, finals=[a_final(mark="x")])) == rules


@pytest.mark.parametrize(
    ("other", "n"),
    [
        (a_run(pid=2, begun_s=1.5, ended_s=3.0), 1),
        (a_run(pid=2, begun_s=1.5, ended_s=None), 1),
        (a_run(pid=2, begun_s=2.0, ended_s=3.0), 0),
        # One process has one run of an ask at a time, whatever its clock says.
        (a_run(pid=1, begun_s=1.5, ended_s=3.0), 0),
        (a_run("b", pid=2, begun_s=1.5, ended_s=3.0), 0),
        # Killed at some time after it began: nobody knows when.
        (a_run(pid=2, begun_s=0.5, ended_s=None), 0),
    ],
)
def test_runs_of_one_ask_that_go_on_in_two_processes_at_once_overlap(other: Run, n: int) -> None:
    history = a_history(runs=[a_run(), other], finals=[a_final(mark="x")])
    assert len(overlaps(history)) == n
    assert broken(history) == []


def a_trouble(healed_s: float, ready_s: float) -> Trouble:
    return Trouble(
        fault="cut",
        begun_at=START,
        healed_at=START + timedelta(seconds=healed_s),
        ready_at=START + timedelta(seconds=ready_s),
    )


def test_a_recovery_lasts_until_the_next_of_the_waiting_tasks_ends() -> None:
    finals = [a_final(finished_at=START + timedelta(seconds=at_s)) for at_s in (0.2, 3.0, 5.0)]
    history = a_history(finals=finals, troubles=[a_trouble(1.0, 1.5)])
    assert recoveries(history) == [Recovery(fault="cut", ready_s=0.5, next_end_s=2.0)]


def test_where_nobody_waited_there_is_no_end_to_wait_for() -> None:
    finals = [
        a_final(finished_at=START + timedelta(seconds=0.2)),
        a_final(created_at=START + timedelta(seconds=2), finished_at=START + timedelta(seconds=3)),
    ]
    history = a_history(finals=finals, troubles=[a_trouble(1.0, 1.0)])
    assert recoveries(history) == [Recovery(fault="cut", ready_s=0.0, next_end_s=None)]
