"""Hostile inputs against a running `swell up`: the figure `security-attacks` in short."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import Attack, carry_out
from file_attacks import file_attacks
from http_attacks import http_attacks
from key_attacks import key_attacks
from picture_attacks import _tensors, encoded, lora_attacks, picture_attacks, safetensors
from target import Target, a_target
from url_attacks import answer_attacks, canary_attacks, url_attacks
from weight_attacks import weight_attacks

FAMILIES = {
    "urls": lambda: [*url_attacks(), *answer_attacks()],
    "pictures": lambda: [*picture_attacks(), *lora_attacks()],
    "files": lambda: list(file_attacks()),
    "keys": lambda: list(key_attacks()),
    "weights": lambda: list(weight_attacks()),
    "http": lambda: list(http_attacks()),
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder: Path = tmp_path_factory.mktemp("attacked")
    with a_target(folder) as target:
        yield target


def test_who_asks_for_what_is_theirs_gets_it(target: Target) -> None:
    """Or all attacks would fail for another reason than that they are defended."""
    own = target.upload(b"mine")
    front = target.front.page("/a.txt", body=b"read me", content_type="text/plain")
    for url, words in ((own, "mine"), (front, "read me")):
        assert words in target.run("hostile/read", {"file": url})["output"]
    assert target.run("hostile/parrot", {"text": "a fox"})["output"] == "a fox"
    assert target.run("hostile/carrier", {"text": front})["state"] == "succeeded"
    for kind in ("PNG", "JPEG", "WEBP", "AVIF", "GIF"):
        uri = "data:image/png;base64," + base64.b64encode(encoded(kind)).decode()
        assert target.run("hostile/see", {"image": uri})["output"] == [64, 64]
    lora = target.upload(safetensors(_tensors(), bytes(64)), "a.safetensors")
    assert len(target.run("hostile/style", {"lora": lora})["output"]) == 64


@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_attack_succeeds_and_the_service_works_after_each(target: Target, family: str) -> None:
    result = carry_out(target, FAMILIES[family]())
    assert result.is_clean, result


def test_attacks_that_succeed_are_seen(tmp_path: Path) -> None:
    """The same attacks where the guard is switched off, and one that finds a planted secret."""
    with a_target(tmp_path, {"SWELL_WORKER__ALLOW_PRIVATE_URLS": "any"}) as open_target:
        attacks = canary_attacks()
        result = carry_out(open_target, attacks)
        assert len(result.succeeded) >= len(attacks) - 4
        assert result.leaks
        # What nobody may write however much is trusted.
        assert "①" not in str(result.succeeded)
        fails = Attack("planted", "one that cannot be made", "nothing", lambda target: 1 / 0)  # type: ignore[arg-type, return-value]
        assert carry_out(open_target, [fails]).broken
        hurts = Attack("planted", "one that kills", "nothing", _kill)
        assert carry_out(open_target, [hurts]).hurt


def _kill(target: Target) -> str:
    target.process.kill()
    target.process.wait()
    return ""
