"""`swell doctor` tries every configured part, and says what to do where one fails."""

import json
import secrets
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from buckets import s3_bucket
from commandline import Swell, ready_line, stop
from servers import MotoServer, NatsServer, PostgresServer, free_port

#: Checks of this machine that no setting here changes.
MODELS = {"SWELL_WORKER__MODELS": "demo/upper"}


def findings(swell: Swell, *arguments: str, **variables: str) -> dict[str, Any]:
    done = swell.run("doctor", "--json", *arguments, **(MODELS | variables))
    found = {each["name"]: each for each in json.loads(done.stdout)}
    failed = [each["name"] for each in found.values() if each["grade"] == "fail"]
    assert done.returncode == (1 if failed else 0), done.stderr
    return found


def test_a_fresh_folder_is_fit_and_gets_no_database(swell: Swell) -> None:
    found = findings(swell)
    assert {each["grade"] for each in found.values()} <= {"ok", "warn"}
    assert found["store"]["grade"] == "ok"
    assert not (swell.folder / ".swell" / "swell.db").exists()


def test_a_database_that_nobody_has_open_is_tried_itself(swell: Swell) -> None:
    process = swell.start("serve", "--json", "--port", "0")
    ready_line(process, swell.folder)
    assert stop(process) == 0
    found = findings(swell)
    for name in ("store", "broker", "bus", "objects", "keys"):
        assert found[name]["grade"] == "ok", found[name]
    assert found["workers"]["grade"] == "warn"
    assert "swell worker" in found["workers"]["detail"]
    assert not list((swell.folder / ".swell" / "objects").rglob("*doctor*.bin"))


def test_a_backend_that_runs_is_asked(running: Swell) -> None:
    found = findings(running)
    for name in ("backend", "broker", "objects", "keys", "workers"):
        assert found[name]["grade"] == "ok", found[name]
    assert "1 live" in found["workers"]["detail"]
    # Whatever lies elsewhere is tried from here.
    found = findings(running, **_dead())
    assert found["queues"]["grade"] == "ok"
    for name in ("broker", "bus", "objects"):
        assert found[name]["grade"] == "fail", found[name]


def _dead() -> dict[str, str]:
    """Return settings of parts that nobody answers for."""
    nowhere = f"127.0.0.1:{free_port()}"
    return {
        "SWELL_BROKER__URL": f"nats://{nowhere}/doctor",
        "SWELL_BUS__URL": f"nats://{nowhere}",
        "SWELL_OBJECTS__URL": "s3://nothing-there",
        "SWELL_OBJECTS__ENDPOINT": f"http://{nowhere}",
        "SWELL_OBJECTS__REGION": "eu-west-1",
        "SWELL_OBJECTS__KEY_ID": "nobody",
        "SWELL_OBJECTS__SECRET": "nothing",
    }


def test_what_lies_elsewhere_is_tried_before_the_first_start(swell: Swell) -> None:
    found = findings(swell, **_dead())
    assert found["store"]["grade"] == "ok"
    for name in ("broker", "bus", "objects"):
        assert found[name]["grade"] == "fail", found[name]
    assert not (swell.folder / ".swell" / "swell.db").exists()


def test_a_collector_is_asked_with_the_headers_that_spans_come_with(swell: Swell) -> None:
    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200 if self.headers["x-auth"] == "mine" else 401)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = {"SWELL_TELEMETRY__ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        known = findings(swell, **url, OTEL_EXPORTER_OTLP_HEADERS="x-auth=mine")
        unknown = findings(swell, **url)
        server.shutdown()
    assert known["telemetry"]["grade"] == "ok"
    assert unknown["telemetry"]["grade"] == "warn"
    assert "401" in unknown["telemetry"]["detail"]


def test_lines_for_people_say_what_is_wrong_and_the_command_fails(swell: Swell) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    done = swell.run("doctor", **MODELS, SWELL_STORE__URL=nowhere)
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert "store" in line
    assert "127.0.0.1" in line
    assert "failed checks" in done.stderr
    assert any(line.startswith("ok ") for line in done.stdout.splitlines())


@pytest.mark.parametrize(("days", "grade"), [(-1, "fail"), (3, "warn"), (300, "ok")])
def test_a_certificate_is_judged_by_its_end(swell: Swell, days: int, grade: str) -> None:
    cert = a_certificate(swell.folder, days)
    assert findings(swell, **with_tls(cert))["tls"]["grade"] == grade


def test_a_certificate_is_judged_with_its_key_and_names(swell: Swell) -> None:
    cert, other = a_certificate(swell.folder, 300), a_certificate(swell.folder, 300, "other")
    missing = cert.with_suffix(".none")
    locked = cert.with_suffix(".locked")
    code = (
        "import sys\n"
        "from cryptography.hazmat.primitives import serialization as s\n"
        "key = s.load_pem_private_key(open(sys.argv[1], 'rb').read(), None)\n"
        "open(sys.argv[2], 'wb').write(key.private_bytes(s.Encoding.PEM,\n"
        "    s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b'word')))\n"
    )
    own = cert.with_suffix(".key")
    subprocess.run([sys.executable, "-c", code, str(own), str(locked)], check=True)
    for key in (other.with_suffix(".key"), missing, locked):
        found = findings(swell, **with_tls(cert, key))["tls"]
        assert found["grade"] == "fail", found
        assert str(key) in found["detail"]
    for public_url, grade in (("https://a.swell.test:8443", "ok"), ("https://elsewhere", "warn")):
        found = findings(swell, **with_tls(cert), SWELL_SERVER__PUBLIC_URL=public_url)["tls"]
        assert found["grade"] == grade, found
    assert "elsewhere" in found["detail"]
    own.chmod(0o644)
    found = findings(swell, **with_tls(cert))["tls"]
    assert found["grade"] == "warn"
    assert "chmod 600" in found["detail"]


def with_tls(cert: Path, key: Path | None = None) -> dict[str, str]:
    return {
        "SWELL_SERVER__TLS_CERT": str(cert),
        "SWELL_SERVER__TLS_KEY": str(key or cert.with_suffix(".key")),
    }


def a_certificate(folder: Path, days: int, name: str = "cert") -> Path:
    """Make one that ends in so many days."""
    cert = folder / f"{name}.pem"
    code = (
        "import datetime, sys\n"
        "from cryptography import x509\n"
        "from cryptography.hazmat.primitives import hashes, serialization\n"
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        "key = ec.generate_private_key(ec.SECP256R1())\n"
        "name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'swell.test')])\n"
        "now = datetime.datetime.now(datetime.UTC)\n"
        "until = now + datetime.timedelta(days=int(sys.argv[2]))\n"
        "made = (x509.CertificateBuilder().subject_name(name).issuer_name(name)\n"
        "    .public_key(key.public_key()).serial_number(1)\n"
        "    .not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(until)\n"
        "    .add_extension(x509.SubjectAlternativeName([x509.DNSName('swell.test'),\n"
        "        x509.DNSName('*.swell.test')]), critical=False)\n"
        "    .sign(key, hashes.SHA256()))\n"
        "open(sys.argv[1], 'wb').write(made.public_bytes(serialization.Encoding.PEM))\n"
        "open(sys.argv[3], 'wb').write(key.private_bytes(serialization.Encoding.PEM,\n"
        "    serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))\n"
    )
    key = cert.with_suffix(".key")
    key.touch(mode=0o600)
    words = [sys.executable, "-c", code, str(cert), str(days), str(key)]
    subprocess.run(words, check=True)
    return cert


def test_every_part_at_scale_is_tried_through_its_contract(
    swell: Swell, postgres_server: PostgresServer, nats_server: NatsServer, moto_server: MotoServer
) -> None:
    bucket = s3_bucket(moto_server)
    variables = {
        "SWELL_STORE__URL": a_database(postgres_server),
        "SWELL_BROKER__URL": f"{nats_server.url}/doctor-{secrets.token_hex(4)}",
        "SWELL_BUS__URL": nats_server.url,
        "SWELL_OBJECTS__URL": bucket.url,
        "SWELL_OBJECTS__ENDPOINT": bucket.access.endpoint,
        "SWELL_OBJECTS__REGION": bucket.access.region,
        "SWELL_OBJECTS__KEY_ID": bucket.access.key_id,
        "SWELL_OBJECTS__SECRET": bucket.access.secret.get_secret_value(),
    }
    found = findings(swell, **variables)
    for name in ("store", "broker", "bus", "objects"):
        assert found[name]["grade"] == "ok", found[name]
    assert "postgresql" in found["store"]["detail"]
    assert "an id went through a queue" in found["broker"]["detail"]
    assert "written and read by signed URLs" in found["objects"]["detail"]
    assert bucket.names() == []

    away = variables | {"SWELL_BROKER__URL": f"nats://127.0.0.1:{free_port()}/doctor"}
    found = findings(swell, **away)
    assert found["broker"]["grade"] == "fail"
    assert found["objects"]["grade"] == "ok"

    lost = variables | {"SWELL_OBJECTS__URL": f"s3://no-such-bucket-{secrets.token_hex(4)}"}
    done = swell.run("doctor", **(MODELS | lost))
    assert done.returncode == 1
    assert "FAIL" in done.stdout


def test_a_shared_database_is_not_changed_under_others(
    swell: Swell, postgres_server: PostgresServer
) -> None:
    url = a_database(postgres_server)
    variables = {"SWELL_STORE__URL": url}
    assert findings(swell, **variables)["store"]["grade"] == "ok"
    status = json.loads(swell.run("db", "--json", **variables).stdout)
    # As if an earlier schema had been applied, and not the newest.
    in_database(url, "UPDATE swell_migrations SET number = -1")
    lacking = json.loads(swell.run("db", "--json", **variables).stdout)
    assert lacking["missing"] != status["missing"]
    found = findings(swell, **variables)
    assert found["store"]["grade"] == "warn"
    assert "swell db --upgrade" in found["store"]["detail"]
    assert json.loads(swell.run("db", "--json", **variables).stdout) == lacking


def in_database(url: str, statement: str) -> None:
    code = (
        "import asyncio, asyncpg, sys\n"
        "async def run():\n"
        "    connection = await asyncpg.connect(sys.argv[1])\n"
        "    await connection.execute(sys.argv[2])\n"
        "    await connection.close()\n"
        "asyncio.run(run())\n"
    )
    subprocess.run([sys.executable, "-c", code, url, statement], check=True)


def a_database(server: PostgresServer) -> str:
    name = f"doctor_{secrets.token_hex(6)}"
    in_database(server.url, f"CREATE DATABASE {name}")
    return server.url_of(name)
