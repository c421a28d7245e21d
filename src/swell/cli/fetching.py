"""Downloads added models from a hub into one folder per model, with links into the cache."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from swell.core.errors import SwellError
from swell.diffusion.families.model_config import Entry, added, path_of, read
from swell.diffusion.families.pipeline_folder import README, read_json, used_parts
from swell.settings.load import Settings
from swell.weights.cache import WeightCache
from swell.weights.download import HUB, Hub, pull
from swell.weights.weight_index import Listing

#: Files of a part other than weights.
_FILES: Final = ("*.json", "*.txt", "*.model")

#: Weights of a part in half and in full precision.
_HALF, _FULL = (
    tuple(
        f"{name}{precision}{end}"
        for name in ("model", "diffusion_pytorch_model")
        for end in (".safetensors", "-0*.safetensors")
    )
    for precision in (".fp16", "")
)


def hub_of(settings: Settings) -> Hub:
    """Return the hub of `hf:` references."""
    token = settings.worker.hub_token.get_secret_value()
    return Hub(settings.worker.hub_url.rstrip("/") or HUB.endpoint, token or None)


def cache_of(settings: Settings) -> WeightCache:
    """Return the weight cache of this machine."""
    folder = settings.worker.cache_dir or settings.data_dir / "weights"
    return WeightCache(folder, settings.worker.cache_bytes)


async def pull_model(
    reference: str, folder: Path, settings: Settings, dtype: str
) -> tuple[Path, Listing]:
    """Download the parts of a model into a folder, without the rest of its repository.

    Each part is downloaded in one precision. This is half precision if the repository has it,
    because it takes half the disk and time, or full precision for float32.

    Raises:
        InvalidModel: The repository is not a diffusers model.
        PullFailed, RefusedFormat, CacheFull: As `swell.weights.download.pull` does.
    """
    cache = cache_of(settings)

    async def bring(reference: str, include: list[str]) -> Listing:
        # The folder keeps the files; listings in the cache are only for `swell models pull`.
        with ExitStack() as held:
            found = await pull(reference, cache, include=include, hub=hub_of(settings), held=held)
            _unfold(cache, found, folder)
        return found

    index = await bring(reference, ["model_index.json"])
    # The branch may move during the download, so pin the commit.
    commit = f"hf:{index.model}@{index.version}"
    parts = used_parts(read_json(folder, "model_index.json"))
    include = [f"{part}/{each}" for part in parts for each in _FILES]
    include += ["model_index.json", README]
    listing = await bring(commit, include)
    # Some parts exist in one precision only, or have other file names.
    first, second = (_FULL, _HALF) if dtype == "float32" else (_HALF, _FULL)
    for names in (first, second, ("*.safetensors",)):
        bare = [part for part in parts if _has_no_weights(folder / part)]
        if bare:
            include += [f"{part}/{name}" for part in bare for name in names]
            listing = await bring(commit, include)
    return folder, listing


def _has_no_weights(part: Path) -> bool:
    return (part / "config.json").is_file() and not any(part.glob("*.safetensors"))


def _unfold(cache: WeightCache, listing: Listing, folder: Path) -> None:
    """Link the files of a listing into a folder, where the cache cannot evict them."""
    with cache.use(listing) as held:
        for name, path in held.paths.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(path, target)
            except OSError:  # another disk
                shutil.copyfile(path, target)


# --- folders of added models ---------------------------------------------------------------------


@contextmanager
def incoming(settings: Settings, name: str) -> Iterator[Path]:
    """Yield a temporary folder for a model's download; remove it at the end."""
    folder = _own(settings, name, "incoming")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(settings: Settings, name: str, fetched: Path) -> Path:
    """Move a download to the model's folder, replacing its old weights; return the folder."""
    added_ones = _entries(settings)
    others = [entry for entry in added_ones if entry.name != name]
    before = {Path(each.folder) for each in added_ones if each.name == name and _is_of_hub(each)}
    models = _models(settings)
    number, target = 1, next((each for each in before if each.parent == models), None)
    target = target or _own(settings, name)
    # Do not replace a folder that another model uses, or one that the user created.
    while any(_uses(entry, target) for entry in others) or (
        os.path.lexists(target) and target not in before
    ):
        number += 1
        target = _own(settings, name, str(number))
    shutil.rmtree(target, ignore_errors=True)
    fetched.rename(target)
    return target


def forget_weights(settings: Settings, entry: Entry) -> list[str]:
    """Delete the downloaded weights of a removed model, except those in use elsewhere.

    The user's own folders are never deleted.

    Returns:
        Other models that use the folder; it stays if there are any.
    """
    folder = Path(entry.folder)
    if not _is_of_hub(entry) or folder.parent != _models(settings) or not folder.is_dir():
        return []
    added_ones = _entries(settings)
    others = [each.name for each in added_ones if _uses(each, folder)]
    if others:
        return others
    cache = cache_of(settings)
    shared = _in_listings(cache)
    shared |= {content.sha256 for each in added_ones for content in each.weights.values()}
    linked = [
        content.sha256
        for name, content in entry.weights.items()
        if content.sha256 not in shared and _is_same(cache.path(content.sha256), folder / name)
    ]
    shutil.rmtree(folder)
    for digest in linked:
        # Another link to the file means that another added model uses it.
        with suppress(OSError):
            if cache.path(digest).stat().st_nlink == 1:
                cache.drop(digest)
    return []


def _in_listings(cache: WeightCache) -> set[str]:
    """Return the digests of all files that `swell models pull` has listed."""
    try:
        listings = cache.listings.all()
    except SwellError:
        # A listing is damaged, so keep every file of the cache.
        return {path.name for path in (cache.folder / "files").glob("??/*")}
    return {file.sha256 for each in listings for file in each.files.values()}


def _is_of_hub(entry: Entry) -> bool:
    """Whether the model was downloaded from a hub."""
    return bool(entry.asked or entry.source)


def _entries(settings: Settings) -> list[Entry]:
    found = []
    for ref in added(settings.data_dir):
        with suppress(SwellError):
            found.append(read(Path(ref)))
    return found


def _uses(entry: Entry, folder: Path) -> bool:
    extras = [entry.controlnet, entry.ip_adapter, entry.scenarios]
    files = [entry.folder, *extras, *(lora.file for lora in entry.loras)]
    return any(Path(each).is_relative_to(folder) for each in files if each)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _models(settings: Settings) -> Path:
    return path_of(settings.data_dir.resolve(), "a/b").parent


def _own(settings: Settings, name: str, mark: str = "") -> Path:
    """Return a folder of the model; the `@` before the mark cannot occur in names."""
    stem = path_of(settings.data_dir.resolve(), name).stem
    return _models(settings) / (f"{stem}@{mark}" if mark else stem)
