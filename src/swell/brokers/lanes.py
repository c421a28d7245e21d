"""Contract of queues elsewhere that carry task ids, and what travels in them.

A lane is one such queue: an Amazon SQS queue, or a NATS subject. There are two for each queue of
Swell's (`owner/name`, or `owner/name:version`): one for what is usually urgent, and one for what is
less urgent, so that a worker can look into the first before the second.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from swell.broker import LeaseRequest
from swell.fairness import MOST_URGENT, USUAL_PRIORITY, band, note_passed, prefer, rotate
from swell.task import Task, is_id

#: So much of a queue's name stays readable in a lane's.
_READABLE: Final = 40


class Lane(NamedTuple):
    """One queue elsewhere."""

    queue: str
    #: Of the most urgent band; else of all that are less urgent.
    is_usual: bool

    @property
    def model(self) -> str:
        """`owner/name`."""
        return self.queue.partition(":")[0]

    @property
    def name(self) -> str:
        """A name of letters, digits, `-` and `_` only, the same in every process; <= 64 long.

        Two queues have different names, whatever their own hold: a part of a hash tells them apart.
        """
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", self.queue)[:_READABLE]
        mark = hashlib.sha256(self.queue.encode()).hexdigest()[:10]
        return f"{plain}-{mark}-{'usual' if self.is_usual else 'later'}"


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A task id on its way."""

    task_id: str
    #: Whose it is: queues that are fair by themselves go by this.
    group: str
    #: Tells this offer of the task from others; the same offer sent twice has the same.
    mark: str

    @property
    def body(self) -> bytes:
        """What travels."""
        return _encode(_Body(task=self.task_id))


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A letter as it came out of a lane. Until it is forgotten it may come again."""

    lane: Lane
    body: bytes
    #: What its lane knows it by, for this time that it came.
    handle: str
    #: How many times it has come, this one included.
    times: int


class _Body(msgspec.Struct, frozen=True):
    task: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Body).decode


class Queues(Protocol):
    """Lanes, created when something is first sent to or asked of them.

    Guarantees:
        At least once: what `send` has taken is received again until it is forgotten or buried. Not
        in order, and perhaps twice.
        Every call raises `Unavailable` while the lanes cannot be reached, and works again by
        itself once they can be.
    """

    async def send(self, lane: Lane, letters: Sequence[Letter]) -> None:
        """Put letters into a lane. On an error some may lie there."""
        ...

    async def receive(self, lane: Lane, n: int, *, wait_s: float) -> list[Message]:
        """Return up to n messages, which nobody else receives for as long as they are held.

        Waits for the first; 0 looks only. Who is cancelled meanwhile may lose some until the time
        that they are held is over.
        """
        ...

    async def forget(self, messages: Sequence[Message]) -> None:
        """Let messages come no more. Unknown ones are ignored."""
        ...

    async def extend(self, messages: Sequence[Message], hold_s: float) -> None:
        """Hold messages for so long from now. Unknown ones are ignored."""
        ...

    async def put_back(self, messages: Sequence[Message]) -> None:
        """Let messages come again at once. Unknown ones are ignored."""
        ...

    async def bury(self, messages: Sequence[Message]) -> None:
        """Move messages to the dead letters of the queues, where operators find them."""
        ...

    def hold_for(self, hold_s: float) -> None:
        """Hold what is received from now on for so long: as long as leases last."""
        ...

    async def close(self) -> None:
        """Let go of everything; waiting calls end. Idempotent."""
        ...


class Turns:
    """In which order a process looks into lanes, since nobody here knows what lies in them.

    What is usually urgent comes before the rest, but for one look after `MOST_URGENT` such tasks;
    models take turns, those at hand first within
    bounds (`fairness.prefer`); tasks pinned to a version and the others of a model take turns too.
    """

    def __init__(self) -> None:
        self._last_model: str | None = None
        #: Models of which tasks pinned to a version come first next time.
        self._pinned_first: set[str] = set()
        #: Model → how many leases in a row were given others in its turn.
        self._passed: dict[str, int] = {}
        #: How many usual tasks in a row were handed out since one that is less urgent.
        self._usual = 0

    def _models(self, request: LeaseRequest) -> tuple[list[str], list[str]]:
        heads = dict.fromkeys(request.models, USUAL_PRIORITY)
        turn = rotate(heads, self._last_model)
        return turn, prefer(turn, heads, request.residents, self._passed)

    def lanes(self, request: LeaseRequest) -> list[Lane]:
        """Return every lane that a worker serves, in the order of this lease."""
        _, models = self._models(request)
        queues: list[str] = []
        for model in models:
            served = request.queues_of(model)
            queues += reversed(served) if model in self._pinned_first else served
        order = (False, True) if self._usual >= MOST_URGENT else (True, False)
        return [Lane(queue, is_usual) for is_usual in order for queue in queues]

    def note(self, request: LeaseRequest, served: Sequence[str], *, later: int = 0) -> None:
        """Note the models of which the lease has handed out tasks, in that order.

        Args:
            request: What was asked.
            served: The model of each task.
            later: How many of these are less urgent than usual.
        """
        if not served:
            return
        self._usual = 0 if later else self._usual + len(served)
        turn, _ = self._models(request)
        if len(turn) > 1:
            note_passed(turn, set(served), self._passed)
        self._pinned_first ^= set(served)
        self._last_model = served[-1]


def lane_of(task: Task) -> Lane:
    """Return where a task's id goes."""
    return _lane(task.queue, band(task.priority) == USUAL_PRIORITY)


#: Every task of a queue goes through one of the same two, several times.
_lane = functools.lru_cache(maxsize=1024)(Lane)


def letter_of(task: Task, again: int = 0) -> Letter:
    """Return what tells of a ready task.

    Args:
        task: Which.
        again: How often it was sent before, between the same two attempts.
    """
    return Letter(
        task_id=task.id,
        group=f"{task.key_id}/{task.user or ''}",
        mark=f"{task.id}-{task.attempt}-{again}",
    )


def read(message: Message) -> str | None:
    """Return the task's id in a message, or None if it holds none."""
    try:
        task_id = _decode(message.body).task
    except msgspec.MsgspecError:
        return None
    return task_id if is_id(task_id) else None
