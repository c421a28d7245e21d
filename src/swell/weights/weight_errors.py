"""Errors of weight files."""

from swell.core.errors import InvalidRequest


class RefusedFormat(InvalidRequest):
    """A file that Swell does not open, and what to do instead."""

    code, title = "refused_format", "This format is not opened"


class BrokenWeights(InvalidRequest):
    """A file of weights is not what its format asks for."""

    code, title = "broken_weights", "These weights cannot be read"
