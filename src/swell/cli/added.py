"""What was added to the data folder is served beside what is named."""

from pathlib import Path

from swell.config import Settings
from swell.families.entries import added, read

__all__ = ["names_of", "with_added"]


def with_added(settings: Settings) -> Settings:
    """Return settings whose workers also serve what was added to the data folder."""
    if not settings.worker.added:
        return settings
    own = settings.worker.models
    refs = (*own, *(each for each in added(settings.data_dir) if each not in own))
    worker = settings.worker.model_copy(update={"models": refs})
    return settings.model_copy(update={"worker": worker})


def names_of(settings: Settings) -> list[str]:
    """Return the names of the models that workers serve, as far as references tell them."""
    refs = settings.worker.models
    named = [ref for ref in refs if "/" in ref and not ref.endswith((".py", ".toml"))]
    return named + [read(Path(ref)).name for ref in refs if ref.endswith(".toml")]
