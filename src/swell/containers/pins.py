"""Packages of an image, pinned to the versions that are installed and tested on this machine."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from swell.core.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Pins:
    """Requirements and constraints that uv installs into an image."""

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
        return any(Requirement(each).name == name for each in self.requirements + self.constraints)


def pins(names: Iterable[str], extras: Iterable[str] = ()) -> Pins:
    """Pin Swell, some other packages, and their dependencies.

    Args:
        names: Other distributions that are installed here.
        extras: Extras of Swell, such as `buckets`.

    Raises:
        InvalidRequest: Swell has no such extra.
    """
    if unknown := set(extras) - set(metadata.metadata("swell").get_all("Provides-Extra") or ()):
        raise InvalidRequest(f"Swell has no extra {min(unknown)!r}: see --extra")
    given = {str(canonicalize_name(name)) for name in names}
    asked, found, elsewhere = set(given), dict[str, str](), dict[str, str]()
    waiting = [Requirement(f"swell[{','.join(extras)}]"), *map(Requirement, given)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        each = waiting.pop()
        name, wanted = canonicalize_name(each.name), frozenset(each.extras)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform, or another Python
        needed = list(_requires(installed, wanted))
        waiting += needed
        if name == "swell":
            asked.update(str(one) for one in needed if one.name != "swell")
            continue
        # A local version such as +cu128 names a device; the index may have other devices' builds.
        found[name] = installed.version.partition("+")[0]
        # Source: PEP 610.
        if url := json.loads(installed.read_text("direct_url.json") or "{}").get("url"):
            elsewhere[name] = url
    return Pins(
        tuple(sorted(asked)),
        tuple(sorted(f"{name}=={version}" for name, version in found.items())),
        tuple(sorted(given - found.keys())),
        elsewhere,
    )


def _requires(installed: metadata.Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    """Yield the requirements of a distribution with some of its extras, for this platform."""
    for each in map(Requirement, installed.requires or ()):
        marker, each.marker = each.marker, None
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield each
