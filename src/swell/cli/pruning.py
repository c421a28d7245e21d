"""`swell models remove --unused`: deletes unused weights from the cache."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import typer

from swell.cli.fetching import cache_of
from swell.cli.output import print_json, seconds, table, talk
from swell.core.clock import SystemClock
from swell.diffusion.families.model_config import Entry, InvalidEntry, added, name_of, read
from swell.settings.load import Settings
from swell.weights.cache import WeightCache
from swell.weights.prune import Fate, Pruned, prune

#: A hundred years: no file is older.
_LONGEST_S: Final = 100 * 365.25 * 86400


def bounded(idle_s: float) -> float:
    """Return the seconds if they are not too long for a date."""
    if not idle_s <= _LONGEST_S:
        raise typer.BadParameter(f"give seconds, {_LONGEST_S:.0f} at most")
    return idle_s


def prune_weights(settings: Settings, idle_s: float, *, is_dry_run: bool, as_json: bool) -> None:
    """Remove files from the cache that no added model and no pulled listing names."""
    cache = cache_of(settings)
    before = SystemClock().now() - timedelta(seconds=idle_s)
    pruned = prune(cache, _named(settings, cache), before, is_dry_run=is_dry_run)
    if as_json:
        print_json(_told(pruned, cache, is_dry_run))
        return
    rows = [
        (pruned.names.get(entry.sha256), f"{entry.size_bytes:,}", entry.sha256[:12])
        for entry in pruned.contents
    ]
    if rows:
        table(("FILE", "BYTES", "SHA-256"), rows, empty="")
    for line in _lines(pruned, cache, idle_s, is_dry_run=is_dry_run):
        talk.print(line, markup=False)


def _lines(pruned: Pruned, cache: WeightCache, idle_s: float, *, is_dry_run: bool) -> Iterator[str]:
    """Yield lines that describe the changes of the cache."""
    goes = "would be removed" if is_dry_run else "removed"
    if pruned.partials:
        part = f"{_files(pruned.partials)} that came in part"
        yield f"{part}: {goes}, {pruned.partial_bytes:,} bytes"
    for each in pruned.listings:
        yield f"{each.model} {each.version} is not whole: what it names is {goes}"
    if Fate.IN_USE in pruned.kept:
        yield f"{_files(pruned.kept[Fate.IN_USE])} in use: kept"
    if Fate.RECENT in pruned.kept:
        recent = f"{_files(pruned.kept[Fate.RECENT])} used in the last {seconds(idle_s)}"
        yield f"{recent}: kept (less with --idle-s)"
    n = len(pruned.contents) + pruned.partials
    yield (
        f"{_files(n)} {goes}, {pruned.freed_bytes:,} bytes; {pruned.left_bytes:,} bytes "
        f"{'would stay' if is_dry_run else 'are left'} in {cache.folder}"
    )


def _files(n: int) -> str:
    return f"{n} file{'' if n == 1 else 's'}"


def _told(pruned: Pruned, cache: WeightCache, is_dry_run: bool) -> dict[str, object]:
    return {
        "folder": str(cache.folder),
        "dry_run": is_dry_run,
        "removed": [
            {
                "sha256": entry.sha256,
                "bytes": entry.size_bytes,
                "file": pruned.names.get(entry.sha256),
            }
            for entry in pruned.contents
        ],
        "listings": [f"{each.model} {each.version}" for each in pruned.listings],
        "partials": pruned.partials,
        "freed_bytes": pruned.freed_bytes,
        "left_bytes": pruned.left_bytes,
        "kept": {fate.value: n for fate, n in pruned.kept.items()},
    }


# --- files of added models -----------------------------------------------------------------------


def _named(settings: Settings, cache: WeightCache) -> set[str]:
    """Return the digests of the files of added models and of entries in the settings.

    Raises:
        NotFound, InvalidEntry: An entry cannot be read, so its files are unknown.
    """
    refs = {str(Path(ref).resolve()) for ref in settings.worker.models if ref.endswith(".toml")}
    named: set[str] = set()
    for ref in sorted({*added(settings.data_dir), *refs}):
        entry = _entry(Path(ref))
        named |= {content.sha256 for content in entry.weights.values()}
        named |= {lora.sha256 for lora in entry.loras}
        extras = (entry.controlnet, entry.ip_adapter, entry.scenarios)
        for place in (entry.folder, *extras, *(lora.file for lora in entry.loras)):
            if place:
                named |= _in_cache(Path(place), cache)
    return named


def _entry(path: Path) -> Entry:
    try:
        return read(path)
    except InvalidEntry as error:
        raise InvalidEntry(
            f"{error.detail}. Nothing was removed, since nobody knows which files it needs: put it "
            f"right, or run `swell models remove {name_of(path)}`"
        ) from None


def _in_cache(place: Path, cache: WeightCache) -> set[str]:
    """Return the digests of cached files that a path, or links in a folder, refer to."""
    contents = (cache.folder / "files").resolve()
    found = (each.resolve() for each in (place.rglob("*") if place.is_dir() else (place,)))
    return {each.name for each in found if each.is_relative_to(contents)}
