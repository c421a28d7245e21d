"""What pages on the models that come with Swell have one type, on a Swell that serves them."""

import base64
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

from commandline import Swell, ready_line, stop
from pages import Reader, block, commands
from swell.models.pictures import sample


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    """A Swell with the models of these pages, started by their commands taken together."""
    swell = Swell(tmp_path_factory.mktemp("served"))
    _, _, up, _ = commands("docs/models/README.md", "swell models check swell/paint")
    art, _ = commands("docs/models/README.md", "swell up -m swell/artwork")
    assert up[0] == art[0] == "up"
    # Those of the tutorial on three clouds, and of the reference of the HTTP API.
    models = (*up[1:], *art[1:], "-m", "swell/icons", "-m", "demo/upper")
    process = swell.start("up", *models, "--json", "--port", "0")
    try:
        ready_line(process, swell.folder)
        yield swell
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


def test_a_model_is_checked_run_and_its_card_shown(served: Swell) -> None:
    check, run, _, show = commands("docs/models/README.md", "swell models check swell/paint")
    (served.folder / "photo.jpg").write_bytes(base64.b64decode(sample().partition(",")[2]))
    assert "swell/paint" in served.ok(*check)
    assert served.ok(*run).startswith("pictures/")
    assert "swell/portraits" in served.ok(*show)


def test_a_picture_is_made_of_spanish_words_by_all_stages(served: Swell) -> None:
    _, submit = commands("docs/models/README.md", "swell up -m swell/artwork")
    assert served.ok(*submit).startswith("pictures/")
    [task] = [each for each in served.json("tasks", "ls") if each["model"] == "swell/artwork"]
    assert task["input"]["art"] == "starlight"
    assert "red fox" in task["output"]["prompt"]


def test_workers_of_clouds_are_listed_as_the_page_on_workers_says(served: Swell) -> None:
    script = block("docs/workers-anywhere.md", "swell costs --by pool", "sh")
    said = Reader(served.folder).does(script).stdout
    assert "idle" in said
    assert "pictures/" in said


def a_package(folder: Path, language: str) -> None:
    """Write a package as Argos Translate has them, with nothing in it that could translate."""
    content = {
        "metadata.json": json.dumps(
            {"from_code": language, "to_code": "en", "package_version": "1.9"}
        ),
        "sentencepiece.model": "pieces",
        "model/model.bin": "numbers",
        "model/shared_vocabulary.json": "[]",
    }
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, text in content.items():
            archive.writestr(f"translate-{language}_en/{name}", text)
    folder.mkdir(exist_ok=True)
    (folder / f"{language}.argosmodel").write_bytes(written.getvalue())


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A mirror of packages; its address."""
    there = tmp_path / "mirror" / "argos"
    there.parent.mkdir()
    for language in ("ja", "ko", "ru"):
        a_package(there, language)
    rows = [
        {"from_code": code, "to_code": "en", "links": [f"{code}.argosmodel"]}
        for code in ("ja", "ko", "ru")
    ]
    (there / "index.json").write_text(json.dumps(rows))
    handler = partial(Quiet, directory=str(there.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_packages_of_more_languages_are_brought_from_a_folder_and_a_mirror(
    tmp_path: Path, mirror: str
) -> None:
    a_package(tmp_path / "packages", "eo")
    there = tmp_path / "there"
    script = block("docs/models/README.md", "--argos", "sh")
    install, _, rest = script.partition("\n")
    assert install.startswith("pip install"), "what it installs only translates with them"
    reader = Reader(tmp_path, {"ARGOS_PACKAGES_DIR": str(there)})
    reader.does(rest, ("https://mirror.example", mirror))
    found = sorted(
        json.loads(each.read_text())["from_code"] for each in there.rglob("metadata.json")
    )
    assert found == ["eo", "ja", "ko"]
