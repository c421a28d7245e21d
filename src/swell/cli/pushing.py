"""`swell models push`: weights to where workers fetch them from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from swell.cli.added import ref_of
from swell.cli.fetching import cache_of, hub_of
from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import print_json, table, talk
from swell.clock import SystemClock
from swell.config import Settings, quieten_libraries
from swell.errors import InvalidRequest
from swell.weights.cache import NotCached, WeightCache
from swell.weights.listing import Listing
from swell.weights.pull import pull
from swell.weights.push import Pushed, PushProgress, push
from swell.weights.store import WeightStore
from swell.wiring import model_home, open_weights

__all__ = ["push_weights"]


def push_weights(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Weights that were pulled (owner/name@version), weights.toml, or a model as "
            "`swell build` takes it.",
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="file:PATH, s3://…, gs://… or az://…; else weights.url, or where files are kept.",
        ),
    ] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Push weights as chunks to where workers fetch them from, apart from images.

    Only chunks that are not there go up; a push that was broken off is run again. A version never
    changes: other weights are another version.
    """
    settings = settings_from(config, data).settings
    quieten_libraries()
    found = uvloop.run(_push_all(models, settings, to or ""))
    if as_json:
        print_json([_told(each) for each in found])
        return
    rows = [
        (
            f"{each.manifest.model}@{each.manifest.version}",
            f"{each.sent_chunks} ({each.sent_bytes / 1e6:,.1f} MB)",
            f"{each.there_chunks} ({each.there_bytes / 1e6:,.1f} MB)",
        )
        for each in found
    ]
    table(("VERSION", "CHUNKS SENT", "WERE THERE"), rows, empty="no weights")
    for each in found:
        pin = f'manifest = "sha256:{each.manifest.digest}"'
        talk.print(f"for weights.toml of {each.manifest.model}: {pin}", markup=False)


async def _push_all(models: Sequence[str], settings: Settings, to: str) -> list[Pushed]:
    store = open_weights(settings, SystemClock(), to)
    return [
        await _push(listing, paths, store)
        for model in models
        for listing, paths in await _named(model, settings)
    ]


async def _named(model: str, settings: Settings) -> list[tuple[Listing, Mapping[str, Path]]]:
    """Return which files a word means, and where they are."""
    cache = cache_of(settings)
    ref = ref_of(model, settings)
    if ref == model and model.endswith((".toml", ".json")):
        listing = await pull(model, cache, hub=hub_of(settings))
        return [(listing, _paths(listing, cache))]
    name, at, version = model.partition("@")
    if at or (ref == model and cache.versions(name)):
        listing = cache.listing(name, version or _only(name, cache))
        return [(listing, _paths(listing, cache))]
    found = list(_packed(ref, settings))
    if not found:
        raise InvalidRequest(
            f"{model} has no weights to push: it declares no files, or they are none of its own"
        )
    return found


def _paths(listing: Listing, cache: WeightCache) -> dict[str, Path]:
    if missing := cache.missing(listing):
        raise NotCached(f"{missing[0]} of {listing.model} is not in {cache.folder}: pull it again")
    return {name: cache.path(entry.sha256) for name, entry in listing.files.items()}


def _only(name: str, cache: WeightCache) -> str:
    versions = cache.versions(name)
    if len(versions) != 1:
        raise InvalidRequest(f"{name} was pulled in several versions: {', '.join(versions)}")
    return versions[0]


def _packed(ref: str, settings: Settings) -> Iterator[tuple[Listing, Mapping[str, Path]]]:
    """Yield what an image of a model would have of weights: see `swell build`."""
    # What looks at models' code is of no use to other commands.
    from swell.containers.building import Wanted, packed_of  # noqa: PLC0415

    packed = packed_of(Wanted([ref], model_home(settings, [ref]), ""))
    for listing in packed.listings:
        if listing.files:
            files = listing.files.items()
            yield listing, {name: packed.contents[entry.sha256] for name, entry in files}


async def _push(listing: Listing, paths: Mapping[str, Path], store: WeightStore) -> Pushed:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bars(*columns, TransferSpeedColumn(), console=talk, transient=True) as bars:
        bar = bars.add_task(escape(listing.model), total=None)

        def show(now: PushProgress) -> None:
            told = escape(f"{listing.model}: {now.doing}")
            bars.update(bar, description=told, completed=now.done_bytes, total=now.total_bytes)

        return await push(listing, paths, store, progress=show)


def _told(pushed: Pushed) -> dict[str, Any]:
    manifest = pushed.manifest
    return {
        "model": manifest.model,
        "version": manifest.version,
        "manifest": manifest.digest,
        "bytes": manifest.listing.size_bytes,
        "sent_chunks": pushed.sent_chunks,
        "sent_bytes": pushed.sent_bytes,
        "there_chunks": pushed.there_chunks,
        "there_bytes": pushed.there_bytes,
    }
