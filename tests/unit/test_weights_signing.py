"""Keys that sign what was compiled, and whom a worker believes."""

import os
import stat
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from swell.core.errors import Conflict, InvalidRequest
from swell.weights.signing import Trusted, make_key, read_key

#: Source: RFC 8032, section 7.1, test 2: secret key, public key, message, signature.
SECRET = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
PUBLIC = "ed25519:PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw"
MESSAGE = bytes([0x72])
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def pem(private: object, password: bytes | None = None) -> bytes:
    lock = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return private.private_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock
    )


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_signatures_are_those_of_the_standard(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SECRET))
    key = read_key(written(tmp_path / "key", pem(private)))
    assert key.public == PUBLIC
    assert key.sign(MESSAGE) == SIGNATURE
    assert Trusted([PUBLIC]).holds(key.id, MESSAGE, SIGNATURE)


def test_a_key_that_was_made_signs_and_is_read_again(tmp_path: Path) -> None:
    made = make_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    again = read_key(tmp_path / "key")
    assert (again.public, again.id) == (made.public, made.id)
    assert Trusted([made.public]).holds(made.id, b"program", again.sign(b"program"))
    assert not Trusted([made.public]).holds(made.id, b"prograM", again.sign(b"program"))


def test_no_key_is_written_over(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(Conflict, match="no key is written over"):
        make_key(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        make_key(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(InvalidRequest, match="cannot be written"):
        make_key(tmp_path / "no folder" / "key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601])
def test_a_private_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    make_key(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        read_key(tmp_path / "key")


def test_what_is_no_private_key_is_refused_and_never_told(tmp_path: Path) -> None:
    other = pem(ec.generate_private_key(ec.SECP256R1()))
    for data in (b"", b"secret words", other, pem(ec.generate_private_key(ec.SECP256R1()))[:80]):
        with pytest.raises(InvalidRequest, match="contains no Ed25519 private key") as refused:
            read_key(written(tmp_path / "key", data))
        assert "secret words" not in refused.value.detail
    locked = pem(ed25519.Ed25519PrivateKey.generate(), b"open sesame")
    with pytest.raises(InvalidRequest, match="passphrase"):
        read_key(written(tmp_path / "key", locked))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_key(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidRequest, match="is no file"):
        read_key(tmp_path / "pipe")


def test_a_key_shows_nothing_of_itself_in_texts(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    body = (tmp_path / "key").read_text().splitlines()[1]
    assert body not in f"{key!r} {key} {vars(key)!r}"


def test_several_keys_are_trusted_at_once_and_no_others(tmp_path: Path) -> None:
    old, new, other = (make_key(tmp_path / name) for name in ("old", "new", "other"))
    trusted = Trusted([old.public, new.public])
    for key in (old, new):
        assert trusted.knows(key.id)
        assert trusted.holds(key.id, b"x", key.sign(b"x"))
    assert not trusted.knows(other.id)
    assert not trusted.holds(other.id, b"x", other.sign(b"x"))
    # Under the name of one that is.
    assert not trusted.holds(new.id, b"x", other.sign(b"x"))
    assert not trusted.holds(new.id, b"x", b"")


@pytest.mark.parametrize(
    "word", ["", "ed25519:", "ed25519:AAAA", "rsa:" + "A" * 43, "ed25519:" + "*" * 43, "A" * 43]
)
def test_what_is_no_public_key_is_refused_and_never_told(word: str) -> None:
    with pytest.raises(InvalidRequest, match="public key 2 is invalid") as refused:
        Trusted([PUBLIC, word])
    assert len(word) < 10 or word not in refused.value.detail
