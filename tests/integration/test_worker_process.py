"""The process that a worker starts for its models: what it inherits, and what it does not."""

import os
from pathlib import Path

import pytest
from worker_harness import dispatch, output_of, restarted, working

from conformance.dispatch import MemoryDispatch

__all__ = ["dispatch"]

MODEL = """
import os
import swell

@swell.model("test/facts")
def facts(name: str) -> dict[str, str]:
    files = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return {
        "variable": os.environ.get(name, ""),
        "folder": os.getcwd(),
        "parent": str(os.getppid()),
        "leads": str(os.getsid(0) == os.getpgrp() == os.getpid()),
        "files": " ".join(os.readlink(each) for each in files if os.path.lexists(each)),
    }
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "facts.py"
    path.write_text(MODEL)
    return str(path)


async def test_a_model_process_has_the_environment_and_folder_of_its_worker_and_no_other_file(
    dispatch: MemoryDispatch, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_FACT", "a value")
    secret = tmp_path / "secret"
    with secret.open("w") as file:
        os.set_inheritable(file.fileno(), True)
        async with working(dispatch, model) as (worker, _):
            for _ in range(2):
                task = await dispatch.submit("test/facts", {"name": "A_FACT"})
                facts = output_of(await dispatch.ended(task))
                assert (facts["variable"], facts["folder"]) == ("a value", os.getcwd())
                assert facts["parent"] == str(os.getpid())
                assert facts["leads"] == "True", "a signal to the worker's group spares it"
                assert str(secret) not in facts["files"]
                # The process that replaces it has the same.
                await restarted(worker)
