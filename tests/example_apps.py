"""The apps of `examples/`, started by the command that their README says."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from commandline import clean_environment, stop

__all__ = ["EXAMPLES", "Example", "command_of", "started"]

ROOT: Final = Path(__file__).resolve().parents[1]
EXAMPLES: Final = ROOT / "examples"


@dataclass(frozen=True)
class Example:
    """An app that runs."""

    url: str
    #: The Swell behind it.
    swell: str
    data: Path

    @property
    def key(self) -> str:
        """The key that the app has, which nobody else sees."""
        kept = json.loads((self.data / "app" / "key.json").read_text(encoding="utf-8"))
        return str(kept["key"])


def command_of(make: str) -> list[str]:
    """Return what the one command of an app's README does once the environment is there."""
    told = subprocess.run(
        # Beneath a make, this one would tell which folder it enters and leaves.
        [*shlex.split(make), "--dry-run", "--no-print-directory"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return shlex.split(told.stdout.splitlines()[-1])


@contextmanager
def started(make: str, data: Path, *flags: str) -> Iterator[Example]:
    """Run an app by the command of its README, on free ports, and end it in order."""
    anywhere = ("--port", "0", "--swell-port", "0", "--data", str(data), "--json", *flags)
    told = data.parent / "app.stderr"
    with told.open("w") as stderr:
        process = subprocess.Popen(
            [*command_of(make), *anywhere],
            cwd=ROOT,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, told.read_text()
        ready: dict[str, Any] = json.loads(line)
        yield Example(ready["url"], ready["swell"], data)
    finally:
        assert stop(process) == 0, told.read_text()
