"""A model is tried beside live ones, compared with them, and voted on, by the commands."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop

POSTER = """
import PIL.Image

import swell


@swell.model("mine/poster")
def poster(prompt: str, seed: int | None = None, ctx: swell.Context | None = None) -> swell.Image:
    "Fills a sheet with one colour."
    return swell.Image(PIL.Image.new("RGB", (64, 48), COLOUR))
"""


def a_file(swell: Swell, colour: str = "red", name: str = "mine/poster") -> Path:
    path = swell.folder / "poster.py"
    path.write_text(POSTER.replace("COLOUR", repr(colour)).replace("mine/poster", name))
    return path


def access(swell: Swell) -> dict[str, str]:
    told: dict[str, str] = json.loads((swell.folder / ".swell" / "access.json").read_text())
    return told


def url_of(swell: Swell) -> str:
    return access(swell)["url"]


def asked(swell: Swell, path: str) -> Any:
    key = access(swell)["local_key"]
    wanted = Request(url_of(swell) + path, headers={"authorization": f"Bearer {key}"})
    with urlopen(wanted, timeout=PATIENCE_S) as answer:
        return json.load(answer)


@pytest.fixture
def on_trial(running: Swell) -> Iterator[dict[str, str]]:
    """A model that has joined the server for a trial."""
    a_file(running)
    process = running.start("models", "try", "poster.py", "--url", url_of(running), "--json")
    try:
        told = ready_line(process, running.folder)
        until_s = time.monotonic() + PATIENCE_S
        while "mine/poster" not in {m["name"] for m in asked(running, "/v1/models")["models"]}:
            assert time.monotonic() < until_s, (running.folder / "stderr.txt").read_text()
            time.sleep(0.05)
        yield told
    finally:
        assert stop(process, signal.SIGINT) == 0, (running.folder / "stderr.txt").read_text()


def typed(swell: Swell, keys: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "swell", *arguments],
        cwd=swell.folder,
        env=clean_environment(),
        input=keys,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_is_tried_compared_and_voted_on(
    running: Swell, on_trial: dict[str, dict[str, str]]
) -> None:
    version = on_trial["models"]["mine/poster"]
    card = asked(running, f"/v1/models/mine/poster:{version}")
    assert card["stage"] == "trial"
    (running.folder / "prompts.txt").write_text("# foxes\na red fox\n\na blue cat\n")
    models = ("demo/echo-picture", f"mine/poster:{version}")
    made = running.json("models", "compare", *models, "--prompts", "prompts.txt", "--seed", "7")
    assert made["rows"] == 2
    text = (running.folder / made["sheet"]).read_text()
    assert text.count("<img src=") == 4
    assert not re.search(rf"echo|poster|demo/|{version}|swell_", text)

    said = typed(running, "1\nt\n", "models", "votes", made["id"], "--voter", "anna")
    assert "2 votes are saved" in said
    pictures = sorted((running.folder / "comparisons" / made["id"]).glob("*.webp"))
    assert [each.name for each in pictures] == [f"00{r}-{n}.webp" for r in (1, 2) for n in (1, 2)]
    permit = json.loads(re.search(r'id="sheet">(.*?)</script>', text)[1])["permit"]  # type: ignore[index]
    saved = {"comparison": made["id"], "permit": permit, "voter": "ben", "voter_id": "0" * 28}
    saved["votes"] = [{"row": 0, "winner": 2}, {"row": 1, "tie": True}]
    (running.folder / "votes.json").write_text(json.dumps(saved))
    assert "2 votes of ben" in running.ok("models", "votes", "--file", "votes.json")

    listed = asked(running, "/v1/comparisons")["comparisons"]
    assert [(each["id"], each["votes"]) for each in listed] == [(made["id"], 4)]
    assert asked(running, "/v1/ratings")["ratings"] == []
    told = running.json("models", "votes", made["id"], "--close")
    assert [(m["wins"], m["ties"], m["losses"]) for m in told["models"]] == [(1, 2, 1)] * 2
    assert [m["model"].partition(":")[0] for m in told["models"]] == [
        "demo/echo-picture",
        "mine/poster",
    ]
    assert all(m["run_s"] is not None and m["images"] == 2 for m in told["models"])
    assert all(row["seed"] == 7 for row in told["rows"])
    assert "no clear difference" in running.run("models", "votes", "--ratings").stderr


def test_a_trial_does_not_get_what_is_meant_for_a_live_version(running: Swell) -> None:
    a_file(running, name="demo/upper")
    refused = running.run("models", "try", "poster.py", "--url", url_of(running))
    assert refused.returncode == 1
    assert "swell models rollout demo/upper:" in refused.stderr
    keys = asked(running, "/v1/keys")["keys"]
    keys = [key for key in keys if key["name"] == "swell models try"]
    assert all(key["revoked_at"] for key in keys)


def test_a_file_that_is_saved_again_is_another_version(swell: Swell) -> None:
    path = a_file(swell)
    process = swell.start("models", "try", path.name, "--port", "0", "--json", "--reload")
    try:
        first = ready_line(process, swell.folder)["models"]["mine/poster"]
        assert [m["stage"] for m in asked(swell, "/v1/models")["models"]] == ["trial"]
        a_file(swell, "green")
        assert process.stdout is not None
        second = json.loads(process.stdout.readline())["models"]["mine/poster"]
        assert second != first
        assert asked(swell, "/v1/models/mine/poster")["version"] == second
    finally:
        assert stop(process, signal.SIGINT) == 0, (swell.folder / "stderr.txt").read_text()
