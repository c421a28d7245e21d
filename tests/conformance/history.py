"""Judges a run from the outside: what clients asked, what they were told, and what is left.

The checker is pure and knows nothing of the system. Clients write down every ask, every answer and
every state that they see; when all is quiet the tasks that exist are read once more, and `check`
says which promise was broken, if any. Nothing that it looks for can be explained by bad luck: an
answer that was lost may or may not have been acted on, and the rules allow for both.

Times of the recorder are seconds of one monotonic clock. An observation is a pair of such times, a
read may have taken effect at any moment between them, and two reads are only ordered if one was
over before the other began.

Source:
    M. Herlihy, J. Wing, "Linearizability: a correctness condition for concurrent objects", 1990,
    for the order between observations.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from swell.core.task import TaskState


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One task that a client wants, however often it has to say so."""

    #: Unique within the run; travels with the task, and is its idempotency key or part of one.
    name: str
    #: Terminal states that the asking explains: `canceled` only if somebody cancels, and so on.
    may_end: frozenset[TaskState]
    max_attempts: int
    #: No attempt can succeed: it must use all of them and end among the dead letters, unless it
    #: was canceled or expired before.
    is_doomed: bool = False
    #: Fails for good at its first attempt that runs to its end.
    is_rejected: bool = False


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A 2xx named this task for this ask."""

    name: str
    task_id: str
    at_s: float


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The ask was answered with an error."""

    name: str
    status: int
    code: str
    at_s: float


class Unanswered(msgspec.Struct, frozen=True, kw_only=True):
    """The ask went out and no whole answer came back."""

    name: str
    at_s: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What may never change once it was there."""

    state: TaskState
    #: The output's JSON as it came, byte by byte.
    output: bytes | None = None
    #: The error's code and detail.
    error: str | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A client saw a task."""

    task_id: str
    attempt: int
    outcome: Outcome
    #: How, such as `list` or `wait`.
    source: str
    #: When the question went out, and when the answer was whole.
    asked_s: float
    told_s: float


class CancelTold(msgspec.Struct, frozen=True, kw_only=True):
    """A cancel was answered with 2xx; the attempt is the one that the answer showed."""

    task_id: str
    attempt: int
    at_s: float


class Streamed(msgspec.Struct, frozen=True, kw_only=True):
    """What one event stream of a task brought, in order; resumed connections count as one."""

    task_id: str
    event_ids: tuple[int, ...]
    #: Names of terminal events among them.
    ends: tuple[str, ...]


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it was found when all was quiet."""

    task_id: str
    #: The ask that it carries; empty if it carries none.
    name: str
    outcome: Outcome
    #: What marks the output, as in the run that gave it; empty if nothing does.
    mark: str = ""
    #: Whether it has artifacts.
    has_files: bool = False
    attempt: int
    #: Attempts that were handed back unharmed and do not count.
    handed_back: int = 0
    max_attempts: int
    is_dead: bool = False
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    start_by_at: datetime | None = None
    finish_by_at: datetime | None = None


class FileRead(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact of a task that succeeded was read when all was quiet."""

    task_id: str
    #: What is wrong with it, such as that it is not there; empty if it is the one promised.
    wrong: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A model worked on an ask, as the model itself wrote it down."""

    name: str
    #: Which process.
    pid: int
    begun_s: float
    #: None if nothing was written down: the process was killed meanwhile.
    ended_s: float | None = None
    #: What marks the result, and no other; empty if there was none.
    mark: str = ""


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that was brought about, and when it was over. Times are of the store's clock."""

    fault: str
    begun_at: datetime
    healed_at: datetime
    #: When every backend was ready again.
    ready_at: datetime


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """How long it took after a fault was over. None where nothing was there to wait for."""

    fault: str
    #: Until every backend was ready.
    ready_s: float
    #: Until the next task ended, of those that had been accepted by then.
    next_end_s: float | None


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one run."""

    asks: Sequence[Ask] = ()
    accepted: Sequence[Accepted] = ()
    refused: Sequence[Refused] = ()
    unanswered: Sequence[Unanswered] = ()
    seen: Sequence[Seen] = ()
    cancels: Sequence[CancelTold] = ()
    streams: Sequence[Streamed] = ()
    #: The tasks that exist at the end, as the store holds them.
    finals: Sequence[Final] = ()
    #: The same tasks' outcomes as the API told them at the end, by id; None if nobody looked.
    told_finals: dict[str, Outcome] | None = None
    #: Artifacts that were read at the end; None if nobody looked.
    files: Sequence[FileRead] | None = None
    #: What models wrote down of their work; None if they wrote nothing.
    runs: Sequence[Run] | None = None
    troubles: Sequence[Trouble] = ()


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A broken promise."""

    #: Which: the name of the rule.
    rule: str
    #: Task id or ask.
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}: {self.detail}"


#: Says what is wrong with an output for an ask, or None.
Judge = Callable[[Ask, bytes], str | None]

Rule = Callable[[History], Iterator[Violation]]


def check(history: History, judge: Judge) -> list[Violation]:
    """Return every broken promise; an empty list is the proof that none was."""
    found = [violation for rule in _RULES for violation in rule(history)]
    found += _wrong_outputs(history, judge)
    return found


def overlaps(history: History) -> list[tuple[Run, Run]]:
    """Return pairs of runs of one ask that went on at the same time in different processes.

    That breaks no promise: after a lost lease the next attempt begins while the one before may
    still run. A run whose process was killed counts as over when it began, since nobody knows.
    """
    found = []
    by_name: dict[str, list[Run]] = defaultdict(list)
    for run in history.runs or ():
        by_name[run.name].append(run)
    for runs in by_name.values():
        runs.sort(key=lambda run: run.begun_s)
        found += [
            (one, other)
            for one, other in itertools.combinations(runs, 2)
            if one.pid != other.pid and one.ended_s is not None and other.begun_s < one.ended_s
        ]
    return found


def recoveries(history: History) -> list[Recovery]:
    """Return how long each fault was felt after it was over."""
    ends = sorted(final.finished_at for final in history.finals if final.finished_at is not None)
    found = []
    for trouble in history.troubles:
        over_at = trouble.healed_at
        waited = any(
            final.created_at <= over_at
            and (final.finished_at is None or final.finished_at > over_at)
            for final in history.finals
        )
        next_end = next((at for at in ends if at > over_at), None) if waited else None
        found.append(
            Recovery(
                fault=trouble.fault,
                ready_s=(trouble.ready_at - over_at) / timedelta(seconds=1),
                next_end_s=None
                if next_end is None
                else (next_end - over_at) / timedelta(seconds=1),
            )
        )
    return found


def _lost(history: History) -> Iterator[Violation]:
    """What was accepted exists."""
    existing = {final.task_id for final in history.finals}
    for task_id, name in {each.task_id: each.name for each in history.accepted}.items():
        if task_id not in existing:
            yield Violation(rule="lost", subject=task_id, detail=f"accepted for {name}, and gone")


def _unended(history: History) -> Iterator[Violation]:
    """What exists has ended."""
    for final in history.finals:
        if not final.outcome.state.is_terminal:
            yield Violation(
                rule="unended", subject=final.task_id, detail=f"still {final.outcome.state}"
            )


def _doubled(history: History) -> Iterator[Violation]:
    """One ask is one task, and one task is one ask, whatever was resubmitted or lost on the way."""
    ids_of: dict[str, set[str]] = defaultdict(set)
    names_of: dict[str, set[str]] = defaultdict(set)
    pairs = [(each.name, each.task_id) for each in history.accepted]
    pairs += [(final.name, final.task_id) for final in history.finals if final.name]
    for name, task_id in pairs:
        ids_of[name].add(task_id)
        names_of[task_id].add(name)
    for name, ids in ids_of.items():
        if len(ids) > 1:
            yield Violation(rule="doubled", subject=name, detail=f"is {', '.join(sorted(ids))}")
    for task_id, names in names_of.items():
        if len(names) > 1:
            yield Violation(
                rule="doubled", subject=task_id, detail=f"stands for {', '.join(sorted(names))}"
            )


def _unasked(history: History) -> Iterator[Violation]:
    """What exists was asked for, and was not refused with a 4xx and nothing else."""
    names = {ask.name for ask in history.asks}
    perhaps = {each.name for each in history.accepted} | {each.name for each in history.unanswered}
    # A 5xx may come after the commit: it says that the answer failed, not that nothing was done.
    perhaps |= {each.name for each in history.refused if each.status >= 500}
    for final in history.finals:
        if final.name not in names:
            yield Violation(rule="unasked", subject=final.task_id, detail="nobody asked for it")
        elif final.name not in perhaps:
            yield Violation(
                rule="unasked", subject=final.task_id, detail=f"{final.name} was refused or unsent"
            )


def _changed(history: History) -> Iterator[Violation]:
    """The first outcome that anybody saw is the outcome."""
    last = {final.task_id: final.outcome for final in history.finals}
    for task_id, seen in _by_task(history.seen).items():
        ends = [each for each in seen if each.outcome.state.is_terminal]
        if not ends:
            continue
        first = min(ends, key=lambda each: each.told_s)
        for other, source in [(each.outcome, each.source) for each in ends] + [
            (last.get(task_id, first.outcome), "the end")
        ]:
            if other != first.outcome:
                yield Violation(
                    rule="changed",
                    subject=task_id,
                    detail=f"{first.source} said {_told(first.outcome)}, {source} {_told(other)}",
                )
                break


def _revived(history: History) -> Iterator[Violation]:
    """Nobody sees a task alive, or at an earlier attempt, after somebody saw it further on."""
    for task_id, seen in _by_task(history.seen).items():
        yield from _revived_task(task_id, seen)


def _revived_task(task_id: str, seen: list[Seen]) -> Iterator[Violation]:
    by_end = sorted(seen, key=lambda each: each.told_s)
    furthest, has_ended, at = 0, False, 0
    for each in sorted(seen, key=lambda each: each.asked_s):
        # What was over before this question went out must be true for its answer.
        while at < len(by_end) and by_end[at].told_s < each.asked_s:
            furthest = max(furthest, by_end[at].attempt)
            has_ended = has_ended or by_end[at].outcome.state.is_terminal
            at += 1
        if has_ended and not each.outcome.state.is_terminal:
            yield Violation(
                rule="revived",
                subject=task_id,
                detail=f"{each.source} said {each.outcome.state} after its end was seen",
            )
            return
        if each.attempt < furthest:
            yield Violation(
                rule="revived",
                subject=task_id,
                detail=f"{each.source} said attempt {each.attempt} after attempt {furthest}",
            )
            return


def _ended_wrongly(history: History) -> Iterator[Violation]:
    """A task ends in a way that its ask explains."""
    asks = {ask.name: ask for ask in history.asks}
    for final in history.finals:
        ask = asks.get(final.name)
        if ask is None or not final.outcome.state.is_terminal:
            continue
        wrong = _why_wrong(ask, final)
        if wrong:
            yield Violation(
                rule="ended wrongly", subject=final.task_id, detail=f"{ask.name} {wrong}"
            )


def _why_wrong(ask: Ask, final: Final) -> str | None:
    state = final.outcome.state
    used = final.attempt - final.handed_back
    is_refused = (final.outcome.error or "").startswith("upload_failed")
    is_used_up = final.is_dead and used == ask.max_attempts and not is_refused
    if state is TaskState.FAILED and is_used_up:
        # Lost workers used up every attempt: an end that any task may come to. A store that refused
        # its files is no such end.
        return None
    if state not in ask.may_end:
        error = f" ({final.outcome.error})" if final.outcome.error else ""
        return f"ended {state}{error}, after {used} of {ask.max_attempts} attempts"
    if state is TaskState.FAILED and ask.is_doomed:
        return f"failed after {used} of {ask.max_attempts} attempts, dead: {final.is_dead}"
    if state is TaskState.FAILED and ask.is_rejected and final.is_dead:
        return "was rejected, and lies among the dead letters"
    return None


def _attempts(history: History) -> Iterator[Violation]:
    """No task gets more attempts than it may have, nor other than it asked for."""
    asks = {ask.name: ask for ask in history.asks}
    for final in history.finals:
        used = final.attempt - final.handed_back
        allowed = asks[final.name].max_attempts if final.name in asks else final.max_attempts
        if used > allowed or final.max_attempts != allowed:
            yield Violation(
                rule="attempts",
                subject=final.task_id,
                detail=f"used {used} of {final.max_attempts}, asked for {allowed}",
            )


def _ran_after_cancel(history: History) -> Iterator[Violation]:
    """A cancel that was answered lets the attempt end at most; it never starts another."""
    finals = {final.task_id: final for final in history.finals}
    for cancel in history.cancels:
        final = finals.get(cancel.task_id)
        if final is not None and final.attempt > cancel.attempt:
            yield Violation(
                rule="ran after cancel",
                subject=final.task_id,
                detail=f"canceled at attempt {cancel.attempt}, ended at attempt {final.attempt}",
            )


def _deadlines(history: History) -> Iterator[Violation]:
    """Nothing starts after `start_by`, and nothing expires before a deadline has passed."""
    for final in history.finals:
        limits = [at for at in (final.start_by_at, final.finish_by_at) if at is not None]
        late = [at for at in limits if final.started_at is not None and final.started_at >= at]
        if late:
            yield Violation(
                rule="deadline", subject=final.task_id, detail=f"started after {late[0]}"
            )
        if final.outcome.state is not TaskState.EXPIRED:
            continue
        if not any(final.finished_at is not None and at <= final.finished_at for at in limits):
            yield Violation(
                rule="deadline", subject=final.task_id, detail="expired before any deadline"
            )


def _event_order(history: History) -> Iterator[Violation]:
    """Event ids only grow, and the end comes once, last, and as it was."""
    finals = {final.task_id: final for final in history.finals}
    for stream in history.streams:
        ids = stream.event_ids
        if any(later <= earlier for earlier, later in itertools.pairwise(ids)):
            yield Violation(rule="event order", subject=stream.task_id, detail=f"ids {ids[-6:]}")
        final = finals.get(stream.task_id)
        told = set(stream.ends)
        if len(stream.ends) > 1 or (final is not None and told - {final.outcome.state.value}):
            yield Violation(rule="event order", subject=stream.task_id, detail=f"ends {told}")


def _disagreeing(history: History) -> Iterator[Violation]:
    """The API tells what the store holds."""
    if history.told_finals is None:
        return
    held = {final.task_id: final.outcome for final in history.finals}
    for task_id in sorted(held.keys() | history.told_finals.keys()):
        store, api = held.get(task_id), history.told_finals.get(task_id)
        if store != api:
            yield Violation(
                rule="disagreeing",
                subject=task_id,
                detail=f"store {_told(store)}, API {_told(api)}",
            )


def _wrong_outputs(history: History, judge: Judge) -> Iterator[Violation]:
    """What succeeded has the output of its input."""
    asks = {ask.name: ask for ask in history.asks}
    for final in history.finals:
        if final.outcome.state is not TaskState.SUCCEEDED or final.name not in asks:
            continue
        wrong = judge(asks[final.name], final.outcome.output or b"")
        if wrong:
            yield Violation(rule="wrong output", subject=final.task_id, detail=wrong)


def _bad_files(history: History) -> Iterator[Violation]:
    """The artifacts of what succeeded are there, and are those that were made."""
    if history.files is None:
        return
    read = {each.task_id for each in history.files}
    for each in history.files:
        if each.wrong:
            yield Violation(rule="bad file", subject=each.task_id, detail=each.wrong)
    for final in history.finals:
        is_ended = final.outcome.state is TaskState.SUCCEEDED
        if final.has_files and is_ended and final.task_id not in read:
            yield Violation(rule="bad file", subject=final.task_id, detail="was not read")


def _invented(history: History) -> Iterator[Violation]:
    """An output was made by a run of its own ask, and by one that came to its end."""
    if history.runs is None:
        return
    made = {(run.name, run.mark) for run in history.runs if run.mark}
    for final in history.finals:
        if final.outcome.state is TaskState.SUCCEEDED and (final.name, final.mark) not in made:
            yield Violation(
                rule="invented",
                subject=final.task_id,
                detail=f"no run of {final.name} gave {final.mark or 'an output without a mark'}",
            )


_RULES: tuple[Rule, ...] = (
    _lost,
    _unended,
    _doubled,
    _unasked,
    _changed,
    _revived,
    _ended_wrongly,
    _attempts,
    _ran_after_cancel,
    _deadlines,
    _event_order,
    _disagreeing,
    _bad_files,
    _invented,
)


def _by_task(seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    grouped: dict[str, list[Seen]] = defaultdict(list)
    for each in seen:
        grouped[each.task_id].append(each)
    return grouped


def _told(outcome: Outcome | None) -> str:
    if outcome is None:
        return "nothing"
    what = outcome.error or (outcome.output or b"").decode(errors="replace")
    return f"{outcome.state} {what[:80]}".rstrip()
