"""Values for tests: every field has a sensible default, and a test names only what it is about."""

from typing import Any

import msgspec

from swell.core.broker_types import LeaseRequest
from swell.core.store_types import Hold
from swell.core.task import (
    Failed,
    NewTask,
    Outcome,
    Settlement,
    Succeeded,
    Task,
    TaskError,
)


def a_new_task(model: str = "demo/upper", **fields: Any) -> NewTask:
    """Return a request for `model`."""
    values: dict[str, Any] = {
        "model": model,
        "queue": model,
        "input": msgspec.Raw(b'{"text":"hello"}'),
        "key_id": "key-1",
    }
    return NewTask(**(values | fields))


def a_lease_request(n: int = 1, *, worker_id: str = "worker-1", **fields: Any) -> LeaseRequest:
    """Return a worker's wish for `n` tasks of `demo/upper`, or of `models`; some are `staged`."""
    models, staged = fields.pop("models", {"demo/upper": "v1"}), fields.pop("staged", {})
    queues = {
        queue: version
        for model, version in models.items()
        for queue in staged.get(model, (model, f"{model}:{version}"))
    }
    values: dict[str, Any] = {"worker_id": worker_id, "queues": queues, "n": n, "lease_s": 30.0}
    return LeaseRequest(**(values | fields))


def a_success(output: bytes = b'"HELLO"') -> Succeeded:
    """Return a good outcome."""
    return Succeeded(output=msgspec.Raw(output))


def a_failure(*, retryable: bool = True) -> Failed:
    """Return a bad outcome."""
    error = TaskError(code="model_error", title="The model failed", detail="it was tired")
    return Failed(error=error, retryable=retryable)


def a_settlement(task: Task, outcome: Outcome | None = None) -> Settlement:
    """Return what the holder of a running task tells."""
    return Settlement(
        task_id=task.id,
        attempt=task.attempt,
        token=task.lease_token or "",
        outcome=outcome or a_success(),
    )


def hold_of(task: Task) -> Hold:
    """Return the lease of a running task, as its holder names it."""
    return Hold(task_id=task.id, attempt=task.attempt, token=task.lease_token or "")
