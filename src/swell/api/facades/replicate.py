"""Replicate's API (`/replicate/v1/…`): predictions, models, files over tasks, cards, uploads."""

from typing import Final

from swell.api.route import Route

__all__ = ["GROUPS", "ROUTES"]

#: Headings of the reference.
GROUPS: Final[dict[str, str]] = {}

ROUTES: Final[tuple[Route, ...]] = ()
