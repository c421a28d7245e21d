"""`swell webhooks`: standing webhooks, what signs, and what became of deliveries."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook

from commandline import PATIENCE_S, Swell, ready_line, stop
from pages import Reader, block

SHOP = "https://shop.example/hooks"

#: What the page starts, on a free port and with one model.
UP = "up --json --port 0 -m demo/upper"


class Receiver:
    """A server that takes webhooks, and answers as it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.changed = threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with outer.changed:
                    outer.came.append((dict(self.headers.items()), body))
                    outer.changed.notify_all()
                self.send_response(outer.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def until(self, n: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.came) >= n, PATIENCE_S)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    swell = Swell(tmp_path_factory.mktemp("swell"))
    settings = '[webhooks]\nallow_private_urls = ["127.0.0.1"]\n'
    (swell.folder / "swell.toml").write_text(settings, "utf-8")
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
    try:
        ready_line(process, swell.folder)
        yield swell
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


def _until(running: Swell, is_so: Callable[[list[Any]], bool], *where: str) -> list[Any]:
    """Return deliveries once they are so."""
    for _ in range(PATIENCE_S):
        found: list[Any] = running.json("webhooks", "deliveries", *where)
        if is_so(found):
            return found
    raise AssertionError(f"it never came to that: {found}")


def test_a_webhook_is_made_and_told_and_what_became_of_it_is_seen(
    running: Swell, receiver: Receiver
) -> None:
    wanted = ("--event", "succeeded", "--event", "failed", "--model", "demo/*")
    made = running.json("webhooks", "create", receiver.url, *wanted, "--description", "the shop")
    assert (made["events"], made["models"]) == (["succeeded", "failed"], ["demo/*"])
    [listed] = [each for each in running.json("webhooks", "ls") if each["id"] == made["id"]]
    assert (listed["description"], listed["state"]) == ("the shop", "active")
    assert "secret" not in listed
    assert receiver.url in running.ok("webhooks", "ls")
    running.ok("tasks", "submit", "demo/upper", "-i", "text=a", "--watch")
    receiver.until(1)
    headers, body = receiver.came[0]
    Webhook(made["secret"]).verify(body, {name.lower(): each for name, each in headers.items()})
    told = json.loads(body)
    assert told["type"] == "task.succeeded"
    [delivery] = _until(
        *(running, lambda found: found and found[0]["state"] == "delivered"),
        *("--webhook", made["id"], "--task", told["data"]["id"]),
    )
    assert delivery["attempts"][0]["status"] == 200
    assert delivery["id"] in running.ok("webhooks", "deliveries", "--limit", "1")
    gone = running.run("webhooks", "set", made["id"], "--delete")
    assert (gone.returncode, gone.stderr.strip()) == (0, f"{made['id']} is deleted")
    assert running.run("webhooks", "set", made["id"], "--secret").returncode == 3


def test_what_signs_is_shown_and_replaced(running: Swell) -> None:
    made = running.json("webhooks", "create", "https://shop.example/hooks")
    assert running.ok("webhooks", "set", made["id"], "--secret").strip() == made["secret"]
    rotated = running.run("webhooks", "set", made["id"], "--rotate", "--overlap", "1h")
    assert rotated.stderr.strip() == f"signing secret of {made['id']}:"
    assert rotated.stdout.strip().startswith("whsec_")
    assert rotated.stdout.strip() != made["secret"]
    assert running.json("webhooks", "set", "--secret")["key"].startswith("whsec_")
    named = running.ok("webhooks", "set", "--rotate", "--name", "shop").strip()
    assert running.ok("webhooks", "set", "--secret", "--name", "shop").strip() == named


def test_what_failed_is_sent_again_after_the_receiver_was_mended(
    running: Swell, receiver: Receiver
) -> None:
    made = running.json("webhooks", "create", receiver.url)
    since = datetime.now(UTC) - timedelta(minutes=1)
    receiver.status = 410
    running.ok("tasks", "submit", "demo/upper", "-i", "text=b", "--watch")
    failed = ("--webhook", made["id"], "--state", "failed")
    [delivery] = _until(running, lambda found: len(found) == 1, *failed)
    assert "410" in delivery["reason"]
    receiver.status = 200
    assert "is active" in running.run("webhooks", "set", made["id"], "--resume").stderr
    which = ("--webhook", made["id"], "--since", since.strftime("%Y-%m-%dT%H:%M:%S"))
    assert (
        running.run("webhooks", "deliveries", "--replay", *which).stderr.strip()
        == "1 are sent again"
    )
    receiver.until(2)
    assert receiver.came[0][0]["webhook-id"] == receiver.came[1][0]["webhook-id"]
    _until(running, lambda found: found[0]["state"] == "delivered", "--webhook", made["id"])
    assert running.json("webhooks", "deliveries", "--replay", delivery["id"]) == {"replayed": 1}
    receiver.until(3)
    assert running.json("webhooks", "set", made["id"], "--pause")["state"] == "paused"
    asked = running.run("webhooks", "deliveries", "--replay")
    assert asked.returncode == 2
    assert "name ids of deliveries, or --webhook ID --since MOMENT" in asked.stderr


@dataclass(frozen=True)
class Shop:
    """Somebody who does what the page says, and the Swell that its own command has started."""

    swell: Swell
    reader: Reader


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    swell = Swell(tmp_path_factory.mktemp("reader"))
    assignment, up = block("docs/webhooks.md", "swell up", "sh").split(" ", maxsplit=1)
    name, _, value = assignment.partition("=")
    assert up == "swell up\n"
    process = swell.start(*UP.split(), **{name: value})
    try:
        ready = ready_line(process, swell.folder)
        told = {"SWELL_URL": ready["url"], "SWELL_KEY": ready["key"]}
        yield Shop(swell, Reader(swell.folder, told))
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


def test_a_task_names_who_is_told_as_the_page_says(shop: Shop, receiver: Receiver) -> None:
    shop.reader.does(block("docs/webhooks.md", "curl", "sh"), (SHOP, receiver.url))
    receiver.until(1)
    told = json.loads(receiver.came[0][1])
    assert (told["type"], told["data"]["output"]) == ("task.succeeded", "HELLO")


def test_a_standing_webhook_is_made_and_what_failed_sent_again_as_the_page_says(
    shop: Shop, receiver: Receiver
) -> None:
    shop.reader.does(block("docs/webhooks.md", "webhooks create", "sh"), (SHOP, receiver.url))
    [made] = shop.swell.json("webhooks", "ls")
    assert (made["url"], made["events"]) == (receiver.url, ["succeeded", "failed"])
    failed_delivery(shop, receiver, made["id"])
    since = (datetime.now(UTC) - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%S")
    [delivery] = shop.swell.json("webhooks", "deliveries", "--webhook", made["id"])
    said = shop.reader.does(
        block("docs/webhooks.md", "swell webhooks deliveries --replay", "sh"),
        ("we_0123456789abcdef", made["id"]),
        ("2026-11-26T12:00:00", since),
    )
    assert delivery["id"] in said.stdout
    assert "1 are sent again" in said.stderr
    receiver.until(2)
    shop.swell.ok("webhooks", "set", made["id"], "--delete")


def test_receivers_that_miss_webhooks_get_them_again_as_the_page_on_incidents_says(
    shop: Shop, receiver: Receiver
) -> None:
    made = json.loads(shop.reader.does(f"swell webhooks create {receiver.url} --json").stdout)
    failed_delivery(shop, receiver, made["id"])
    said = shop.reader.does(
        block("docs/operate.md", "swell webhooks deliveries --replay", "sh"),
        ("WEBHOOK", made["id"]),
        ("2026-11-26", (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")),
    )
    assert "1 are sent again" in said.stderr
    receiver.until(2)
    shop.swell.ok("webhooks", "set", made["id"], "--delete")


def failed_delivery(shop: Shop, receiver: Receiver, webhook: str) -> None:
    """Have a receiver refuse one delivery for good, and then mended."""
    receiver.status = 410
    # A standing webhook hears of the tasks of its own key.
    shop.reader.does("swell tasks submit demo/upper -i text=b --watch")
    which = ("--webhook", webhook, "--state", "failed")
    _until(shop.swell, lambda found: len(found) == 1, *which)
    receiver.status = 200
    shop.swell.ok("webhooks", "set", webhook, "--resume")
