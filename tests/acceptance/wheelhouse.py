"""A folder of wheels: small packages made here, and those that a model process needs, repacked."""

import base64
import hashlib
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

#: What a model process imports, and what that imports.
NEEDED = (
    "annotated-types",
    "msgspec",
    "numpy",
    "pillow",
    "psutil",
    "pydantic",
    "pydantic-core",
    "typing-extensions",
    "typing-inspection",
)


def make_wheel(folder: Path, name: str, version: str, source: str) -> Path:
    """Write a wheel of one module."""
    home = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source.encode(),
        f"{home}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{home}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
    }
    return _zip(folder / f"{name}-{version}-py3-none-any.whl", home, files)


def repack(folder: Path, name: str) -> Path:
    """Write a wheel of a distribution that is installed here."""
    installed = metadata.distribution(name)
    files, home = {}, ""
    for each in installed.files or ():
        if each.parts[0] in ("..", "/") or "__pycache__" in each.parts:
            continue
        if each.parts[0].endswith(".dist-info"):
            home = each.parts[0]
            if each.name not in ("METADATA", "WHEEL"):
                continue
        files[each.as_posix()] = each.read_binary()
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    if b"Root-Is-Purelib: true" in files[f"{home}/WHEEL"]:
        tags = "py3-none-any"
    else:
        tags = f"{tag}-{tag}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
    stem = home.removesuffix(".dist-info")
    return _zip(folder / f"{stem}-{tags}.whl", home, files)


def _zip(path: Path, home: str, files: dict[str, bytes]) -> Path:
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files = files | {f"{home}/RECORD": (record + f"{home}/RECORD,,\n").encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
