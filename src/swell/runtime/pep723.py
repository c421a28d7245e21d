"""What models need beside Swell, as their files say it, and which of them can share a process.

A file says it in the inline metadata of a script, a comment block at its top:

    # /// script
    # requires-python = ">=3.11,<3.13"
    # dependencies = ["diffusers==0.21.4", "torch<2.3"]
    # ///

A file without the block runs with whatever is installed beside Swell. One with the block gets an
environment that is made for it (`environments.py`), and models whose blocks say the same share one.

Source:
    Python Packaging User Guide, "Inline script metadata" (PEP 723) and "Version specifiers".
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidModel, SwellError

#: Longest file that is looked into for its needs; models are smaller.
_MOST_BYTES: Final = 4 * 1024**2

_CLAUSE: Final = re.compile(r"\s*(===|==|~=|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?\s*")

_DISTRIBUTION: Final = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model's file asks for."""

    #: As pip takes them (PEP 508), sorted.
    requirements: tuple[str, ...] = ()
    #: Which versions of Python will do, such as `>=3.11,<3.13`; empty for any that Swell runs on.
    python: str = ""

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return bool(self.requirements or self.python)


#: Of a model that is at home in Swell's own environment.
NOTHING: Final = Needs()


@dataclass(frozen=True, slots=True)
class Part:
    """Models that can share a process."""

    #: As `load_models` takes them.
    refs: tuple[str, ...]
    needs: Needs


def parted(refs: Sequence[str]) -> list[Part]:
    """Return which models can share a process, in the order in which they are named first.

    Raises:
        InvalidModel: A file's block cannot be read.
    """
    groups: dict[Needs, list[str]] = {}
    for ref in refs:
        groups.setdefault(needs_of(ref), []).append(ref)
    return [Part(tuple(group), needs) for needs, group in groups.items()]


def needs_of(ref: str) -> Needs:
    """Return what the models need that `ref` names, without importing anything.

    Args:
        ref: A Python file, a module, or a built-in model, as `load_models` takes them. What does
            not exist needs nothing: whoever loads it will say so.

    Raises:
        InvalidModel: The block in the file cannot be read.
    """
    path = _source(ref)
    if path is None:
        return NOTHING
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return NOTHING
    try:
        return needs_in(text)
    except SwellError as error:
        raise InvalidModel(f"{path.name}: {error.detail}") from None


def _source(ref: str) -> Path | None:
    name = ref.rpartition(":")[0] if ":" in ref else ref
    if name.endswith(".py"):
        return Path(name) if Path(name).is_file() else None
    if "/" in name or not name:
        return None
    # A module is found as an import would, but its parents are not imported.
    inner = Path(*name.split("."))
    places = [place / inner for place in (Path(each or ".") for each in sys.path)]
    paths = (path for place in places for path in (place / "__init__.py", place.with_suffix(".py")))
    return next((path for path in paths if path.is_file()), None)


def needs_in(text: str) -> Needs:
    """Return what the block in a file's text asks for; nothing where there is none.

    Raises:
        InvalidModel: There are two, or it is not what it should be; the text says what to change.
    """
    blocks = list(_blocks(text.splitlines()))
    if not blocks:
        return NOTHING
    if len(blocks) > 1:
        raise InvalidModel("there are several `# /// script` blocks: write one, at the top")
    try:
        told = tomllib.loads(blocks[0])
    except tomllib.TOMLDecodeError as error:
        raise InvalidModel(
            f"its `# /// script` block is not TOML ({error}): write lines such as `#"
            ' dependencies = ["einops"]`'
        ) from None
    requirements, python = told.get("dependencies", []), told.get("requires-python", "")
    if not _are_texts(requirements):
        raise InvalidModel(
            "`dependencies` in its `# /// script` block must be a list of requirements, such as "
            '["einops>=0.7"]'
        )
    if not isinstance(python, str) or (python and not _clauses(python)):
        raise InvalidModel(
            "`requires-python` in its `# /// script` block must be a text of version specifiers, "
            'such as ">=3.11,<3.13"'
        )
    return Needs(tuple(sorted({each.strip() for each in requirements})), python.strip())


def _blocks(lines: Sequence[str]) -> Iterable[str]:
    """Yield what stands in each block, without its comment marks."""
    inner: list[str] | None = None
    for line in lines:
        mark = line.rstrip()
        if inner is None:
            inner = [] if mark == "# /// script" else None
        elif mark == "# ///":
            yield "\n".join(inner)
            inner = None
        elif mark == "#" or mark.startswith("# "):
            inner.append(mark[2:])
        else:
            # It was never closed, so it is a comment as any other.
            inner = None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each.strip() for each in value)


def distribution(requirement: str) -> str:
    """Return which distribution a requirement is of, its name normalised (PEP 503)."""
    found = _DISTRIBUTION.match(requirement)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""


def is_older(requirement: str, version: tuple[int, ...]) -> bool:
    """Whether all that a requirement allows is older than a version.

    Args:
        requirement: Such as `pydantic[email]<2; python_version < "3.13"`.
        version: Its numbers, such as (2, 7).
    """
    found = _DISTRIBUTION.match(requirement)
    rest = requirement[found.end() :] if found else ""
    specifiers = re.sub(r"^\s*\[[^\]]*\]", "", rest).partition(";")[0].strip("() ")
    return any(_ends_before(kind, told, star, version) for kind, told, star in _clauses(specifiers))


def _ends_before(kind: str, told: tuple[int, ...], star: bool, version: tuple[int, ...]) -> bool:
    if kind == "~=":
        told, star = told[:-1], True
    elif kind not in ("==", "===", "<", "<="):
        return False
    size = len(told) if star else max(len(told), len(version))
    ours, theirs = (each[:size] + (0,) * (size - len(each)) for each in (told, version))
    return ours <= theirs if kind == "<" else ours < theirs


def allows(specifiers: str, version: tuple[int, ...]) -> bool:
    """Whether a version of Python is within version specifiers.

    Args:
        specifiers: Such as `>=3.11,<3.13`; empty allows any.
        version: Its numbers, such as (3, 11, 7).
    """
    return all(_holds(kind, told, star, version) for kind, told, star in _clauses(specifiers))


def _clauses(specifiers: str) -> list[tuple[str, tuple[int, ...], bool]]:
    """Return each clause: comparison, numbers, and whether any numbers may follow."""
    found = [_CLAUSE.fullmatch(each) for each in specifiers.split(",") if each.strip()]
    if not all(found):
        return []
    return [(each[1], tuple(map(int, each[2].split("."))), bool(each[3])) for each in found if each]


def _holds(kind: str, told: tuple[int, ...], star: bool, version: tuple[int, ...]) -> bool:
    if kind == "~=":
        return version[: len(told) - 1] == told[:-1] and version >= told
    if star:
        is_within = version[: len(told)] == told
        return not is_within if kind == "!=" else is_within
    size = max(len(told), len(version))
    ours, theirs = (each + (0,) * (size - len(each)) for each in (version, told))
    return {
        "==": ours == theirs,
        "===": ours == theirs,
        "!=": ours != theirs,
        "<": ours < theirs,
        "<=": ours <= theirs,
        ">": ours > theirs,
        ">=": ours >= theirs,
    }[kind]
