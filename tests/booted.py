"""What becomes of a machine's start-up script: run for real, on a machine that is not one.

The shell and curl are this machine's own. A server on loopback answers for the cloud's metadata
service; docker, and what shuts a machine down, are small scripts that note how they were called.
"""

import http.server
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

__all__ = ["Machine", "booted", "environment_of_script"]

#: What the script may use of this machine; systemd-run is not among it.
_TOOLS: Final = (
    *("cat", "chown", "cp", "curl", "date", "echo", "grep", "mkdir", "rm", "sed", "sh", "sleep"),
    *("sync", "touch"),
)

_ENGINE: Final = """#!/bin/sh
echo "$@" >> "$NOTES/calls"
case "$1" in
pull) [ ! -e "$NOTES/no-image" ] ;;
run)
    while [ $# -gt 0 ]; do
        [ "$1" != --env-file ] || cp "$2" "$NOTES/env"
        shift
    done
    touch "$NOTES/runs" ;;
wait)
    touch "$NOTES/waits"
    while [ ! -e "$NOTES/over" ]; do sleep 0.05; done ;;
stop) touch "$NOTES/over" ;;
esac
"""

_PATIENCE_S: Final = 30.0


@dataclass
class Machine:
    """A machine that runs its script."""

    notes: Path
    process: "subprocess.Popen[bytes]"

    def calls(self) -> list[list[str]]:
        """How its engine was called so far."""
        return [line.split() for line in self._read("calls").splitlines()]

    def environment(self) -> dict[str, str]:
        """The variables that its worker has, once it runs."""
        self.until("runs")
        lines = self._read("env").splitlines()
        return dict(line.split("=", 1) for line in lines if line)

    def worker_ends(self) -> None:
        (self.notes / "over").touch()

    def shut_down(self) -> None:
        """As the cloud does, or its operator."""
        self.process.send_signal(signal.SIGTERM)

    def until(self, note: str) -> None:
        """Wait until something is noted, such as `runs` or `shutdown`."""
        ends_s = time.monotonic() + _PATIENCE_S
        while not (self.notes / note).exists():
            assert time.monotonic() < ends_s, f"no {note}: {self._read('said')}"
            time.sleep(0.02)

    def _read(self, note: str) -> str:
        path = self.notes / note
        return path.read_text() if path.exists() else ""


@contextmanager
def booted(
    script: str, answers: Mapping[str, str], folder: Path, **notes: str
) -> Iterator[Machine]:
    """Start a machine with a script.

    Args:
        script: As the provider made it.
        answers: Of the metadata service: how a path begins → what is there; it may change.
        folder: For all that it writes.
        notes: Beginnings, such as `no-image`.
    """
    programs, place = folder / "bin", folder / "notes"
    programs.mkdir(parents=True)
    place.mkdir()
    for tool in _TOOLS:
        found = shutil.which(tool)
        if found is None:
            pytest.skip(f"there is no {tool} on this machine")
        (programs / tool).symlink_to(found)
    for name, text in {
        "docker": _ENGINE,
        "podman": _ENGINE,
        "shutdown": '#!/bin/sh\ntouch "$NOTES/shutdown"\n',
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name, text in notes.items():
        (place / name.replace("_", "-")).write_text(text)
    path = folder / "user-data"
    path.write_text(script)
    with _metadata(answers) as url, (place / "said").open("wb") as said:
        process = subprocess.Popen(
            [shutil.which("sh") or "/bin/sh", path],
            env={
                "PATH": str(programs),
                "NOTES": str(place),
                "SWELL_MACHINE_DIR": str(folder / "run"),
                "SWELL_METADATA_URL": url,
            },
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            yield Machine(place, process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_PATIENCE_S)


def environment_of_script(script: str, answers: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the variables that the worker of a machine has."""
    with booted(script, answers, folder) as machine:
        return machine.environment()


@contextmanager
def _metadata(answers: Mapping[str, str]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            for start, text in list(answers.items()):
                if self.path.startswith(start):
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(text.encode())
                    return
            self.send_error(404)

        do_PUT = do_GET  # noqa: N815 - the library's own name

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
