"""Builds the web app into `web/dist`, if its sources have changed since: `python web/build.py`.

`--check` also checks its types. It needs Node.js and npm, and nothing that is not of Python's own
library, since the hook that makes wheels runs it where nothing else is installed.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

__all__ = ["NoNode", "build", "bundled", "is_built", "licences", "main"]

WEB: Final = Path(__file__).resolve().parent

#: What the app is made of, within its folder.
_SOURCES: Final = (
    *("index.html", "package-lock.json", "tsconfig.json", "vite.config.ts", "public", "src"),
)

#: What the app imports; the rest of what npm installs builds and tests it.
_IMPORTED: Final = ("svelte", "uplot")

#: What lies in the sources and is of others: its name → its licence, and the text of that.
_COPIED: Final = {"Bricolage Grotesque": ("OFL-1.1", "src/lib/fonts/OFL.txt")}

#: Beside the app: nothing loads it, and whoever has the app has it.
_LICENCES: Final = "licences.txt"

_HEAD: Final = """\
Swell's web app is under Apache-2.0. It holds parts of packages of others, and no more than these
can be in it; each is under its own licence.
"""

#: Of a package that says MIT and brings no text of it.
_MIT: Final = """\
MIT License

Copyright (c) {author}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

_HOW: Final = (
    "the web app needs Node.js 20.19 or newer with npm to be built: install it (Debian: apt-get "
    "install npm), or set SWELL_WITHOUT_WEB=1 to do without the app"
)


class NoNode(RuntimeError):
    """There is no npm."""


def is_built(web: Path = WEB) -> bool:
    """Whether `dist` holds the app as its sources are now, and the licences of what is in it."""
    stamp, texts = web / "dist" / "sources", web / "dist" / _LICENCES
    return texts.is_file() and stamp.is_file() and stamp.read_text() == _digest(web)


def build(web: Path = WEB) -> Path:
    """Build the app unless that was done; return the folder.

    Raises:
        NoNode: npm is missing.
        LookupError: The licence of a package is nowhere.
        subprocess.CalledProcessError: The build has failed, and has said why.
    """
    if not is_built(web):
        _install(web)
        _npm(web, "run", "build")
        (web / "dist" / _LICENCES).write_text(licences(web), encoding="utf-8")
        (web / "dist" / "sources").write_text(_digest(web))
    return web / "dist"


def bundled(lock: dict[str, Any]) -> dict[str, str]:
    """Return what may be in the app, by a lock file of npm and the sources: name → licence."""
    packages = lock["packages"]
    found = {name: licence for name, (licence, _) in _COPIED.items()}
    waiting = list(_IMPORTED)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        entry = packages[f"node_modules/{name}"]
        found[name] = entry.get("license", "not told")
        waiting += entry.get("dependencies", {})
    return found


def licences(web: Path = WEB) -> str:
    """Return the licences of what may be in the app, with the notices that they ask for.

    Raises:
        LookupError: A package brings no text, and says no licence whose text is known.
    """
    lock = json.loads((web / "package-lock.json").read_text("utf-8"))
    texts = [
        f"{'=' * 80}\n{name}: {licence}\n{'=' * 80}\n\n{_text_of(web, name, licence)}"
        for name, licence in sorted(bundled(lock).items())
    ]
    return "\n".join([_HEAD, *texts])


def _text_of(web: Path, name: str, licence: str) -> str:
    if name in _COPIED:
        return (web / _COPIED[name][1]).read_text("utf-8").strip() + "\n"
    folder = web / "node_modules" / name
    beginnings = ("licen", "notice")
    found = [path for path in folder.iterdir() if path.name.lower().startswith(beginnings)]
    if found:
        return "\n".join(path.read_text("utf-8").strip() + "\n" for path in sorted(found))
    if licence != "MIT":
        raise LookupError(f"{folder} has no text of its licence, {licence}")
    author = json.loads((folder / "package.json").read_text("utf-8"))["author"]
    return _MIT.format(author=author if isinstance(author, str) else author["name"])


def _install(web: Path) -> None:
    """Install what the lock file names, unless that was done."""
    done = web / "node_modules" / ".package-lock.json"
    if not done.is_file() or done.stat().st_mtime < (web / "package-lock.json").stat().st_mtime:
        _npm(web, "ci", "--no-fund", "--no-audit")


def _npm(web: Path, *words: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NoNode(_HOW)
    # What it says is for people, and not for whoever reads this program's output.
    subprocess.run([npm, "--silent", *words], cwd=web, check=True, stdout=sys.stderr)


def _digest(web: Path) -> str:
    found = hashlib.sha256()
    for name in _SOURCES:
        path = web / name
        files = (
            sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        )
        for each in files:
            data = each.read_bytes()
            found.update(f"{each.relative_to(web).as_posix()} {len(data)}\n".encode())
            found.update(data)
    return found.hexdigest()


def main() -> None:
    """Build, and with `--check` check types too."""
    try:
        build()
        if "--check" in sys.argv[1:]:
            _install(WEB)
            _npm(WEB, "run", "check")
    except NoNode as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)


if __name__ == "__main__":
    main()
