"""What may go wrong between a client and a server.

SwellError
├── NoServer      neither a setting nor the data folder names a server
├── Unreachable   the server does not answer
├── Refused       it answered with a problem
└── TaskEnded     a task ended otherwise than hoped for
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from swell.core.errors import SwellError

if TYPE_CHECKING:
    from swell.client.messages import Task


class NoServer(SwellError):
    """No server is known; the text says how to name one."""

    code, title = "no_server", "No server is running"


class Unreachable(SwellError):
    """The server does not answer; the text says why, as far as that can be seen."""

    code, title, retryable = "unreachable", "The server cannot be reached", True


class Refused(SwellError):
    """The server answered with a problem.

    Args:
        problem: The problem document (RFC 9457), or what could be read of it.
        http_status: Status of the answer.
        retry_after_s: After how many seconds the server is worth asking again; None where it does
            not say.
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
        """The server's own code, such as `invalid_input`; empty where it gave none."""
        return str(self.problem.get("code") or "")


class TaskEnded(SwellError):
    """A task failed, was canceled or expired; `task` is how it ended."""

    code, title = "task_ended", "The task did not succeed"

    def __init__(self, task: "Task") -> None:
        words = f"task {task.id} {'was canceled' if task.state == 'canceled' else task.state}"
        super().__init__(f"{words}: {task.error.detail}" if task.error is not None else words)
        self.task = task
