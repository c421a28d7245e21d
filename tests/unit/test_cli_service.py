"""The backend in this process."""

from swell.cli.service import launchable_models
from swell.settings.load import Settings
from swell.settings.worker_settings import PoolSettings, WorkerSettings


def _settings(workers: int) -> Settings:
    models = ("demo/noop", "./poster.py", "package.module")
    return Settings(pool=PoolSettings(workers=workers), worker=WorkerSettings(models=models))


def test_a_backend_that_starts_workers_can_launch_the_models_it_knows_by_name() -> None:
    assert launchable_models(_settings(1)) == ["demo/noop"]


def test_a_backend_that_starts_no_workers_can_launch_nothing() -> None:
    assert launchable_models(_settings(0)) == []
