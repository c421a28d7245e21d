"""Packages of an image, pinned to the versions that are installed and tested on this machine."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final

from swell.runtime.pep723 import distribution

_EXTRAS: Final = re.compile(r"\s*[A-Za-z0-9._-]+\s*\[([^\]]*)\]")
_EXTRA: Final = re.compile(r"""extra\s*==\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(frozen=True, slots=True)
class Pins:
    """Requirements and constraints that pip installs into an image."""

    #: Requirements (PEP 508), sorted.
    requirements: tuple[str, ...]
    #: `name==version` of the requirements and all their dependencies, sorted.
    constraints: tuple[str, ...]
    #: Requested names that are not installed here.
    missing: tuple[str, ...] = ()
    #: Packages that were not installed from an index, but from a folder, for example: name → URL.
    #: An index may have a different package of the same name.
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether a distribution is a requirement or a dependency."""
        return any(distribution(each) == name for each in (*self.requirements, *self.constraints))


def pins(names: Iterable[str], extras: Iterable[str] = ()) -> Pins:
    """Pin Swell, some other packages, and their dependencies.

    Args:
        names: Other distributions that are installed here.
        extras: Extras of Swell, such as `buckets`.

    Raises:
        KeyError: Swell has no such extra.
    """
    chosen = set(extras)
    known = {each.lower() for each in metadata.metadata("swell").get_all("Provides-Extra") or ()}
    if unknown := chosen - known:
        raise KeyError(min(unknown))
    given = set(map(distribution, names))
    asked = {*_own("swell", chosen), *given}
    found: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    waiting = [(distribution(each), _extras(each)) for each in asked]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform, or another Python
        # A local version such as +cu128 names a device; the index may have other devices' builds.
        found[name] = version.partition("+")[0]
        if url := _direct_url(name):
            elsewhere[name] = url
        waiting += [(distribution(each), _extras(each)) for each in _requires(name, wanted)]
    return Pins(
        tuple(sorted(asked)),
        tuple(sorted(f"{name}=={found[name]}" for name in found)),
        tuple(sorted(given - found.keys())),
        elsewhere,
    )


def _direct_url(name: str) -> str:
    """Return the URL of a distribution that was not installed from an index; empty otherwise.

    Source: PEP 610.
    """
    said = metadata.distribution(name).read_text("direct_url.json")
    return str(json.loads(said).get("url", "")) if said else ""


def _own(name: str, extras: set[str]) -> Iterator[str]:
    """Yield the requirements of a distribution; extras that refer to itself are resolved."""
    for each in _requires(name, frozenset(extras)):
        bare = each.partition(";")[0].strip() if "extra" in each else each
        if distribution(bare) == name:
            yield from _own(name, set(_extras(bare)))
        else:
            yield bare


def _requires(name: str, extras: frozenset[str]) -> list[str]:
    """Return the requirements of a distribution with some of its extras."""
    lines = metadata.requires(name) or []
    wanted = {each.lower() for each in extras}
    return [
        line
        for line in lines
        if (found := _EXTRA.search(line)) is None or found[1].lower() in wanted
    ]


def _extras(requirement: str) -> frozenset[str]:
    found = _EXTRAS.match(requirement)
    return frozenset(each.strip() for each in found[1].split(",")) if found else frozenset()
