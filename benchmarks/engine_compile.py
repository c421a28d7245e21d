"""How long until the first result of a compiled network, with what an earlier process compiled?

A small convolutional network is compiled with `torch.compile` (inductor, a C++ compiler) and run
once, in a fresh process each time. The clock runs from the start of the process to its result, the
import of torch included; `first_s` in the details is compiling and running alone.

    without   nothing was compiled before; torch keeps what it compiles in an empty folder
    with      Swell's `TorchCompiled` gives back what an earlier process kept
    graphs    only what torch itself saves (`torch.compiler.save_cache_artifacts`): the C++ compiler
              runs again

With `--fetched` instead of `graphs`:

    fetched   a machine that has compiled nothing, with an empty folder each time: beside the
              process begins another one that does what a worker does. It reads what was signed when
              the programs of `with` were pushed, and fetches them by HTTP on this machine, 90 MB/s
              a connection. The clock runs from the start of both.

Value: with over without, or fetched over without; the median of rounds that pair them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine_load import inside
from machine import folder, quiet, report, say

ARMS = ("without", "with", "graphs")
FETCHED = ("without", "with", "fetched")

#: As one connection to a bucket of a cloud brings.
RATE_BYTES_S = 90e6
WEIGHTS = "0" * 64


# --- what runs in the processes ------------------------------------------------------------------


def network(torch: Any) -> Any:
    torch.manual_seed(0)
    nn = torch.nn

    def block(wide: int) -> list[Any]:
        return [nn.Conv2d(wide, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU()]

    return nn.Sequential(*block(4), *block(32), nn.Conv2d(32, 4, 3, padding=1)).eval()


def one(arm: str, place: Path) -> None:
    torch = importlib.import_module("torch")
    weights = importlib.import_module("swell.weights")
    compiled = importlib.import_module("swell.weights.torch_compiled")
    graphs = place / "graphs.bin"
    begun = time.perf_counter()
    kept = compiled.TorchCompiled(weights.CompiledCache(place / arm), [WEIGHTS], "1", "cpu")
    is_restored = kept.restore()
    if arm == "graphs" and graphs.exists():
        is_restored = torch.compiler.load_cache_artifacts(graphs.read_bytes()) is not None
    with torch.inference_mode():
        said = torch.compile(network(torch))(torch.ones(1, 4, 32, 32)).double().sum().item()
    first_s = time.perf_counter() - begun
    print(json.dumps({"said": said, "restored": is_restored, "first_s": first_s}), flush=True)
    if arm in ("with", "fetched"):
        kept.keep()
    elif arm == "graphs" and not graphs.exists():
        graphs.write_bytes(torch.compiler.save_cache_artifacts()[0])
    # Skip the destructors of native libraries, which say nothing about the result.
    os._exit(0)


# --- what travels, in Swell's own Python ----------------------------------------------------------


def push(place: Path) -> None:
    """Sign what the arm `with` has kept, and send it to a folder."""
    swell = importlib.import_module
    signing, chunks = swell("swell.weights.signing"), swell("swell.weights.chunks")
    file = chunks.ChunkedFile(WEIGHTS, 1, (WEIGHTS,))
    manifest = chunks.Manifest("bench/net", "v1", chunks.CHUNK_BYTES, {"w.safetensors": file})
    key = signing.make_key(place / "key.pem")
    (place / "public").write_text(key.public)
    cache = swell("swell.weights").CompiledCache(place / "with")
    clock = swell("swell.core.clock").SystemClock()
    pushing = swell("swell.weights.push_compiled")
    signer = pushing.Signer(key)
    asyncio.run(pushing.push_compiled(manifest, cache, stored(place, clock), signer, clock))


def stored(place: Path, clock: Any) -> Any:
    folder = importlib.import_module("swell.objects.folder").FolderObjects
    return importlib.import_module("swell.weights.store").WeightStore(
        folder(place / "store", clock, b"0" * 32)
    )


def serve(place: Path) -> None:
    """Serve chunks, as fast as a bucket; say where."""
    files = importlib.import_module("http.server")

    class Handler(files.SimpleHTTPRequestHandler):  # type: ignore[misc, name-defined]
        def copyfile(self, source: Any, outputfile: Any) -> None:
            while piece := source.read(1 << 20):
                outputfile.write(piece)
                time.sleep(len(piece) / RATE_BYTES_S)

        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(place / "store"))
    server = files.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(json.dumps(server.server_port), flush=True)
    server.serve_forever()


def fetch(place: Path, port: int) -> None:
    """Bring what was pushed, as a worker does beside its model process."""
    asyncio.run(_fetch(place, port))


async def _fetch(place: Path, port: int) -> None:
    swell = importlib.import_module
    programs, clock = swell("swell.worker.programs"), swell("swell.core.clock").SystemClock()
    cache = swell("swell.weights").CompiledCache(place / "fetched")
    chunk_key, where = swell("swell.weights.chunks").chunk_key, swell("swell.weights.gather").Place

    class Source(swell("swell.weights.sources").StoreSource):  # type: ignore[misc]
        def program_places(self, program: Any, digests: Any) -> Any:
            return [where(f"http://127.0.0.1:{port}/{chunk_key(each)}") for each in digests]

    here = programs.Here(
        swell("swell.weights.cache").WeightCache(place / "weights"),
        cache,
        programs.this_machine("cpu", is_own_python=False),
        swell("swell.weights.signing").Trusted([(place / "public").read_text()]),
    )
    wish = swell("swell.worker.provision").Wish("bench/net", "v1", files={"w": WEIGHTS})
    brought = programs.Programs([wish], here, Source(stored(place, clock)), clock)
    await brought.bring()
    print(json.dumps(brought.bytes), flush=True)


# --- the rounds ----------------------------------------------------------------------------------


def timed(arm: str, place: Path, fetching: Sequence[str] = ()) -> tuple[float, dict[str, Any]]:
    begun = time.perf_counter()
    with contextlib.ExitStack() as opened:
        fetcher = opened.enter_context(begin(fetching)) if fetching else None
        spent, said = timed_one(arm, place, begun)
        if fetcher is not None:
            said["fetched_bytes"] = json.loads(fetcher.communicate()[0])
    return spent, said


def begin(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def timed_one(arm: str, place: Path, begun: float) -> tuple[float, dict[str, Any]]:
    command = [sys.executable, __file__, "--inside", "--role", arm, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        spent = time.perf_counter() - begun
    return spent, json.loads(line)


def measure(rounds: int, fetching_python: str) -> None:
    arms, asked = (FETCHED, "fetched") if fetching_python else (ARMS, "with")
    spent: dict[str, list[float]] = {arm: [] for arm in arms}
    first: dict[str, list[float]] = {arm: [] for arm in arms}
    results: set[float] = set()
    restored = True
    with folder("compile") as place, quiet(), contextlib.ExitStack() as opened:
        for arm in ("with",) if fetching_python else ("with", "graphs"):
            timed(arm, place)
        fetch = travel(fetching_python, place, opened) if fetching_python else []
        size = sum(path.stat().st_size for path in (place / "with" / "files").glob("??/*"))
        for turn in range(rounds):
            for arm in arms if turn % 2 == 0 else reversed(arms):
                if arm in ("without", "fetched"):
                    shutil.rmtree(place / arm, ignore_errors=True)
                seconds, said = timed(arm, place, fetch if arm == "fetched" else ())
                assert said.get("fetched_bytes", size) == size, "what was pushed has come"
                spent[arm].append(seconds)
                first[arm].append(said["first_s"])
                results.add(said["said"])
                restored = restored and said["restored"] == (arm != "without")
            say(f"{turn}: " + ", ".join(f"{arm} {s[-1]:.1f} s" for arm, s in spent.items()))
    pairs = [a / b for a, b in zip(spent[asked], spent["without"], strict=True)]
    is_right = restored and len(results) == 1
    detail = {
        "rounds": rounds,
        "kept_bytes": size,
        "median_s": {arm: round(statistics.median(s), 2) for arm, s in spent.items()},
        "first_s": {arm: round(statistics.median(s), 2) for arm, s in first.items()},
        f"{asked}_over_without_range": [round(min(pairs), 3), round(max(pairs), 3)],
        "results_agree": len(results) == 1,
        "all_restored": restored,
    }
    report(statistics.median(pairs), detail, ok=is_right)


def travel(python: str, place: Path, opened: contextlib.ExitStack) -> list[str]:
    """Have what `with` has kept pushed and served; return how a worker fetches it."""
    role = [python, __file__, "--inside", "--role"]
    subprocess.run([*role, "push", str(place)], check=True)
    server = opened.enter_context(begin([*role, "serve", str(place)]))
    opened.callback(server.kill)
    assert server.stdout is not None
    return [*role, "fetch", str(place), "--port", server.stdout.readline().decode().strip()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fetched", action="store_true")
    parser.add_argument("--python", default="", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--role", nargs=2, default=[], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role:
        role, place = asked.role[0], Path(asked.role[1])
        others = {"push": push, "serve": serve, "fetch": lambda at: fetch(at, asked.port)}
        others.get(role, lambda at: one(role, at))(place)
    elif asked.inside:
        measure(asked.rounds, asked.python)
    else:
        python = ["--python", sys.executable] if asked.fetched else []
        return inside(__file__, "--rounds", str(asked.rounds), *python, with_swell=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
