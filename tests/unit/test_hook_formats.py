"""What each form of webhooks' bodies tells of each event that it may be asked for."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from conformance.factories import a_failure, a_new_task
from manual_clock import ManualClock
from swell.compat.webhook_formats import FORMATS
from swell.core import task as life
from swell.core.outbox import Delivery
from swell.core.task import Canceled, Outcome, Succeeded, Task
from swell.core.webhook import ENDS
from swell.objects.folder import TemporaryObjects
from swell.server.serializers import UrlMaker
from swell.server.webhooks.webhook_bodies import written

NOW = datetime(2026, 11, 27, tzinfo=UTC)
ENDED: dict[str, Outcome] = {
    "succeeded": Succeeded(output=msgspec.Raw(b'"HELLO"')),
    "failed": a_failure(retryable=False),
    "canceled": Canceled(),
}


def told(form: str, event: str) -> Any:
    """Return the body that tells of an event of a task, which may have gone on since."""
    data = msgspec.Raw(b'{"step":1,"steps":2,"image":"data:image/png;base64,YQ=="}')
    delivery = Delivery(
        id="d", task_id="t", event=event, attempt=1, at=NOW, data=None if event in ENDS else data
    )
    urls = UrlMaker("https://swell.test", TemporaryObjects(ManualClock(NOW), b"secret"), 60)
    return json.loads(written(FORMATS[form], delivery, a_task(event), urls))


def a_task(event: str) -> Task:
    task = life.accept(a_new_task(finish_by_s=9), task_id=life.new_id(NOW), now=NOW)
    task = life.start(task, worker_id="w", version="1", token="t", now=NOW, lease_s=30)
    later = NOW + timedelta(seconds=10)
    if event == "expired":
        return life.expire(task, now=later)
    # What happened before the end may be told after it.
    outcome = ENDED.get(event, a_failure(retryable=False))
    return life.settle(task, outcome, now=later, retry_delay_s=1)


def has_error(body: Any) -> bool:
    inner = body.get("data", body)
    return bool(inner.get("error")) or inner.get("status") in ("ERROR", "failed")


@pytest.mark.parametrize(
    ("form", "event"), [(name, event) for name, form in FORMATS.items() for event in form.events]
)
def test_a_body_tells_of_an_error_where_there_was_no_result_and_only_there(
    form: str, event: str
) -> None:
    if event not in ("canceled", "expired"):
        assert has_error(told(form, event)) == (event == "failed")
    else:
        # Not all forms take that for an error; none tells of a result.
        body = told(form, event)
        inner = body.get("data", body)
        assert inner.get("status", inner.get("state")) not in ("OK", "succeeded", "successful")


@pytest.mark.parametrize("form", FORMATS)
def test_each_form_has_words_for_all_ends(form: str) -> None:
    assert set(ENDS) <= set(FORMATS[form].events)
