"""NATS that lets in only who shows what it asks for, over TLS."""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conformance.external import QUEUE, a_ready_task, received
from servers import NatsServer
from swell.core.errors import Unavailable
from swell.net.nats_connection import NatsConnection
from swell.queues.nats_queue import NatsQueues


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 that has signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


class SecuredServer(NatsServer):
    """NATS with more settings."""

    def __init__(self, folder: Path, settings: str) -> None:
        super().__init__(folder)
        self._settings = settings

    def command(self) -> "list[str | Path]":
        command = list(super().command())
        config = self.folder / "nats.conf"
        config.write_text(config.read_text() + self._settings)
        return command


def address(server: NatsServer, opened: str, query: str = "", scheme: str = "nats") -> str:
    return f"{scheme}://{opened}127.0.0.1:{server.port}/t{secrets.token_hex(4)}{query}"


async def carries(url: str) -> bool:
    queues = NatsQueues(url)
    try:
        task = a_ready_task()
        async with asyncio.timeout(20):
            await queues.send(QUEUE, [task])
            (message,) = await received(queues, 1)
        return message.task_id == task.id
    finally:
        await queues.close()


async def test_a_user_over_tls_is_let_in_and_nobody_else(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    settings = (
        f'tls {{ cert_file: "{cert}", key_file: "{key}" }}\n'
        'authorization { user: "ann", password: "p@ss" }\n'
    )
    server = SecuredServer(tmp_path / "nats", settings)
    server.start()
    try:
        assert await carries(address(server, "ann:p%40ss@", f"?ca={cert}", "tls"))
        # Its certificate is trusted by nobody who was not told so.
        with pytest.raises(Unavailable):
            await carries(address(server, "ann:p%40ss@", scheme="tls"))
        with pytest.raises(Unavailable) as refused:
            await carries(address(server, "ann:wrong-one@", f"?ca={cert}", "tls"))
        assert "wrong-one" not in refused.value.detail
        assert "Authorization Violation" in refused.value.detail
    finally:
        server.kill()


async def test_a_server_that_is_silent_in_the_handshake_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def say_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload": 1024, "tls_required": true}\r\n')
        await reader.read(-1)
        writer.close()

    monkeypatch.setattr("swell.net.nats_connection.CONNECT_S", 0.5)
    async with await asyncio.start_server(say_hello, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = NatsConnection(f"tls://127.0.0.1:{port}/t")
        with pytest.raises(Unavailable):
            async with asyncio.timeout(10):
                await connection.client()
        await connection.close()


async def test_a_token_is_let_in(tmp_path: Path) -> None:
    server = SecuredServer(tmp_path / "nats", 'authorization { token: "open-sesame" }\n')
    server.start()
    try:
        assert await carries(address(server, "open-sesame@"))
        with pytest.raises(Unavailable) as refused:
            await carries(address(server, "close-sesame@"))
        assert "sesame" not in refused.value.detail
    finally:
        server.kill()
