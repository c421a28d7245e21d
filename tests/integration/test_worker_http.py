"""A worker as a process of its own, over HTTP, against a real server."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from worker_harness import PATIENCE_S, over
from worker_site import Site, a_worker, site

from swell.core.task import TaskState

__all__ = ["site"]


#: A picture that takes longer than anybody waits.
ENDLESS = {"steps": 1000, "step_s": 0.2}


async def test_tasks_run_and_pictures_come_back(site: Site, tmp_path: Path) -> None:
    async with a_worker(site, tmp_path):
        text = await site.ended(await site.submit("demo/upper", input={"text": "hé"}))
        assert (text["state"], text["output"]) == ("succeeded", "HÉ")
        wish = {"prompt": "fox", "width": 64, "height": 48}
        task = await site.ended(await site.submit("demo/echo-picture", input=wish, count=2))
        assert task["state"] == "succeeded", task
        assert [each["width"] for each in task["artifacts"]] == [64, 64]
        async with site.client.get(task["artifacts"][1]["url"]) as answer:
            assert answer.content_type == "image/png"
            assert (await answer.read()).startswith(b"\x89PNG")


async def test_an_input_file_of_the_backend_is_fetched(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "sizes.py"
    file.write_text(
        "import swell\n"
        "@swell.model('test/size')\n"
        "def size(image: swell.Image) -> list[int]:\n"
        "    return list(image.pil().size)\n"
    )
    async with a_worker(site, tmp_path, "-m", str(file)):
        task = await site.ended(await site.submit("demo/echo-picture", input={"width": 32}))
        url = task["artifacts"][0]["url"]
        sized = await site.ended(await site.submit("test/size", input={"image": url}))
        assert sized["output"] == [32, 128]
        # The worker would refuse any other file there: it is a private address to it.
        url = url.replace("127.0.0.1", "localhost")
        sized = await site.ended(await site.submit("test/size", input={"image": url}))
        assert sized["output"] == [32, 128]
        forged = await site.ended(await site.submit("test/size", input={"image": url + "x"}))
        assert "private network" in forged["error"]["detail"]
        private = "http://169.254.169.254/latest/meta-data"
        refused = await site.ended(await site.submit("test/size", input={"image": private}))
        assert refused["error"]["code"] == "input_unavailable"
        assert "private network" in refused["error"]["detail"]


async def test_a_running_task_is_cancelled(site: Site, tmp_path: Path) -> None:
    (tmp_path / "swell.toml").write_text("[worker]\ncancel_grace_s = 600\n")
    async with a_worker(site, tmp_path, "--slots", "1"):
        task_id = await site.submit("demo/echo-picture", input=ENDLESS)
        await site.running(task_id)
        await site.call("POST", f"/v1/tasks/{task_id}/cancel")
        assert (await site.ended(task_id))["state"] == "canceled"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file beside a model whose tasks last until it is there."""
    (tmp_path / "waits.py").write_text(
        "import pathlib, time\n"
        "import swell\n"
        "@swell.model('test/waits')\n"
        "def waits() -> str:\n"
        "    while not pathlib.Path(__file__).with_name('gate').exists():\n"
        "        time.sleep(0.01)\n"
        "    return 'ok'\n"
    )
    return tmp_path / "gate"


async def test_sigterm_drains(site: Site, tmp_path: Path, gate: Path) -> None:
    async with a_worker(site, tmp_path, "-m", "waits.py", "--slots", "1") as (process, talk):
        held = await site.submit("test/waits", input={})
        await site.running(held)
        left = await site.submit("demo/upper", input={"text": "a"})
        process.send_signal(signal.SIGTERM)
        await talk.has(b"draining")
        gate.touch()
        assert await process.wait() == 0
    assert (await site.ended(held))["state"] == "succeeded"
    assert (await site.call("GET", f"/v1/tasks/{left}"))["state"] == "queued"


async def test_the_first_sigterm_does_not_hurry_one_that_drains_already(
    site: Site, tmp_path: Path, gate: Path
) -> None:
    async with a_worker(site, tmp_path, "-m", "waits.py", "--slots", "2") as (process, talk):
        held, other = [await site.submit("test/waits", input={}) for _ in range(2)]
        for task_id in (held, other):
            await site.running(task_id)
        [worker] = (await site.call("GET", "/v1/workers"))["workers"]
        await site.call("POST", f"/v1/workers/{worker['id']}/drain")
        await talk.has(b"draining")
        process.send_signal(signal.SIGTERM)
        # Once the worker has answered this, it has seen the signal, too.
        await site.call("POST", f"/v1/tasks/{other}/cancel")
        await site.ended(other)
        gate.touch()
        assert await process.wait() == 0
    task = await site.ended(held)
    assert (task["state"], task["attempt"]) == ("succeeded", 1)


async def test_one_whose_machine_kills_it_hands_over_before_that(
    site: Site, tmp_path: Path
) -> None:
    # Of these 62.5 s, 60 are for what was drawn, and 2 for goodbyes.
    limits = "[worker]\nkilled_after_s = 62.5\nhandover_s = 60\n"
    (tmp_path / "swell.toml").write_text(limits)
    async with a_worker(site, tmp_path, "--slots", "1") as (process, talk):
        held = await site.submit("demo/echo-picture", input=ENDLESS)
        await site.running(held)
        [worker] = (await site.call("GET", "/v1/workers"))["workers"]
        await site.call("POST", f"/v1/workers/{worker['id']}/drain")
        await talk.has(b"draining")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0
    task = await site.call("GET", f"/v1/tasks/{held}")
    assert (task["state"], task["attempt"]) == ("queued", 1)


async def test_a_second_sigterm_hands_leases_back_at_once(site: Site, tmp_path: Path) -> None:
    # It may take this long where something is drawn in steps, and nothing is.
    (tmp_path / "swell.toml").write_text("[worker]\nhandover_s = 600\n")
    async with a_worker(site, tmp_path, "--slots", "2") as (process, talk):
        ids = [await site.submit("demo/echo-picture", input=ENDLESS) for _ in range(2)]
        for task_id in ids:
            await site.running(task_id)
        process.send_signal(signal.SIGTERM)
        await talk.has(b"draining")  # two signals at once would be one
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0
    tasks = await site.backend.store.get(ids)
    # A lease that runs out costs an attempt.
    found = {task and (task.state, task.attempts_left) for task in tasks}
    assert found == {(TaskState.QUEUED, 3)}


async def test_the_model_process_dies_with_its_worker(site: Site, tmp_path: Path) -> None:
    async with a_worker(site, tmp_path) as (process, _):
        [child] = psutil.Process(process.pid).children()
        process.kill()
        await process.wait()
        await over(child.pid)


async def test_a_poison_task_ends_among_the_dead(site: Site, tmp_path: Path) -> None:
    async with a_worker(site, tmp_path):
        poison = await site.submit("demo/crash", input={"how": "die"})
        others = [
            await site.submit("demo/crash", input={"how": "not", "text": str(n)}) for n in range(5)
        ]
        dead = await site.ended(poison)
        assert dead["state"] == "failed"
        assert dead["attempt"] == dead["max_attempts"]
        assert dead["error"]["code"] == "model_process_died"
        assert {(await site.ended(each))["state"] for each in others} == {"succeeded"}


async def test_a_wrong_token_ends_the_worker_with_what_to_do(site: Site, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "swell", "worker", "--url", site.url, "--token", "swell_wrong"),
        *("-m", "demo/noop"),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    assert process.returncode not in (0, None)
    assert b"key" in stderr
    assert b"Traceback" not in stderr


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        (None, 3, b"there is no file"),
        ("import swell\n", 2, b"holds no model"),
        ("raise RuntimeError('no weights')\n", 2, b"no weights"),
    ],
)
async def test_everything_ends_at_once_where_no_worker_can_ever_serve_its_models(
    tmp_path: Path, content: str | None, code: int, reason: bytes
) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "swell", "up", "--port", "0", "-n", "2", "-m", "mine.py"),
        *("--data", str(tmp_path / "data")),
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("SWELL_")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == code
    assert stdout == b""
    assert stderr.count(reason) == 1
    # Each was started once.
    assert len(list((tmp_path / "data" / "logs").iterdir())) == 2
