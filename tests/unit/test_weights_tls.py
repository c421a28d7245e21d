"""Weights over TLS, from servers whose certificate is trusted."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from weights_harness import NAME, RANGE, pushed, write

from swell.cli.tls import _ensure, open_cert
from swell.core.clock import SystemClock
from swell.weights.cache import PullFailed, WeightCache
from swell.weights.store_download import fetch
from weight_server import WeightServer, hold, weight_server

pytestmark = pytest.mark.usefixtures("small_ranges")


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A certificate for trials, and a context that trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    _ensure(cert, key, ["127.0.0.1"], SystemClock().now())
    return open_cert(cert, key), ssl.create_default_context(cafile=str(cert))


@pytest.fixture
def server(trial: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[WeightServer]:
    with weight_server(trial[0]) as made:
        made.trust = trial[1]
        yield made


async def test_weights_come_over_tls_from_a_server_that_is_trusted(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    await fetch(listing, cache, server, SystemClock())
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()
    assert set(server.asked.values()) == {1}


async def test_nothing_is_asked_of_a_server_that_is_not_trusted(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    server.trust = None
    with pytest.raises(PullFailed, match="CERTIFICATE_VERIFY_FAILED"):
        await fetch(pushed(server, write(tmp_path / NAME)), cache, server, SystemClock())
    assert not server.asked


@pytest.mark.slow
async def test_a_tls_connection_that_keeps_still_is_given_up(
    server: WeightServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.weights.store_reader.STALL_S", 0.4)
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    server.tricks[2 * RANGE] = hold(server)
    await fetch(listing, cache, server, SystemClock())
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()
