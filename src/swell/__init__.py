"""Swell serves open generative models: HTTP API, durable queue, GPU workers and a web app.

These names are for authors of models and for clients of a server. Each is imported when it is first
used: most processes of Swell hold no model, and importing pydantic and numpy takes long.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swell.client import AsyncClient, Client
    from swell.core.records import Speed
    from swell.sdk import form_hints as ui
    from swell.sdk.context import Cancelled, Context, Item, Reject
    from swell.sdk.define import model
    from swell.sdk.media import Audio, File, Image, LoRA, Video, Within
    from swell.sdk.model import Batch, Model
    from swell.sdk.pipeline import Stage, pipeline
    from swell.sdk.step_model import Plan, Sampler, StepModel

_MODULES = {
    "swell.client": ("AsyncClient", "Client"),
    "swell.core.records": ("Speed",),
    "swell.sdk.context": ("Cancelled", "Context", "Item", "Reject"),
    "swell.sdk.define": ("model",),
    "swell.sdk.media": ("Audio", "File", "Image", "LoRA", "Video", "Within"),
    "swell.sdk.model": ("Batch", "Model"),
    "swell.sdk.pipeline": ("Stage", "pipeline"),
    "swell.sdk.step_model": ("Plan", "Sampler", "StepModel"),
}

__all__ = [
    "AsyncClient",
    "Audio",
    "Batch",
    "Cancelled",
    "Client",
    "Context",
    "File",
    "Image",
    "Item",
    "LoRA",
    "Model",
    "Plan",
    "Reject",
    "Sampler",
    "Speed",
    "Stage",
    "StepModel",
    "Video",
    "Within",
    "model",
    "pipeline",
    "ui",
]


def __getattr__(name: str) -> Any:
    if name == "ui":
        return import_module("swell.sdk.form_hints")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
