"""What a worker is told when it starts."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swell.worker.frames import Shelf


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Filled by `wiring.py` from flags, environment and files."""

    #: Names the worker to operators; registering again under it is a restart.
    name: str
    pool: str = "default"
    #: Of the versions that it makes known, in place of what their models say; empty for that.
    stage: str = ""
    #: What whoever launched it calls its machine, container or process.
    instance: str = ""
    #: Given to `Model.load`.
    device: str = "cpu"
    #: What its models may take of the device together, and those that had to leave it of the
    #: host's memory; None for no limit.
    device_memory_bytes: int | None = None
    host_memory_bytes: int | None = None
    #: How many tasks may be held at once; None for two batches of the largest model.
    slots: int | None = None
    host: str = ""
    #: What pictures become where nobody says: `png`, `webp`, `jpeg` or `avif`.
    picture_format: str = "png"
    #: Whether models that draw in steps give the same bits whoever else is drawn.
    exact: bool = True
    #: Processes that encode pictures; None for one less than there are cores, and at most four.
    encode_processes: int | None = None
    #: Largest input file that is taken: as large as the backend takes uploads.
    fetch_limit_bytes: int = 100 * 1024**2
    #: Largest LoRA that is taken; it goes to the weights cache rather than through memory.
    lora_limit_bytes: int = 1024**3
    #: How long a model may go on with a task that is to stop, before its process is killed.
    cancel_grace_s: float = 5.0
    #: How long one call of a model's `run` may take before its process is killed; None for ever.
    run_limit_s: float | None = None
    #: References of models that are left out where they cannot be loaded.
    optional: Sequence[str] = ()
    #: How long a draining worker may finish what it holds, before it hands over; None for ever.
    drain_s: float | None = None
    #: How long after a signal its machine kills it: it hands over before that; None for never.
    killed_after_s: float | None = None
    #: How long storing what was drawn may take, before leases are handed back without it.
    handover_s: float = 5.0
    #: How long the backend may be away before the worker ends; None for ever.
    give_up_s: float | None = None
    #: After this many failures in a row to start the model process again, give up.
    max_boot_deaths: int = 5
    #: Interpreter of the model process, and what it finds in its environment; None for what the
    #: worker has in its own.
    python: str = sys.executable
    variables: Mapping[str, str] | None = None
    #: Where its models' weights are.
    shelf: Shelf | None = None
