"""Swell: serve open generative models to a crowd that may come overnight.

These names are what the author of a model needs, and the clients of a server. They are imported
when they are asked for: most processes of Swell hold no model, and pydantic and numpy take longer
to import than many a command takes to run.
"""

import sys
import types
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swell import ui
    from swell.client import AsyncClient, Client

    # `swell.model` is the decorator: import the module's other names as `from swell.model import …`
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
        Speed,
        StepModel,
        Video,
        model,
    )
    from swell.pipeline import Stage, pipeline

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
    "model",
    "pipeline",
    "ui",
]


class _Package(types.ModuleType):
    """This package, with names that are imported when they are asked for."""

    @property
    def model(self) -> Any:
        """The decorator."""
        return import_module("swell.model").model

    @model.setter
    def model(self, module: types.ModuleType) -> None:
        # Whoever imports a module sets it as an attribute of its package: here it stays the
        # decorator.
        pass

    @property
    def pipeline(self) -> Any:
        """The decorator."""
        return import_module("swell.pipeline").pipeline

    @pipeline.setter
    def pipeline(self, module: types.ModuleType) -> None:
        # As above.
        pass

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        found = import_module("swell.ui") if name == "ui" else _found(name)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


def _found(name: str) -> Any:
    places = {"AsyncClient": "swell.client", "Client": "swell.client", "Stage": "swell.pipeline"}
    return getattr(import_module(places.get(name, "swell.model")), name)


sys.modules[__name__].__class__ = _Package
