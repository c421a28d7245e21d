"""Errors of adapters that need an optional package, or cannot open their resource."""

import contextlib
from collections.abc import Iterator

from swell.core.errors import InvalidRequest, SwellError


class Unusable(InvalidRequest):
    """A folder or file that a setting names cannot be used; the text says what to do."""

    code, title = "unusable", "A setting names what cannot be used"


@contextlib.contextmanager
def installed(extra: str, setting: str) -> Iterator[None]:
    """Turn a missing module into an error that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("swell"):
            raise
        raise Unusable(
            f"{setting} needs {error.name}, which is not installed: pip install 'swell[{extra}]'"
        ) from error


@contextlib.contextmanager
def opening(what: str, setting: str) -> Iterator[None]:
    """Turn any exception of an adapter's library into an error that names the setting."""
    try:
        yield
    except SwellError:
        raise
    except Exception as error:
        raise Unusable(
            f"{what} cannot be opened ({error}): repair it, or choose another one with {setting}"
        ) from error
