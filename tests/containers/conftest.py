import os
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from container_cases import MARK, SLOW, Backend, Image
from container_rig import build, podman, why_not

from commandline import Swell, ready_line, stop
from swell.containers.indexes import index_of


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


class _NoPackages(BaseHTTPRequestHandler):
    """An index that has nothing."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What pip is told on this machine, besides what it is told anyway: all of it is marked."""
    ca = tmp_path_factory.mktemp("ca") / "ca.crt"
    known = index_of(os.environ).ca or Path(ssl.get_default_verify_paths().openssl_cafile)
    ca.write_text(f"# {MARK}\n{known.read_text()}")
    with ThreadingHTTPServer(("127.0.0.1", 0), _NoPackages) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        extra = f"http://me:{MARK}@127.0.0.1:{server.server_port}/simple"
        proxies = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "127.0.0.1"
        yield {
            "PIP_EXTRA_INDEX_URL": " ".join([extra, *_of("PIP_EXTRA_INDEX_URL")]),
            "PIP_TRUSTED_HOST": " ".join([f"{MARK}.example", *_of("PIP_TRUSTED_HOST")]),
            "PIP_CERT": str(ca),
            "NO_PROXY": f"{proxies},{MARK}.example",
        }
        server.shutdown()
        thread.join()


def _of(name: str) -> list[str]:
    return os.environ.get(name, "").split()


@pytest.fixture(scope="session")
def building(
    tmp_path_factory: pytest.TempPathFactory, told: dict[str, str]
) -> Iterator[Callable[..., Image]]:
    """Builds images; pip is told something of this machine that must not get into them."""
    folder = tmp_path_factory.mktemp("building")
    tags: list[str] = []

    def make(name: str, *arguments: str, place: Path | None = None) -> Image:
        tag = f"localhost/swell-test-{name}:latest"
        tags.append(tag)
        made = build(*arguments, "--tag", tag, folder=place or folder, **told)
        return Image(tag, made, place or folder)

    yield make
    for tag in tags:
        # With the layers that it alone has.
        podman("rmi", "--force", tag)


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
