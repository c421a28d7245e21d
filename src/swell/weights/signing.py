"""Keys that sign what was compiled, and those by which a worker believes a signature (Ed25519).

A private key lies in a file of PEM (PKCS #8) that nobody but its user can read; a public key is a
word, `ed25519:` and 43 characters. The library is an extra, `swell[compiled]`, so that this module
is imported by those alone who sign, or were told whom to believe.

Source:
    RFC 8032, Ed25519; RFC 8410, its keys in PKCS #8.
"""

import base64
import binascii
import contextlib
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swell.core.errors import Conflict, InvalidRequest

_KIND: Final = "ed25519:"
_PUBLIC_BYTES: Final = 32

#: A file of one key has some 120 bytes; more is none.
_MOST_BYTES: Final = 4096

#: Rights of others to the file of a private key.
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class SigningKey:
    """A private key. What it is appears in no text of it.

    Args:
        private: The key.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        raw = private.public_key().public_bytes_raw()
        #: The public key, as workers are told it.
        self.public: Final = _KIND + base64.urlsafe_b64encode(raw).decode().rstrip("=")
        #: What tells its signatures from those of others.
        self.id: Final = _id(raw)

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message, 64 bytes."""
        return self._private.sign(message)


class Trusted:
    """Public keys whose signatures count; several, so that one can follow another.

    Args:
        words: As `SigningKey.public` gives them.

    Raises:
        InvalidRequest: One of them is none.
    """

    def __init__(self, words: Sequence[str]) -> None:
        keys = [_raw(word, number) for number, word in enumerate(words, 1)]
        self._keys = {_id(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in keys}

    def knows(self, key_id: str) -> bool:
        """Return whether signatures by a key count."""
        return key_id in self._keys

    def holds(self, key_id: str, message: bytes, signature: bytes) -> bool:
        """Return whether a key that is trusted has signed this message."""
        key = self._keys.get(key_id)
        if key is None:
            return False
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def make_key(path: Path) -> SigningKey:
    """Make a private key, in a file that only this user can read.

    Raises:
        Conflict: Something lies there already; it stays as it is.
        InvalidRequest: Nothing can be written there.
    """
    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        # A link that lies there is not followed either.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict(
            f"{path} is there already, and no key is written over: name another file"
        ) from None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from None
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return SigningKey(private)


def read_key(path: Path) -> SigningKey:
    """Read a private key.

    Raises:
        InvalidRequest: It cannot be read, others can use it, or it is no such key.
    """
    text = _private_text(path)
    try:
        private = serialization.load_pem_private_key(text, password=None)
    except TypeError:
        raise InvalidRequest(
            f"{path} is locked by a passphrase: write it without one where only you can read it "
            "(openssl pkey -in FILE -out OTHER)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        # What the library says of it might tell of the key.
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidRequest(
            f"{path} contains no Ed25519 private key in PEM: make one with "
            "`swell models push --keygen FILE`"
        )
    return SigningKey(private)


def _private_text(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidRequest(f"the key {path} cannot be read: {error.strerror}") from None
    with open(fd, "rb") as file:
        # Of what is open: the name may lead elsewhere a moment later.
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidRequest(f"{path} is no file")
        if found.st_uid not in (os.getuid(), 0) or found.st_mode & _OTHERS:
            raise InvalidRequest(
                f"others can use the private key {path}: make it yours alone (chmod 600 {path}), "
                "or make a new one if somebody may have read it"
            )
        return file.read(_MOST_BYTES)


def _raw(word: str, number: int) -> bytes:
    """Return a public key's bytes. Texts that are none are never told: one may be a secret."""
    kind, text = word[: len(_KIND)], word[len(_KIND) :]
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if kind != _KIND or len(raw) != _PUBLIC_BYTES:
        raise InvalidRequest(
            f"public key {number} is invalid: give what `swell models push --keygen FILE` prints, "
            f"`{_KIND}` and 43 characters"
        )
    return raw


def _id(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]
