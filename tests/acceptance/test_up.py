import json
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from subprocess import TimeoutExpired

import psutil
import pytest

from commandline import Swell, clean_environment, ready_line, stop
from swell.server.web.web_app import built_app


def test_up_keeps_its_keys_and_its_tasks_over_a_restart(swell: Swell) -> None:
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
    first = ready_line(process, swell.folder)
    task_id = swell.ok("tasks", "submit", "demo/upper", "-i", "text=kept").strip()
    swell.ok("tasks", "watch", task_id)
    assert stop(process) == 0
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
    second = ready_line(process, swell.folder)
    assert second["key"] == first["key"], "a browser that has signed in stays so"
    assert swell.json("tasks", "show", task_id)["output"] == "KEPT"
    assert stop(process) == 0


def test_every_start_prints_a_link_that_signs_in_and_no_log_keeps_it(swell: Swell) -> None:
    said = []
    (swell.folder / "broken.py").write_text("import nothing_like_this\n")
    for command in (("up", "-m", "broken.py"), ("demo", "--once", "--model", "demo/echo-picture")):
        assert "swell_" not in swell.run(*command, "--port", "0").stdout
    for _ in range(2):
        process = swell.start("up", "--port", "0", "-m", "demo/upper")
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Swell is ready: ")
        link = json.loads(swell.ok("open", "--json"))["link"]
        if built_app():
            assert process.stdout.readline() == f"  Open {link} (signs you in)\n"
        said.append(link)
        names = [key["name"] for key in swell.json("keys", "ls")]
        [token] = psutil.Process(process.pid).children()[0].environ()["SWELL_WORKER__TOKEN"].split()
        assert stop(process) == 0
    assert names.count("this machine") == 1
    assert said[0].split("/#/key/")[1] == said[1].split("/#/key/")[1]
    files = {path: path.read_bytes() for path in swell.folder.rglob("*") if path.is_file()}
    assert [path for path, data in files.items() if token.encode() in data] == []
    access = swell.folder / ".swell" / "access.json"
    local = json.loads(access.read_text())["local_key"]
    assert said[0].endswith(f"/#/key/{local}")
    assert [path for path, data in files.items() if local.encode() in data] == [access]
    assert stat.S_IMODE(access.stat().st_mode) == 0o600
    with (swell.folder / "out.txt").open("w+") as out:
        words = [sys.executable, "-m", "swell", "up", "--port", "0", "-m", "demo/upper"]
        process = subprocess.Popen(
            words, cwd=swell.folder, env=clean_environment(), stdout=out, stderr=out
        )
        while "Ctrl-C stops" not in (told := (swell.folder / "out.txt").read_text()):
            assert process.poll() is None, told
            time.sleep(0.1)
        assert local not in told
    assert stop(process) == 0


def test_a_second_start_says_where_the_first_one_runs(swell: Swell) -> None:
    process = swell.start("serve", "--json", "--port", "0")
    url = ready_line(process, swell.folder)["url"]
    second = swell.run("up", "--port", "0")
    assert f"already running in this folder (pid {process.pid}, {url})" in second.stderr
    assert stop(process) == 0
    assert "not running in .swell" in swell.run("open").stderr


def test_without_a_named_port_the_next_free_one_is_taken(swell: Swell) -> None:
    with ExitStack() as stack:
        with suppress(OSError):  # another program has it, which is as good
            stack.enter_context(socket.create_server(("127.0.0.1", 8000)))
        process = swell.start("serve", "--json")
        url = ready_line(process, swell.folder)["url"]
        assert int(url.rpartition(":")[2]) > 8000
        assert "Port 8000 is taken" in (swell.folder / "stderr.txt").read_text()
        assert stop(process) == 0


def test_the_key_of_local_workers_ends_with_their_backend(swell: Swell) -> None:
    def good() -> list[str]:
        return [k["name"] for k in swell.json("keys", "ls") if k["revoked_at"] is None]

    for number in (signal.SIGTERM, signal.SIGKILL):
        process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
        ready_line(process, swell.folder)
        assert good().count("workers of swell up") == 1
        stop(process, number)
    process = swell.start("serve", "--json", "--port", "0")
    ready_line(process, swell.folder)
    assert "workers of swell up" not in good()
    assert good().count("this machine") == 1
    assert stop(process) == 0


def test_the_key_of_local_workers_opens_their_pool_alone(swell: Swell) -> None:
    (swell.folder / "swell.toml").write_text('[worker]\npool = "attic"\n')
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
    ready = ready_line(process, swell.folder)
    [key] = [k for k in swell.json("keys", "ls") if k["name"] == "workers of swell up"]
    assert key["pools"] == ["attic"]
    assert [worker["pool"] for worker in swell.json("workers")] == ["attic"]
    token = psutil.Process(process.pid).children()[0].environ()["SWELL_WORKER__TOKEN"]
    words = ("worker", "--url", ready["url"], "--token", token, "-m", "demo/upper")
    stranger = swell.run(*words, SWELL_WORKER__POOL="cellar")
    assert stranger.returncode != 0
    assert "is for workers of attic, not of 'cellar'" in stranger.stderr
    assert len(swell.json("workers")) == 1
    assert stop(process) == 0


def test_by_itself_it_translates_has_styles_and_makes_portraits(swell: Swell) -> None:
    pytest.importorskip("swell_models")
    process = swell.start("up", "--port", "0")
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Swell is ready: ")
        told = {model["name"]: model for model in swell.json("models", "ls")}
        assert told["swell/picture"]["workers"] == told["swell/portraits"]["workers"] == 1
        words = ("tasks", "submit", "swell/picture", "-i", "prompt=un zorro rojo en la nieve")
        task = json.loads(swell.run(*words, "-i", "art=mosaic", "--watch", "--json").stdout)
        assert task["stages"][0]["output"]["text"] == "a red fox in the snow"
        assert [stage["state"] for stage in task["stages"]].count("succeeded") == 5
    finally:
        assert stop(process) == 0
    assert "swell tasks submit swell/picture" in (swell.folder / "stderr.txt").read_text()


def test_a_worker_that_dies_is_replaced_and_its_task_ends(swell: Swell) -> None:
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
    try:
        ready_line(process, swell.folder)
        [worker] = swell.json("workers")
        psutil.Process(worker["pid"]).kill()
        done = swell.run("tasks", "submit", "demo/upper", "-i", "text=later", "--watch")
        assert json.loads(done.stdout) == "LATER"
        assert worker["pid"] not in {
            w["pid"] for w in swell.json("workers") if w["state"] == "idle"
        }
    finally:
        assert stop(process) == 0


def test_nothing_is_left_when_up_ends(swell: Swell) -> None:
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper", "-n", "2")
    ready_line(process, swell.folder)
    # It is ready with its first worker; the other one comes after.
    family, until_s = list[psutil.Process](), time.monotonic() + 20.0
    while len(family) < 4 and time.monotonic() < until_s:
        time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 4, "two workers with a model process each"
    assert stop(process) == 0
    psutil.wait_procs(family, timeout=10)
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def test_a_second_signal_does_not_wait_for_running_work(swell: Swell) -> None:
    (swell.folder / "slow.py").write_text(
        "import time\nimport swell\n\n@swell.model('me/slow')\n"
        "def slow(duration_s: float) -> str:\n    time.sleep(duration_s)\n    return 'done'\n"
    )
    process = swell.start("up", "--json", "--port", "0", "-m", "slow.py")
    ready_line(process, swell.folder)
    task_id = swell.ok("tasks", "submit", "me/slow", "-i", "duration_s=50").strip()
    while swell.json("tasks", "show", task_id)["state"] == "queued":
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    with pytest.raises(TimeoutExpired):
        process.wait(1.0)
    for _ in range(3):
        # Two that come before the first is seen are one.
        process.send_signal(signal.SIGINT)
        with suppress(TimeoutExpired):
            process.wait(5)
            break
    assert process.returncode == 0
    stop(process)


def test_without_a_worker_that_starts_up_gives_up_and_says_why(swell: Swell) -> None:
    (swell.folder / "broken.py").write_text("import nothing_like_this\n")
    done = swell.run("up", "--port", "0", "-m", "broken.py")
    # Another start would not help: it ends at once, as a wrong model does elsewhere.
    assert done.returncode == 2
    assert done.stderr.count("nothing_like_this") == 1


def test_a_taken_port_is_told_with_what_to_do(swell: Swell) -> None:
    process = swell.start("serve", "--json", "--port", "0")
    try:
        url = ready_line(process, swell.folder)["url"]
        done = swell.run("serve", "--data", "other", "--port", url.rpartition(":")[2])
        assert done.returncode == 1
        assert "--port" in done.stderr
    finally:
        assert stop(process) == 0


@pytest.mark.parametrize("folder", ["/dev/null", "/proc/swell", "file", "garbage"])
def test_a_folder_that_cannot_be_used_is_told_with_what_to_do(swell: Swell, folder: str) -> None:
    (swell.folder / "file").touch()
    (swell.folder / "garbage").mkdir()
    (swell.folder / "garbage" / "swell.db").write_text("no database " * 100)
    done = swell.run("serve", "--port", "0", "--data", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "data_dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_sends_one_task_through(swell: Swell) -> None:
    findings = swell.json("doctor")
    assert {f["grade"] for f in findings} <= {"ok", "warn"}
    assert findings[-1]["name"] == "one task"


def test_the_demo_draws_a_picture_and_says_where_the_time_went(swell: Swell) -> None:
    done = swell.run(
        "demo", "--once", "--port", "0", "--model", "demo/echo-picture", "--prompt", "a cat"
    )
    assert done.returncode == 0, done.stderr
    assert (swell.folder / done.stdout.strip()).name == "a-cat.png"
    for word in ("queue", "load", "run", "encode", "upload"):
        assert word in done.stderr


def test_the_demo_says_what_it_could_not_draw(swell: Swell) -> None:
    pytest.importorskip("onnxruntime")
    prompt = "a quarterly report"
    done = swell.run("demo", "--once", "--port", "0", "--model", "swell/icons", "--prompt", prompt)
    assert done.returncode == 0, done.stderr
    assert 'cannot draw "quarterly report"' in done.stderr
