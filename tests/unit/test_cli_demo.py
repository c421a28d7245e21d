"""What the demo tells a newcomer to try next."""

import json
import shlex
from pathlib import Path

import pytest

from swell.cli.demo import _invite
from swell.client.access import Access
from swell.settings.load import load


def test_the_request_that_the_demo_prints_is_one_that_the_api_takes(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = load({"data_dir": tmp_path}, environment={}, folder=tmp_path).settings
    access = Access(url="http://127.0.0.1:8000", key="swell_key")
    _invite(settings, access, "swell/icons", " --data here")
    told = capfd.readouterr().err
    assert "swell_key" not in told
    words = shlex.split(told[told.index("curl ") :])
    assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/tasks"]
    headers = [words[place + 1] for place, word in enumerate(words) if word == "-H"]
    assert "Content-Type: application/json" in headers
    assert "Authorization: Bearer $KEY" in headers
    assert json.loads(words[words.index("-d") + 1])["model"] == "swell/icons"
