import json
import os
import signal
import stat
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import pytest
from PIL import Image

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop


def test_a_prompt_becomes_a_picture_on_disk(running: Swell) -> None:
    path = running.ok(
        "tasks", "submit", "demo/echo-picture", "-i", "prompt=a red fox", "--watch"
    ).strip()
    assert path == "pictures/a-red-fox.png"
    with Image.open(running.folder / path) as picture:
        picture.load()
        assert picture.format == "PNG"


def test_an_output_without_files_is_printed_as_json(running: Swell) -> None:
    done = running.run("tasks", "submit", "demo/upper", "-i", "text=hello", "--watch")
    assert json.loads(done.stdout) == "HELLO"
    assert "succeeded" in done.stderr


def test_a_submitted_task_can_be_watched_shown_and_listed(running: Swell) -> None:
    task_id = running.ok("tasks", "submit", "demo/upper", "-i", "text=one").strip()
    events = running.run("tasks", "watch", task_id, "--json")
    assert events.returncode == 0
    kinds = [json.loads(line)["event"] for line in events.stdout.splitlines()]
    assert kinds[-1] == "succeeded"
    assert running.json("tasks", "show", task_id)["output"] == "ONE"
    assert task_id in {t["id"] for t in running.json("tasks", "ls", "--limit", "200")}
    assert task_id in running.ok("tasks", "ls")


def test_the_same_idempotency_key_gives_the_same_task(running: Swell) -> None:
    command = ("tasks", "submit", "demo/upper", "-i", "text=x", "--idempotency-key", "k1")
    assert running.ok(*command) == running.ok(*command)


def test_an_ended_task_can_be_repeated_and_canceling_it_changes_nothing(running: Swell) -> None:
    first = _ended(running, "text=again")
    again = running.ok("tasks", "retry", first).strip()
    assert again != first
    assert running.run("tasks", "watch", again).returncode == 0
    [still] = running.json("tasks", "cancel", first)
    assert still["state"] == "succeeded"


def test_an_ended_task_loses_its_data_where_that_is_meant(running: Swell) -> None:
    task_id = running.ok(
        "tasks", "submit", "demo/echo-picture", "-i", "prompt=private", "--json", "--watch"
    )
    task_id = json.loads(task_id)["id"]
    asked = running.run("tasks", "delete", task_id)
    assert asked.returncode == 2
    assert "add --yes" in asked.stderr
    assert running.json("tasks", "show", task_id)["input"] == {"prompt": "private"}
    done = running.run("tasks", "delete", task_id, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"{task_id}: removed input and its files and output with 1 file (" in done.stderr
    bare = running.json("tasks", "show", task_id)
    assert (bare["input"], bare["artifacts"]) == ({}, [])
    assert bare["data_removed"] == ["inputs", "outputs"]
    again = running.run("tasks", "delete", task_id, "-y")
    assert again.returncode == 0
    assert "nothing was left to remove" in again.stderr


@pytest.mark.parametrize(("word", "code", "removed"), [("n", 1, []), ("y", 0, ["inputs"])])
def test_a_person_is_asked_before_data_is_removed(
    running: Swell, word: str, code: int, removed: list[str]
) -> None:
    task_id = _ended(running, "text=mine")
    person, terminal = os.openpty()
    os.write(person, f"{word}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "swell", "tasks", "delete", task_id],
        cwd=running.folder,
        env=clean_environment(),
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    os.close(terminal)
    os.close(person)
    assert done.returncode == code, done.stderr
    assert task_id in done.stderr
    assert "Delete all data of this task permanently?" in done.stderr
    assert running.json("tasks", "show", task_id)["data_removed"][: len(removed) or 1] == removed


def test_what_was_removed_before_a_refusal_is_told(running: Swell) -> None:
    ended = _ended(running, "text=gone")
    waits = running.json("tasks", "submit", "demo/upper", "-i", "text=x")["id"]
    running.run("tasks", "watch", waits)
    sleeps = running.json("tasks", "submit", "demo/crash", "-i", "how=sleep", "-i", "sleep_s=60")
    done = running.run("tasks", "delete", ended, sleeps["id"], waits, "--yes", "--json")
    running.ok("tasks", "cancel", sleeps["id"])
    assert done.returncode == 4, done.stderr
    assert [task["id"] for task in json.loads(done.stdout)] == [ended]
    assert "only of an ended task" in done.stderr
    assert running.json("tasks", "show", waits)["data_removed"] == []
    assert running.run("tasks", "delete", "none", "--yes").returncode == 3


def test_models_workers_and_queues_can_be_looked_at(running: Swell) -> None:
    assert "demo/upper" in {m["name"] for m in running.json("models", "ls")}
    assert "text" in running.ok("models", "show", "demo/upper")
    [worker] = running.json("workers")
    assert worker["state"] in {"idle", "busy"}
    assert isinstance(running.json("queues"), list)


def test_a_version_is_made_live_and_its_stages_are_shown(running: Swell) -> None:
    (card,) = running.json("models", "rollout", "demo/noop")["versions"]
    done = running.run("models", "rollout", f"demo/noop:{card['version']}", "--promote")
    assert done.returncode == 0, done.stderr
    assert f"{card['version']} of demo/noop is live" in done.stderr
    told = running.ok("models", "rollout", "demo/noop").split()
    assert {card["version"], "live", "100", "promote"} <= set(told)
    refused = running.run("models", "rollout", f"demo/noop:{card['version']}", "--canary", "5%")
    assert refused.returncode == 4
    assert "is live already" in refused.stderr


def test_a_key_works_until_it_is_revoked(running: Swell) -> None:
    made = running.json("keys", "create", "a friend")
    assert made["key"].startswith("swell_")
    assert running.run("tasks", "ls", SWELL_KEY=made["key"]).returncode == 0
    refused = running.run("keys", "ls", SWELL_KEY=made["key"])
    assert refused.returncode == 4
    assert "scope" in refused.stderr
    running.ok("keys", "revoke", made["id"])
    states = {k["id"]: k["revoked_at"] for k in running.json("keys", "ls")}
    assert states[made["id"]] is not None


def test_ctrl_c_ends_a_watch_with_130_and_leaves_the_task_alone(running: Swell) -> None:
    slow = ("-i", "prompt=x", "-i", "steps=600", "-i", "step_s=0.1")
    task_id = running.ok("tasks", "submit", "demo/echo-picture", *slow).strip()
    watching = running.start("tasks", "watch", task_id, "--json")
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["event"]
    assert stop(watching, signal.SIGINT) == 130
    assert running.json("tasks", "show", task_id)["state"] in {"queued", "running"}
    running.ok("tasks", "cancel", task_id)
    assert running.run("tasks", "watch", task_id).returncode == 1
    assert running.json("tasks", "show", task_id)["state"] == "canceled"


@pytest.mark.parametrize(
    ("command", "code", "hint"),
    [
        (("tasks", "show", "nothing"), 3, "nothing"),
        (("models", "show", "no/model"), 3, "no/model"),
        (("tasks", "submit", "no/model"), 3, "no/model"),
        (("tasks", "submit", "demo/upper", "-i", "text=1", "-i", "wrong=1"), 4, "wrong"),
        (("tasks", "submit", "demo/upper", "-i", "text"), 2, "name=value"),
        (("tasks", "show"), 2, "TASK"),
        (("tasks", "ls", "--key", "swell_wrong"), 4, "--key"),
        (("tasks", "ls", "--url", "http://127.0.0.1:1"), 1, "swell up"),
        (("run", "no/model"), 3, "built-in"),
        (("run", "demo/upper", "-i", "nothing=1"), 2, "text"),
        (("tasks", "retry"), 2, "--dead"),
    ],
)
def test_every_error_has_its_exit_code_and_says_what_to_do(
    running: Swell, command: tuple[str, ...], code: int, hint: str
) -> None:
    done = running.run(*command)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_backend_on_the_same_folder_is_refused(running: Swell) -> None:
    done = running.run("up", "--port", "0")
    assert done.returncode == 1
    assert "already running in this folder" in done.stderr
    assert "--data" in done.stderr


def test_nobody_else_may_read_the_logs_of_workers_in_a_folder_that_was_there(
    swell: Swell,
) -> None:
    logs = swell.folder / "d" / "logs"
    logs.mkdir(parents=True)
    for folder in (logs, logs.parent):
        folder.chmod(0o755)
    process = swell.start("up", "--json", "--port", "0", "--data", "d", "-m", "demo/upper")
    try:
        ready_line(process, swell.folder)
        files = list(logs.iterdir())
        assert files
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    finally:
        assert stop(process) == 0
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700


def test_a_model_runs_without_a_server(swell: Swell) -> None:
    result: dict[str, Any] = swell.json(
        "run", "demo/echo-picture", "-i", "prompt=blue", "--seed", "7"
    )
    assert result["seed"] == 7
    assert (swell.folder / result["output"]).exists()
    assert swell.ok("run", "demo/upper", "-i", "text=hi") == "HI\n"


NOISY = """
import ctypes, os, subprocess
import swell

def talk(what):
    print(what)
    os.write(1, what.encode() + b"\\n")
    ctypes.CDLL(None).puts(what.encode())
    subprocess.run(["echo", what], check=True)

talk("while it is imported")

@swell.model("me/noisy")
def noisy(text: str) -> str:
    talk("while it runs")
    return text
"""


@pytest.mark.parametrize(
    "command",
    [
        ("run", "noisy.py", "-i", "text=a"),
        ("models", "check", "noisy.py", "--probe-s", "0"),
        ("doctor",),
    ],
)
def test_what_a_model_prints_goes_to_stderr(swell: Swell, command: tuple[str, ...]) -> None:
    (swell.folder / "noisy.py").write_text(NOISY)
    (swell.folder / "swell.toml").write_text('[worker]\nmodels = ["noisy.py"]\n')
    done = swell.run(*command, "--json")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert done.stderr.count("while it is imported") == 4
    if command[0] != "doctor":
        assert done.stderr.count("while it runs") == 4


LACKING = """
import os, pickle, random, time
from typing import Annotated
import PIL.Image
import swell
from pydantic import BaseModel, Field

def grey(level):
    return swell.Image(PIL.Image.new("L", (8, 8), level % 256))

@swell.model("me/random")
def at_random(prompt: str, steps: int = 20) -> swell.Image:
    return swell.Image(PIL.Image.frombytes("L", (8, 8), random.randbytes(64)))

@swell.model("me/no-seed", licence="MIT", examples=({"prompt": "a fox"},))
def no_seed(prompt: str, ctx: swell.Context | None = None) -> swell.Image:
    '''Draws.'''
    return grey(31 * ctx.seed + len(prompt))

@swell.model("me/deaf", licence="MIT", examples=({"prompt": "a fox"},))
def deaf(prompt: str, large: bool = False, seed: int | None = None) -> swell.Image:
    '''Draws.'''
    return grey(len(prompt))

@swell.model("me/timed", licence="MIT", examples=({"prompt": "a fox"},))
def timed(prompt: str) -> dict:
    '''Draws, and tells when.'''
    return {"picture": grey(len(prompt)), "at": time.monotonic()}

@swell.model("me/verdict", licence="MIT", examples=({"prompt": "a fox"},))
def verdict(prompt: str) -> dict:
    '''Says whether it is long.'''
    return {"is_long": len(prompt) > 100}

@swell.model("me/fragile", licence="MIT", examples=({"how": "well"},))
def fragile(how: str) -> str:
    '''Dies in its second run.'''
    return how if not hasattr(swell, "ran") and not setattr(swell, "ran", 1) else os._exit(1)

class Cold(swell.Model):
    '''Cold.'''
    name, licence, batch, Output = "me/cold", "MIT", swell.Batch(max=4), str
    examples = ({"text": "a"},)

    class Input(BaseModel):
        text: str

    def load(self, device):
        with open("weights.pkl", "wb") as file:
            pickle.dump({}, file)
        self.weights, self.is_warm = os.urandom(100_000_000), False

    def run(self, items):
        time.sleep(0 if self.is_warm else 1)
        self.is_warm = True
        return [f"{item.input.text} {len(items)}" for item in items]

class Late(swell.Model):
    name, Output, Input = "me/late", str, Cold.Input

    def load(self, device):
        import sklearn_that_is_not_there

    def run(self, items):
        return ["a"]
"""


def test_what_a_model_lacks_is_told_apart_from_what_is_wrong(swell: Swell) -> None:
    (swell.folder / "lacking.py").write_text(LACKING)
    for _ in range(3):
        done = swell.run("models", "check", "lacking.py", "--json")
        assert done.returncode == 1
        reports = {report["model"]: report for report in json.loads(done.stdout)}
        cold = {name for name, each in reports.items() if "cold_first_run" in str(each["hints"])}
        # One that had no turn meanwhile looks as if its first run took long, or the second one.
        if cold == {"me/cold"}:
            break
    errors = {name: each["error"] for name, each in reports.items() if each["error"]}
    assert set(errors) == {"me/late", "me/fragile"}
    assert 'dependencies = ["sklearn-that-is-not-there"]' in errors["me/late"]["detail"]
    assert "while trying the same again" in errors["me/fragile"]["detail"]
    hints = {name: [hint["code"] for hint in each["hints"]] for name, each in reports.items()}
    assert hints["me/random"] == [
        "no_description",
        "no_licence",
        "no_example",
        "no_bounds",
        "not_reproducible",
    ]
    assert hints["me/no-seed"] == ["no_seed"]
    assert hints["me/deaf"] == ["seed_not_drawn"]
    assert hints["me/timed"] == hints["me/verdict"] == []
    assert hints["me/cold"] == [
        *("pickled_weights", "no_memory", "cold_first_run", "depends_on_company"),
    ]


def test_a_model_that_only_lacks_something_can_be_served(swell: Swell) -> None:
    (swell.folder / "lacking.py").write_text(LACKING.partition('@swell.model("me/no-seed"')[0])
    done = swell.run("models", "check", "lacking.py")
    assert done.returncode == 0
    assert "hint no_licence" in done.stdout
    quiet = swell.run("models", "check", "lacking.py", "--probe-s", "0", "--json")
    [report] = json.loads(quiet.stdout)
    assert "not_reproducible" not in [hint["code"] for hint in report["hints"]]


CARD = """
from typing import Literal
import swell

@swell.model(
    "me/poster",
    licence="code MIT; weights CC BY 4.0",
    credits="Weights by somebody.",
    memory_bytes=300 * 2**20,
    speed=[swell.Speed("one core", "a small one", 0.25, "2026-11-25")],
    samples={"a red square": "red.png", "what it says": "says.txt"},
)
def poster(text: str, size: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 3) -> str:
    return text
"""


def test_a_card_tells_licence_memory_speed_and_pictures(swell: Swell) -> None:
    (swell.folder / "poster.py").write_text(CARD)
    Image.new("RGB", (8, 8), "red").save(swell.folder / "red.png")
    (swell.folder / "says.txt").write_text("hello → HELLO")
    process = swell.start("up", "--json", "--port", "0", "-m", "poster.py")
    try:
        url = ready_line(process, swell.folder)["url"]
        shown = swell.ok("models", "show", "me/poster")
        for words in ("code MIT; weights CC BY 4.0", "Weights by somebody.", "300 MiB", "0.2 s"):
            assert words in shown
        assert f"{url}/v1/models/me/poster/samples/" in shown
        assert "hello → HELLO" in shown
        assert f"{url}/#/models/me/poster" in shown
        assert "1 | 2 | 3 | 4 | 5 | 6 | … (8)" in shown
        listed = swell.ok("models", "ls")
        assert "LICENCE" in listed
        assert "code MIT; weights CC BY 4.0" in listed
    finally:
        assert stop(process) == 0


def test_the_version_is_told(swell: Swell) -> None:
    assert swell.ok("--version") == f"swell {version('swell')}\n"


def test_a_model_file_is_checked(swell: Swell) -> None:
    (swell.folder / "good.py").write_text(
        "import swell\n\n@swell.model('me/twice')\ndef twice(text: str) -> str:\n"
        "    '''Twice.'''\n    return text * 2\n"
    )
    (swell.folder / "bad.py").write_text(
        "import swell\n\n@swell.model('me/bad')\ndef bad(text: str) -> str:\n    return 1 / 0\n"
    )
    assert "me/twice" in swell.ok("models", "check", "good.py")
    done = swell.run("models", "check", "bad.py")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout


CHECKED = """
import os, signal, time
import swell
from pydantic import BaseModel

@swell.model("me/good")
def good(text: str) -> str:
    return text

@swell.model("me/text-for-int")
def text_for_int(text: str) -> int:
    return text

@swell.model("me/text-for-picture")
def text_for_picture(text: str) -> swell.Image:
    return text

@swell.model("me/exits")
def exits(text: str) -> str:
    os._exit(3)

@swell.model("me/killed")
def killed(text: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)

@swell.model("me/hangs")
def hangs(text: str) -> str:
    time.sleep(1000)

class Text(BaseModel):
    text: str

class Large(swell.Model):
    name, batch, Output, Input = "me/large", swell.Batch(max=4), str, Text

    def run(self, items):
        held = bytearray(os.urandom(100_000_000))
        return [str(len(held)) for _ in items]

class Single(swell.Model):
    name, batch, Output, Input = "me/single", swell.Batch(max=4), str, Text

    def run(self, items):
        return [items[0].input.text]
"""


def test_what_a_model_does_wrong_is_found_before_it_is_served(swell: Swell) -> None:
    (swell.folder / "checked.py").write_text(CHECKED)
    done = swell.run("models", "check", "checked.py", "--limit-s", "12", "--json")
    assert done.returncode == 1
    reports = {report["model"]: report for report in json.loads(done.stdout)}
    errors = {name: report["error"] for name, report in reports.items()}
    assert errors.pop("me/good") is None
    assert errors.pop("me/large") is None
    for name, (stage, words) in {
        "me/text-for-int": ("output", "integer"),
        "me/text-for-picture": ("output", "swell.Image was promised, but str came"),
        "me/exits": ("run", "exit code 3"),
        "me/killed": ("run", "SIGKILL"),
        "me/hangs": ("run", "not done after 12 s"),
        "me/single": ("batch of two", "1 results for a batch of 2"),
    }.items():
        assert errors[name]["stage"] == stage
        assert words in errors.pop(name)["detail"]
    assert errors == {}
    assert "in hangs" in done.stderr, "where it stood"
    assert (reports["me/good"]["batch"], reports["me/good"]["results"]) == (1, 1)
    assert (reports["me/large"]["batch"], reports["me/large"]["results"]) == (2, 2)
    assert reports["me/large"]["memory_bytes"] > 100_000_000 > reports["me/good"]["memory_bytes"]


TAKES_FILES = """
import io, wave
import swell
from pydantic import BaseModel, Field

@swell.model("demo/gray")
def gray(image: swell.Image) -> swell.Image:
    return swell.Image(image.pil().convert("L"))

class Page(BaseModel):
    title: str
    picture: swell.Image | None

class Book(BaseModel):
    cover: Page
    items: swell.File
    pictures: list[swell.Image] = Field(min_length=2)
    speech: swell.Audio
    mask: swell.Image | None = None

class Binder(swell.Model):
    name, batch, Output, Input = "me/binder", swell.Batch(max=4), dict, Book

    def run(self, items):
        return [self.bind(item.input) for item in items]

    def bind(self, book):
        assert book.mask is None and book.cover.title
        with wave.open(io.BytesIO(book.speech.read())) as sound:
            assert any(sound.readframes(100))
        assert book.items.read()
        sizes = [each.pil().size for each in (book.cover.picture, *book.pictures)]
        return {"sizes": sizes}

@swell.model("me/bad")
def bad(image: swell.Image) -> str:
    return image.pil().nothing
"""


def test_a_model_that_needs_files_is_checked_with_made_ones(swell: Swell) -> None:
    (swell.folder / "files.py").write_text(TAKES_FILES)
    done = swell.run("models", "check", "files.py", "--json")
    reports = {report["model"]: report for report in json.loads(done.stdout)}
    errors = {name: report["error"] for name, report in reports.items()}
    bad = errors.pop("me/bad")
    assert errors == {"demo/gray": None, "me/binder": None}
    assert bad["stage"] == "run"
    assert reports["demo/gray"]["files"] == 1
    assert reports["me/binder"]["output"]["sizes"] == [[64, 64]] * 3
    assert len(done.stdout) < 50_000


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("import os\nos._exit(0)", 2, "exit code 0"),
        ("1 / 0", 2, "ZeroDivisionError"),
        (None, 3, "no file"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told(
    swell: Swell, text: str | None, code: int, words: str
) -> None:
    if text is not None:
        (swell.folder / "broken.py").write_text(text)
    done = swell.run("models", "check", "broken.py", "--json")
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr


def test_settings_tell_where_they_come_from(swell: Swell) -> None:
    (swell.folder / "swell.toml").write_text("[server]\nport = 7000\n")
    shown = json.loads(swell.run("config", "--origin", "--json").stdout)
    assert shown["server.port"] == {"value": 7000, "origin": "swell.toml"}
    assert "properties" in json.loads(swell.ok("config", "--schema"))
    wrong = swell.run("config", SWELL_SERVER__PROT="1")
    assert wrong.returncode == 0
    assert "SWELL_SERVER__PORT" in wrong.stderr


def _ended(running: Swell, pair: str) -> str:
    task_id = running.ok("tasks", "submit", "demo/upper", "-i", pair).strip()
    assert running.run("tasks", "watch", task_id).returncode == 0
    return task_id


def test_weights_are_pulled_into_the_cache_and_pickles_are_not(swell: Swell) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(16)
    (swell.folder / "poster").mkdir()
    (swell.folder / "poster" / "model.safetensors").write_bytes(data)
    found = swell.json("models", "pull", "poster", "--data", "d")
    (file,) = found["files"].values()
    assert file["sha256"] == sha256(data).hexdigest()
    assert (swell.folder / file["path"]).read_bytes() == data
    assert swell.json("models", "pull", "poster", "--data", "d") == found
    (swell.folder / "old.ckpt").write_bytes(b"x")
    done = swell.run("models", "pull", "old.ckpt", "--data", "d")
    assert done.returncode == 2
    assert "safetensors" in done.stderr
