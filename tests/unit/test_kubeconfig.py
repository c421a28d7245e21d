"""How a cluster is reached, and who we are to it."""

import asyncio
import base64
import json
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from manual_clock import ManualClock
from swell.core.errors import InvalidRequest, Unavailable
from swell.providers.kubeconfig import Access, in_cluster, of_kubeconfig, opened

NOW = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)


def certificate() -> tuple[bytes, bytes]:
    """A certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.public_bytes(serialization.Encoding.PEM), secret


def written(folder: Path, user: dict[str, Any], **cluster: Any) -> Path:
    path = folder / "config"
    told = {
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "images"}},
            {"name": "there", "context": {"cluster": "c", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443/"} | cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(told))
    return path


async def headers(access: Access, clock: ManualClock | None = None) -> dict[str, str]:
    return await access.headers(clock or ManualClock(NOW), {"PATH": "/usr/bin:/bin"})


async def test_a_token_and_certificates_are_read_where_they_stand(tmp_path: Path) -> None:
    cert, key = certificate()
    text = {name: base64.b64encode(data).decode() for name, data in (("c", cert), ("k", key))}
    user = {"token": "t", "client-certificate-data": text["c"], "client-key-data": text["k"]}
    path = written(tmp_path, user, **{"certificate-authority-data": text["c"]})
    access = of_kubeconfig(path)
    assert (access.url, access.namespace) == ("https://api.example:6443", "images")
    assert await headers(access) == {"Authorization": "Bearer t"}
    assert access.tls is not None
    assert access.tls.verify_mode is ssl.CERT_REQUIRED
    # That certificate alone, and none of the system's.
    assert access.tls.cert_store_stats()["x509"] == 1


async def test_files_are_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    cert, key = certificate()
    for name, data in (("ca.pem", cert), ("me.pem", cert), ("me.key", key), ("token", b"one\n")):
        (tmp_path / name).write_bytes(data)
    user = {"tokenFile": "token", "client-certificate": "me.pem", "client-key": "me.key"}
    access = of_kubeconfig(written(tmp_path, user, **{"certificate-authority": "ca.pem"}), "there")
    assert access.namespace == ""
    assert await headers(access) == {"Authorization": "Bearer one"}
    (tmp_path / "token").write_text("two")
    assert await headers(access) == {"Authorization": "Bearer two"}
    (tmp_path / "token").unlink()
    with pytest.raises(Unavailable, match="token"):
        await headers(access)


async def test_a_command_gives_tokens_until_they_end(tmp_path: Path) -> None:
    status = {"token": "t", "expirationTimestamp": "2026-11-26T09:35:00Z"}
    (tmp_path / "answer").write_text(json.dumps({"status": status}))
    script = (
        "import os, sys; open(sys.argv[1] + '/asked', 'a').write(os.environ['WHO']); "
        "print(open(sys.argv[1] + '/answer').read())"
    )
    run = {
        "command": sys.executable,
        "args": ["-c", script, str(tmp_path)],
        "env": [{"name": "WHO", "value": "x"}],
    }
    access = of_kubeconfig(written(tmp_path, {"exec": run}))
    clock = ManualClock(NOW)
    for advance_s, times in ((0, 1), (200, 1), (60, 2)):
        clock.advance(advance_s)
        assert await headers(access, clock) == {"Authorization": "Bearer t"}
        assert (tmp_path / "asked").read_text() == "x" * times
    (tmp_path / "answer").write_text("no JSON")
    clock.advance(600)
    with pytest.raises(Unavailable, match="gives no token"):
        await headers(access, clock)


async def test_calls_at_the_same_time_ask_a_command_once(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "gives"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\necho asked >> {tmp_path}/asked\n"
        """printf '{"status": {"token": "t"}, "asked": %s}' "$KUBERNETES_EXEC_INFO"\n"""
    )
    program.chmod(0o755)
    # A path is one from the folder of the kubeconfig.
    version = "client.authentication.k8s.io/v1beta1"
    run = {"command": "bin/gives", "apiVersion": version}
    access = of_kubeconfig(written(tmp_path, {"exec": run}))
    clock = ManualClock(NOW)
    told = await asyncio.gather(*(headers(access, clock) for _ in range(8)))
    assert told == [{"Authorization": "Bearer t"}] * 8
    assert (tmp_path / "asked").read_text() == "asked\n"
    assert json.loads(access.command_info)["apiVersion"] == version


@pytest.mark.slow
async def test_a_command_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.providers.kubeconfig._ANSWER_S", 0.2)
    run = {"command": "/bin/sh", "args": ["-c", "sleep 600"]}
    access = of_kubeconfig(written(tmp_path, {"exec": run}))
    with pytest.raises(Unavailable, match=r"does not answer within 0\.2 s"):
        await headers(access)


async def test_a_pod_reaches_its_own_cluster(tmp_path: Path) -> None:
    cert, _ = certificate()
    (tmp_path / "ca.crt").write_bytes(cert)
    (tmp_path / "namespace").write_text("images\n")
    (tmp_path / "token").write_text("t")
    told = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    access = in_cluster(told, tmp_path)
    assert (access.url, access.namespace) == ("https://[fd00::1]:6443", "images")
    assert await headers(access) == {"Authorization": "Bearer t"}


def test_the_usual_files_are_found_and_a_namespace_is_there(tmp_path: Path) -> None:
    path = written(tmp_path, {"token": "t"})
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(path.read_text())
    assert opened(None, "", {"KUBECONFIG": f"{path}:/nowhere"}).namespace == "images"
    assert opened(None, "there", {"HOME": str(tmp_path)}).namespace == "default"
    assert opened(path, "", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "mine").namespace == "mine"


@pytest.mark.parametrize("text", ["", "a: [", "contexts: []", "[]", "current-context: x"])
def test_a_kubeconfig_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match="kubectl"):
        of_kubeconfig(path)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        of_kubeconfig(tmp_path / "none")
    with pytest.raises(InvalidRequest, match="nowhere"):
        of_kubeconfig(written(tmp_path, {"token": "t"}), "nowhere")
