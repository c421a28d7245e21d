"""The façade of fal's API, and answers and errors in its format."""

from collections.abc import Sequence
from typing import Any, Final

from swell.compat.error_formats import error_reply, failed_on_input, failure_of
from swell.compat.facade import facade
from swell.core.errors import FieldError, NoWorker, SwellError, WouldExpire
from swell.core.task import Task, TaskState
from swell.server.request import Call, Reply
from swell.server.serializers import encode

#: A time-out that the client asked for.
_USERS_TIMEOUT: Final = (b"x-fal-request-timeout-type", b"user")


def request_id(text: str) -> tuple[bytes, bytes]:
    """Return the header with a request's id."""
    return b"x-fal-request-id", text.encode("latin-1", "replace")


def reply(
    status: int, body: Any, task_id: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> Reply:
    """Return an answer about a request."""
    return Reply(status, encode(body), headers=[request_id(task_id), *headers])


def refuse(call: Call, error: SwellError) -> Reply:
    """Return an error in fal's format."""
    status, kind = error.status, error.code
    headers = [request_id(call.request_id)]
    if isinstance(error, WouldExpire):
        status, kind = 504, "request_timeout"
        headers.append(_USERS_TIMEOUT)
    elif isinstance(error, NoWorker):
        kind = "runner_scheduling_failure"
    headers.append((b"x-fal-error-type", kind.encode()))
    members: dict[str, Any] = {"error_type": kind}
    if error.status == 422 and error.errors:
        members["detail"] = [_fastapi_error(each) for each in error.errors]
    return error_reply(call, error, members, status=status, headers=headers)


def _fastapi_error(error: FieldError) -> dict[str, Any]:
    steps = error["pointer"].removeprefix("/input").strip("/").split("/")
    return {"loc": ["body", *steps], "msg": error["detail"], "type": error["code"]}


def failure(task: Task) -> tuple[int, str, str]:
    """Return status, text and type of the error of a task without a result. Pure."""
    if task.state is TaskState.EXPIRED:
        return 504, "the request did not start, or end, in time", "request_timeout"
    if task.state is TaskState.CANCELED:
        return 400, "the request was canceled", "request_canceled"
    code, text = failure_of(task)
    if failed_on_input(task):
        return 422, text, code
    return (503, text, "runner_disconnected") if code == "worker_lost" else (500, text, code)


def failure_body(task: Task) -> dict[str, Any]:
    """Return the body of the error of a task without a result. Pure."""
    status, text, kind = failure(task)
    detail = [{"loc": ["body"], "msg": text, "type": kind}] if status == 422 else text
    return {"detail": detail, "error_type": kind}


def failure_reply(task: Task) -> Reply:
    """Return the error of a task without a result."""
    status, _, kind = failure(task)
    headers = [(b"x-fal-error-type", kind.encode("latin-1", "replace"))]
    if task.state is TaskState.EXPIRED:
        headers.append(_USERS_TIMEOUT)
    return reply(status, failure_body(task), task.id, headers)


fal: Final = facade("fal", "/fal", "fal", refuse)
