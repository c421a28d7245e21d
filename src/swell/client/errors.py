"""Errors that the client raises.

SwellError
├── NoServer      neither a setting nor the data folder names a server
├── Unreachable   the server does not answer
├── Refused       the server answered with an error
└── TaskEnded     a task failed, was canceled or expired
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from swell.core.errors import SwellError

if TYPE_CHECKING:
    from swell.client.messages import Task


class NoServer(SwellError):
    """No server is configured; the message says how to name one."""

    code, title = "no_server", "No server is running"


class Unreachable(SwellError):
    """The server does not answer; the message gives the reason if it is known."""

    code, title, retryable = "unreachable", "The server cannot be reached", True


class Refused(SwellError):
    """The server answered with an error.

    Args:
        problem: The problem document (RFC 9457); empty if the body is not JSON.
        http_status: Status of the answer.
        retry_after_s: `Retry-After` of the answer, in seconds; None if it has none.
    """

    code, title = "refused", "The server refused"

    def __init__(
        self, problem: Mapping[str, Any], http_status: int, retry_after_s: float | None = None
    ) -> None:
        detail = problem.get("detail")
        heading = str(problem.get("title") or f"HTTP {http_status}")
        super().__init__(detail if isinstance(detail, str) else heading)
        self.problem = dict(problem)
        self.http_status = http_status
        self.heading = heading
        self.retry_after_s = retry_after_s

    @property
    def reason(self) -> str:
        """The server's error code, such as `invalid_input`; empty if it sent none."""
        return str(self.problem.get("code") or "")


class TaskEnded(SwellError):
    """A task failed, was canceled or expired; `task` has its final state."""

    code, title = "task_ended", "The task did not succeed"

    def __init__(self, task: "Task") -> None:
        words = f"task {task.id} {'was canceled' if task.state == 'canceled' else task.state}"
        super().__init__(f"{words}: {task.error.detail}" if task.error is not None else words)
        self.task = task
