"""Workers in containers: they join, draw, drain, and are replaced."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from container_cases import Backend, Image
from container_rig import podman, until

from pages import Reader, block

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_worker_fetches_its_weights_by_url_and_key_and_draws(
    backend: Backend, icons: Image
) -> None:
    backend.swell.ok("models", "push", "swell/icons")
    worker = backend.worker(icons, "one")
    backend.joined("one", worker)
    task = backend.ended(backend.submit("swell/icons", "prompt=a red fox", "steps=2"))
    assert task["state"] == "succeeded", worker.said()
    assert task["version"] == icons.told["models"]["swell/icons"]
    [picture] = task["artifacts"]
    assert (picture["content_type"], picture["width"]) == ("image/png", 512)
    worker.signal("SIGTERM")
    assert worker.wait() == 0, worker.said()


def test_a_worker_is_started_as_the_page_on_installing_says(
    backend: Backend, icons: Image, tmp_path: Path
) -> None:
    backend.swell.ok("models", "push", "swell/icons")
    page = block("docs/install.md", "docker run --gpus all", "sh")
    create, run = page.split("\n", maxsplit=1)
    key = Reader(tmp_path).does(create).stdout.strip()
    weights = tmp_path / "weights"
    weights.mkdir(mode=0o777)
    weights.chmod(0o777)
    worker = backend.typed(
        *(icons, "typed", run),
        ("https://swell.example", backend.url),
        ("swell_…", key),
        ("/srv/swell-weights", str(weights)),
        ("registry.example/poster:1", icons.tag),
    )
    backend.joined("typed", worker)
    task = backend.ended(backend.submit("swell/icons", "prompt=a red fox", "steps=2"))
    assert task["state"] == "succeeded", worker.said()
    assert any(path.is_file() for path in weights.rglob("*")), "they are kept on the machine"
    worker.signal("SIGTERM")
    assert worker.wait() == 0, worker.said()


def test_a_worker_of_a_cloud_is_started_as_the_page_on_workers_says(
    backend: Backend, icons: Image
) -> None:
    backend.swell.ok("models", "push", "swell/icons")
    made = backend.swell.json("keys", "create", "aws", "--scope", "worker", "--pool", "aws")
    worker = backend.typed(
        *(icons, "cloud", block("docs/workers-anywhere.md", "docker run", "sh")),
        ("https://swell.example:8443", backend.url),
        ("swell_the-key-of-this-cloud", made["key"]),
        ("registry.example/icons:1", icons.tag),
    )
    backend.joined("cloud", worker)
    assert [each["pool"] for each in backend.swell.json("workers")] == ["aws"]
    task = backend.ended(backend.submit("swell/icons", "prompt=a red fox", "steps=2"))
    assert task["state"] == "succeeded"
    assert podman("stop", worker.name).returncode == 0
    [ended] = json.loads(podman("inspect", worker.name).stdout)
    assert ended["State"]["ExitCode"] == 0


def test_sigterm_drains_a_worker_and_its_running_task_ends(backend: Backend, slow: Image) -> None:
    worker = backend.worker(slow, "one")
    backend.joined("one", worker)
    assert worker.is_healthy()
    task_id = backend.submit("acme/slow", "text=kept", "wait_s=10")
    until(lambda: backend.is_running(task_id), "running task")
    worker.signal("SIGTERM")
    assert worker.wait() == 0, worker.said()
    task = backend.ended(task_id)
    assert (task["state"], task["output"], task["attempt"]) == ("succeeded", "kept by 10001", 1)


def test_a_killed_worker_is_replaced_and_its_task_ends_once(backend: Backend, slow: Image) -> None:
    first = backend.worker(slow, "first")
    backend.joined("first", first)
    task_id = backend.submit("acme/slow", "text=again", "wait_s=10")
    until(lambda: backend.is_running(task_id), "running task")
    first.signal("SIGKILL")
    assert first.wait() == 137
    second = backend.worker(slow, "second")
    backend.joined("second", second)
    task = backend.ended(task_id)
    assert (task["state"], task["output"], task["attempt"]) == ("succeeded", "again by 10001", 2)
    assert backend.ended(task_id) == task
    second.signal("SIGTERM")
    assert second.wait() == 0


def test_a_model_process_that_dies_leaves_no_zombie(backend: Backend, slow: Image) -> None:
    worker = backend.worker(slow, "one")
    backend.joined("one", worker)
    task_id = backend.submit("acme/slow", "text=x", "wait_s=10")
    until(lambda: backend.is_running(task_id), "running task")
    # All but the first process and the worker's own, as the kernel does where memory ends.
    killed = worker.run(
        "sh",
        "-c",
        "for each in /proc/[0-9]*; do grep -qa 'swell[.]worker' $each/cmdline 2>/dev/null "
        "&& kill -9 ${each#/proc/}; done; true",
    )
    assert killed.returncode == 0
    assert backend.ended(task_id)["state"] == "succeeded", worker.said()
    states = worker.run("sh", "-c", "cat /proc/[0-9]*/status | grep ^State")
    assert "zombie" not in states.stdout
    assert worker.is_healthy()


def test_a_full_disk_makes_no_worker_unhealthy(backend: Backend, slow: Image) -> None:
    worker = backend.worker(slow, "one", "--tmpfs", "/tmp:size=4m,mode=1777")
    backend.joined("one", worker)

    def said_s() -> float:
        return float(json.loads(worker.run("cat", "/tmp/swell-health").stdout)["at_s"])

    filled = worker.run("dd", "if=/dev/zero", "of=/tmp/full", "bs=4096")
    assert "No space left" in filled.stderr
    before_s = said_s()
    until(lambda: said_s() > before_s, "beat on the full disk")
    assert worker.is_healthy()


def test_a_worker_that_hangs_is_unhealthy(backend: Backend, slow: Image) -> None:
    worker = backend.worker(slow, "one")
    backend.joined("one", worker)
    assert worker.is_healthy()
    pid = json.loads(worker.run("cat", "/tmp/swell-health").stdout)["pid"]
    stopped = worker.run("sh", "-c", f"kill -STOP {pid}")
    assert stopped.returncode == 0, stopped.stderr
    until(lambda: not worker.is_healthy(), "notice of a worker that hangs")


def test_an_environment_that_a_models_file_asks_for_is_in_the_image(
    backend: Backend, building: Callable[..., Image], tmp_path: Path
) -> None:
    (tmp_path / "needy.py").write_text(
        '# /// script\n# dependencies = ["six==1.17.0"]\n# ///\n'
        "import six\nimport swell\n\n\n"
        '@swell.model("acme/needy")\ndef needy(text: str) -> str:\n'
        '    return f"{text} {six.__version__}"\n'
    )
    image = building("needy", "needy.py", place=tmp_path)
    # Nothing can be installed when it starts.
    worker = backend.worker(image, "one", PIP_INDEX_URL="http://127.0.0.1:9", PIP_RETRIES="0")
    backend.joined("one", worker)
    task = backend.ended(backend.submit("acme/needy", "text=six"))
    assert task["output"] == "six 1.17.0"
    assert "an environment for" not in worker.said()
