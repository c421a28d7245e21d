"""Does the web app of an installed wheel work where nothing beside it can be written?

    python benchmarks/web_wheel.py [--python FILE]

Builds the wheels of Swell and its models from this checkout and installs them with all that they
need into an environment of their own. That environment is then mounted read-only for a server that
is started from it, and a browser opens the app at `/` and below a deep prefix: signs in by a link,
chooses a style, has a picture drawn and goes around. The last line is one JSON object whose value
is the number of things that went wrong.

`--python FILE` takes an environment in which the wheels are installed already.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))
sys.path.insert(0, str(machine.ROOT / "tests" / "browser"))

from app import breaches, watched
from prefix_proxy import under_prefix

from commandline import clean_environment, ready_line, stop

PREFIX = "/deep/prefix"
#: A picture takes a second or two where nothing else runs.
PATIENCE_MS = 90_000

#: Mounts $1 read-only over itself, sees that nothing can be written there, and becomes the rest.
_READ_ONLY = """
set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
if touch "$1/written" 2>/dev/null; then echo "$1 can be written to" >&2; exit 1; fi
shift
exec "$@"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, help="of an environment with both wheels")
    asked = parser.parse_args()
    with machine.folder("web-wheel") as folder, sync_playwright() as playwright:
        # Not resolved: it tells its environment by where it lies.
        python = asked.python.absolute() if asked.python else installed(folder)
        machine.say("installed")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-background-networking"],
        )
        work = folder / "work"
        work.mkdir()
        with served(python, work) as (url, key, place):
            wrong = look_around(browser, url, key)
            machine.say(f"at /: {wrong}")
            with under_prefix(url, PREFIX) as below:
                wrong += look_around(browser, below, key)
            machine.say(f"below {PREFIX}: {wrong}")
        browser.close()
    detail: dict[str, Any] = {"wrong": wrong, "installed_at": place, "prefixes": ["/", PREFIX]}
    machine.report(float(len(wrong)), detail, ok=not wrong)
    return 0


def installed(folder: Path) -> Path:
    """Build both wheels and install them with what they need; return the environment's Python."""
    new, built = folder / "new", folder / "built"
    venv.create(new, with_pip=True)
    python = new / "bin" / "python"
    pip = (str(python), "-m", "pip", "--disable-pip-version-check", "-q")

    def run(*words: str | Path) -> None:
        own = clean_environment()
        own.pop("PYTHONPATH", None)
        subprocess.run([*pip, *map(str, words)], cwd=folder, env=own, check=True, stdout=2)

    for source in (machine.ROOT, machine.ROOT / "packages" / "swell-models"):
        run("wheel", "--no-deps", "-w", built, source)
    [swell] = (path for path in built.glob("swell-*.whl"))
    [models] = (path for path in built.glob("swell_models-*.whl"))
    run(
        *("install", "-c", machine.ROOT / "constraints.txt"),
        *(f"swell[embedded] @ {swell.as_uri()}", models),
    )
    return python


@contextlib.contextmanager
def served(python: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """A server out of that environment, which it can only read; its URL, key and place."""
    home = python.parents[1]
    own = clean_environment()
    own.pop("PYTHONPATH", None)
    told = subprocess.run(
        [str(python), "-c", "import swell; print(swell.__file__)"],
        cwd=folder,
        env=own,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not told.startswith(str(home)):
        raise SystemExit(f"Swell was found at {told}, which is not in {home}")
    # Who is not root becomes root of a user namespace first.
    alone = ["unshare", "--mount"] + (["--map-root-user"] if os.getuid() else [])
    with (folder / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            [
                *(*alone, "sh", "-c", _READ_ONLY, "sh", str(home)),
                *(str(python), "-m", "swell", "up", "--json", "--port", "0"),
            ],
            cwd=folder,
            env=own,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        ready = ready_line(process, folder)
        yield ready["url"], ready["key"], told
    finally:
        stop(process)


def look_around(browser: Browser, url: str, key: str) -> list[str]:
    """Sign in, have a picture drawn and go around; return what went wrong."""
    context = browser.new_context(locale="en-GB", reduced_motion="reduce")
    asked: list[str] = []
    wrong: list[str] = []
    try:
        with watched(context) as page:
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"{url}/#/key/{key}")
            heading = page.get_by_role("heading", level=1)
            expect(heading).to_have_text("Create")
            page.get_by_label("What should it show?").fill("un zorro rojo en la nieve")
            page.get_by_text("Starlight").click()
            page.get_by_role("button", name="Create", exact=True).click()
            made = page.get_by_role("button", name="Show large").get_by_role("img")
            expect(made).to_have_js_property("naturalWidth", 512, timeout=PATIENCE_MS)
            page.wait_for_function(
                "[...document.querySelectorAll('.styles label:nth-child(2) img')]"
                ".every(each => each.complete && each.naturalWidth > 0)"
            )
            wrong += breaches(page)
            for name in ("Library", "Portraits", "Models", "Fleet", "Costs"):
                page.get_by_role("link", name=name).first.click()
                expect(heading).to_have_text(name)
            page.reload()
            expect(heading).to_have_text("Costs")
    # Whatever a page says that went wrong is one of these too.
    except Exception as error:
        wrong.append(str(error)[:400])
    context.close()
    outside = {each for each in asked if not each.startswith((f"{url}/", "data:", "blob:"))}
    return wrong + [f"asked {each}" for each in sorted(outside)]


if __name__ == "__main__":
    sys.exit(main())
