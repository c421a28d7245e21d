"""Packages with the versions that are installed here, so that an image has what was tried here."""

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
    """What is installed into an image, for pip."""

    #: What is asked for (PEP 508), sorted.
    requirements: tuple[str, ...]
    #: `name==version` of these and of all that they need, sorted.
    constraints: tuple[str, ...]
    #: Names that were given, and are not installed here.
    missing: tuple[str, ...] = ()
    #: What was installed from elsewhere than an index, such as a folder: name → its URL.
    #: An index has another package of that name, or somebody else's, or none.
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether a distribution is among them."""
        return any(distribution(each) == name for each in (*self.requirements, *self.constraints))


def pins(names: Iterable[str], extras: Iterable[str] = ()) -> Pins:
    """Return what Swell and some packages beside it need.

    Args:
        names: Distributions that are installed here.
        extras: Of Swell, such as `buckets`.

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
        # Where a package was built for one kind of device, its index may have it for another.
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
    """Return where a distribution came from that is from no index; empty for others.

    Source: PEP 610.
    """
    said = metadata.distribution(name).read_text("direct_url.json")
    return str(json.loads(said).get("url", "")) if said else ""


def _own(name: str, extras: set[str]) -> Iterator[str]:
    """Yield what a distribution asks for; its own extras, which it may name itself, resolved."""
    for each in _requires(name, frozenset(extras)):
        bare = each.partition(";")[0].strip() if "extra" in each else each
        if distribution(bare) == name:
            yield from _own(name, set(_extras(bare)))
        else:
            yield bare


def _requires(name: str, extras: frozenset[str]) -> list[str]:
    """Return what a distribution asks for, with some of its extras."""
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
