"""The web app as people install it: out of a wheel, at `/` and below a prefix."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from app import AXE, ROOT, App, breaches, watched
from playwright.sync_api import Browser, expect
from prefix_proxy import under_prefix

from commandline import clean_environment, ready_line, stop

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel of Swell installs; what it needs is that of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    copy, installed = folder / "copy", folder / "installed"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "web", copy / "web", ignore=shutil.ignore_patterns("node_modules"))
    for part in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, copy)
    if uv := shutil.which("uv"):
        pip: tuple[str, ...] = (uv, "pip", "install", "--python", sys.executable)
    else:
        pip = (sys.executable, "-m", "pip", "install", "--no-compile")
    words = [*pip, "--quiet", "--no-deps", "--target", str(installed), str(copy)]
    done = subprocess.run(words, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr
    # Nothing of the checkout may stand in for what the wheel lacks.
    shutil.rmtree(copy)
    return installed


@contextlib.contextmanager
def installed_swell(package: Path, folder: Path) -> Iterator[App]:
    """A server of that package."""
    own = {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    variables = clean_environment() | own
    where = [sys.executable, "-c", "import swell; print(swell.__file__)"]
    told = subprocess.run(where, cwd=folder, env=variables, capture_output=True, text=True)
    assert told.stdout.startswith(str(package)), told.stdout + told.stderr
    with (folder / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "swell", "up", "--json", "--port", "0", "-m", "demo/upper"],
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        ready = ready_line(process, folder)
        yield App(ready["url"], ready["key"])
    finally:
        assert stop(process) == 0, (folder / "stderr.txt").read_text()


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all files, by which one sees whether any was written."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def look_around(browser: Browser, url: str, key: str) -> list[str]:
    """Sign in and open some pages; return what was asked of others."""
    context = browser.new_context(locale="en-GB")
    asked: list[str] = []
    with watched(context) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/#/key/{key}")
        expect(page.get_by_role("heading", level=1)).to_have_text("Create")
        page.get_by_role("link", name="Models").first.click()
        page.get_by_role("link", name="demo/upper").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("demo/upper")
        page.get_by_role("link", name="Portraits").first.click()
        expect(page.get_by_text("No portrait model yet")).to_be_visible()
        if AXE.is_file():
            assert breaches(page) == []
    context.close()
    return [each for each in asked if not each.startswith((f"{url}/", "data:", "blob:"))]


def test_the_app_of_a_wheel_opens_at_the_root_and_below_a_prefix_and_writes_nothing_beside_itself(
    browser: Browser, package: Path, tmp_path: Path
) -> None:
    before = listing(package)
    with installed_swell(package, tmp_path) as app:
        assert look_around(browser, app.url, app.key) == []
        with under_prefix(app.url, "/deep/prefix") as url:
            assert look_around(browser, url, app.key) == []
    assert listing(package) == before
