"""A Swell of its own, started by the command that people use."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

#: Longest wait for anything, in seconds.
PATIENCE_S = 60


@dataclass(frozen=True)
class Swell:
    """The command line within one folder."""

    folder: Path

    def run(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "swell", *arguments],
            cwd=self.folder,
            env=clean_environment() | variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        with (self.folder / "stderr.txt").open("w") as stderr:
            return self.spawn(arguments, stderr, **variables)

    def spawn(
        self, arguments: Sequence[str], log: TextIO, **variables: str
    ) -> "subprocess.Popen[str]":
        """Start a command beside others of this folder, each with a log of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "swell", *arguments],
            cwd=self.folder,
            env=clean_environment() | variables,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("SWELL_")}


def ready_line(process: "subprocess.Popen[str]", folder: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / "stderr.txt").read_text()
    ready: dict[str, Any] = json.loads(line)
    assert ready["ready"] is True
    return ready


def stop(process: "subprocess.Popen[str]", number: signal.Signals = signal.SIGTERM) -> int:
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
