"""The client for programs with an event loop."""

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

#: Longest time that a server keeps a request open, in seconds.
_LONGEST_WAIT_S: Final = 60.0

#: Tasks in a page of a listing.
_PAGE: Final = 100

#: Default of `timeout_s`, in seconds.
ANSWER_S: Final = 30.0

#: Default of `retry_s`, in seconds.
RETRY_S: Final = 60.0


class Degrade(TypedDict, total=False):
    """Changes that the server may make to a task so that it meets its deadline."""

    #: Smallest number of steps.
    steps: int | None
    #: Smallest side of the picture, in px.
    size_px: int | None
    #: Other models (`owner/name`) in order of preference; the input must fit their schemas.
    models: Sequence[str]


class Asked(TypedDict, total=False):
    """Optional members of a request for a task; docs/reference/http.md describes them."""

    #: Number of samples (pictures).
    count: int | None
    #: Set it to repeat a result.
    seed: int | None
    #: The customer's user; tasks of a key's users take turns.
    user: str | None
    #: 0 runs first among a key's tasks; 2 or more runs after all usual tasks.
    priority: int | None
    #: Name of the priority class, such as `free`, in place of a priority; `class` in JSON.
    class_name: str | None
    #: Deadlines for start and end, in seconds from now.
    start_by_s: float | None
    finish_by_s: float | None
    #: Changes that are allowed if the task would miss a deadline, or if no worker can run it.
    degrade: Degrade | None
    max_attempts: int | None
    #: Any JSON up to 16 KiB; the server returns it unchanged.
    metadata: Any
    #: Webhook for the end of the task: a URL, or an object with `url` and `events`.
    webhook: Any


class AsyncClient:
    """A client, as an async context manager; `swell.Client` is the same without an event loop.

    A retried request creates one task, because each request has an idempotency key.

    Args:
        url: URL of the server; None for `SWELL_URL`, or else the server of `swell up`.
        key: API key; None for `SWELL_KEY`, or else the key of `swell up`.
        ca_file: PEM file of CA certificates to trust in addition to the system's.
        timeout_s: Longest wait for an answer, in seconds; a call's `wait_s` is added.
        retry_s: Longest time to retry while the server is unreachable or busy, in seconds.

    Raises:
        NoServer: Neither an argument, a setting nor the data folder names a server.
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
        """Submit a task, and return it as soon as the server accepts it.

        Args:
            model: `owner/name`, or `owner/name:version`.
            inputs: Input by the model's schema. Files in it (paths, bytes, PIL pictures, open
                files) are uploaded first.
            wait_s: Longest wait for the task to end before this returns, in seconds.
            idempotency_key: The same key returns the same task for a day.
            asked: Other members of the request, as in `Asked`.

        Raises:
            Refused: The server refuses the task; the message says why.
            Unreachable: The server does not answer.
            InvalidRequest: A file in the input cannot be read.
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
        """Estimate start, end and cost of a task without creating it.

        If the server would refuse the task, the estimate says so, and no error is raised.

        Args:
            model: `owner/name`, or `owner/name:version`.
            inputs: As in `submit`. Files are uploaded; call `upload` first if you submit the same
                input afterwards.
            asked: As in `submit`.

        Raises:
            Refused: The model does not exist, the input does not fit its schema, or the key lacks
                permission.
            Unreachable, InvalidRequest: As `submit` does.
        """
        body = await self._request({**asked, "model": model, "input": inputs})
        answer = await self._connection.post("/v1/estimate", body, is_repeatable=True)
        return msgspec.convert(answer, Estimate)

    async def submit_many(
        self, requests: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[Task]:
        """Submit up to 1,000 tasks; the server accepts all or none.

        Args:
            requests: Dictionaries with `model`, `input`, and members of `Asked`.
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
        """Submit a task, wait until it succeeds, and return it with its output.

        Args:
            model: `owner/name`, or `owner/name:version`.
            inputs: As in `submit`.
            timeout_s: Longest wait, in seconds; None for no limit. The task continues after a
                timeout; `cancel` it if you no longer need it.
            asked: As in `submit`.

        Raises:
            TaskEnded: The task failed, was canceled or expired.
            TimeoutError: The task has not ended in time.
            Refused, Unreachable, InvalidRequest: As `submit` does.
        """
        loop = asyncio.get_running_loop()
        ends_s = None if timeout_s is None else loop.time() + timeout_s
        first_s = _LONGEST_WAIT_S if timeout_s is None else timeout_s
        task = await self.submit(model, inputs, wait_s=first_s, **asked)
        left_s = None if ends_s is None else max(0.0, ends_s - loop.time())
        return await self.wait(task, timeout_s=left_s)

    async def wait(self, task: Task | str, *, timeout_s: float | None = None) -> Task:
        """Wait until a task succeeds, and return it.

        Args:
            task: The task, or its id.
            timeout_s: Longest wait, in seconds; None for no limit.

        Raises:
            TaskEnded: The task failed, was canceled or expired.
            TimeoutError: The task has not ended in time.
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
        """Return the current state of a task.

        Raises:
            Refused: The key has no such task.
            Unreachable: The server does not answer.
        """
        return msgspec.convert(await self._connection.get(f"/v1/tasks/{_id(task)}"), Task)

    async def cancel(self, task: Task | str) -> Task:
        """Cancel a task, and return it; an ended task does not change. Raises as `get` does."""
        path = f"/v1/tasks/{_id(task)}/cancel"
        return msgspec.convert(await self._connection.post(path, is_repeatable=True), Task)

    async def retry(self, task: Task | str) -> Task:
        """Create a new task that repeats an ended one. Raises as `get` does."""
        path = f"/v1/tasks/{_id(task)}/retry"
        return msgspec.convert(await self._connection.post(path, is_repeatable=True), Task)

    async def events(self, task: Task | str, *, after: int = -1) -> AsyncGenerator[Event]:
        """Yield the events of a task until it ends; a broken stream is reopened.

        The worker sends previews only while a client reads the events.

        Args:
            task: The task, or its id.
            after: Id of the last event that the caller has seen.

        Raises:
            Refused, Unreachable: As `get` does.
        """
        async with aclosing(self._connection.events(_id(task), after)) as events:
            async for event in events:
                yield event

    async def tasks(
        self, *, state: str | None = None, model: str | None = None, user: str | None = None
    ) -> AsyncGenerator[Task]:
        """Yield this key's tasks, newest first; pages are loaded on demand.

        Args:
            state: Such as `queued`; None for any.
            model: `owner/name`; None for any.
            user: `user` of the tasks; None for any.

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
        """Download an output file of a task.

        Raises:
            Refused: The file was removed, or its URL has expired: `get` the task for a new URL.
            Unreachable: The server does not answer.
        """
        url = artifact if isinstance(artifact, str) else artifact.url
        return await self._connection.download(url)

    async def save(self, task: Task, folder: str | Path = ".") -> list[Path]:
        """Write the output files of a task into a folder, and return their paths.

        Args:
            task: A task that has succeeded.
            folder: Created if it does not exist. File names have the task's id and a number.

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
        """Upload an input file (path, bytes, PIL picture, open file) and return its URL.

        Raises:
            Refused, Unreachable, InvalidRequest: As `submit` does.
        """
        return str(await with_urls(self._connection, file))

    async def _request(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Upload the files of a request, and return its JSON."""
        request = {name: value for name, value in asked.items() if value is not None}
        if "class_name" in request and "class" not in request:
            request["class"] = request.pop("class_name")
        request["input"] = await with_urls(self._connection, request.get("input", {}))
        return request

    # ---- models

    async def models(self) -> list[Model]:
        """Return the models that the server offers. Raises as `get` does."""
        return msgspec.convert((await self._connection.get("/v1/models"))["models"], list[Model])

    async def model(self, name: str) -> Model | None:
        """Return a model (`owner/name`), or None if it does not exist.

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
    """Return URL and key from the arguments, the settings, or the file that `swell up` left."""
    if url is not None and key is not None:
        return Access(url=url.rstrip("/"), key=key, ca_file=str(ca_file or ""))
    flags = {"client.url": url, "client.key": key, "client.ca_file": ca_file}
    given = {name: str(value) for name, value in flags.items() if value is not None}
    return find_access(load(flags=given).settings)


def _id(task: Task | str) -> str:
    return task if isinstance(task, str) else task.id
