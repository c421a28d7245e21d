import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from weights_harness import RANGE

import swell.weights.store_download as fetching
from swell.weights.cache import WeightCache
from weight_server import WeightServer, weight_server


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Have torch use one: small networks are the fastest so, whoever else is at work."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def container_engine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A `docker` on the path, for tests that open a container pool and start nothing in it."""
    program = tmp_path_factory.mktemp("engine") / "docker"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have weights come in small ranges, and failures be retried at once."""
    monkeypatch.setattr(fetching, "RANGE_BYTES", RANGE)
    monkeypatch.setattr(fetching, "SYNC_BYTES", RANGE)
    monkeypatch.setattr(fetching, "WAIT_S", 0.001)


@pytest.fixture
def server() -> Iterator[WeightServer]:
    """A server of pushed weights."""
    with weight_server() as made:
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    """An empty cache of weights."""
    return WeightCache(tmp_path / "cache")
