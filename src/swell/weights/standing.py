"""What a version is already where weights are pushed to, and whether these are the same.

It is looked at twice: before anything is read, when the files' digests tell, and before anything
goes up, when those of the chunks do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from swell.core.errors import Conflict, NotFound
from swell.weights.chunks import Manifest
from swell.weights.listing import InvalidListing, Listing
from swell.weights.store import WeightStore

#: So many differences are named.
_MOST_TOLD: Final = 10

#: Digits of a digest that tell two apart for people.
_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Standing:
    """What a version is already.

    Args:
        told: `owner/name@version`.
        digest: Which manifest it is; None where it was not pushed yet.
        manifest: What that says; None where it cannot be read any more.
    """

    told: str
    digest: str | None = None
    manifest: Manifest | None = None

    def agree(self, made: Manifest) -> Manifest:
        """Return the manifest to publish, of weights that may be pushed as this version.

        Raises:
            Conflict: They may not.
        """
        if self.manifest is not None:
            differ = list(_chunks(made, self.manifest))
            if differ:
                raise Conflict(
                    f"{self.told} was pushed with the same files, and its manifest there is wrong "
                    f"about their chunks ({_some(differ)}): {_another(self.told)}"
                )
            return self.manifest
        if self.digest is not None and self.digest != made.digest:
            raise Conflict(
                f"{self.told} was pushed as the manifest {self.digest}, which cannot be read there "
                f"any more, and these weights make the manifest {made.digest}: "
                f"{_another(self.told)}"
            )
        return made


async def standing_of(listing: Listing, store: WeightStore) -> Standing:
    """Return what a version is already.

    Raises:
        Conflict: Its files are others.
        InvalidListing: What is there under its name is none of ours.
        Unavailable: The store does not answer.
    """
    told = f"{listing.model}@{listing.version}"
    digest = await store.pinned(listing.model, listing.version)
    if digest is None:
        return Standing(told)
    try:
        manifest = await store.manifest(listing.model, listing.version, digest)
    except (NotFound, InvalidListing):
        # It is written anew, if it is the manifest of these weights.
        return Standing(told, digest)
    differ = list(_files(listing, manifest))
    if differ:
        raise Conflict(
            f"{told} was pushed with other weights, and a version never changes "
            f"({_some(differ)}): {_another(told)}"
        )
    return Standing(told, digest, manifest)


def _another(told: str) -> str:
    model, _, version = told.partition("@")
    return (
        "push these as another version, such as "
        f'`version = "{version}-2"` for {model} in a weights.toml'
    )


def _files(listing: Listing, there: Manifest) -> Iterator[str]:
    for name in sorted({*listing.files, *there.files}):
        if name not in there.files:
            yield f"{name} is not in it"
        elif name not in listing.files:
            yield f"{name} is only there"
        elif listing.files[name].sha256 != there.files[name].sha256:
            ours, theirs = listing.files[name].sha256, there.files[name].sha256
            yield f"{name} is {_short(ours)} here and {_short(theirs)} there"


def _chunks(made: Manifest, there: Manifest) -> Iterator[str]:
    for name, file in sorted(made.files.items()):
        pairs = zip_longest(file.chunks, there.files[name].chunks, fillvalue="none")
        for number, (ours, theirs) in enumerate(pairs, 1):
            if ours != theirs:
                yield f"chunk {number} of {name} is {_short(ours)} here and {_short(theirs)} there"


def _short(digest: str) -> str:
    return f"{digest[:_DIGITS]}…" if len(digest) > _DIGITS else digest


def _some(differ: list[str]) -> str:
    more = len(differ) - _MOST_TOLD
    return ", ".join(differ[:_MOST_TOLD]) + (f", and {more} more" if more > 0 else "")
