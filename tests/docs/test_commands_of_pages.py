"""Commands of pages that need no more than a Swell that runs, in the order in which they stand."""

import subprocess
from collections.abc import Iterator

import pytest

from commandline import Swell, ready_line, stop
from pages import Reader, block, commands


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    """A Swell that serves the first model of the guide for authors, by the guide's command."""
    here = Swell(tmp_path_factory.mktemp("swell"))
    model = block("docs/models/authoring.md", '@swell.model("demo/upper")\n')
    (here.folder / "upper.py").write_text(model)
    *_, up, _ = commands("docs/models/authoring.md", "swell models check upper.py")
    assert up[0] == "up"
    process = here.start(*up, "--json", "--port", "0")
    try:
        ready_line(process, here.folder)
        yield here
    finally:
        assert stop(process) == 0, (here.folder / "stderr.txt").read_text()


def test_the_first_model_of_the_guide_is_checked_run_and_served(running: Swell) -> None:
    page = commands("docs/models/authoring.md", "swell models check upper.py")
    check, run, _, submit = page
    running.ok(*check)
    assert running.ok(*run).strip() == "HELLO"
    assert "HELLO" in running.ok(*submit)


def test_keys_are_made_listed_rotated_and_revoked(running: Swell) -> None:
    *makes, listed, rotate, revoke = commands("docs/security.md", "swell keys rotate", "bash")
    for words in makes:
        running.ok(*words)
    assert "shop" in running.ok(*listed)
    [shop] = [each for each in running.json(*listed) if each["name"] == "shop"]
    for words in (rotate, revoke):
        running.ok(*[shop["id"] if word == "KEY_ID" else word for word in words])
    [shop] = [each for each in running.json(*listed) if each["name"] == "shop"]
    assert shop["revoked_at"] is not None


def test_what_is_looked_at_first_in_an_incident_answers(running: Swell) -> None:
    found = commands("docs/operate.md", "swell workers --gone")
    assert len(found) >= 5
    for words in found:
        running.ok(*words)


def test_a_key_that_leaked_is_found_and_revoked(running: Swell) -> None:
    made = running.json("keys", "create", "leaked")
    script = block("docs/operate.md", "swell keys revoke", "sh")
    assert "leaked" in Reader(running.folder).does(script, ("KEY_ID", made["id"])).stdout
    [leaked] = [each for each in running.json("keys", "ls") if each["id"] == made["id"]]
    assert leaked["revoked_at"] is not None


def test_keys_of_clouds_shops_and_apps_are_made(running: Swell) -> None:
    pages = [
        block("docs/workers-anywhere.md", "swell keys create gcp", "sh"),
        block("docs/serve-sdxl-flux.md", "swell keys create shop", "sh"),
        block("examples/README.md", "swell keys create portraits", "sh"),
    ]
    worker, *_ = block("docs/install.md", "docker run --gpus all", "sh").splitlines()
    said = Reader(running.folder).does("".join([*pages, worker])).stdout.split()
    assert len(said) == 6
    assert all(each.startswith("swell_") for each in said)
    made = {each["name"]: each for each in running.json("keys", "ls")}
    assert [made[each]["pools"] for each in ("aws", "gcp", "azure")] == [
        ["aws"],
        ["gcp"],
        ["azure"],
    ]
    assert made["shop"]["scopes"] == ["client"]
    assert made["gpu-workers"]["scopes"] == ["worker"]
    assert made["portraits"]["limits"]["rate_per_s"] == 0


def test_what_a_machine_is_started_with_has_a_key_of_its_own(running: Swell) -> None:
    reader = Reader(running.folder)
    script = block("docs/install.md", "swell deploy gcp", "sh")
    token = reader.does(f"{script}\necho $SWELL_WORKER__TOKEN").stdout.strip()
    written = (running.folder / "machine.sh").read_text()
    assert token in written
    assert "registry.example/poster:1" in written
    subprocess.run(["bash", "-n", running.folder / "machine.sh"], check=True)
