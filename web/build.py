"""Builds the web app into `web/dist`, if its sources have changed since: `python web/build.py`.

`--check` also checks its types. It needs Node.js and npm, and nothing that is not of Python's own
library, since the hook that makes wheels runs it where nothing else is installed.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["NoNode", "build", "is_built", "main"]

WEB: Final = Path(__file__).resolve().parent

#: What the app is made of, within its folder.
_SOURCES: Final = ("index.html", "package-lock.json", "tsconfig.json", "vite.config.ts", "src")

_HOW: Final = (
    "the web app needs Node.js 20.19 or newer with npm to be built: install it (Debian: apt-get "
    "install npm), or set SWELL_WITHOUT_WEB=1 to do without the app"
)


class NoNode(RuntimeError):
    """There is no npm."""


def is_built(web: Path = WEB) -> bool:
    """Whether `dist` holds the app as its sources are now."""
    stamp = web / "dist" / "sources"
    return stamp.is_file() and stamp.read_text() == _digest(web)


def build(web: Path = WEB) -> Path:
    """Build the app unless that was done; return the folder.

    Raises:
        NoNode: npm is missing.
        subprocess.CalledProcessError: The build has failed, and has said why.
    """
    if not is_built(web):
        _install(web)
        _npm(web, "run", "build")
        (web / "dist" / "sources").write_text(_digest(web))
    return web / "dist"


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
