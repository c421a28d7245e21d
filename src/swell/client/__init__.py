"""Swell's client for Python: `Client`, and `AsyncClient` for programs with an event loop.

    with swell.Client() as client:
        task = client.run("swell/icons", {"prompt": "a red fox in the snow"})
        client.save(task)

Both have the same methods, each written once. Each name is imported at its first use, because
commands need only some of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swell.client.asynchronous import Asked, AsyncClient, Degrade
    from swell.client.blocking import Client
    from swell.client.errors import NoServer, Refused, TaskEnded, Unreachable
    from swell.client.messages import (
        Artifact,
        Change,
        Estimate,
        Eta,
        Event,
        Model,
        Problem,
        Refusal,
        Stage,
        Task,
        TaskWarning,
    )

__all__ = [
    "Artifact",
    "Asked",
    "AsyncClient",
    "Change",
    "Client",
    "Degrade",
    "Estimate",
    "Eta",
    "Event",
    "Model",
    "NoServer",
    "Problem",
    "Refusal",
    "Refused",
    "Stage",
    "Task",
    "TaskEnded",
    "TaskWarning",
    "Unreachable",
]

_PLACES = {
    "Asked": "asynchronous",
    "AsyncClient": "asynchronous",
    "Client": "blocking",
    "Degrade": "asynchronous",
    "NoServer": "errors",
    "Refused": "errors",
    "TaskEnded": "errors",
    "Unreachable": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"swell.client.{_PLACES.get(name, 'messages')}"), name)
