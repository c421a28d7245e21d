"""Creates the provider of a pool from its name and options.

An adapter is imported only if a pool uses it, so that other pools do not need its libraries.
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
    """Module and classes of an adapter, and the extra that installs its library."""

    module: str
    provider: str
    options: str
    extra: str = ""


#: Adapters by name. `process` is missing: the settings create it.
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
        options: The pool's table of options.
        clock: The clock.
        deployment: Name of the deployment that owns the instances.
        where: Name of the table in the settings, for errors.
        spot: Default for `spot` in the table.

    Raises:
        InvalidRequest: The provider does not exist, an option is wrong, or a library is missing.
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
    """Return the options class of a provider.

    Raises:
        InvalidRequest: The provider does not exist, or its library is missing.
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
