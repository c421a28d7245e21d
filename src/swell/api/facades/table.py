"""The façades' rows of the route table, in the order of the reference."""

from typing import Final

from swell.api.facades import fal, fal_webhooks, libretranslate, openai, replicate
from swell.api.route import Route

#: Headings of the reference and tags of OpenAPI, with what they hold.
FACADE_GROUPS: Final[dict[str, str]] = {
    **replicate.GROUPS,
    **openai.GROUPS,
    **fal.GROUPS,
    **libretranslate.GROUPS,
}

#: Every operation of every façade.
FACADE_ROUTES: Final[tuple[Route, ...]] = (
    *replicate.ROUTES,
    *openai.ROUTES,
    *fal.ROUTES,
    *fal_webhooks.ROUTES,
    *libretranslate.ROUTES,
)
