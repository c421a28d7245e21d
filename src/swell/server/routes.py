"""The whole HTTP surface: the operations that the handlers declare, in the order of the reference.

The application, OpenAPI (`openapi.py`) and the reference (`reference.py`, docs/reference/http.md)
are made from it, so they always agree.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from swell.compat import libretranslate
from swell.compat.fal import fal_requests
from swell.compat.openai import openai_images
from swell.compat.replicate import (
    replicate_deployments,
    replicate_files,
    replicate_models,
    replicate_predictions,
    replicate_streams,
)
from swell.server.admin import admin_routes, autoscaler_status
from swell.server.billing import cost_routes, quota_routes
from swell.server.evals import comparison_routes, create_comparison
from swell.server.files import file_routes
from swell.server.models import sample_routes, style_routes
from swell.server.rollouts import rollout_routes
from swell.server.route import Route, declared_in
from swell.server.shares import share_page, share_routes
from swell.server.tasks import admission, data_deletion, event_streams, like_routes, task_routes
from swell.server.web import pages
from swell.server.webhooks import webhook_routes
from swell.server.workers import (
    reported_files,
    startups,
    weight_routes,
    worker_leases,
    worker_registration,
    worker_reports,
)

#: Headings of the reference and tags of OpenAPI, with their descriptions.
GROUPS: Final = {
    "Tasks": "Create tasks, follow them, and read their results.",
    "Shares": "Links that show a task's pictures to people without a key.",
    "Models": "Served models, their inputs, versions and styles.",
    "Files": "Upload inputs and download outputs, by signed URLs that expire.",
    "Comparisons": "Compare models on the same input, vote blind, and rate them.",
    "Webhooks": "HTTP callbacks for tasks: standing webhooks, signatures, deliveries.",
    "Operators": "Queues, workers, dead letters, costs, quotas and keys; needs an `admin` key.",
    "Service": "Health, metrics and descriptions; needs no key.",
    "Workers": "The protocol of workers; needs a `worker` key.",
    "Replicate": "For Replicate's clients; see docs/clients.md. `/v1` may be left out, or doubled.",
    "OpenAI": "For OpenAI's clients, with `base_url` set to `/openai/v1`; see docs/clients.md.",
    "fal": "For fal's clients, with hosts set to `/fal/run` and `/fal/queue`; see docs/clients.md.",
    "LibreTranslate": "For LibreTranslate's clients, at `/libretranslate`; see docs/clients.md.",
}

#: The resource with which ids of operations begin, and a module of its handlers. Ids are
#: public: a resource keeps its name when a module is renamed. The order is that of the
#: reference.
_RESOURCES: Final = (
    ("tasks", task_routes),
    ("admission", admission),
    ("erasure", data_deletion),
    ("events", event_streams),
    ("favourites", like_routes),
    ("shares", share_routes),
    ("operators", admin_routes),
    ("gallery", sample_routes),
    ("adoption", rollout_routes),
    ("styles", style_routes),
    ("files", file_routes),
    ("comparing", create_comparison),
    ("comparisons", comparison_routes),
    ("webhooks", webhook_routes),
    ("startups", startups),
    ("scaling", autoscaler_status),
    ("costs", cost_routes),
    ("accounts", quota_routes),
    ("pages", pages),
    ("share_page", share_page),
    ("workers", worker_registration),
    ("workers", worker_leases),
    ("workers", worker_reports),
    ("workers", reported_files),
    ("weights", weight_routes),
    ("replicate_predictions", replicate_predictions),
    ("replicate_streams", replicate_streams),
    ("replicate_files", replicate_files),
    ("replicate_models", replicate_models),
    ("replicate_deployments", replicate_deployments),
    ("openai", openai_images),
    ("fal", fal_requests),
    ("libretranslate", libretranslate),
)

_GROUPS: Final = list(GROUPS)

#: Every operation; the first match of a path wins.
ROUTES: Final[tuple[Route, ...]] = tuple(
    sorted(
        (
            replace(each, operation_id=each.operation_id or f"{resource}_{each.handler.__name__}")
            for resource, module in _RESOURCES
            for each in declared_in(module.__name__)
        ),
        key=lambda each: _GROUPS.index(each.group),
    )
)


def served_routes(facades: Collection[str]) -> tuple[Route, ...]:
    """Return Swell's own operations and those of the compatible APIs that are on."""
    return tuple(route for route in ROUTES if not route.facade or route.facade in facades)
