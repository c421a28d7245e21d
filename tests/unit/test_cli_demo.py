"""What the demo tells a newcomer to try next."""

import json
import shlex

import pytest

from swell.api.web import built_app
from swell.cli.demo import _invite


def test_the_request_that_the_demo_tells_is_one_that_the_api_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _invite("http://127.0.0.1:8000", "swell_key", "swell/icons")
    told = capsys.readouterr().err
    words = shlex.split(told[told.index("curl ") :])
    assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/tasks"]
    headers = [words[place + 1] for place, word in enumerate(words) if word == "-H"]
    assert "Content-Type: application/json" in headers
    assert "Authorization: Bearer $SWELL_KEY" in headers
    assert json.loads(words[words.index("-d") + 1])["model"] == "swell/icons"
    has_app = built_app() is not None
    assert ("http://127.0.0.1:8000/#/key/swell_key" in told) is has_app
    assert ("make web" in told) is not has_app
