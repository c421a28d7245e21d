"""Opens the folders and buckets that hold files, pushed weights and compiled programs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from swell.bootstrap.extras import Unusable, installed, opening
from swell.bootstrap.storage import is_shared
from swell.core.clock import Clock
from swell.core.errors import InvalidRequest, Unavailable
from swell.core.redact import hide_secrets
from swell.settings.load import Settings
from swell.settings.storage_settings import BucketSettings

if TYPE_CHECKING:
    from swell.objects.bucket import BucketObjects
    from swell.objects.object_store import Objects, Secret
    from swell.weights.store import WeightStore

#: Age at which partial uploads in a shared folder are deleted: other backends may be writing them.
_INCOMING_S: Final = 24 * 3600.0


async def open_objects(settings: Settings, clock: Clock, secret: "Secret") -> "Objects":
    """Open the object store of `objects.url`.

    Args:
        settings: Its URL and credentials.
        clock: The time.
        secret: Signs URLs of the backend itself.

    Raises:
        InvalidRequest: The URL names no known adapter.
        Unusable: The folder or bucket cannot be used, or its client library is not installed.
    """
    url = _objects_url(settings)
    if url == "memory:":
        from swell.objects.folder import TemporaryObjects

        return TemporaryObjects(clock, secret)
    path = _path_of("objects.url", url)
    if path is not None:
        from swell.objects.folder import FolderObjects

        folder = FolderObjects(path, clock, secret)
        with opening(f"the folder {path}", "objects.url or data_dir"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            await folder.clear_incoming(older_s=_INCOMING_S if is_shared(settings) else 0.0)
        return folder
    bucket = _bucket(url, settings.objects, clock, secret)
    try:
        await bucket.prove_writable()
    except Unavailable as error:
        raise Unusable(
            f"the bucket {url} cannot be used ({error.detail}): make it, or correct objects.url "
            "and what opens it"
        ) from error
    return bucket


def _objects_url(settings: Settings) -> str:
    return settings.objects.url or f"file:{settings.data_dir / 'objects'}"


def _path_of(setting: str, url: str) -> Path | None:
    """Return the folder that a URL names; None for a bucket."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError:  # Such as a bracket that does not end.
        scheme = ""
    if scheme not in ("file", "s3", "gs", "az"):
        raise InvalidRequest(
            f"{setting} {url!r}: use file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "az://ACCOUNT/CONTAINER/PREFIX"
        )
    return Path(url.removeprefix("file:").removeprefix("//")) if scheme == "file" else None


def _bucket(url: str, settings: BucketSettings, clock: Clock, secret: "Secret") -> "BucketObjects":
    with installed("buckets", f"{urlsplit(url).scheme}://"):
        from swell.objects.bucket import BucketObjects
    return BucketObjects(url, settings, clock, secret)


def _weights_place(settings: Settings, url: str) -> tuple[str, Path | None, BucketSettings, str]:
    """Return the URL of pushed weights, its local folder, its settings, and the folder in it."""
    group: BucketSettings = settings.weights
    setting, folder = "--to" if url else "weights.url", ""
    url = url or settings.weights.url
    if not url:
        group, setting, folder = settings.objects, "objects.url", "weights"
        url = _objects_url(settings)
    root = _path_of(setting, url)
    return url, root and root.absolute(), group, folder


def open_weights(
    settings: Settings, clock: Clock, url: str = "", *, secret: "Secret | None" = None
) -> "WeightStore":
    """Return the store of pushed weights, without checking that it exists.

    Args:
        settings: Its URL and credentials.
        clock: The time.
        url: Its URL; empty for `weights.url`, or else `weights` in the object store.
        secret: Signs the URLs of a backend that serves a folder; None where no URL is needed.

    Raises:
        InvalidRequest: The URL names no known adapter.
        Unusable: Its client library is not installed.
    """
    from swell.weights.store import WeightStore

    url, root, group, folder = _weights_place(settings, url)
    signer = secret or os.urandom(32)
    if root is not None:
        from swell.objects.folder import FolderObjects

        return WeightStore(FolderObjects(root, clock, signer), folder)
    return WeightStore(_bucket(url, group, clock, signer), folder)


def weights_url(settings: Settings, url: str = "") -> str:
    """Return the full address of pushed weights, for people: without secrets.

    Args:
        settings: As for `open_weights`.
        url: As for `open_weights`.

    Raises:
        InvalidRequest: The URL names no known adapter.
    """
    url, root, group, folder = _weights_place(settings, url)
    base = url.rstrip("/") if root is None else f"file:{root}"
    address = "/".join(filter(None, (base, folder)))
    endpoint = group.endpoint if root is None else ""
    return hide_secrets(f"{address} at {endpoint}" if endpoint else address)


def compiled_folder(settings: Settings) -> Path:
    """Return the folder of compiled programs."""
    return settings.worker.compiled_dir or settings.data_dir / "compiled"
