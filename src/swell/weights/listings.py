"""The listings of a cache: the files of each version that was downloaded."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from swell.core.errors import NotFound
from swell.weights.disk import write_whole
from swell.weights.weight_index import Listing


class NotCached(NotFound):
    """The cache lacks a file or a listing."""

    code, title = "not_cached", "Not in the cache of weights"


class Listings:
    """Listings by model and version.

    Args:
        folders: The cache, then read-only caches below it.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def get(self, model: str, version: str) -> Listing:
        """Return the files of a version.

        Raises:
            NotCached: It was never pulled here.
        """
        paths = [_path(folder, model, version) for folder in self._folders]
        path = next((each for each in paths if each.exists()), paths[0])
        try:
            return msgspec.json.decode(path.read_bytes(), type=Listing).check()
        except FileNotFoundError:
            raise NotCached(
                f"{model} at {version} is not in {self._folders[0]}: run swell models pull"
            ) from None
        except msgspec.DecodeError as error:
            raise NotCached(f"{path} is damaged ({error}): pull {model} again") from None

    def all(self) -> list[Listing]:
        """Return all listings, in order of model and version.

        Raises:
            NotCached: One is damaged.
        """
        found = {
            path.parts[-3:] for root in self._folders for path in root.glob("listings/*/*/*.json")
        }
        return [
            self.get(f"{owner}/{name}", file.removesuffix(".json"))
            for owner, name, file in sorted(found)
        ]

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model that were pulled, in order."""
        paths = (path for root in self._folders for path in root.glob(f"listings/{model}/*.json"))
        return sorted({path.stem for path in paths})

    def write(self, listing: Listing) -> None:
        """Write a listing; it replaces an older one of the same version.

        Raises:
            InvalidListing, RefusedFormat: It is invalid.
        """
        path = _path(self._folders[0], listing.check().model, listing.version)
        write_whole(path, msgspec.json.format(msgspec.json.encode(listing)))

    def remove(self, model: str, version: str) -> None:
        """Remove the listing of a version, and its folder of links."""
        _path(self._folders[0], model, version).unlink(missing_ok=True)
        shutil.rmtree(self._folders[0] / "folders" / model / version, ignore_errors=True)


def _path(folder: Path, model: str, version: str) -> Path:
    return folder / "listings" / model / f"{version}.json"
