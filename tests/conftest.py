"""For all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from servers import AzuriteServer, GcsServer, MotoServer, NatsServer, PostgresServer, Server

if TYPE_CHECKING:
    from postgres_databases import PostgresDatabases

# A busy machine makes single examples slow; that is no failure. The timeout of pytest still holds.
hypothesis.settings.register_profile("swell", deadline=None)
hypothesis.settings.load_profile("swell")

# A shell has what it starts in the background ignore SIGINT, and so would what tests start in turn.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Fixtures that stand for a server of somebody else, however many others they come through.
_SERVERS = {"postgres_server", "nats_server", "moto_server", "gcs_server", "azurite_server"}

#: Folders whose tests share one service, or the images that they build: one process has them all.
_TOGETHER = {"clients", "containers"}


class _ByFile(LoadFileScheduling):
    """Gives a whole file to one process, or a whole folder of those."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        folder = PurePath(file).parent
        return str(folder) if folder.name in _TOGETHER else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    # xdist's own takes what is left.
    return _ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and _SERVERS & set(item.fixturenames):
            item.add_marker(pytest.mark.server)


def _served(server: Server) -> Iterator[Server]:
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL for all tests of this process; each takes a database of its own."""
    server = PostgresServer()
    server.start()
    yield server
    # Ended in order, it would first write hundreds of databases to the disk that nobody wants.
    server.kill()


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: PostgresServer) -> PostgresDatabases:
    """Makes databases with the whole schema, a fresh one for each test."""
    # The environment for torch has no driver of PostgreSQL, and no test there needs one.
    from postgres_databases import PostgresDatabases  # noqa: PLC0415 - see above

    return PostgresDatabases(postgres_server)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A NATS for all tests of this process; each takes names of its own."""
    yield from _served(NatsServer(tmp_path_factory.mktemp("nats")))


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An SQS and S3 for all tests of this process; each takes names of its own."""
    yield from _served(MotoServer(tmp_path_factory.mktemp("moto")))


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Google Cloud Storage for all tests of this process."""
    yield from _served(GcsServer(tmp_path_factory.mktemp("gcs")))


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An Azure Blob Storage for all tests of this process."""
    yield from _served(AzuriteServer(tmp_path_factory.mktemp("azurite")))
