"""The whole HTTP surface: the operations that the handlers declare, in the order of the reference.

The application, OpenAPI (`openapi.py`) and the reference (`reference.py`, docs/reference/http.md)
are made from it, so they always agree.
"""

from collections.abc import Collection
from typing import Final

from swell.api import (
    accounts,
    admission,
    adoption,
    comparing,
    comparisons,
    costs,
    erasure,
    events,
    favourites,
    files,
    gallery,
    operators,
    pages,
    reported_files,
    scaling,
    share_page,
    shares,
    startups,
    styles,
    tasks,
    webhooks,
    weights,
    worker_leases,
    worker_registration,
    worker_reports,
)
from swell.api.facades.fal import fal
from swell.api.facades.libretranslate import libretranslate
from swell.api.facades.openai import openai
from swell.api.facades.replicate import replicate
from swell.api.route import Route, declared_in

#: The compatible APIs, in the order of the reference.
_FACADES: Final = (replicate, openai, fal, libretranslate)

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
    **{each.group: each.about for each in _FACADES},
}

#: The modules of handlers; their order is that of the reference.
_MODULES: Final = (
    tasks,
    admission,
    erasure,
    events,
    favourites,
    shares,
    operators,
    gallery,
    adoption,
    styles,
    files,
    comparing,
    comparisons,
    webhooks,
    startups,
    scaling,
    costs,
    accounts,
    pages,
    share_page,
    worker_registration,
    worker_leases,
    worker_reports,
    reported_files,
    weights,
)

_GROUPS: Final = list(GROUPS)

#: Every operation; the first match of a path wins.
ROUTES: Final[tuple[Route, ...]] = (
    *sorted(
        (each for module in _MODULES for each in declared_in(module.__name__)),
        key=lambda each: _GROUPS.index(each.group),
    ),
    *(route for facade in _FACADES for route in facade.routes),
)


def served_routes(facades: Collection[str]) -> tuple[Route, ...]:
    """Return Swell's own operations and those of the compatible APIs that are on."""
    return tuple(route for route in ROUTES if not route.facade or route.facade in facades)
