"""All formats of webhook bodies. A compatible API adds its format here."""

from collections.abc import Mapping
from typing import Final

from swell.api.facades.fal.results import FORMAT as FAL
from swell.api.facades.fal.results import FalSeal
from swell.api.facades.fal.results import hook_body as fal_body
from swell.api.facades.replicate.views import FORMAT as REPLICATE
from swell.api.facades.replicate.views import hook_body as replicate_body
from swell.api.hook_bodies import Form, SealOf, native
from swell.webhook import ENDS, NATIVE

#: Formats by name.
FORMATS: Final[Mapping[str, Form]] = {
    NATIVE: Form(native),
    REPLICATE: Form(replicate_body),
    FAL: Form(fal_body, events=ENDS),
}

#: Additional signatures by name of the format.
SEALS: Final[Mapping[str, SealOf]] = {FAL: FalSeal}
