"""The server of the app `multimodal`: its page, and Swell for whoever comes."""

from pathlib import Path

from front import Front, Served
from starlette.applications import Starlette

__all__ = ["app"]


def app(served: Served) -> Starlette:
    """Return the server; it needs nothing beyond what all fronts do."""
    return Front(served, Path(__file__).with_name("page"), ("multimodal/card",)).app
