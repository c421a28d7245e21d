"""Clients that write down everything they ask and everything they are told."""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec

from chaos.plan import Submission
from conformance.history import (
    Accepted,
    CancelTold,
    Outcome,
    Refused,
    Seen,
    Streamed,
    Unanswered,
)
from swell.core.task import TaskError, TaskState

__all__ = ["LATER", "Recorder", "Told", "TooLong", "outcome_of"]

#: Status of refusals after which asking again may help.
LATER = frozenset({429, 500, 502, 503, 504})

#: Pause before the same is asked again, in seconds.
_PAUSE_S = (0.05, 0.4)


class TooLong(Exception):
    """The run's time is over."""


class Told(msgspec.Struct, frozen=True):
    """What a client reads of a task; the output stays the bytes that came."""

    id: str
    state: TaskState
    attempt: int
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: TaskError | None = None


class _Page(msgspec.Struct, frozen=True):
    tasks: list[Told]
    cursor: str | None = None


_task = msgspec.json.Decoder(Told).decode
_page = msgspec.json.Decoder(_Page).decode


#: URL of an artifact, whose signature differs each time that it is told: what stays is the key.
_SIGNED = re.compile(rb'"https?://[^"]*/v1/artifacts/([^"?]*)\?[^"]*"')


def outcome_of(
    state: TaskState, output: bytes | msgspec.Raw | None, error: TaskError | None
) -> Outcome:
    """Return what of a task must not change. An error of a task that goes on is no outcome."""
    if not state.is_terminal:
        return Outcome(state=state)
    output = None if output is None else _SIGNED.sub(rb'"\1"', bytes(output))
    return Outcome(
        state=state,
        # Where there is no output the API says null.
        output=None if output == b"null" else output,
        error=None if error is None else f"{error.code}: {error.detail}",
    )


class Recorder:
    """Asks in the name of many clients.

    Args:
        session: With a key; bound to the backend's address, if there is one backend.
        ends_s: Monotonic time after which nothing is asked again.
        seed: Decides the pauses.
        urls: Addresses of all backends; each call goes to one of them.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        ends_s: float,
        seed: int,
        urls: Sequence[str] = ("",),
    ) -> None:
        self._session = session
        self._urls = urls
        self._ends_s = ends_s
        self._rng = random.Random(seed)
        self.accepted: list[Accepted] = []
        self.refused: list[Refused] = []
        self.unanswered: list[Unanswered] = []
        self.seen: list[Seen] = []
        self.cancels: list[CancelTold] = []
        self.streams: list[Streamed] = []
        #: Ids that a 2xx named.
        self.ids: dict[str, None] = {}
        #: Ids that were seen to have ended.
        self.ended: set[str] = set()
        #: Calls of any kind whose answer was cut off, and calls that nobody took.
        self.cut_off = 0
        self.unreachable = 0

    # --- submit ----------------------------------------------------------------------------------

    async def submit(self, submission: Submission) -> list[Told]:
        """Submit until it is answered for good; return the tasks, none if it was refused.

        Raises:
            TooLong: The run is over.
        """
        path = "/v1/tasks/batch" if submission.is_batch else "/v1/tasks"
        bodies = [job.body for job in submission.jobs]
        body: Any = {"tasks": bodies} if submission.is_batch else bodies[0]
        headers = {"idempotency-key": submission.key}
        if submission.wait_s is not None:
            headers["prefer"] = f"wait={submission.wait_s}"
        while True:
            self.check_time()
            asked_s = time.monotonic()
            try:
                async with self._session.post(self._at(path), json=body, headers=headers) as answer:
                    content = await answer.read()
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError) as error:
                if not self._note_failure(error):
                    self._note_unanswered(submission)
                await self._pause()
                continue
            if status < 300:
                return self._note_accepted(submission, content, asked_s)
            if not self._note_refused(submission, status, content):
                return []
            await self._pause()

    def _note_accepted(self, submission: Submission, content: bytes, asked_s: float) -> list[Told]:
        told = list(_page(content).tasks) if submission.is_batch else [_task(content)]
        now_s = time.monotonic()
        for job, task in zip(submission.jobs, told, strict=True):
            self.accepted.append(Accepted(name=job.ask.name, task_id=task.id, at_s=now_s))
            self.ids[task.id] = None
        self._note_seen(told, "submit" if submission.wait_s is None else "wait", asked_s)
        return told

    def _note_unanswered(self, submission: Submission) -> None:
        now_s = time.monotonic()
        self.unanswered += [Unanswered(name=job.ask.name, at_s=now_s) for job in submission.jobs]

    def _note_refused(self, submission: Submission, status: int, content: bytes) -> bool:
        """Write a refusal down; return whether to ask again."""
        code = _code(content)
        now_s = time.monotonic()
        self.refused += [
            Refused(name=job.ask.name, status=status, code=code, at_s=now_s)
            for job in submission.jobs
        ]
        return status in LATER and code != "would_expire"

    # --- look ------------------------------------------------------------------------------------

    async def get(self, task_id: str) -> Told | None:
        """Look at one task once; None if there was no answer."""
        asked_s = time.monotonic()
        content = await self._read(f"/v1/tasks/{task_id}")
        if content is None:
            return None
        told = _task(content)
        self._note_seen([told], "get", asked_s)
        return told

    async def page(self, **query: Any) -> _Page | None:
        """Look at one page of the listing once; None if there was no answer."""
        asked_s = time.monotonic()
        content = await self._read("/v1/tasks", query)
        if content is None:
            return None
        page = _page(content)
        self._note_seen(page.tasks, "list", asked_s)
        return page

    async def cancel(self, task_id: str) -> None:
        """Cancel until it is answered.

        Raises:
            TooLong: The run is over.
        """
        while True:
            self.check_time()
            asked_s = time.monotonic()
            try:
                async with self._session.post(self._at(f"/v1/tasks/{task_id}/cancel")) as answer:
                    content = await answer.read()
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError) as error:
                self._note_failure(error)
                status = 0
            if status == 200:
                told = _task(content)
                now_s = time.monotonic()
                self.cancels.append(CancelTold(task_id=task_id, attempt=told.attempt, at_s=now_s))
                self._note_seen([told], "cancel", asked_s)
                return
            if status == 404:
                # Accepted, and gone: the checker sees it at the end.
                return
            if status and status not in LATER:
                raise AssertionError(f"cancel of {task_id}: {status} {content[:300]!r}")
            await self._pause()

    async def follow(self, task_id: str) -> None:
        """Follow a task's events to their end, across lost connections.

        Raises:
            TooLong: The run is over.
        """
        ids: list[int] = []
        ends: list[str] = []
        try:
            while not ends:
                self.check_time()
                try:
                    await self._follow_once(task_id, ids, ends)
                except (aiohttp.ClientError, TimeoutError) as error:
                    self._note_failure(error)
                if not ends:
                    await self._pause()
        finally:
            self.streams.append(Streamed(task_id=task_id, event_ids=tuple(ids), ends=tuple(ends)))

    async def _follow_once(self, task_id: str, ids: list[int], ends: list[str]) -> None:
        headers = {"last-event-id": str(ids[-1])} if ids else {}
        asked_s = time.monotonic()
        path = f"/v1/tasks/{task_id}/events"
        async with self._session.get(self._at(path), headers=headers) as answer:
            if answer.status != 200:
                await answer.read()
                return
            name, number = "", None
            async for raw in answer.content:
                line = raw.decode().rstrip("\n")
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "id":
                    number = int(value)
                elif field == "data" and name in _ENDS:
                    ends.append(name)
                    # What this line says was true when it was sent, which is after `asked_s` only.
                    self._note_seen([_task(value)], "events", asked_s)
                elif not line:
                    if number is not None:
                        ids.append(number)
                    name, number = "", None

    # --- the rest --------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        return self._rng.choice(self._urls) + path

    async def _read(self, path: str, query: dict[str, Any] | None = None) -> bytes | None:
        try:
            async with self._session.get(self._at(path), params=query) as answer:
                content = await answer.read()
                return content if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError) as error:
            self._note_failure(error)
            return None

    def _note_failure(self, error: BaseException) -> bool:
        """Count a call without an answer; return whether it surely never reached the backend."""
        is_unsent = isinstance(error, aiohttp.ClientConnectorError)
        self.unreachable += is_unsent
        self.cut_off += not is_unsent
        return is_unsent

    def _note_seen(self, told: list[Told], source: str, asked_s: float) -> None:
        told_s = time.monotonic()
        for task in told:
            outcome = outcome_of(task.state, task.output, task.error)
            if task.state.is_terminal:
                self.ended.add(task.id)
            self.seen.append(
                Seen(
                    task_id=task.id,
                    attempt=task.attempt,
                    outcome=outcome,
                    source=source,
                    asked_s=asked_s,
                    told_s=told_s,
                )
            )

    def check_time(self) -> None:
        if time.monotonic() > self._ends_s:
            raise TooLong

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(*_PAUSE_S))


_ENDS = frozenset(state.value for state in TaskState if state.is_terminal)


def _code(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content)["code"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return content[:60].decode(errors="replace")
