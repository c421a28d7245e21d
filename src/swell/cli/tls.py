"""TLS of the HTTP service: certificates from files, or a self-signed one.

Source:
    RFC 9325 (recommendations for TLS), RFC 5280 (certificates).
"""

import asyncio
import contextlib
import hashlib
import ipaddress
import os
import signal
import socket
import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from swell.bootstrap.data_folder import self_signed_cert
from swell.cli.output import talk
from swell.core.clock import Clock
from swell.core.errors import InvalidRequest
from swell.server.headers import host_name
from swell.settings.backend_settings import ServerSettings
from swell.settings.load import Settings

if TYPE_CHECKING:
    from cryptography import x509

_log = structlog.get_logger("swell.tls")

#: Interval for checking the files for changes, in seconds.
_LOOK_S: Final = 5.0

#: Lifetime of a self-signed certificate, and time before its end at which it is replaced.
_LASTS: Final = timedelta(days=397)
_RENEWED_BEFORE: Final = timedelta(days=30)


class ServerTls:
    """A certificate in use.

    Args:
        cert: File of the certificate and its chain.
        key: File of its private key.
        is_self_signed: Whether Swell created the certificate.
    """

    def __init__(self, cert: Path, key: Path, *, is_self_signed: bool) -> None:
        self.cert = cert
        self.key = key
        self.is_self_signed = is_self_signed
        self.context = open_cert(cert, key)
        self._stamp = self._look()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, such as `AB:CD:…`."""
        pem = self.cert.read_text().partition("-----END CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert("".join(pem[:2]) + "\n")
        return hashlib.sha256(der).digest().hex(":").upper()

    async def watch(self, clock: Clock) -> None:
        """Load the files whenever they change; new connections use the new certificate."""
        while True:
            await clock.sleep(_LOOK_S)
            self.refresh()

    def refresh(self, *, is_asked: bool = False) -> bool:
        """Load the files if they have changed; return whether a new certificate is in use.

        Invalid files are ignored until they change again.

        Args:
            is_asked: Load them even if they have not changed.
        """
        stamp = self._look()
        if stamp == self._stamp and not is_asked:
            return False
        self._stamp = stamp
        try:
            # Try a new context first: a certificate without its key would break the one in use.
            open_cert(self.cert, self.key)
            self.context.load_cert_chain(self.cert, self.key, password="")
        except (InvalidRequest, OSError, ValueError) as error:
            _log.warning("the new certificate cannot be used", reason=str(error))
            return False
        _log.info("the certificate was read again", sha256=self.fingerprint)
        return True

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in (self.cert, self.key):
            with contextlib.suppress(OSError):
                seen = path.stat()
                found.append((seen.st_mtime_ns, seen.st_size, seen.st_ino))
        return tuple(found)


async def open_tls(settings: Settings, clock: Clock) -> ServerTls | None:
    """Return the configured certificate, or create a self-signed one; None without TLS.

    Raises:
        InvalidRequest: The files cannot be used, or the extra `tls` is not installed.
    """
    server = settings.server
    if server.tls_cert is not None and server.tls_key is not None:
        return ServerTls(server.tls_cert, server.tls_key, is_self_signed=False)
    if server.tls == "off":
        return None
    cert = self_signed_cert(settings)
    key = cert.with_name("key.pem")
    names = _names(server)
    await asyncio.to_thread(_ensure, cert, key, names, clock.now())
    return ServerTls(cert, key, is_self_signed=True)


def read_again_at_hangup(tls: ServerTls | None) -> None:
    """Load the certificate again at each SIGHUP, which would otherwise end the process."""

    def hang_up() -> None:
        if tls is None:
            _log.info("SIGHUP: there is no certificate to be read again")
        else:
            tls.refresh(is_asked=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)


def tell_fingerprint(tls: ServerTls | None) -> None:
    """Print the fingerprint of a self-signed certificate."""
    if tls is not None and tls.is_self_signed:
        talk.print(f"TLS for trials: trust {tls.cert}", markup=False, soft_wrap=True)
        talk.print(f"  SHA-256 {tls.fingerprint}", markup=False, soft_wrap=True)


def open_cert(cert: Path, key: Path) -> ssl.SSLContext:
    """Return a TLS context with a certificate.

    Raises:
        InvalidRequest: The certificate does not exist or is not PEM, or the key does not match it
            or has a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # The empty password prevents a prompt on the terminal.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InvalidRequest(
            f"the certificate {cert} with the key {key} cannot be used ({reason}): name a chain "
            "and its private key in PEM, without a password, with server.tls_cert and "
            "server.tls_key"
        ) from error
    return context


def _names(server: ServerSettings) -> list[str]:
    """Return the names for a self-signed certificate."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), *server.hosts]
    if server.host not in ("0.0.0.0", "::"):
        names.append(server.host)
    if server.public_url:
        names.append(host_name(server.public_url.partition("://")[2].partition("/")[0]) or "")
    return [name for name in dict.fromkeys(names) if name]


def _ensure(cert: Path, key: Path, names: Sequence[str], now: datetime) -> None:
    """Create a certificate unless there is a valid one for these names."""
    try:
        from cryptography import x509  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InvalidRequest(
            "server.tls = self-signed needs an extra: pip install 'swell[tls]', or "
            "name files with server.tls_cert and server.tls_key"
        ) from error
    if key.exists():
        with contextlib.suppress(OSError, ValueError, x509.ExtensionNotFound):
            known = x509.load_pem_x509_certificate(cert.read_bytes())
            alternatives = known.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            if (
                set(alternatives.value) >= set(_alternatives(names))
                and known.not_valid_after_utc - now > _RENEWED_BEFORE
                and known.not_valid_before_utc <= now
            ):
                return
    _make(cert, key, names, now)


def _alternatives(names: Sequence[str]) -> "list[x509.GeneralName]":
    from cryptography import x509  # noqa: PLC0415 - an extra

    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            # The machine's name may not be a valid host name; configured names are valid.
            with contextlib.suppress(UnicodeError):
                found.append(x509.DNSName(name.encode("idna").decode()))
    return found


def _make(cert: Path, key: Path, names: Sequence[str], now: datetime) -> None:
    from cryptography import x509  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509 import oid  # noqa: PLC0415

    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    name = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, "Swell, for trials")])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    # The certificate is its own authority, so clients that trust it trust no other one.
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LASTS)
        .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(private, hashes.SHA256())
    )
    cert.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(key, pem)
    _write(cert, made.public_bytes(serialization.Encoding.PEM))


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
