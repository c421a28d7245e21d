"""Webhooks of predictions: the bare prediction as the body, signed as Standard Webhooks."""

from typing import Final

import msgspec

from swell.api.call import Call
from swell.api.facades.replicate.messages import ReplicatePrediction, ReplicatePredictionRequest
from swell.api.facades.replicate.views import logs_of, prediction
from swell.api.service import Service
from swell.api.views import UrlMaker
from swell.outbox import Delivery
from swell.task import Task
from swell.webhook import ENDS, STARTED, Webhook

__all__ = ["FORMAT", "hook_body", "webhook_of"]

#: The name of this form of bodies.
FORMAT: Final = "replicate"

#: What clients may ask to be told → our events.
_EVENTS: Final = {
    "start": (STARTED,),
    "output": ("artifact",),
    "logs": ("progress",),
    "completed": ENDS,
}

#: Unless said otherwise: new outputs, and the end.
_USUAL: Final = ("output", "completed")


def webhook_of(service: Service, call: Call, asked: ReplicatePredictionRequest) -> Webhook | None:
    """Return what is to be told of a new prediction; None for nothing.

    Raises:
        InvalidInput: The URL may not be called.
    """
    url, wanted = asked.webhook, asked.webhook_events_filter
    if not url:
        url, wanted = asked.webhook_completed, ["completed"]
    if not url:
        return None
    events = [event for each in wanted or _USUAL for event in _EVENTS[each]]
    return Webhook(
        url=url,
        events=tuple(dict.fromkeys(events)),
        format=FORMAT,
        base=service.base_url(call),
    )


def hook_body(delivery: Delivery, task: Task, urls: UrlMaker) -> ReplicatePrediction:
    """Return the body of a delivery: the prediction as it was."""
    heard = []
    if delivery.event == "progress" and delivery.data is not None:
        heard = [msgspec.json.decode(delivery.data)]
    return prediction(task, urls, logs=logs_of(task, heard))
