from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from container_cases import MARK, SLOW, Backend, Image
from container_rig import build, why_not

from commandline import Swell, ready_line, stop


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    if why := why_not():
        pytest.skip(why)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    swell = Swell(tmp_path)
    # A killed worker is noticed in seconds.
    (tmp_path / "swell.toml").write_text("[delivery]\nlease_s = 6\nheartbeat_s = 2\n")
    process = swell.start("serve", "--json", "--port", "0")
    ready = ready_line(process, tmp_path)
    made = swell.json("keys", "create", "worker", "--scope", "worker")
    found = Backend(swell, ready["url"], made["key"], tmp_path)
    try:
        yield found
    finally:
        for container in found.containers:
            container.remove()
        stop(process)


@pytest.fixture(scope="session")
def building(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Image]:
    """Builds images; pip is told something of this machine that must not get into them."""
    folder = tmp_path_factory.mktemp("building")

    def make(name: str, *arguments: str, place: Path | None = None) -> Image:
        tag = f"localhost/swell-test-{name}:latest"
        told = build(
            *arguments, "--tag", tag, folder=place or folder, PIP_TRUSTED_HOST=f"{MARK}.example"
        )
        return Image(tag, told, place or folder)

    return make


@pytest.fixture(scope="session")
def icons(building: Callable[..., Image]) -> Image:
    """An image of a model that comes with Swell, without its weights."""
    pytest.importorskip("swell_models")
    return building("icons", "swell/icons")


@pytest.fixture(scope="session")
def slow(building: Callable[..., Image], tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image of a model of one's own, in a folder with secrets."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(SLOW)
    (folder / "pace.py").write_text("TICK_S = 0.02\n")
    (folder / ".env").write_text(f"PASSWORD={MARK}")
    (folder / "notes.py").write_text(f"# {MARK}\n")
    return building("slow", "slow.py", place=folder)
