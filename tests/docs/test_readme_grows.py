"""The commands of README.md for many machines: shared servers, several backends, a worker."""

import asyncio
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from buckets import s3_bucket
from commandline import Swell, ready_line, stop
from pages import Reader, block
from postgres_databases import PostgresDatabases
from servers import Server


@dataclass(frozen=True)
class Grown:
    """A folder with the settings of README.md, and what is of these servers and not of the page."""

    swell: Swell
    variables: dict[str, str]

    def does(self, line: str, *instead: tuple[str, str]) -> str:
        return Reader(self.swell.folder, self.variables).does(line, *instead).stdout


@pytest.fixture
def grown(
    tmp_path: Path,
    postgres_databases: PostgresDatabases,
    moto_server: Server,
    nats_server: Server,
) -> Grown:
    bucket = s3_bucket(moto_server)
    settings = block("README.md", "postgresql://swell@db.internal/swell", "toml")
    for there, here in (
        ("postgresql://swell@db.internal/swell", asyncio.run(postgres_databases.empty())),
        ("s3://pictures/swell", bucket.url),
        ("nats://nats.internal:4222", nats_server.url),
    ):
        assert there in settings
        settings = settings.replace(there, here)
    (tmp_path / "swell.toml").write_text(settings)
    variables = {
        "SWELL_OBJECTS__ENDPOINT": str(bucket.access.endpoint),
        "SWELL_OBJECTS__REGION": str(bucket.access.region),
        "SWELL_OBJECTS__KEY_ID": str(bucket.access.key_id),
        "SWELL_OBJECTS__SECRET": bucket.access.secret.get_secret_value(),
    }
    return Grown(Swell(tmp_path), variables)


@pytest.mark.timeout(180)
def test_backends_and_a_worker_on_shared_servers_run_a_task(grown: Grown) -> None:
    install, upgrade, serve, doctor = block("README.md", "swell db --upgrade", "sh").splitlines()
    assert "pip install" in install  # the environment has it already
    create = "swell keys create gpus --scope worker"
    assert create in block("README.md", "swell worker --url", "sh")
    grown.does(upgrade)
    words = shlex.split(serve.replace("0.0.0.0", "127.0.0.1"), comments=True)[1:]
    backends = grown.swell.start(*words, "--json", "--port", "0", **grown.variables)
    try:
        url = ready_line(backends, grown.swell.folder)["url"]
        looked = grown.does(doctor)
        assert all(part in looked for part in ("store", "broker", "objects"))
        key = grown.does(create).strip()
        elsewhere = Swell(grown.swell.folder / "elsewhere")
        elsewhere.folder.mkdir()
        told = {"SWELL_WORKER__URL": url, "SWELL_WORKER__TOKEN": key}
        worker = elsewhere.start("worker", "-m", "demo/upper", **told)
        try:
            asked = "swell tasks submit demo/upper -i text=grown --watch"
            assert "GROWN" in grown.does(f"until {asked}; do :; done")
        finally:
            assert stop(worker) == 0, (elsewhere.folder / "stderr.txt").read_text()
    finally:
        assert stop(backends) == 0, (grown.swell.folder / "stderr.txt").read_text()
