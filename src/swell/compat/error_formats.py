"""Errors in the formats of other APIs, with the members of a problem document."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from swell.core.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    NoWorker,
    SwellError,
    TooLarge,
    Unavailable,
)
from swell.core.results import is_inputs_fault
from swell.core.task import Task, TaskState
from swell.server.problem_details import problem_reply
from swell.server.request import Call, Reply
from swell.server.serializers import encode

#: Errors of operations that create tasks.
TASK_ERRORS: Final[tuple[type[SwellError], ...]] = (
    InvalidRequest,
    IdempotencyMismatch,
    NotFound,
    TooLarge,
    NoWorker,
    Unavailable,
)


def error_reply(
    call: Call,
    error: SwellError,
    members: Mapping[str, Any],
    *,
    status: int | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> Reply:
    """Return an error as JSON.

    Args:
        call: The failed request.
        error: The error.
        members: Members that replace those of the problem document. A dictionary is merged into
            the member.
        status: Replaces the error's own.
        headers: Further headers.
    """
    reply = problem_reply(error, path=call.path, request_id=call.request_id)
    status = status or reply.status
    body: dict[str, Any] = {**msgspec.json.decode(reply.body), "status": status}
    for name, value in members.items():
        body[name] = {**body[name], **value} if isinstance(value, dict) else value
    return Reply(status, encode(body), headers=[*(reply.headers or []), *(headers or [])])


def param_of(error: SwellError) -> str | None:
    """Return the name of the first broken field; None without one."""
    if not error.errors:
        return None
    return error.errors[0]["pointer"].removeprefix("/input").strip("/").replace("/", ".") or None


def failure_of(task: Task) -> tuple[str, str]:
    """Return code and text of a failed task's error. Pure."""
    if task.error is None:
        return "internal_error", "the model failed"
    return task.error.code, f"{task.error.title}: {task.error.detail}"


def failed_on_input(task: Task) -> bool:
    """Whether a task failed because of its input, so that a retry would fail too. Pure."""
    error = task.error if task.state is TaskState.FAILED else None
    return error is not None and is_inputs_fault(error)
