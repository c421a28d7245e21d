"""Webhooks of predictions: the prediction itself as the body, signed as Standard Webhooks."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from swell.api.call import Call
from swell.api.facades.replicate.messages import ReplicatePrediction, ReplicatePredictionRequest
from swell.api.facades.replicate.views import logs_of, prediction
from swell.api.messages import HookEvent, WebhookRequest
from swell.api.service import Service
from swell.api.views import UrlMaker
from swell.outbox import Delivery
from swell.task import Task
from swell.webhook import Webhook

#: The name of Replicate's format of webhooks.
FORMAT: Final = "replicate"

#: Events of a task by the names that clients filter with.
_EVENTS: Final[Mapping[str, Sequence[HookEvent]]] = {
    "start": ("started",),
    "output": ("artifact",),
    "logs": ("progress",),
    "completed": ("succeeded", "failed", "canceled", "expired"),
}

_DEFAULT: Final = ("output", "completed")


def webhook_of(service: Service, call: Call, asked: ReplicatePredictionRequest) -> Webhook | None:
    """Return the webhook of a new prediction; None without one.

    Raises:
        InvalidInput: The URL may not be called.
        Unavailable: This service sends no webhooks.
    """
    url, names = asked.webhook, asked.webhook_events_filter
    if not url:
        url, names = asked.webhook_completed, ["completed"]
    if not url:
        return None
    events = dict.fromkeys(event for name in names or _DEFAULT for event in _EVENTS[name])
    request = WebhookRequest(url=url, events=list(events), format=FORMAT)
    return service.need_hooks().checked(request, service.base_url(call), "/webhook")


def hook_body(delivery: Delivery, task: Task, urls: UrlMaker) -> ReplicatePrediction:
    """Return the body of a delivery: the prediction as it was then."""
    progress = []
    if delivery.event == "progress" and delivery.data is not None:
        progress = [msgspec.json.decode(delivery.data)]
    return prediction(task, urls, logs=logs_of(task, progress))
