"""Providers by their names, as pools name them, with the options that each has.

An adapter is imported when a pool names it, so that nobody needs the libraries of others.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from swell.core.clock import Clock
from swell.core.errors import InvalidRequest
from swell.core.provider import Provider
from swell.providers.options import NAME, Options, checked


class _Kind(NamedTuple):
    """Where an adapter is, and what brings the library that it needs."""

    module: str
    provider: str
    options: str
    extra: str = ""


#: Adapters by the names that pools give; `process` is made from settings, and not here.
KINDS: Final[Mapping[str, _Kind]] = {
    "container": _Kind("swell.providers.container", "ContainerProvider", "ContainerOptions"),
    "aws": _Kind("swell.providers.aws", "AwsProvider", "AwsOptions", "aws"),
    "gcp": _Kind("swell.providers.gcp", "GcpProvider", "GcpOptions", "gcp"),
    "azure": _Kind("swell.providers.azure", "AzureProvider", "AzureOptions"),
    "kubernetes": _Kind(
        "swell.providers.kubernetes", "KubernetesProvider", "KubernetesOptions", "kubernetes"
    ),
    "external": _Kind("swell.providers.external", "ExternalProvider", "ExternalOptions"),
    "skypilot": _Kind("swell.providers.skypilot", "SkypilotProvider", "SkypilotOptions"),
}


def provider_of(
    name: str,
    options: Mapping[str, Any],
    clock: Clock,
    *,
    deployment: str,
    where: str = "options",
    spot: bool = False,
) -> Provider:
    """Return the provider of a pool.

    Args:
        name: One of `KINDS`.
        options: The pool's own table.
        clock: The time.
        deployment: Whose instances these are; others in the same cloud have another name.
        where: How the table is called where it was written, for errors.
        spot: Whether machines may be taken back, where the table does not say it.

    Raises:
        InvalidRequest: There is no such provider, an option is wrong, or a library is missing.
    """
    if not NAME.fullmatch(deployment):
        raise InvalidRequest(
            f"{deployment[:80]!r} cannot be the name of a deployment: use up to 40 lower-case "
            "letters, digits and hyphens"
        )
    kind = _kind(name)
    module = _imported(name, kind)
    told = dict(options)
    accepts: type[Options] = getattr(module, kind.options)
    if spot and "spot" in accepts.model_fields:
        told.setdefault("spot", True)
    made: Provider = getattr(module, kind.provider)(
        checked(accepts, told, where), clock, deployment
    )
    return made


def options_of(name: str) -> type[Options]:
    """Return which options a provider has.

    Raises:
        InvalidRequest: There is no such provider, or its library is missing.
    """
    kind = _kind(name)
    found: type[Options] = getattr(_imported(name, kind), kind.options)
    return found


def _kind(name: str) -> _Kind:
    if name in KINDS:
        return KINDS[name]
    there = ["process", *KINDS]
    close = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(there)}"
    raise InvalidRequest(f"there is no provider {name[:60]!r}: {hint}")


def _imported(name: str, kind: _Kind) -> Any:
    try:
        return importlib.import_module(kind.module)
    except ModuleNotFoundError as error:
        if not kind.extra or (error.name or "").startswith("swell"):
            raise
        raise InvalidRequest(
            f"the provider {name} needs {error.name}, which is not installed: "
            f"pip install 'swell[{kind.extra}]'"
        ) from error
