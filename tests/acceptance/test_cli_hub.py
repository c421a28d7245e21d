"""`hf:` on the command line, at a hub of this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import Swell
from hub_server import HubServer, Repository

COMMIT = "5f3c" * 10


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    folder = tmp_path / "repository"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "vocab.json").write_text('{"fox": 0}')
    repository = Repository({COMMIT: folder}, {"main": COMMIT}, token="hf_mine")
    with HubServer({"acme/poster": repository}).serve() as server:
        yield server


@pytest.mark.parametrize("reference", ["hf:acme/poster", "hf://acme/poster@main"])
def test_a_gated_repository_is_pulled_with_the_token_of_the_environment(
    swell: Swell, hub: HubServer, reference: str
) -> None:
    refused = swell.run("models", "pull", reference, HF_ENDPOINT=hub.url)
    assert refused.returncode != 0
    assert "HF_TOKEN" in refused.stderr
    done = swell.run("models", "pull", reference, HF_ENDPOINT=hub.url, HF_TOKEN="hf_mine")
    assert done.returncode == 0, done.stderr
    assert f"acme/poster {COMMIT}" in " ".join(done.stderr.split())
    assert "hf_mine" not in done.stdout + done.stderr + refused.stderr
