"""How far a push is, where nobody looks at bars."""

import pytest

from manual_clock import ManualClock
from swell.cli.pushing import _shown
from swell.weights.push import PushProgress


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock()
    with _shown("acme/poster", clock) as show:
        for number in range(1, 41):
            clock.advance(0.5)
            show(PushProgress("sending", number * 100_000_000, 60_000_000_000))
    assert capsys.readouterr().err == (
        "acme/poster: sending, 2,000 of 60,000 MB\nacme/poster: sending, 4,000 of 60,000 MB\n"
    )
