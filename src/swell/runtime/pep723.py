"""Requirements of model files, and which models can share a process.

A file declares them in the inline metadata of a script, a comment block at its top:

    # /// script
    # requires-python = ">=3.11,<3.13"
    # dependencies = ["diffusers==0.21.4", "torch<2.3"]
    # ///

A file without the block runs in Swell's own environment. One with the block gets another one
(`venvs.py`); models with equal blocks share it.

Source:
    Python Packaging User Guide, "Inline script metadata" (PEP 723) and "Version specifiers".
"""

import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from swell.core.errors import InvalidModel, SwellError

#: No more of a file is read.
_MOST_BYTES: Final = 4 * 1024**2

#: The block, as PEP 723 defines it.
_BLOCK: Final = re.compile(r"(?m)^# /// script\s*$\s(?P<content>(^#(| .*)$\s)+)^# ///$")

_DISTRIBUTION: Final = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements of a model's file."""

    #: As pip takes them (PEP 508), sorted.
    requirements: tuple[str, ...] = ()
    #: Allowed versions of Python, such as `>=3.11,<3.13`; empty for any that Swell runs on.
    python: str = ""

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.requirements or self.python)


#: Needs of a model that runs in Swell's own environment.
NOTHING: Final = Needs()


@dataclass(frozen=True, slots=True)
class Part:
    """Models that can share a process."""

    #: As `load_models` takes them.
    refs: tuple[str, ...]
    needs: Needs


def parted(refs: Sequence[str]) -> list[Part]:
    """Group models by their needs, in the order of their first mention.

    Raises:
        InvalidModel: A file's block cannot be read.
    """
    groups: dict[Needs, list[str]] = {}
    for ref in refs:
        groups.setdefault(needs_of(ref), []).append(ref)
    return [Part(tuple(group), needs) for needs, group in groups.items()]


def needs_of(ref: str) -> Needs:
    """Return the needs of a model file, without importing anything.

    Args:
        ref: A Python file, a module, or a built-in model, as `load_models` takes them. One that
            does not exist has no needs; loading it fails later.

    Raises:
        InvalidModel: The block in the file cannot be read.
    """
    path = source_of(ref)
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


def source_of(ref: str) -> Path | None:
    """Return the file of a model's code, found as an import finds it, but without importing.

    None if there is none, as for models that Swell brings.
    """
    name = ref.rpartition(":")[0] if ":" in ref else ref
    if name.endswith(".py"):
        return Path(name) if Path(name).is_file() else None
    if "/" in name or not name or name.endswith(".toml"):
        return None
    inner = Path(*name.split("."))
    # Model processes find modules in the folder that they are started in, too.
    places = [place / inner for place in map(Path, ["", *sys.path])]
    paths = (path for place in places for path in (place / "__init__.py", place.with_suffix(".py")))
    return next((path for path in paths if path.is_file()), None)


def needs_in(text: str) -> Needs:
    """Return the needs in a file's text; none without a block.

    Raises:
        InvalidModel: There are two blocks, or one is invalid; the text says what to change.
    """
    blocks = [match["content"] for match in _BLOCK.finditer(text)]
    if not blocks:
        return NOTHING
    if len(blocks) > 1:
        raise InvalidModel("there are several `# /// script` blocks: write one, at the top")
    try:
        told = tomllib.loads(re.sub("(?m)^# ?", "", blocks[0]))
    except tomllib.TOMLDecodeError as error:
        raise InvalidModel(
            f"its `# /// script` block is not TOML ({error}): write lines such as `#"
            ' dependencies = ["einops"]`'
        ) from None
    requirements, python = told.get("dependencies", []), told.get("requires-python", "")
    if not isinstance(requirements, list) or not all(
        isinstance(each, str) and each.strip() for each in requirements
    ):
        raise InvalidModel(
            "`dependencies` in its `# /// script` block must be a list of requirements, such as "
            '["einops>=0.7"]'
        )
    try:
        SpecifierSet(python)
    except (InvalidSpecifier, TypeError):
        raise InvalidModel(
            "`requires-python` in its `# /// script` block must be a text of version specifiers, "
            'such as ">=3.11,<3.13"'
        ) from None
    return Needs(tuple(sorted({each.strip() for each in requirements})), python.strip())


def distribution(requirement: str) -> str:
    """Return the name of a requirement's distribution, normalised (PEP 503)."""
    found = _DISTRIBUTION.match(requirement)
    return canonicalize_name(found[1]) if found else ""


def allows(specifiers: str, version: str) -> bool:
    """Say whether a version of Python is within version specifiers, such as `>=3.11,<3.13`."""
    return SpecifierSet(specifiers).contains(version)
