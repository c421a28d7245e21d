"""The façade of OpenAI's API, and errors in its format."""

from typing import Any, Final

from swell.compat.error_formats import error_reply, failed_on_input, failure_of, param_of
from swell.compat.facade import facade
from swell.core.errors import InvalidInput, SwellError
from swell.core.task import Task, TaskState
from swell.server.problem_details import family_of
from swell.server.request import Call, Reply

#: Longer than this, openai-python ignores `Retry-After` and repeats the request at once.
_LONGEST_RETRY_S: Final = 120.0

#: Status of ends without pictures.
_ENDS: Final = {TaskState.CANCELED: 409, TaskState.EXPIRED: 504}


def refuse(call: Call, error: SwellError) -> Reply:
    """Return an error in OpenAI's format."""
    status = 400 if isinstance(error, InvalidInput) and error.status == 422 else error.status
    members = {"type": family_of(status), "param": param_of(error)}
    if error.errors:
        members["code"] = error.errors[0]["code"]
    headers = [] if _needs_no_header(error) else [(b"x-should-retry", b"false")]
    return error_reply(call, error, {"error": members}, status=status, headers=headers)


def _needs_no_header(error: SwellError) -> bool:
    """Whether a retry may succeed soon, or the status alone prevents it."""
    if error.retryable:
        after = error.headers.get("Retry-After", "5")
        return not after.isdigit() or int(after) <= _LONGEST_RETRY_S
    return error.status < 500 and error.status not in (408, 409, 429)


def failure(task: Task) -> tuple[int, dict[str, Any]]:
    """Return status and error of a task that has ended without pictures. Pure."""
    if task.state in _ENDS:
        status = _ENDS[task.state]
        return status, error_member(f"task {task.id} was {task.state}", status, task.state.value)
    code, detail = failure_of(task)
    status = 400 if failed_on_input(task) else 500
    return status, error_member(detail, status, code)


def error_member(message: str, status: int, code: str) -> dict[str, Any]:
    """Return the member `error` of an answer."""
    return {"message": message, "type": family_of(status), "code": code, "param": None}


openai: Final = facade("openai", "/openai/v1", "OpenAI", refuse)
