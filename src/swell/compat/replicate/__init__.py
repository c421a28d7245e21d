"""Replicate's API below `/replicate/v1`, over tasks, model cards and uploads.

Source:
    https://replicate.com/docs/reference/http; replicate-python 1.0.7 and 2.0.0b4 and
    replicate-javascript 1.4.0, which are driven unmodified in tests/clients.
"""

from swell.compat.replicate import (
    replicate_deployments,
    replicate_files,
    replicate_models,
    replicate_predictions,
    replicate_streams,
)
from swell.compat.replicate.replicate_facade import replicate

__all__ = [
    "replicate",
    "replicate_deployments",
    "replicate_files",
    "replicate_models",
    "replicate_predictions",
    "replicate_streams",
]

# The order of the reference.
replicate.name_by_resource(
    {
        "predictions": replicate_predictions,
        "streams": replicate_streams,
        "files": replicate_files,
        "models": replicate_models,
        "deployments": replicate_deployments,
    }
)
