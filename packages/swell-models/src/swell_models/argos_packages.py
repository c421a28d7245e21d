"""Packages of Argos Translate: from files, a folder or a mirror into the folder where models look.

A package is a zip archive (`.argosmodel`) of one folder: `metadata.json`, a CTranslate2 model under
`model/`, and `sentencepiece.model`. Only these are unpacked, and a `README.md` with the licence:
what else packages bring for splitting sentences may be pickled, and is not needed.

Source: argostranslate 1.11, `package.py`; a mirror holds `index.json`, a list of such metadata
with `links` to the archives.
"""

import asyncio
import json
import re
import shutil
import tempfile
import urllib.parse
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from swell.core.errors import NotFound, SwellError

_WANTED: Final = re.compile(r"metadata\.json|README\.md|sentencepiece\.model|model/[\w.-]+")
_CODE: Final = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z]{2,8})?")

#: Largest package that is unpacked, in bytes; known ones have 60 to 300 MB.
MAX_BYTES: Final = 2 << 30

_CHUNK_BYTES: Final = 1 << 20


class RefusedPackage(SwellError):
    """An archive is no package that translates into English."""

    code, status, title = "refused_package", 400, "This package cannot be used"


@dataclass(frozen=True, slots=True)
class Package:
    """A package that is there now."""

    language: str
    version: str
    folder: Path


async def bring(source: str, folder: Path, languages: Collection[str] = ()) -> list[Package]:
    """Unpack packages that translate into English.

    Args:
        source: An archive, a folder of archives, or the address of a mirror.
        folder: Where to; a package of the same language there is replaced.
        languages: Codes, such as `es`; empty for all.

    Raises:
        NotFound: The source has no archive, or none of a language that was named.
        RefusedPackage: An archive cannot be used; those before it are there.
    """
    with tempfile.TemporaryDirectory() as fetched:
        if source.startswith(("http://", "https://")):
            archives = await _from_mirror(source, Path(fetched), languages)
        else:
            archives = _archives(Path(source))
        found = [package for path in archives if (package := _unpack(path, folder, languages))]
    missing = sorted(set(languages) - {package.language for package in found})
    if missing or not found:
        told = ", ".join(missing) or "any language"
        raise NotFound(f"{source} has no package from {told} into English")
    return found


def _archives(source: Path) -> list[Path]:
    found = sorted(source.glob("*.argosmodel")) if source.is_dir() else [source]
    if not found or not found[0].is_file():
        raise NotFound(
            f"there is no .argosmodel file in {source}: give a file, a folder or a mirror's address"
        )
    return found


def _unpack(path: Path, folder: Path, languages: Collection[str]) -> Package | None:
    """Unpack one archive; None if it is not wanted."""
    try:
        with zipfile.ZipFile(path) as archive:
            [root] = {name.split("/", 1)[0] for name in archive.namelist()}
            facts = json.loads(archive.read(f"{root}/metadata.json"))
            if facts.get("to_code") != "en" or facts.get("type", "translate") != "translate":
                return None
            code = str(facts.get("from_code"))
            if languages and code not in languages:
                return None
            members = _members(archive, root, code)
            target = folder / f"swell-{code}_en"
            _replace(archive, members, target)
    except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise RefusedPackage(f"{path.name} is no package of Argos Translate: {error}") from error
    return Package(code, str(facts.get("package_version", "")), target)


def _members(archive: zipfile.ZipFile, root: str, code: str) -> dict[str, zipfile.ZipInfo]:
    """Return what is to be unpacked, by its place in the package."""
    inside = {one.filename.removeprefix(f"{root}/"): one for one in archive.infolist()}
    chosen = {name: one for name, one in inside.items() if _WANTED.fullmatch(name)}
    if not _CODE.fullmatch(code):
        raise RefusedPackage(f"{code!r} is no language code")
    if "sentencepiece.model" not in chosen or "model/model.bin" not in chosen:
        raise RefusedPackage(
            f"the package from {code} has no SentencePiece and CTranslate2 model: take a newer one"
        )
    if sum(one.file_size for one in chosen.values()) > MAX_BYTES:
        raise RefusedPackage(f"the package from {code} has more than {MAX_BYTES:,} bytes")
    return chosen


def _replace(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], target: Path) -> None:
    """Put all files in place at once, so that nobody reads half a package."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    try:
        made.chmod(0o755)
        for name, member in members.items():
            path = made / name
            path.parent.mkdir(exist_ok=True)
            with archive.open(member) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK_BYTES)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


async def _from_mirror(address: str, folder: Path, languages: Collection[str]) -> Sequence[Path]:
    index = address if address.endswith(".json") else f"{address.rstrip('/')}/index.json"
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            async with session.get(index, raise_for_status=True) as response:
                listed: list[dict[str, Any]] = await response.json(content_type=None)
            wanted = [one for one in listed if _is_wanted(one, languages)]
            paths = [folder / f"{number}.argosmodel" for number in range(len(wanted))]
            for one, path in zip(wanted, paths, strict=True):
                await _download(session, urllib.parse.urljoin(index, one["links"][0]), path)
        except (aiohttp.ClientError, TimeoutError, ValueError, TypeError, AttributeError) as error:
            raise NotFound(f"{index} cannot be read as a mirror's index: {error}") from error
    return paths


def _is_wanted(one: dict[str, Any], languages: Collection[str]) -> bool:
    is_right = one.get("to_code") == "en" and bool(one.get("links"))
    return is_right and (not languages or one.get("from_code") in languages)


async def _download(session: aiohttp.ClientSession, url: str, path: Path) -> None:
    async with session.get(url, raise_for_status=True) as response:
        with path.open("wb") as file:
            async for part in response.content.iter_chunked(_CHUNK_BYTES):
                await asyncio.to_thread(file.write, part)
