"""Webhooks of predictions: the bare prediction as the body, signed as Standard Webhooks."""

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

#: The name of this form of bodies.
FORMAT: Final = "replicate"

#: What clients may ask to be told → our events.
_EVENTS: Final[Mapping[str, Sequence[HookEvent]]] = {
    "start": ("started",),
    "output": ("artifact",),
    "logs": ("progress",),
    "completed": ("succeeded", "failed", "canceled", "expired"),
}

#: Unless said otherwise: new outputs, and the end.
_USUAL: Final = ("output", "completed")


def webhook_of(service: Service, call: Call, asked: ReplicatePredictionRequest) -> Webhook | None:
    """Return what is to be told of a new prediction; None for nothing.

    Raises:
        InvalidInput: The URL may not be called.
        Unavailable: This service sends no webhooks.
    """
    url, wanted = asked.webhook, asked.webhook_events_filter
    if not url:
        url, wanted = asked.webhook_completed, ["completed"]
    if not url:
        return None
    events = [event for each in wanted or _USUAL for event in _EVENTS[each]]
    request = WebhookRequest(url=url, events=list(dict.fromkeys(events)), format=FORMAT)
    return service.need_hooks().checked(request, service.base_url(call), "/webhook")


def hook_body(delivery: Delivery, task: Task, urls: UrlMaker) -> ReplicatePrediction:
    """Return the body of a delivery: the prediction as it was."""
    heard = []
    if delivery.event == "progress" and delivery.data is not None:
        heard = [msgspec.json.decode(delivery.data)]
    return prediction(task, urls, logs=logs_of(task, heard))
