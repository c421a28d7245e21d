"""Adds the models of the data folder to the configured ones."""

from collections.abc import Callable
from pathlib import Path

from rich.markup import escape

from swell.cli.output import talk
from swell.core.errors import SwellError
from swell.diffusion.families.model_config import (
    Entry,
    added,
    check_files,
    check_name,
    find,
    name_of,
    read,
)
from swell.settings.load import Settings


def _warn(line: str) -> None:
    talk.print(f"[yellow]left out[/] {escape(line)}")


def with_added(settings: Settings, tell: Callable[[str], None] = _warn) -> Settings:
    """Return settings that also serve the models that were added to the data folder.

    Args:
        settings: Settings of the command.
        tell: Called with a message for each added model that is left out as invalid.
    """
    refs = [ref_of(ref, settings) for ref in settings.worker.models]
    optional = list(settings.worker.optional)
    if settings.worker.added:
        named = {Path(ref).resolve() for ref in refs}
        names: set[str] = set()
        for ref in added(settings.data_dir):
            if Path(ref) in named:
                continue
            try:
                entry = _checked(Path(ref), names)
            except Exception as error:  # files may hold anything
                tell(_told(Path(ref), error))
                continue
            names.add(entry.name)
            refs.append(ref)
            optional.append(ref)
    chosen = {"models": tuple(refs), "optional": tuple(optional)}
    worker = settings.worker.model_copy(update=chosen)
    return settings.model_copy(update={"worker": worker})


def _checked(path: Path, names: set[str]) -> Entry:
    """Read an entry, and check its files without loading the weights.

    Raises:
        Exception: The entry or a file is invalid.
    """
    # Imported here so that a worker without added models starts its model process sooner.
    from swell.sdk.model_loader import load_models  # noqa: PLC0415

    entry = read(path)
    check_name(entry.name)
    if entry.name in names:
        raise SwellError("another file in this folder has the same name in it")
    check_files(entry)
    load_models(str(path))
    return entry


def _told(path: Path, error: Exception) -> str:
    name = name_of(path)
    why = error.detail if isinstance(error, SwellError) else f"{type(error).__name__}: {error}"
    return (
        f"{name}, which was added: {why.removeprefix(f'{name}: ')} (put that right, or run "
        f"`swell models remove {name}`)"
    )


def ref_of(ref: str, settings: Settings) -> str:
    """Return a reference for `load_models`: the entry's path for an added model's name."""
    is_name = ref.count("/") == 1 and not ref.endswith((".py", ".toml"))
    path = find(settings.data_dir, ref.lower()) if is_name else None
    return ref if path is None else str(path.resolve())


def optional_names(settings: Settings) -> list[str]:
    """Return the names of added models that workers leave out if they cannot be loaded."""
    return [name_of(Path(ref)) for ref in settings.worker.optional if ref.endswith(".toml")]


def names_of(settings: Settings) -> list[str]:
    """Return the names of the models that workers serve, if their references contain them."""
    refs = settings.worker.models
    named = [ref for ref in refs if "/" in ref and not ref.endswith((".py", ".toml"))]
    return named + [read(Path(ref)).name for ref in refs if ref.endswith(".toml")]
