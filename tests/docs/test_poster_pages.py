"""Pages on a model that is served, here README.md's: adopting, incidents, sharing, backups."""

import contextlib
import json
import shutil
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from commandline import PATIENCE_S, Swell, ready_line, stop
from pages import Reader, block, commands


@dataclass(frozen=True)
class Served(Swell):
    """A Swell with one version of a model, and what is known of it."""

    url: str
    key: str

    @property
    def reader(self) -> Reader:
        return Reader(self.folder, {"SWELL_URL": self.url, "SWELL_KEY": self.key})

    def look(self, path: str) -> Any:
        """Return what the server answers its operator."""
        access = json.loads((self.folder / ".swell" / "access.json").read_text())
        headers = {"authorization": f"Bearer {access['local_key']}"}
        asked = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def versions(self) -> dict[str, dict[str, Any]]:
        """Return the versions of the model by their names."""
        found = self.look("/v1/models/demo/poster/adoption")["versions"]
        return {each["version"]: each for each in found}

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers that have not gone."""
        found: list[dict[str, Any]] = self.look("/v1/workers")["workers"]
        return found


def a_poster(folder: Path, colour: str = "#0d6b7c") -> None:
    text = block("README.md", '@swell.model("me/poster")')
    assert "#0d6b7c" in text
    (folder / "models").mkdir(parents=True)
    told = text.replace("me/poster", "demo/poster").replace("#0d6b7c", colour)
    (folder / "models" / "poster.py").write_text(told)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    a_poster(folder)
    process = Swell(folder).start("up", "--models", "models/poster.py", "--json", "--port", "0")
    try:
        ready = ready_line(process, folder)
        yield Served(folder, ready["url"], ready["key"])
    finally:
        assert stop(process) == 0, (folder / "stderr.txt").read_text()


@pytest.fixture(scope="module")
def adopted(served: Served) -> Iterator[tuple[str, str]]:
    """The versions on the page, once its commands were run up to the worker's with the second."""
    promote, worker, *_ = commands("docs/compare-and-roll-out.md", "--canary 5%", "bash")
    [first] = served.versions()
    served.ok(*here(promote, first, ""))
    elsewhere = Swell(served.folder / "elsewhere")
    a_poster(elsewhere.folder, "#a33b20")
    key = served.ok("keys", "create", "second", "--scope", "worker").strip()
    process = elsewhere.start(*worker, SWELL_WORKER__URL=served.url, SWELL_WORKER__TOKEN=key)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while len(found := served.versions()) < 2:
            assert time.monotonic() < until_s, (elsewhere.folder / "stderr.txt").read_text()
            time.sleep(0.05)
        [second] = set(found) - {first}
        yield first, second
    finally:
        assert stop(process) == 0, (elsewhere.folder / "stderr.txt").read_text()


def here(words: list[str], first: str, second: str) -> list[str]:
    """Return a command of the page with the versions of here."""
    return [each.replace("3f2a9c1be07d", first).replace("b81e02d4c6aa", second) for each in words]


def test_a_version_is_adopted_step_by_step(served: Served, adopted: tuple[str, str]) -> None:
    page = commands("docs/compare-and-roll-out.md", "--canary 5%", "bash")
    _, _, submit, canary, stages, promote, roll_back, retire = page
    first, second = adopted
    assert stage_of(served) == {first: "live", second: "trial"}
    assert served.ok(*here(submit, first, second)).startswith("pictures/")
    [task] = served.look("/v1/tasks")["tasks"]
    assert task["version"] == second
    served.ok(*here(canary, first, second))
    assert served.versions()[second]["share"] == pytest.approx(0.05)
    assert "canary" in served.ok(*stages)
    served.ok(*promote)
    assert stage_of(served) == {first: "trial", second: "live"}
    served.ok(*roll_back)
    assert stage_of(served) == {first: "live", second: "trial"}
    served.ok(*here(retire, first, second))
    assert stage_of(served) == {first: "live", second: "retired"}


def stage_of(served: Served) -> dict[str, str]:
    return {name: each["stage"] for name, each in served.versions().items()}


def test_a_bad_version_is_left_and_its_worker_drained_as_the_page_on_incidents_says(
    served: Served, adopted: tuple[str, str]
) -> None:
    first, second = adopted
    served.ok("models", "rollout", f"demo/poster:{second}", "--promote")
    script = block("docs/operate.md", "swell models rollout acme/poster --rollback", "sh")
    said = served.reader.does(script, ("acme/poster", "demo/poster"))
    assert second in said.stdout
    assert stage_of(served) == {first: "live", second: "trial"}
    told = served.look("/v1/models/demo/poster/adoption")["history"][0]
    assert (told["action"], told["reason"]) == ("rollback", "black pictures")
    [worker] = [each["id"] for each in served.workers() if second in json.dumps(each["models"])]
    reader = Reader(served.folder, {**served.reader.variables, "WORKER": worker})
    reader.does(block("docs/operate.md", "/drain", "sh").replace("curl ", "curl -f "))
    until_s = time.monotonic() + PATIENCE_S
    while worker in {each["id"] for each in served.workers()}:
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_a_link_shows_a_picture_without_its_prompt_to_whoever_has_no_key(served: Served) -> None:
    task = served.ok("tasks", "submit", "demo/poster", "-i", "prompt=a secret").strip()
    served.ok("tasks", "watch", task)
    reader = Reader(served.folder, {**served.reader.variables, "TASK": task})
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    script = block("docs/use-the-api.md", "/share", "sh")
    shared = json.loads(reader.does(script, ("2027-01-31T12:00:00Z", tomorrow)).stdout)
    assert (shared["task_id"], shared["expires_at"][:10]) == (task, tomorrow[:10])
    with urllib.request.urlopen(f"{served.url}/s/{shared['token']}", timeout=PATIENCE_S) as page:
        text = page.read().decode()
    assert "demo/poster" in text
    assert "a secret" not in text


def test_a_night_s_backup_has_every_task_and_every_file(served: Served) -> None:
    served.ok("tasks", "submit", "demo/poster", "-i", "prompt=kept", "--watch")
    there = served.folder / "backups"
    there.mkdir()
    script = block("docs/operate.md", "swell db --backup", "bash")
    if shutil.which("rsync") is None:
        # What it does where there is nothing yet.
        script = f'rsync() {{ mkdir -p "$3" && cp -a "$2." "$3"; }}\n{script}'
    served.reader.does(script, ("/backups/", f"{there}/"))
    [copy] = there.glob("*.db")
    with contextlib.closing(sqlite3.connect(copy)) as database:
        [[tasks]] = database.execute("SELECT count(*) FROM tasks").fetchall()
    assert tasks == len(served.look("/v1/tasks?limit=200")["tasks"])
    home = served.folder / ".swell" / "objects"
    files = {str(each.relative_to(home)) for each in home.rglob("*")}
    assert files
    assert files == {
        str(each.relative_to(there / "objects")) for each in (there / "objects").rglob("*")
    }
