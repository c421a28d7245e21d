"""Starts an app of this folder, and the Swell that it needs: `python examples/start.py dream`.

Both end with this program. The app's folder has `swell.toml`, the settings of its Swell, and
`app.py` with a function `app(served)` that returns its server.
"""

import argparse
import asyncio
import contextlib
import importlib
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvicorn

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from front import Served  # noqa: E402 - it lies beside this file

APPS: Final = sorted(path.parent.name for path in HERE.glob("*/app.py"))


class _Server(uvicorn.Server):
    """uvicorn that leaves signals to this program, which has Swell to end as well."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running_swell(
    folder: Path, data: Path, port: int | None
) -> AsyncIterator[Mapping[str, Any]]:
    """Run a Swell with the settings of a folder, and say where it is and what opens it."""
    # Without a port Swell takes 8000, or the next one that is free.
    named = () if port is None else ("--port", str(port))
    words = ("-m", "swell", "up", "--json", *named, "--data", str(data))
    # In a session of its own: Ctrl-C in the terminal is for this program, which ends both in order.
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=folder, stdout=PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise SystemExit(await process.wait() or 1)
        yield json.loads(line)
    finally:
        await _ended(process)


async def _ended(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


async def served_by(ready: Mapping[str, Any], name: str, folder: Path) -> Served:
    """Make the key that the app asks with: once, for tasks and credits belong to it."""
    path = folder / "key.json"
    if not path.exists():
        headers = {"Authorization": f"Bearer {ready['key']}"}
        # A crowd comes through this one key: what each may do is for quotas of its users.
        unlimited = dict.fromkeys(("rate_per_s", "tasks_in_flight", "tasks_per_day", "streams"), 0)
        body = {"name": name, "scopes": ["client"], **unlimited}
        async with (
            aiohttp.ClientSession(ready["url"], headers=headers) as http,
            http.post("/v1/keys", json=body) as answer,
        ):
            answer.raise_for_status()
            made = await answer.json()
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps({"id": made["id"], "key": made["key"]}), encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    return Served(ready["url"], kept["key"], kept["id"], ready["key"], folder)


async def start(
    name: str, port: int, swell_port: int | None, data: Path | None, as_json: bool
) -> None:
    """Run an app until a signal comes."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    folder = HERE / name
    data = data or folder / ".swell"
    async with running_swell(folder, data, swell_port) as ready:
        served = await served_by(ready, name, data / "app")
        app = importlib.import_module(f"{name}.app").app(served)
        listening = socket.create_server(("127.0.0.1", port))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = _Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve([listening]))
        said = {"url": url, "swell": ready["url"]}
        print(
            json.dumps({"ready": True, **said}) if as_json else f"\n{name} is at {url}", flush=True
        )
        await stopped.wait()
        server.should_exit = True
        await serving


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=APPS, help="a folder of examples/")
    parser.add_argument("--port", type=int, default=8100, help="of the app; 0 takes a free one")
    parser.add_argument("--swell-port", type=int, help="of Swell; else 8000, or the next free one")
    parser.add_argument("--data", type=Path, help="where all is kept; else .swell in the folder")
    parser.add_argument("--json", action="store_true", help="print the ready line as JSON")
    asked = parser.parse_args()
    data = asked.data.resolve() if asked.data else None
    asyncio.run(start(asked.name, asked.port, asked.swell_port, data, asked.json))


if __name__ == "__main__":
    main()
