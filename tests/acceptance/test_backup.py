"""A backup that was taken under load has every task that was accepted before it."""

import concurrent.futures
import json
import shutil
import threading
import urllib.request
from pathlib import Path

import pytest

from commandline import Swell, ready_line, stop

#: So many tasks are sent before the backup begins; others go on being sent while it is taken.
BEFORE = 100


class Senders:
    """Threads that send tasks until they are told to stop."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key
        self._is_over = threading.Event()
        self.accepted: list[str] = []
        self.enough = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(4)

    def __enter__(self) -> "Senders":
        self._sending = [self._pool.submit(self._send) for _ in range(4)]
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        for each in self._sending:
            each.result()
        self._pool.shutdown()

    def _send(self) -> None:
        body = json.dumps({"model": "demo/upper", "input": {"text": "swell"}}).encode()
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        while not self._is_over.is_set():
            request = urllib.request.Request(f"{self._url}/v1/tasks", body, headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                self.accepted.append(json.load(answer)["id"])
            if len(self.accepted) >= BEFORE:
                self.enough.set()


def states(swell: Swell) -> dict[str, str]:
    tasks = swell.json("tasks", "ls", "--limit", "100000")
    return {task["id"]: task["state"] for task in tasks}


def test_a_backup_under_load_restores_with_every_task_accepted_before_it(
    swell: Swell, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = swell.folder / "copy.db"
    process = swell.start("up", "--json", "--port", "0", "-n", "1", "-m", "demo/upper")
    try:
        ready = ready_line(process, swell.folder)
        with Senders(ready["url"], ready["key"]) as senders:
            assert senders.enough.wait(60)
            before = list(senders.accepted)
            told = swell.json("db", "--backup", str(file))
        assert len(senders.accepted) > len(before)
    finally:
        assert stop(process) == 0
    assert told["bytes"] == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600

    restored = Swell(tmp_path_factory.mktemp("restored"))
    data = restored.folder / ".swell"
    data.mkdir(mode=0o700)
    shutil.copy(file, data / "swell.db")
    shutil.copytree(swell.folder / ".swell" / "objects", data / "objects")
    # What ran or waited at that moment is run now; what had ended is as it was.
    process = restored.start("up", "--json", "--port", "0", "-n", "1", "-m", "demo/upper")
    try:
        ready_line(process, restored.folder)
        found = ended(restored)
        assert set(before) <= set(found)
        assert {found[task_id] for task_id in before} == {"succeeded"}
    finally:
        assert stop(process) == 0


def ended(swell: Swell) -> dict[str, str]:
    """Return all tasks once none is left to do; each look waits for one of them."""
    while True:
        found = states(swell)
        left = [task_id for task_id, state in found.items() if state in ("queued", "running")]
        if not left:
            return found
        swell.run("tasks", "watch", left[0])


def test_a_backup_replaces_nothing_and_says_what_is_wrong(swell: Swell) -> None:
    done = swell.run("db", "--backup", "copy.db")
    assert done.returncode == 3
    assert "there is no database" in done.stderr
    (swell.folder / ".swell").mkdir()
    process = swell.start("serve", "--json", "--port", "0")
    try:
        ready_line(process, swell.folder)
    finally:
        assert stop(process) == 0
    # The backend need not run.
    swell.ok("db", "--backup", "copy.db")
    first = Path(swell.folder / "copy.db").read_bytes()
    done = swell.run("db", "--backup", "copy.db")
    assert done.returncode != 0
    assert "choose another name" in done.stderr
    assert Path(swell.folder / "copy.db").read_bytes() == first
    assert not list(swell.folder.glob("*.part"))
    done = swell.run(
        "db", "--backup", "other.db", SWELL_STORE__URL="postgresql://swell@db.example/swell"
    )
    assert done.returncode == 2
    assert "pg_dump" in done.stderr
