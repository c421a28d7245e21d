"""Malformed requests against a running `swell up`: the figure `service-hostile` in short."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from http_hostile import Findings, check_expired, check_mistakes, fuzz
from http_server import MODEL, Server, a_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    with a_server(folder) as server:
        yield server


def test_known_mistakes_are_answered_with_what_to_do(server: Server) -> None:
    findings = Findings()
    check_mistakes(server.url, server.key, MODEL, findings)
    assert findings.wrong == []


def test_an_address_that_has_expired_is_answered_with_what_to_do(tmp_path: Path) -> None:
    findings = Findings()
    with a_server(tmp_path, {"SWELL_SERVER__SIGNED_URL_S": "2"}) as server:
        upload = requests.post(
            server.url + "/v1/uploads", b"x", headers=server.headers, timeout=30
        ).json()
        server.wait_until(lambda: requests.get(upload["url"], timeout=30).status_code != 200)
        check_expired(server.url, upload["url"], findings)
    assert findings.wrong == []


@pytest.mark.timeout(240)
def test_malformed_requests_are_refused_and_never_break_the_service(server: Server) -> None:
    findings = Findings()
    fuzz(server.url, server.key, per_operation=4, seed=3, findings=findings)
    assert findings.wrong == []
    assert findings.asked >= 100
    assert requests.get(server.url + "/health/ready", timeout=30).status_code == 200
