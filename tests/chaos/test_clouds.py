"""docs/workers-anywhere.md, rehearsed: machines of three clouds draw for one backend."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.clouds import HOME, PORT, Cloud, Internet
from commandline import PATIENCE_S, clean_environment, ready_line, stop
from pages import block

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(600)]

PAGE = "docs/workers-anywhere.md"

SWELL = (sys.executable, "-m", "swell")
MODEL = "swell/icons"
#: Long enough that no busy machine is taken for a lost one.
LEASE_S = 6


class Rehearsal:
    """The backend at home, and a worker on each cloud's machine."""

    def __init__(self, folder: Path, internet: Internet) -> None:
        self.folder = folder
        self.internet = internet
        self.workers: dict[str, subprocess.Popen[str]] = {}
        self.keys: dict[str, str] = {}
        settings = block(PAGE, 'provider = "external"', "toml")
        home = folder / "home"
        home.mkdir()
        (home / "swell.toml").write_text(settings)
        #: What is of this machine and not of the page: its address, a certificate, shorter leases.
        self._home = clean_environment() | {
            "SWELL_SERVER__HOST": HOME,
            "SWELL_SERVER__PUBLIC_URL": self.url,
            "SWELL_SERVER__TLS_CERT": str(folder / "cert.pem"),
            "SWELL_SERVER__TLS_KEY": str(folder / "key.pem"),
            "SWELL_DELIVERY__LEASE_S": str(LEASE_S),
            "SWELL_DELIVERY__HEARTBEAT_S": "1",
            "SWELL_CLIENT__CA_FILE": str(folder / "cert.pem"),
        }
        a_certificate(folder)
        with (home / "stderr.txt").open("w") as log:
            command = (*SWELL, "serve", "--json")
            self.backend = internet.start(
                internet.home, *command, folder=home, env=self._home, log=log
            )
        ready = ready_line(self.backend, home)
        assert ready["url"] == self.url
        self._key = ready["key"]

    @property
    def url(self) -> str:
        return f"https://{HOME}:{PORT}"

    def swell(self, *words: str) -> Any:
        """Run a command at home, and return what it prints as JSON."""
        done = subprocess.run(
            [*self.internet.within(self.internet.home), *SWELL, *words, "--json"],
            cwd=self.folder / "home",
            env=self._home,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def join(self, cloud: Cloud, machine: int = 1) -> None:
        """Start a worker on a machine of a cloud, with a URL and a key."""
        if cloud.name not in self.keys:
            made = self.swell(
                *f"keys create {cloud.name} --scope worker --pool {cloud.name}".split()
            )
            self.keys[cloud.name] = made["key"]
        folder = self.folder / f"{cloud.name}-{machine}"
        folder.mkdir()
        told = {
            "SWELL_WORKER__URL": self.url,
            "SWELL_WORKER__TOKEN": self.keys[cloud.name],
            "SWELL_WORKER__POOL": cloud.name,
            "SWELL_WORKER__KILLED_AFTER_S": "60",
            "SWELL_WORKER__NAME": folder.name,
            # In place of an authority that everybody knows.
            "SWELL_WORKER__CA_FILE": str(self.folder / "cert.pem"),
        }
        command = (*SWELL, "worker", "--models", MODEL, "--slots", "2")
        with (folder / "stderr.txt").open("w") as log:
            self.workers[cloud.name] = self.internet.start(
                cloud.machine, *command, folder=folder, env=clean_environment() | told, log=log
            )

    def ask(self, path: str, body: object = None) -> Any:
        """Ask the backend from home, as an operator."""
        curl = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30"]
        curl += ["--cacert", str(self.folder / "cert.pem")]
        curl += ["--header", f"Authorization: Bearer {self._key}"]
        if body is not None:
            curl += ["--json", json.dumps(body)]
        done = subprocess.run(
            [*self.internet.within(self.internet.home), *curl, self.url + path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def fleet(self) -> dict[str, Any]:
        return {each["name"]: each for each in self.ask("/v1/workers")["workers"]}

    def live(self) -> set[str]:
        return {n for n, each in self.fleet().items() if each["state"] in ("idle", "busy")}

    def holds(self, name: str) -> bool:
        return bool(self.fleet()[name]["held"])

    def submit(self, n: int, word: str) -> list[str]:
        asked = [
            {"model": MODEL, "input": {"prompt": f"a {word} fox, number {each}"}}
            for each in range(n)
        ]
        return [each["id"] for each in self.ask("/v1/tasks/batch", {"tasks": asked})["tasks"]]

    def ended(self, ids: list[str]) -> dict[str, Any]:
        listed = self.ask("/v1/tasks?limit=200")["tasks"]
        return {e["id"]: e for e in listed if e["id"] in ids and e["finished_at"] is not None}

    def until(self, what: str, look: Callable[[], bool], limit_s: float = 240.0) -> None:
        ends_s = time.monotonic() + limit_s
        while not look():
            assert time.monotonic() < ends_s, f"never {what}: {self._logs()}"
            time.sleep(0.1)

    def _logs(self) -> str:
        logs = sorted(self.folder.glob("*/stderr.txt"))
        return "\n".join(f"-- {log.parent.name}\n{log.read_text()[-1500:]}" for log in logs)


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[Rehearsal]:
    internet = Internet(["aws", "gcp", "azure"], delay_ms=40)
    try:
        yield Rehearsal(tmp_path, internet)
    finally:
        internet.close()


def a_certificate(folder: Path) -> None:
    """Make one for the backend's address, as an authority would."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 "
        f"-subj /CN=swell -addext subjectAltName=IP:{HOME} -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)


def test_machines_reach_the_backend_and_nothing_else_and_nobody_reaches_them() -> None:
    internet = Internet(["aws", "gcp"])
    try:
        aws, gcp = internet.clouds
        for cloud in (aws, gcp):
            assert internet.reaches(cloud.machine, HOME, PORT)
            assert not internet.reaches(cloud.machine, HOME, 22)
            assert not internet.reaches(cloud.machine, "192.0.2.1", 443)
            assert not internet.reaches(internet.home, cloud.public, 22)
            assert not internet.reaches(internet.home, "10.0.0.2", 22)
        assert not internet.reaches(aws.machine, gcp.public, 443)
        aws.cut()
        assert not internet.reaches(aws.machine, HOME, PORT)
        aws.mend()
        assert internet.reaches(aws.machine, HOME, PORT)
    finally:
        internet.close()


def test_three_clouds_draw_for_one_backend_and_no_task_is_lost(rehearsal: Rehearsal) -> None:
    aws, gcp, azure = rehearsal.internet.clouds
    for cloud in (aws, gcp, azure):
        rehearsal.join(cloud)
    rehearsal.until("three live", lambda: len(rehearsal.live()) == 3)
    ids = rehearsal.submit(15, "red")
    # Two clouds in the middle of their work: one's line is cut, the other's machine is taken.
    rehearsal.until("drawn by all", lambda: drawn(rehearsal) == {"aws", "gcp", "azure"})
    rehearsal.until("at work", lambda: rehearsal.holds("gcp-1") and rehearsal.holds("azure-1"))
    gcp.cut()
    azure.lose()
    rehearsal.join(azure, machine=2)
    rehearsal.until("lost", lambda: rehearsal.fleet()["gcp-1"]["state"] == "lost")
    rehearsal.until("replaced", lambda: "azure-2" in rehearsal.live())
    rehearsal.until("drawn by the others", lambda: len(rehearsal.ended(ids)) == len(ids))
    before = rehearsal.ended(ids)

    gcp.mend()
    rehearsal.until("back", lambda: "gcp-1" in rehearsal.live())
    later = rehearsal.submit(4, "green")
    # A machine that is taken back with notice hands over what it cannot end, and is gone.
    rehearsal.until("taken up", lambda: rehearsal.holds("aws-1"))
    rehearsal.workers["aws"].send_signal(signal.SIGTERM)
    rehearsal.until("drawn", lambda: len(rehearsal.ended(later)) == len(later))
    assert rehearsal.workers["aws"].wait(PATIENCE_S) == 0

    tasks = rehearsal.ended(ids + later)
    assert {each["state"] for each in tasks.values()} == {"succeeded"}
    assert all(each["artifacts"][0]["content_type"] == "image/png" for each in tasks.values())
    # What the two held was drawn again, and nothing besides: each held two at most.
    assert 2 <= sum(each["attempt"] > 1 for each in tasks.values()) <= 4
    assert rehearsal.ask("/v1/dead")["tasks"] == []
    # Whoever was cut off told of its pictures when it was back: none replaced another's.
    assert {name: outcome(tasks[name]) for name in ids} == {
        name: outcome(each) for name, each in before.items()
    }
    # What attempts cost is written a moment after their ends.
    rehearsal.until("charged", lambda: images(rehearsal) == len(tasks))
    costs = rehearsal.swell("costs", "--by", "pool")["costs"]
    assert all(each["micros"]["total"] > 0 for each in costs)
    assert stop(rehearsal.backend) == 0


def images(rehearsal: Rehearsal) -> int:
    """How many pictures the ledger has, of all clouds."""
    return sum(each["images"] for each in rehearsal.swell("costs", "--by", "pool")["costs"])


def drawn(rehearsal: Rehearsal) -> set[str]:
    """The clouds that have drawn a picture."""
    costs = rehearsal.ask("/v1/costs?by=pool")["costs"]
    return {each["name"] for each in costs if each["images"]}


def outcome(task: Any) -> Any:
    return (task["state"], task["attempt"], task["finished_at"])
