"""What `swell models check` measured of an added model, kept beside its entry for its card.

`acme--dreams.toml` has `acme--dreams@measured.json` and `acme--dreams@sample.webp` beside it. They
tell of one version, and count for no other: whoever adds other weights measures anew.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from swell.core.records import Speed
from swell.diffusion.families import model_definition as description
from swell.sdk.define import Definition

#: What differs by no more is what was measured before: a check by itself makes no new version.
_ALIKE: Final = 0.2


class Taken(msgspec.Struct, frozen=True):
    """What one check measured."""

    #: The version that was checked, and what its example took.
    version: str
    speed: Speed
    #: What it takes of its device; 0 where that is not known.
    memory_bytes: int = 0
    #: A picture in WebP; empty where the example gives none.
    sample: bytes = b""
    caption: str = ""


class _Measured(msgspec.Struct, frozen=True):
    of: str
    memory_bytes: int = 0
    speed: list[Speed] = []
    #: Caption → name of the file beside.
    samples: dict[str, str] = {}


def definition_of(path: Path) -> Definition:
    """Return the model that an entry tells of, with what was measured of it.

    Raises:
        NotFound, InvalidModel: As `swell.diffusion.families.model_definition.definition_of`.
    """
    bare = description.definition_of(path)
    known = _read(path, bare)
    if not known.speed:
        return bare
    samples = {caption: path.with_name(name) for caption, name in known.samples.items()}
    return replace(
        bare,
        files=(*bare.files, _path(path)),
        facts=msgspec.structs.replace(
            bare.facts, memory_bytes=known.memory_bytes, speed=known.speed
        ),
        samples={caption: file for caption, file in samples.items() if file.is_file()},
    )


def keep(path: Path, taken: Taken) -> bool:
    """Keep what a check measured; return whether that is news for the card.

    Args:
        path: Of the entry.
        taken: What was measured.

    Raises:
        OSError: The folder cannot be written.
    """
    if definition_of(path).version() != taken.version:
        return False  # it was added again meanwhile
    bare = description.definition_of(path)
    known = _read(path, bare)
    speed = taken.speed
    same = [each for each in known.speed if (each.device, each.what) == (speed.device, speed.what)]
    is_news = not any(_is_alike(each.took_s, speed.took_s) for each in same)
    speeds = (
        [*(each for each in known.speed if each not in same), speed] if is_news else known.speed
    )
    memory_bytes = known.memory_bytes
    if not _is_alike(memory_bytes, taken.memory_bytes):
        memory_bytes = taken.memory_bytes or memory_bytes
    samples = known.samples
    if taken.sample and not samples:
        file = path.with_name(f"{path.stem}@sample.webp")
        file.write_bytes(taken.sample)
        samples = {taken.caption: file.name}
    fresh = _Measured(bare.version(), memory_bytes, speeds, samples)
    if fresh == known:
        return False
    beside = _path(path).with_suffix(".fresh")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(fresh)))
    beside.replace(_path(path))
    return True


def _read(path: Path, bare: Definition) -> _Measured:
    version = bare.version()
    try:
        found = msgspec.json.decode(_path(path).read_bytes(), type=_Measured)
    except (OSError, msgspec.DecodeError):
        return _Measured(version)
    return found if found.of == version else _Measured(version)


def _path(path: Path) -> Path:
    return path.with_name(f"{path.stem}@measured.json")


def _is_alike(one: float, other: float) -> bool:
    return abs(one - other) <= _ALIKE * max(one, other)
