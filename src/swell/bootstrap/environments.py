"""Chooses the Python that runs models: Swell's own, or that of an environment they need."""

from collections.abc import Callable, Sequence

from swell.core.errors import InvalidRequest
from swell.runtime.pep723 import parted
from swell.runtime.venvs import Environments, Home
from swell.settings.environment import process_environment
from swell.settings.load import Settings


def environments_of(settings: Settings) -> Environments:
    """Return the environments of models with their own requirements."""
    return Environments(
        settings.worker.environments_dir or settings.data_dir / "environments",
        process_environment(),
        settings.worker.wheels_dir,
    )


def model_home(
    settings: Settings, refs: Sequence[str], tell: Callable[[str], None] = lambda line: None
) -> Home:
    """Return the Python that runs these models; make its environment if necessary. Blocks.

    Args:
        settings: The folder of environments, and the source of packages.
        refs: Models, as `load_models` takes them.
        tell: Called with a line for people before a long step.

    Raises:
        InvalidRequest: The models need different environments.
        EnvironmentFailed: An environment cannot be made.
    """
    parts = parted(refs)
    if len(parts) > 1:
        commands = "; ".join(f"--models {','.join(part.refs)}" for part in parts)
        raise InvalidRequest(
            "these models need different environments, and a worker has one: start a worker or "
            f"build an image for each ({commands}), or use `swell up`, which starts a worker for "
            "each"
        )
    if not parts or not parts[0].needs:
        return Home()
    environments = environments_of(settings)
    python = environments.python(parts[0].needs, ", ".join(refs), tell)
    return Home(python, environments.variables(python))
