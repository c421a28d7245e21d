"""Swell: serve open generative models to a crowd that may come overnight.

These names are what the author of a model needs.
"""

from swell import ui

# `swell.model` is the decorator: import the module's other names as `from swell.model import …`.
from swell.model import (
    Audio,
    Batch,
    Cancelled,
    Context,
    File,
    Image,
    Item,
    LoRA,
    Model,
    Plan,
    Reject,
    Sampler,
    StepModel,
    Video,
    model,
)

__all__ = [
    "Audio",
    "Batch",
    "Cancelled",
    "Context",
    "File",
    "Image",
    "Item",
    "LoRA",
    "Model",
    "Plan",
    "Reject",
    "Sampler",
    "StepModel",
    "Video",
    "model",
    "ui",
]
