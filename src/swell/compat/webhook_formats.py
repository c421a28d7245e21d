"""All formats of webhook bodies. A compatible API adds its format here."""

from collections.abc import Mapping
from typing import Final

from swell.compat.fal.fal_results import FORMAT as FAL
from swell.compat.fal.fal_results import hook_body as fal_body
from swell.compat.fal.fal_results import hook_headers as fal_headers
from swell.compat.replicate.replicate_views import FORMAT as REPLICATE
from swell.compat.replicate.replicate_views import hook_body as replicate_body
from swell.core.webhook import ENDS, NATIVE
from swell.server.webhooks.webhook_bodies import BodyFormat, native

#: Formats by name.
FORMATS: Final[Mapping[str, BodyFormat]] = {
    NATIVE: BodyFormat(native),
    REPLICATE: BodyFormat(replicate_body),
    FAL: BodyFormat(fal_body, events=ENDS, headers=fal_headers),
}
