import json
import os
import select
import signal
import subprocess
import sys

import pytest

from swell.cli.output import data, talk


def test_what_is_printed_is_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    # Between colons, as in a certificate's fingerprint, two letters may be the name of an emoji.
    data.print("32:CD:C6")
    talk.print("32:CD:C6", markup=False)
    assert tuple(capsys.readouterr()) == ("32:CD:C6\n", "32:CD:C6\n")


@pytest.mark.slow
def test_json_is_written_whole_though_its_writer_is_stopped_meanwhile() -> None:
    code = "from swell.cli.output import print_json; print_json({'text': 'é' * 200_000})"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
    ) as writer:
        assert writer.stdout is not None
        # Nobody has read anything yet: the pipe is full, and the rest waits.
        select.select([writer.stdout], [], [])
        writer.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
        writer.send_signal(signal.SIGCONT)
        text = writer.stdout.read()
    assert json.loads(text) == {"text": "é" * 200_000}
