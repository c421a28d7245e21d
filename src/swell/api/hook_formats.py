"""All formats of webhook bodies. A compatible API adds its format here."""

from collections.abc import Mapping
from typing import Final

from swell.api.facades import fal
from swell.api.facades.fal_webhooks import FalSeal
from swell.api.facades.replicate.webhooks import FORMAT as REPLICATE
from swell.api.facades.replicate.webhooks import hook_body as replicate_body
from swell.api.hook_bodies import Form, SealOf, native
from swell.webhook import ENDS, NATIVE

#: Formats by name.
FORMATS: Final[Mapping[str, Form]] = {
    NATIVE: Form(native),
    REPLICATE: Form(replicate_body),
    fal.FORMAT: Form(fal.hook_body, events=ENDS),
}

#: Additional signatures by name of the format.
SEALS: Final[Mapping[str, SealOf]] = {fal.FORMAT: FalSeal}
