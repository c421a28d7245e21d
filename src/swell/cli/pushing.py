"""`swell models push`: uploads weights to the store that workers download them from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvloop
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from swell.bootstrap.environments import model_home
from swell.bootstrap.objects import open_weights, weights_url
from swell.cli.added import ref_of
from swell.cli.fetching import cache_of, hub_of
from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import print_json, table, talk
from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidRequest
from swell.settings.environment import configure_libraries
from swell.settings.load import Settings
from swell.weights.cache import WeightCache
from swell.weights.download import pull
from swell.weights.manifest import manifest_digest, note_manifest
from swell.weights.push import Pushed, PushProgress, push
from swell.weights.weight_index import Entry, Listing, read_listing

#: Interval of progress lines without a terminal, in seconds.
_LINE_S: Final = 10.0


def push_weights(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Pulled weights (owner/name@version), weights.toml, or a model as `swell build` "
            "takes it.",
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="file:PATH, s3://…, gs://… or az://…; default weights.url, else objects.url.",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare stored files with their digests, and replace damaged ones.",
        ),
    ] = False,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Upload weights to the store that workers download them from.

    Only missing files are uploaded; run an interrupted push again. A version never changes: other
    weights under the same version are refused before anything is uploaded.
    """
    settings = settings_from(config, data).settings
    configure_libraries()
    where = weights_url(settings, to or "")
    talk.print(f"pushing to {where}", markup=False)
    try:
        found = uvloop.run(_push_all(models, settings, to or "", where, verify=verify))
    except KeyboardInterrupt:
        talk.print(
            f"interrupted. Uploaded files stay in {where}: run the same command to resume",
            markup=False,
        )
        raise
    if as_json:
        print_json([_told(each, where) for each in found])
        return
    rows = [_row(each) for each in found]
    columns = ("VERSION", "UPLOADED", "UNCHANGED", "REPAIRED")
    table(columns, rows, empty="no weights")
    for each in found:
        pin = f'manifest = "sha256:{manifest_digest(each.listing)}"'
        talk.print(f"for weights.toml of {each.listing.model}: {pin}", markup=False)


def _row(pushed: Pushed) -> tuple[str, str, str, int]:
    return (
        f"{pushed.listing.model}@{pushed.listing.version}",
        f"{pushed.sent_files} ({pushed.sent_bytes / 1e6:,.1f} MB)",
        f"{pushed.there_files} ({pushed.there_bytes / 1e6:,.1f} MB)",
        pushed.wrong_files,
    )


async def _push_all(
    models: Sequence[str],
    settings: Settings,
    to: str,
    where: str,
    *,
    verify: bool,
) -> list[Pushed]:
    clock = SystemClock()
    store = open_weights(settings, clock, to)
    done: list[Pushed] = []
    # Keep the files in the cache during the upload.
    with ExitStack() as held:
        for model in models:
            for listing, paths in await _named(model, settings, clock, held):
                with _shown(listing.model, clock) as show:
                    pushed = await push(listing, paths, store, verify=verify, progress=show)
                done.append(pushed)
                # `swell build --bake` on this machine reads the manifest.
                note_manifest(cache_of(settings), listing)
                talk.print(f"{listing.model}@{listing.version} is in {where}", markup=False)
    return done


async def _named(
    model: str, settings: Settings, clock: Clock, held: ExitStack
) -> list[tuple[Listing, Mapping[str, Path]]]:
    """Return the listings of an argument, with the paths of their files."""
    cache = cache_of(settings)
    ref = ref_of(model, settings)
    if ref == model and model.endswith((".toml", ".json")):
        return [await _listed(Path(model), settings, clock, held)]
    name, at, version = model.partition("@")
    if at or (ref == model and cache.listings.versions(name)):
        listing = cache.listings.get(name, version or _only(name, cache))
        return [(listing, held.enter_context(cache.use(listing)).paths)]
    found = list(_packed(ref, settings))
    if not found:
        raise InvalidRequest(
            f"{model} has no weights to push: it declares no files, or they are none of its own"
        )
    return found


async def _listed(
    path: Path, settings: Settings, clock: Clock, held: ExitStack
) -> tuple[Listing, Mapping[str, Path]]:
    """Return an author's listing with local paths; pull files that are not on this machine."""
    cache, wanted = cache_of(settings), read_listing(path)
    if not wanted.files:
        # The listing names only a manifest, so take the files from the cache.
        listing = cache.listings.get(wanted.model, wanted.version)
        return listing, held.enter_context(cache.use(listing)).paths
    places = {name: Path(file.source) for name, file in wanted.files.items()}
    if not all(place.is_file() for place in places.values()):
        with _shown(wanted.model, clock) as show:
            listing = await pull(
                str(path),
                cache,
                hub=hub_of(settings),
                progress=lambda now: show(
                    PushProgress(f"pulling {now.name}", now.done_bytes, now.total_bytes or 0)
                ),
            )
        return listing, held.enter_context(cache.use(listing)).paths
    entries = {
        name: Entry(file.sha256 or "", places[name].stat().st_size)
        for name, file in wanted.files.items()
    }
    return Listing(wanted.model, wanted.version, entries), places


def _only(name: str, cache: WeightCache) -> str:
    versions = cache.listings.versions(name)
    if len(versions) != 1:
        raise InvalidRequest(f"{name} was pulled in several versions: {', '.join(versions)}")
    return versions[0]


def _packed(ref: str, settings: Settings) -> Iterator[tuple[Listing, Mapping[str, Path]]]:
    """Yield the weights that `swell build` would list for a model."""
    # Imported here because other commands do not need it.
    from swell.containers.building import Wanted, packed_of  # noqa: PLC0415

    packed = packed_of(Wanted([ref], model_home(settings, [ref])))
    for listing in packed.listings:
        if listing.files:
            files = listing.files.items()
            yield listing, {name: packed.contents[entry.sha256] for name, entry in files}


@contextmanager
def _shown(model: str, clock: Clock) -> Iterator[Callable[[PushProgress], None]]:
    """Yield a function that shows progress as a bar, or as lines without a terminal."""
    if not talk.is_terminal:
        last_s = clock.monotonic_s()

        def write(now: PushProgress) -> None:
            nonlocal last_s
            if clock.monotonic_s() - last_s >= _LINE_S:
                last_s = clock.monotonic_s()
                far = f"{now.done_bytes / 1e6:,.0f} of {now.total_bytes / 1e6:,.0f} MB"
                talk.print(f"{model}: {now.doing}, {far}", markup=False)

        yield write
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bars(*columns, TransferSpeedColumn(), console=talk, transient=True) as bars:
        bar = bars.add_task(escape(model), total=None)

        def show(now: PushProgress) -> None:
            told = escape(f"{model}: {now.doing}")
            bars.update(bar, description=told, completed=now.done_bytes, total=now.total_bytes)

        yield show


def _told(pushed: Pushed, where: str) -> dict[str, Any]:
    return {
        "model": pushed.listing.model,
        "version": pushed.listing.version,
        "to": where,
        "manifest": manifest_digest(pushed.listing),
        "bytes": pushed.listing.size_bytes,
        "sent_files": pushed.sent_files,
        "sent_bytes": pushed.sent_bytes,
        "there_files": pushed.there_files,
        "there_bytes": pushed.there_bytes,
        "wrong_files": pushed.wrong_files,
    }
