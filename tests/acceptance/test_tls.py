"""The service over TLS: with a certificate for trials, and with one from files."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop
from postgres_databases import PostgresDatabases

BODY = {"model": "demo/upper", "input": {"text": "a"}}


@dataclass(frozen=True)
class Running:
    """A service, and how to trust it."""

    swell: Swell
    url: str
    key: str
    trust: ssl.SSLContext
    process: "subprocess.Popen[str]"

    @property
    def place(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return parts.hostname, parts.port or 443

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(self.place, timeout=PATIENCE_S)
        return (context or self.trust).wrap_socket(plain, server_hostname=self.place[0])

    def asked_of(self) -> tuple[str, int]:
        """Return which process answers a new connection, and the number of its certificate."""
        with self.connect() as wire:
            wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            status, headers, _ = _answer(wire)
            der = wire.getpeercert(binary_form=True)
        assert status == 200
        assert der is not None
        # The first ten digits of a request's id are its process's.
        return headers["x-request-id"][:14], x509.load_der_x509_certificate(der).serial_number

    def request(self, body: Any, *, path: str = "/v1/tasks") -> bytes:
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {urlsplit(self.url).netloc}\r\n"
            f"Authorization: Bearer {self.key}\r\nPrefer: wait=30\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


def _answer(wire: ssl.SSLSocket) -> tuple[int, dict[str, str], bytes]:
    with wire.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers.get("content-length", 0)))


@contextlib.contextmanager
def _run(folder: Path, ca_file: Path, *words: str, **settings: str) -> Iterator[Running]:
    swell = Swell(folder)
    with (folder / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "swell", *words, "--json", "--port", "0"],
            cwd=folder,
            env=clean_environment() | settings,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        ready = ready_line(process, folder)
        trust = ssl.create_default_context(cafile=str(ca_file))
        yield Running(swell, ready["url"], ready["key"], trust, process)
    finally:
        assert stop(process) == 0, (folder / "stderr.txt").read_text()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`swell up` with a certificate for trials and one worker."""
    folder = tmp_path_factory.mktemp("trial")
    cert = folder / ".swell" / "tls" / "cert.pem"
    words = ("up", "-m", "demo/*")
    with _run(folder, cert, *words, SWELL_SERVER__TLS="self-signed") as running:
        yield running


# ---- for trials


def test_commands_and_workers_trust_a_certificate_for_trials(running: Running) -> None:
    assert running.url.startswith("https://127.0.0.1:")
    task_id = running.swell.ok("tasks", "submit", "demo/upper", "-i", "text=by tls").strip()
    running.swell.ok("tasks", "watch", task_id)
    assert running.swell.json("tasks", "show", task_id)["output"] == "BY TLS"


def test_files_go_up_and_down_over_tls(running: Running) -> None:
    with running.connect() as wire:
        body = {"model": "demo/echo-picture", "input": {"prompt": "a", "width": 600, "height": 600}}
        wire.sendall(running.request(body))
        status, _, data = _answer(wire)
    task = json.loads(data)
    assert (status, task["state"]) == (201, "succeeded"), task
    artifact = task["artifacts"][0]
    assert artifact["url"].startswith(running.url)
    with urllib.request.urlopen(artifact["url"], context=running.trust, timeout=60) as answer:
        assert len(answer.read()) == artifact["bytes"]


def test_the_key_is_for_nobody_else_and_its_fingerprint_is_told(running: Running) -> None:
    folder = running.swell.folder / ".swell" / "tls"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("cert.pem", "key.pem"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    cert = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    told = (running.swell.folder / "stderr.txt").read_text()
    assert cert.fingerprint(hashes.SHA256()).hex(":").upper() in told


def test_whoever_was_not_told_does_not_trust_it(running: Running) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        running.connect(ssl.create_default_context())
    refused = running.swell.run(
        "keys", "ls", "--data", "elsewhere", SWELL_URL=running.url, SWELL_KEY=running.key
    )
    assert refused.returncode == 1
    cert = str(running.swell.folder / ".swell" / "tls" / "cert.pem")
    trusted = running.swell.run(
        *("keys", "ls", "--data", "elsewhere"),
        SWELL_URL=running.url,
        SWELL_KEY=running.key,
        SWELL_CLIENT__CA_FILE=cert,
    )
    assert trusted.returncode == 0, trusted.stderr


def test_a_worker_elsewhere_trusts_it_by_its_file(running: Running) -> None:
    key = running.swell.json("keys", "create", "far", "--scope", "worker")["key"]
    cert = running.swell.folder / ".swell" / "tls" / "cert.pem"
    words = ["worker", "--url", running.url, "--models", "demo/upper", "--name", "far"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "swell", *words],
        cwd=running.swell.folder,
        env=clean_environment() | {"SWELL_WORKER__TOKEN": key, "SWELL_WORKER__CA_FILE": str(cert)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until(lambda: "far" in [w["name"] for w in running.swell.json("workers")])
    finally:
        worker.terminate()
        assert worker.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_what_is_older_than_tls_1_2_is_refused(running: Running, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = version
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionError)):
        running.connect(context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(running: Running, version: ssl.TLSVersion) -> None:
    cert = running.swell.folder / ".swell" / "tls" / "cert.pem"
    context = ssl.create_default_context(cafile=str(cert))
    context.minimum_version = context.maximum_version = version
    with running.connect(context) as wire:
        assert wire.version() == version.name.replace("_", ".")


def test_the_short_way_works_in_pieces_again_and_pipelined(running: Running) -> None:
    request = running.request(BODY)
    with running.connect() as wire:
        for at in range(0, len(request), 11):
            wire.sendall(request[at : at + 11])
        assert json.loads(_answer(wire)[2])["output"] == "A"
        wire.sendall(request)
        status, headers, body = _answer(wire)
        assert (status, json.loads(body)["output"]) == (201, "A")
        assert headers["location"].startswith(running.url)
        long = {**BODY, "input": {"text": "long " * 60_000}}
        wire.sendall(running.request(long))
        assert json.loads(_answer(wire)[2])["output"].startswith("LONG ")


def test_a_client_that_closes_its_direction_breaks_nothing(running: Running) -> None:
    before = (running.swell.folder / "stderr.txt").read_text()
    for cut in (5, 60, len(running.request(BODY))):
        wire = running.connect()
        wire.sendall(running.request(BODY)[:cut])
        with contextlib.suppress(OSError):
            wire.unwrap()
        wire.close()
    with running.connect() as wire:
        wire.sendall(running.request(BODY))
        assert _answer(wire)[0] == 201
    after = (running.swell.folder / "stderr.txt").read_text()
    assert "Traceback" not in after[len(before) :]
    assert "no effect when using ssl" not in after[len(before) :]


def test_plain_http_is_not_answered(running: Running) -> None:
    with socket.create_connection(running.place, timeout=PATIENCE_S) as plain:
        plain.sendall(running.request(BODY))
        with contextlib.suppress(ConnectionError):
            assert not plain.recv(100).startswith(b"HTTP/1.1 2")


def test_a_certificate_for_trials_asks_no_browser_to_insist(running: Running) -> None:
    with running.connect() as wire:
        wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert "strict-transport-security" not in _answer(wire)[1]


# ---- from files


class Authority:
    """Signs certificates, as somebody's own would."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ca.pem"
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ours")])
        made = self._build(self.name, self.key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        usage = x509.KeyUsage(*(True, False, False, False, False, True, True, False, False))
        made = made.add_extension(usage, critical=True)
        self.cert = self._sign(made)
        self.file.write_bytes(self.cert.public_bytes(serialization.Encoding.PEM))

    def issue(self, cert: Path, key: Path) -> int:
        """Write a certificate for 127.0.0.1 and its key; return its number."""
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        names = [x509.IPAddress(IPv4Address("127.0.0.1"))]
        made = self._sign(
            self._build(subject, own)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        pem = own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        for path, data in (
            (cert, made.public_bytes(serialization.Encoding.PEM)),
            (key, pem),
        ):
            path.with_suffix(".tmp").write_bytes(data)
            os.replace(path.with_suffix(".tmp"), path)
        return made.serial_number

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        public = self.key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False
            )
        )

    def _sign(self, made: x509.CertificateBuilder) -> x509.Certificate:
        return made.sign(self.key, hashes.SHA256())


def test_a_certificate_from_files_is_used_and_read_again_when_it_changes(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first = authority.issue(cert, key)
    settings = {"SWELL_SERVER__TLS_CERT": str(cert), "SWELL_SERVER__TLS_KEY": str(key)}
    with _run(tmp_path, authority.file, "serve", **settings) as running:

        def number() -> int:
            with running.connect() as wire:
                der = wire.getpeercert(binary_form=True)
            assert der is not None
            return x509.load_der_x509_certificate(der).serial_number

        assert number() == first
        with running.connect() as wire:
            wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert _answer(wire)[1]["strict-transport-security"] == "max-age=31536000"
            # What is broken changes nothing; nobody is asked for a password.
            cert.write_text("broken")
            _until(lambda: "cannot be used" in (tmp_path / "stderr.txt").read_text())
            assert number() == first
            second = authority.issue(cert, key)
            _until(lambda: number() == second)
            # Who was there before stays.
            wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert _answer(wire)[0] == 200


def test_sighup_has_a_certificate_read_again_at_once_and_ends_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    authority.issue(cert, key)
    settings = {"SWELL_SERVER__TLS_CERT": str(cert), "SWELL_SERVER__TLS_KEY": str(key)}
    with _run(tmp_path, authority.file, "serve", **settings) as running:

        def hang_up(said: str) -> None:
            before = (tmp_path / "stderr.txt").read_text().count(said)
            running.process.send_signal(signal.SIGHUP)
            _until(lambda: (tmp_path / "stderr.txt").read_text().count(said) > before)

        # Asked for, it is told also where nothing has changed.
        hang_up("the certificate was read again")
        second = authority.issue(cert, key)
        running.process.send_signal(signal.SIGHUP)
        _until(lambda: running.asked_of()[1] == second)
        key.write_text("broken")
        hang_up("the new certificate cannot be used")
        assert running.asked_of()[1] == second


def test_sighup_ends_no_service_without_a_certificate(swell: Swell) -> None:
    process = swell.start("serve", "--json", "--port", "0")
    try:
        ready_line(process, swell.folder)
        process.send_signal(signal.SIGHUP)
        log = swell.folder / "stderr.txt"
        _until(lambda: "there is no certificate to be read again" in log.read_text())
    finally:
        assert stop(process) == 0


# ---- by several processes


def test_processes_on_one_port_share_a_certificate_for_trials(
    tmp_path: Path, postgres_databases: PostgresDatabases
) -> None:
    store_url = asyncio.run(postgres_databases.new())
    ca_file = tmp_path / ".swell" / "tls" / "cert.pem"
    settings = {"SWELL_STORE__URL": store_url, "SWELL_SERVER__TLS": "self-signed"}
    with _run(tmp_path, ca_file, "serve", "--workers", "2", **settings) as running:
        assert running.url.startswith("https://127.0.0.1:")
        cert = x509.load_pem_x509_certificate(ca_file.read_bytes())
        _until(lambda: len({running.asked_of() for _ in range(20)}) == 2)
        assert {running.asked_of()[1] for _ in range(20)} == {cert.serial_number}
        told = (tmp_path / "stderr.txt").read_text()
        assert cert.fingerprint(hashes.SHA256()).hex(":").upper() in told
        assert running.swell.json("keys", "ls"), "commands beside the folder trust it"


def test_processes_on_one_port_take_a_new_certificate_and_no_broken_one(
    tmp_path: Path, postgres_databases: PostgresDatabases
) -> None:
    store_url = asyncio.run(postgres_databases.new())
    authority = Authority(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first = authority.issue(cert, key)
    log = tmp_path / "stderr.txt"
    settings = {
        "SWELL_STORE__URL": store_url,
        "SWELL_SERVER__TLS_CERT": str(cert),
        "SWELL_SERVER__TLS_KEY": str(key),
    }
    with _run(tmp_path, authority.file, "serve", "--workers", "2", **settings) as running:

        def seen() -> set[tuple[str, int]]:
            told = {running.asked_of() for _ in range(20)}

            def are_both() -> bool:
                told.add(running.asked_of())
                return len({name for name, _ in told}) >= 2

            # While one of them has no turn, the other one answers all.
            _until(are_both)
            return told

        before = seen()
        assert {number for _, number in before} == {first}
        # One of them is asked by itself, as by a tool that looks for the name.
        members = psutil.Process(running.process.pid).children()
        second = authority.issue(cert, key)
        for member in members:
            member.send_signal(signal.SIGHUP)
        _until(lambda: {number for _, number in seen()} == {second})
        assert {name for name, _ in seen()} <= {name for name, _ in before}, "the same processes"
        # A broken one keeps new processes from starting: the old ones keep running.
        cert.write_text("broken")
        running.process.send_signal(signal.SIGHUP)
        _until(lambda: "the old ones keep running" in log.read_text())
        assert "broken" not in log.read_text()
        assert "cert.pem" in log.read_text()
        assert {number for _, number in seen()} == {second}
        assert {each.pid for each in members} <= {
            each.pid for each in psutil.Process(running.process.pid).children()
        }
        third = authority.issue(cert, key)
        running.process.send_signal(signal.SIGHUP)
        _until(lambda: "all backend processes were replaced" in log.read_text())
        assert {number for _, number in seen()} == {third}
        assert not {name for name, _ in seen()} & {name for name, _ in before}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SWELL_SERVER__TLS_CERT": "none.pem"}, "server.tls_key"),
        (
            {"SWELL_SERVER__TLS_CERT": "none.pem", "SWELL_SERVER__TLS_KEY": "none.pem"},
            "none.pem",
        ),
    ],
)
def test_a_certificate_that_cannot_be_used_says_so(
    swell: Swell, settings: dict[str, str], said: str
) -> None:
    done = swell.run("serve", "--port", "0", **settings)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def _until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends, "it was not so in a minute"
        time.sleep(0.1)
