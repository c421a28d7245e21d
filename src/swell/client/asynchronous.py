"""The client of a server, for programs with an event loop."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypedDict, Unpack

import msgspec

from swell.client.access import Access, find_access
from swell.client.connection import Connection
from swell.client.errors import Refused, TaskEnded
from swell.client.files import name_of, with_urls
from swell.client.messages import Artifact, Estimate, Event, Model, Task
from swell.settings.load import load

#: A server keeps a request open for at most so long, in seconds.
_LONGEST_WAIT_S: Final = 60.0

#: Tasks in a page of a listing.
_PAGE: Final = 100

#: An answer that takes longer is lost, in seconds.
ANSWER_S: Final = 30.0

#: What may be sent twice is sent again for so long, in seconds, unless a client is told otherwise.
RETRY_S: Final = 60.0


class Degrade(TypedDict, total=False):
    """What may be changed so that a task is in time, rather than refuse it."""

    #: Fewer steps, but not fewer than these.
    steps: int | None
    #: A smaller picture, but no side below this, in px.
    size_px: int | None
    #: Other models (`owner/name`), the best first; the input must fit them.
    models: Sequence[str]


class Asked(TypedDict, total=False):
    """What may be asked of a task beside its input; docs/reference/http.md has all of it."""

    #: How many samples (pictures).
    count: int | None
    #: For the same result again.
    seed: int | None
    #: On behalf of whom; the users of a key take turns.
    user: str | None
    #: 0 comes first among a key's own tasks; 2 or more lets all usual tasks go first.
    priority: int | None
    #: Name of the priority class, such as `free`, in place of a priority; `class` on the wire.
    class_name: str | None
    #: Not to start later, and worthless after this, in seconds from now.
    start_by_s: float | None
    finish_by_s: float | None
    #: What may be changed where it would miss these, or nobody can run it.
    degrade: Degrade | None
    max_attempts: int | None
    #: Any JSON up to 16 KiB, given back as it came.
    metadata: Any
    #: Where the end is told: a URL, or an object with `url` and `events`.
    webhook: Any


class AsyncClient:
    """A server, as an async context manager; `swell.Client` is the same without an event loop.

    What is sent twice for want of an answer makes one task: each carries an idempotency key.

    Args:
        url: The server; None for `SWELL_URL`, or else what `swell up` left in the data folder.
        key: API key; None for `SWELL_KEY`, or else the local one.
        ca_file: Certificates, PEM, that the server's is trusted by beside those of the system.
        timeout_s: Longest wait for an answer, in seconds, beside what a call says that it waits.
        retry_s: For so long a request is sent again where the server cannot be reached, or is too
            busy, in seconds.

    Raises:
        NoServer: None is known.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        ca_file: str | Path | None = None,
        timeout_s: float = ANSWER_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._connection = Connection(_access(url, key, ca_file), timeout_s, retry_s)

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.__aexit__(kind, error, trace)

    # ---- tasks

    async def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        /,
        *,
        wait_s: float = 0.0,
        idempotency_key: str | None = None,
        **asked: Unpack[Asked],
    ) -> Task:
        """Ask a model for something, and return the task as soon as it is accepted.

        Args:
            model: `owner/name`, or `owner/name:version`.
            inputs: As the model's schema says. Files (paths, bytes, PIL pictures, open files) are
                stored first, wherever they stand in it.
            wait_s: Return later, once it has ended, if that takes no longer, in seconds.
            idempotency_key: The same key gives the same task for a day.
            asked: Other members of the request, as in `Asked`.

        Raises:
            Refused: The server does not take it; the text says why.
            Unreachable: The server does not answer.
            InvalidRequest: A file of the input cannot be read.
        """
        body = await self._request({**asked, "model": model, "input": inputs})
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        wait_s = min(wait_s, _LONGEST_WAIT_S)
        if wait_s > 0:
            headers["Prefer"] = f"wait={max(1, round(wait_s))}"
        answer = await self._connection.post(
            "/v1/tasks", body, headers=headers, wait_s=wait_s, is_repeatable=True
        )
        return msgspec.convert(answer, Task)

    async def estimate(
        self, model: str, inputs: Mapping[str, Any], /, **asked: Unpack[Asked]
    ) -> Estimate:
        """Return what would become of a task that was sent now; none is made.

        That it would be refused is told in the estimate, and raises nothing.

        Args:
            model: `owner/name`, or `owner/name:version`.
            inputs: As in `submit`. Files are stored: who wants to submit the same afterwards
                stores them once, with `upload`.
            asked: As in `submit`.

        Raises:
            Refused: There is no such model, its input does not fit, or the key may not ask.
            Unreachable, InvalidRequest: As `submit` does.
        """
        body = await self._request({**asked, "model": model, "input": inputs})
        answer = await self._connection.post("/v1/estimate", body, is_repeatable=True)
        return msgspec.convert(answer, Estimate)

    async def submit_many(
        self, requests: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[Task]:
        """Ask for up to 1,000 tasks; all are accepted or none.

        Args:
            requests: Each with `model`, `input`, and members of `Asked`.
            idempotency_key: As in `submit`.

        Raises:
            Refused, Unreachable, InvalidRequest: As `submit` does.
        """
        tasks = [await self._request(request) for request in requests]
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        answer = await self._connection.post(
            "/v1/tasks/batch", {"tasks": tasks}, headers=headers, is_repeatable=True
        )
        return msgspec.convert(answer["tasks"], list[Task])

    async def run(
        self,
        model: str,
        inputs: Mapping[str, Any],
        /,
        *,
        timeout_s: float | None = None,
        **asked: Unpack[Asked],
    ) -> Task:
        """Ask a model for something, wait for it, and return the task with its output.

        Args:
            model: `owner/name`, or `owner/name:version`.
            inputs: As in `submit`.
            timeout_s: How long to wait, in seconds; None for as long as it takes. Then the task
                goes on: `cancel` it if nobody wants it any more.
            asked: As in `submit`.

        Raises:
            TaskEnded: It failed, was canceled or expired.
            TimeoutError: It has not ended in time.
            Refused, Unreachable, InvalidRequest: As `submit` does.
        """
        loop = asyncio.get_running_loop()
        ends_s = None if timeout_s is None else loop.time() + timeout_s
        first_s = _LONGEST_WAIT_S if timeout_s is None else timeout_s
        task = await self.submit(model, inputs, wait_s=first_s, **asked)
        left_s = None if ends_s is None else max(0.0, ends_s - loop.time())
        return await self.wait(task, timeout_s=left_s)

    async def wait(self, task: Task | str, *, timeout_s: float | None = None) -> Task:
        """Return a task once it has succeeded.

        Args:
            task: The task, or its id.
            timeout_s: How long to wait, in seconds; None for as long as it takes.

        Raises:
            TaskEnded: It failed, was canceled or expired.
            TimeoutError: It has not ended in time.
            Refused, Unreachable: As `get` does.
        """
        known = task if isinstance(task, Task) and task.has_ended else None
        if known is None:
            async with asyncio.timeout(timeout_s):
                async for _ in self.events(task):
                    pass
                known = await self.get(task)
        if not known.has_succeeded:
            raise TaskEnded(known)
        return known

    async def get(self, task: Task | str) -> Task:
        """Return a task as it is now.

        Raises:
            Refused: This key has no such task.
            Unreachable: The server does not answer.
        """
        return msgspec.convert(await self._connection.get(f"/v1/tasks/{_id(task)}"), Task)

    async def cancel(self, task: Task | str) -> Task:
        """Cancel a task, and return it; what has ended stays as it is. Raises as `get` does."""
        path = f"/v1/tasks/{_id(task)}/cancel"
        return msgspec.convert(await self._connection.post(path, is_repeatable=True), Task)

    async def retry(self, task: Task | str) -> Task:
        """Return a new task that repeats one that has ended. Raises as `get` does."""
        path = f"/v1/tasks/{_id(task)}/retry"
        return msgspec.convert(await self._connection.post(path, is_repeatable=True), Task)

    async def events(self, task: Task | str, *, after: int = -1) -> AsyncGenerator[Event]:
        """Yield what happens to a task until it has ended; a broken stream is taken up again.

        Previews are made only while somebody listens.

        Args:
            task: The task, or its id.
            after: Id of the last event that was seen.

        Raises:
            Refused, Unreachable: As `get` does.
        """
        async with aclosing(self._connection.events(_id(task), after)) as events:
            async for event in events:
                yield event

    async def tasks(
        self, *, state: str | None = None, model: str | None = None, user: str | None = None
    ) -> AsyncGenerator[Task]:
        """Yield this key's tasks, newest first; pages are read as they are needed.

        Args:
            state: Such as `queued`; None for any.
            model: `owner/name`; None for any.
            user: On behalf of whom; None for anybody.

        Raises:
            Refused, Unreachable: As `get` does.
        """
        cursor: str | None = None
        while True:
            page = await self._connection.get(
                "/v1/tasks", state=state, model=model, user=user, limit=_PAGE, cursor=cursor
            )
            for task in msgspec.convert(page["tasks"], list[Task]):
                yield task
            cursor = page.get("cursor")
            if cursor is None:
                return

    # ---- files

    async def read(self, artifact: Artifact | str) -> bytes:
        """Return the bytes of a file that a task brought forth.

        Raises:
            Refused: It was removed, or its URL has expired: `get` the task for a new one.
            Unreachable: It cannot be read.
        """
        url = artifact if isinstance(artifact, str) else artifact.url
        return await self._connection.download(url)

    async def save(self, task: Task, folder: str | Path = ".") -> list[Path]:
        """Write the files of a task into a folder, and return where they are.

        Args:
            task: One that has succeeded.
            folder: Made where there is none. A file is called after the task's id and its number.

        Raises:
            Refused, Unreachable: As `read` does.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        paths = []
        for n, artifact in enumerate(task.artifacts, start=1):
            path = place / name_of(task.id, artifact.content_type, n)
            path.write_bytes(await self.read(artifact))
            paths.append(path)
        return paths

    async def upload(self, file: Any) -> str:
        """Store an input file (path, bytes, PIL picture, open file) and return its URL.

        Raises:
            Refused, Unreachable, InvalidRequest: As `submit` does.
        """
        return str(await with_urls(self._connection, file))

    async def _request(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task as the server is asked for it, its files stored."""
        request = {name: value for name, value in asked.items() if value is not None}
        if "class_name" in request and "class" not in request:
            request["class"] = request.pop("class_name")
        request["input"] = await with_urls(self._connection, request.get("input", {}))
        return request

    # ---- models

    async def models(self) -> list[Model]:
        """Return the models that are served. Raises as `get` does."""
        return msgspec.convert((await self._connection.get("/v1/models"))["models"], list[Model])

    async def model(self, name: str) -> Model | None:
        """Return what is known of a model (`owner/name`), or None where there is none.

        Raises:
            Refused, Unreachable: As `get` does.
        """
        try:
            return msgspec.convert(await self._connection.get(f"/v1/models/{name}"), Model)
        except Refused as error:
            if error.http_status == 404:
                return None
            raise


def _access(url: str | None, key: str | None, ca_file: str | Path | None) -> Access:
    """Return where the server is: as told, as the settings say, or as `swell up` left it."""
    if url is not None and key is not None:
        return Access(url=url.rstrip("/"), key=key, ca_file=str(ca_file or ""))
    flags = {"client.url": url, "client.key": key, "client.ca_file": ca_file}
    given = {name: str(value) for name, value in flags.items() if value is not None}
    return find_access(load(flags=given).settings)


def _id(task: Task | str) -> str:
    return task if isinstance(task, str) else task.id
