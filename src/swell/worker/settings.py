"""What a worker is told when it starts."""

import sys
from dataclasses import dataclass

__all__ = ["WorkerSettings"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Filled by `wiring.py` from flags, environment and files."""

    #: Names the worker to operators; registering again under it is a restart.
    name: str
    pool: str = "default"
    #: Given to `Model.load`.
    device: str = "cpu"
    #: How many tasks may be held at once; None for two batches of the largest model.
    slots: int | None = None
    host: str = ""
    #: What pictures become where neither the model nor the input says: `png`, `webp` or `jpeg`.
    picture_format: str = "png"
    #: Threads that encode pictures.
    encode_threads: int = 2
    #: Largest input file that is fetched.
    fetch_limit_bytes: int = 64 * 1024 * 1024
    #: After this many failures in a row to start the model process again, give up.
    max_boot_deaths: int = 5
    #: Interpreter of the model process.
    python: str = sys.executable
