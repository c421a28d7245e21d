"""Whoever is told of a pipeline hears of each stage's start, and of one end."""

from datetime import UTC, datetime

import msgspec

from conformance.pipelines import STAGES, a_new_run
from swell.core import task as life
from swell.core.outbox import STARTED, deliveries_of
from swell.core.store_types import Onward
from swell.core.task import Succeeded, Task
from swell.core.webhook import Webhook
from swell.db.task_store import can_go_on

NOW = datetime(2026, 11, 26, tzinfo=UTC)
HOOK = Webhook(url="https://example.org/hook", events=(STARTED, "succeeded"))
ONWARD = Onward(worker_id="w", versions={"demo/b": "v2"}, n=1, lease_s=30)


def started(task: Task) -> Task:
    return life.start(task, worker_id="w", version="v1", token="t", now=NOW, lease_s=30)


def told(before: Task, after: Task) -> list[str]:
    return [each.event for each in deliveries_of(before, after, (), NOW)]


def test_each_stage_that_starts_is_told_whether_by_the_queue_or_at_once() -> None:
    new = a_new_run(*STAGES[:2], webhook=HOOK)
    queued = life.accept(new, task_id=life.new_id(NOW), now=NOW)
    running = started(queued)
    assert told(queued, running) == [STARTED]
    outcome = Succeeded(output=msgspec.Raw(b'{"text":"x"}'))
    passed = life.settle(running, outcome, now=NOW, retry_delay_s=0)
    assert told(running, passed) == []
    assert told(passed, started(passed)) == [STARTED]
    assert can_go_on(passed, ONWARD, NOW)
    onward = started(passed)
    assert told(running, onward) == [STARTED]
    # A heartbeat is none.
    assert told(onward, msgspec.structs.replace(onward, lease_expires_at=NOW)) == []
    ended = life.settle(onward, outcome, now=NOW, retry_delay_s=0)
    assert told(onward, ended) == ["succeeded"]
