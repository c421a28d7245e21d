"""Replicate's API below `/replicate/v1`, over tasks, model cards and uploads.

Source:
    https://replicate.com/docs/reference/http; replicate-python 1.0.7 and 2.0.0b4 and
    replicate-javascript 1.4.0, which are driven unmodified in tests/clients.
"""

from swell.api.facades.replicate import deployments, files, models, predictions, streams
from swell.api.facades.replicate.api import replicate

__all__ = ["deployments", "files", "models", "predictions", "replicate", "streams"]

# The order of the reference.
_RESOURCES = ("predictions", "streams", "files", "models", "deployments")
replicate.routes.sort(
    key=lambda route: _RESOURCES.index(route.handler.__module__.rpartition(".")[2])
)
