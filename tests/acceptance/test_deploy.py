"""`swell deploy` looks at what is to go out, tries what it names, and writes what machines need."""

import http.client
import json
import re
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from commandline import Swell, ready_line, stop
from servers import MotoServer, free_port
from swell.client.access import read_access

ROOT = Path(__file__).resolve().parents[2]


def findings(swell: Swell, *arguments: str, **variables: str) -> tuple[int, list[dict[str, Any]]]:
    done = swell.run("deploy", "--json", *arguments, **variables)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def grade(found: list[dict[str, Any]], name: str) -> str:
    [each] = [each for each in found if each["name"] == name]
    told: str = each["grade"]
    return told


def test_a_fresh_folder_may_go_out_to_one_machine_and_not_to_three(swell: Swell) -> None:
    code, found = findings(swell)
    assert code == 0
    assert {each["grade"] for each in found} <= {"ok", "warn"}
    # What `swell doctor` tries is tried here too.
    assert {"tls", "open files", "objects", "telemetry", "clock"} <= {e["name"] for e in found}
    code, found = findings(swell, "--backends", "3", "--offline")
    assert code == 1
    assert grade(found, "store") == grade(found, "files") == "fail"
    assert "tls" not in {each["name"] for each in found}


def test_people_are_told_why_and_what_to_do(swell: Swell) -> None:
    told = {"SWELL_SERVER__CORS_ORIGINS": "*"}
    done = swell.run("deploy", "--offline", **told)
    assert done.returncode == 0
    line = next(n for n, text in enumerate(done.stdout.splitlines()) if text.startswith("warn"))
    assert [text.split(":")[0].strip() for text in done.stdout.splitlines()[line + 1 :][:2]] == [
        "why",
        "do",
    ]
    strict = swell.run("deploy", "--offline", "--strict", **told)
    assert strict.returncode == 1
    assert "not ready to deploy: pages" in strict.stderr


def test_a_file_of_variables_is_looked_at_instead_of_those_here(swell: Swell) -> None:
    env = swell.folder / "swell.env"
    env.write_text("# Of the service.\nSWELL_OBJECTS__URL='memory:'\n\nPATH=/usr/bin\n")
    here = {"SWELL_SERVER__PROCESSES": "2"}
    code, found = findings(swell, "--offline", "--env", str(env), **here)
    assert code == 1
    assert grade(found, "files") == "fail"
    assert grade(found, "store") == "ok"
    env.write_text("SWELL_STORE__URL\n")
    done = swell.run("deploy", "--env", str(env))
    assert done.returncode == 2
    assert "line 1" in done.stderr


def test_a_file_of_settings_that_others_can_read_is_told(swell: Swell) -> None:
    file = swell.folder / "swell.toml"
    file.write_text("[log]\njson_lines = true\n")
    for mode, expected in ((0o644, "warn"), (0o640, "ok")):
        file.chmod(mode)
        assert grade(findings(swell, "--offline")[1], "settings file") == expected


def test_files_that_are_named_elsewhere_are_looked_at_too(swell: Swell) -> None:
    (swell.folder / "swell.toml").touch(0o640)
    named, env = swell.folder / "named.toml", swell.folder / "swell.env"
    named.write_text("[log]\njson_lines = true\n")
    env.write_text(f"SWELL_CONFIG={named}\nPATH=/usr/bin\n")
    for mode, expected in ((0o644, "warn"), (0o640, "ok")):
        named.chmod(mode)
        env.chmod(mode)
        found = findings(swell, "--offline", "--env", str(env))[1]
        assert grade(found, "settings file") == expected
        assert grade(found, "file of variables") == expected


def test_secrets_are_not_shown(swell: Swell) -> None:
    url = f"postgresql://swell:very-private-7@127.0.0.1:{free_port()}/none"
    done = swell.run("deploy", "--json", SWELL_STORE__URL=url)
    assert done.returncode == 1
    assert "very-private-7" not in done.stdout + done.stderr


def test_who_answers_at_the_address_is_asked(running: Swell) -> None:
    access = read_access(running.folder / ".swell")
    assert access is not None

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "fine"}')

        def log_message(self, *arguments: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        for url, expected in (
            (access.url, "ok"),
            (f"http://127.0.0.1:{other.server_port}", "fail"),
            (f"http://127.0.0.1:{free_port()}", "warn"),
        ):
            _, found = findings(running, SWELL_SERVER__PUBLIC_URL=url)
            assert grade(found, "who answers") == expected, url
        other.shutdown()


@pytest.mark.parametrize(
    ("status", "allowed", "expected"),
    [
        (403, None, "warn"),
        (200, None, "warn"),
        (200, "https://other.example", "warn"),
        (200, "https://shop.example", "ok"),
        (204, "*", "ok"),
    ],
)
def test_a_bucket_that_sends_pages_away_is_told(
    swell: Swell, moto_server: MotoServer, status: int, allowed: str | None, expected: str
) -> None:
    """By what a bucket answers to a browser that asks first; moto would let every page in."""
    asked = []
    assert subprocess.run(["curl", "-sf", "-X", "PUT", f"{moto_server.url}/pages"]).returncode == 0

    class Bucket(BaseHTTPRequestHandler):
        def do_OPTIONS(self) -> None:
            asked.append((self.headers["Origin"], self.headers["Access-Control-Request-Method"]))
            self.send_response(status)
            if allowed:
                self.send_header("Access-Control-Allow-Origin", allowed)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def pass_on(self) -> None:
            """Everything else is moto's."""
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            behind = http.client.HTTPConnection("127.0.0.1", urlsplit(moto_server.url).port)
            behind.request(self.command, self.path, body, dict(self.headers))
            answer = behind.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(data)
            behind.close()

        do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = pass_on  # noqa: N815 - the library's

        def log_message(self, *arguments: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as bucket:
        Thread(target=bucket.serve_forever, daemon=True).start()
        told = {
            "SWELL_OBJECTS__URL": "s3://pages/objects",
            "SWELL_OBJECTS__ENDPOINT": f"http://127.0.0.1:{bucket.server_port}",
            "SWELL_OBJECTS__REGION": "us-east-1",
            "SWELL_OBJECTS__KEY_ID": "id",
            "SWELL_OBJECTS__SECRET": "secret-of-a-bucket",
            "SWELL_OBJECTS__SERVE": "redirect",
            "SWELL_SERVER__PUBLIC_URL": "https://shop.example",
        }
        _, found = findings(swell, **told)
        bucket.shutdown()
    assert grade(found, "objects") == "ok"
    assert grade(found, "bucket for pages") == expected
    assert asked == [("https://shop.example", "GET")]


def test_clouds_are_asked_for_the_machines_of_pools(swell: Swell, moto_server: MotoServer) -> None:
    pool = f"""
        [pools.spot]
        provider = "aws"
        models = ["acme/poster"]
        hour_micros = 450000
        [pools.spot.options]
        image = "registry.example/poster:1"
        region = "us-east-1"
        ami = "ami-0123456789abcdef0"
        types = ["g6.xlarge"]
        subnets = ["subnet-0a"]
        endpoint = "{moto_server.url}"
    """
    (swell.folder / "swell.toml").write_text(pool)
    told = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    _, found = findings(swell, **told)
    listed = [each for each in found if each["name"] == "pool spot"]
    assert any("aws lists 0 machines" in each["detail"] for each in listed), listed
    nowhere = pool.replace(moto_server.url, f"http://127.0.0.1:{free_port()}")
    (swell.folder / "swell.toml").write_text(nowhere)
    _, found = findings(swell, **told)
    assert [e["grade"] for e in found if e["name"] == "pool spot"][-1] == "fail"


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_a_machine_is_started_with_url_and_key_alone(swell: Swell, cloud: str) -> None:
    words = ("deploy", cloud, "--image", "registry.example/poster:1", "--pool", "gpu")
    told = {"SWELL_WORKER__URL": "https://swell.example"}
    done = swell.run(*words, **told)
    assert done.returncode == 2
    assert "SWELL_WORKER__TOKEN" in done.stderr
    done = swell.run(*words, SWELL_WORKER__TOKEN="swell_the-key-of-a-worker", **told)
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["sh", "-n"], input=done.stdout, text=True, check=False).returncode == 0
    lines = done.stdout.splitlines()
    given = [line for line in lines if re.match(r"SWELL_WORKER__(URL|TOKEN|POOL)=", line)]
    assert given == [
        "SWELL_WORKER__POOL=gpu",
        "SWELL_WORKER__TOKEN=swell_the-key-of-a-worker",
        "SWELL_WORKER__URL=https://swell.example",
    ]
    wrong = swell.run("deploy", "oracle", "--image", "x")
    assert wrong.returncode == 2


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (None, "127.0.0.1"),
        ("http://localhost:8000", "localhost"),
        ("swell.example", "swell.example"),
        ("http://swell.example", "https://"),
        ("http://10.1.2.3:8000", None),
        ("https://swell.internal", None),
    ],
)
def test_no_machine_is_started_that_would_never_join(
    swell: Swell, url: str | None, word: str | None
) -> None:
    """By hand a machine may have its own way to a private network; nothing leads to a loopback."""
    given = () if url is None else ("--url", url)
    told = {"SWELL_WORKER__TOKEN": "swell_the-key-of-a-worker"}
    done = swell.run("deploy", "gcp", "--image", "registry.example/x:1", *given, **told)
    if word is None:
        assert done.returncode == 0, done.stderr
        return
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr
    assert "--url" in done.stderr


@pytest.mark.parametrize(("cloud", "is_told"), [("aws", False), ("gcp", False), ("azure", True)])
def test_who_starts_a_machine_by_hand_is_told_where_its_bill_goes_on(
    swell: Swell, cloud: str, is_told: bool
) -> None:
    words = ("--image", "registry.example/x:1", "--url", "https://swell.example")
    done = swell.run("deploy", cloud, *words, SWELL_WORKER__TOKEN="swell_the-key")
    assert done.returncode == 0, done.stderr
    assert ("until it is deleted" in " ".join(done.stderr.split())) == is_told
    assert "until it is deleted" not in done.stdout


def test_the_first_key_is_made_before_the_public_name_leads_here(swell: Swell) -> None:
    """As in a pod, where the name needs what the key is needed for."""
    port, public = free_port(), f"http://127.0.0.1:{free_port()}"
    command = ("serve", "--json", "--port", str(port))
    serving = swell.start(*command, SWELL_SERVER__PUBLIC_URL=public)
    try:
        assert ready_line(serving, swell.folder)["url"] == public
        create = ("keys", "create", "workers", "--scope", "worker")
        assert swell.run(*create).returncode != 0
        made = swell.ok(*create, "--url", f"http://127.0.0.1:{port}")
        assert made.startswith("swell_")
    finally:
        assert stop(serving) == 0, (swell.folder / "stderr.txt").read_text()
