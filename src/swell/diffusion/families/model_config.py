"""The configuration file of a model that was added without code.

    name = "acme/dreams"
    folder = "/srv/weights/dreams"
    steps = 25

    [[loras]]
    file = "/srv/loras/ink.safetensors"

    [weights]
    "unet/diffusion_pytorch_model.safetensors" = { sha256 = "9f86…", bytes = 3438167540 }

`swell models add` writes it into the data directory. It lists the digests of all files, so that the
version, a hash of this file, changes with the weights without reading them again.
"""

import fcntl
import json
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from swell.core.errors import InvalidRequest, NotFound, SwellError
from swell.diffusion.families.pipeline_signatures import Loop

#: Where entries lie below the data directory.
FOLDER: Final = "models"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*/[a-z0-9][a-z0-9_.-]*")

#: Letters of a name; files called after it have some more, and no disk takes more than 255.
_LONGEST: Final = 120

#: Owners of built-in models.
_BUILT_IN: Final = frozenset({"swell", "demo"})

#: What ends so names a file wherever a model may be named.
_FILES: Final = (".py", ".toml")


class InvalidEntry(InvalidRequest):
    """The file does not describe a model; the text says why."""

    title = "This model cannot be served"


class Extra(msgspec.Struct, frozen=True, omit_defaults=True):
    """A LoRA, control net or picture adapter that belongs to the model."""

    file: str
    scale: float = 1.0
    #: SHA-256 of a LoRA's file.
    sha256: str = ""


class Content(msgspec.Struct, frozen=True):
    """What a file holds."""

    sha256: str
    bytes: int


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that was said of a model when it was added."""

    name: str
    folder: str
    #: Where the folder came from, for people.
    source: str = ""
    #: The address at a hub, such as `hf://acme/dreams@main`; empty for a folder.
    asked: str = ""
    sampler: str = ""
    few_step: str = ""
    steps: int | None = None
    guidance: float | None = None
    dtype: str = "auto"
    #: `fp8` on GPUs that compute with it, or nothing.
    quantize: str = ""
    #: See `swell.diffusion.families.offload_plan`.
    offload: str = "auto"
    #: Rows of each step in exact mode; None for those that suit a single picture.
    bucket: int | None = None
    #: Whether the blocks of the network are compiled, on a GPU.
    compile: bool = True
    loras: list[Extra] = []
    #: Folders as diffusers saves them.
    controlnet: str = ""
    #: A file of an IP-Adapter; `image_encoder/` is in its folder or one folder up.
    ip_adapter: str = ""
    #: Whether it draws portraits of the face in a picture.
    portraits: bool = False
    #: A file of scenarios for them; empty for those that ship.
    scenarios: str = ""
    #: What its own loop takes, of a pipeline that is not in `LOOPS`.
    loop: Loop | None = None
    weights: dict[str, Content] = {}


def check_name(name: str) -> None:
    """Check that a model may be added under a name.

    Raises:
        InvalidEntry: It may not; the text says what to do.
    """
    if len(name) > _LONGEST:
        raise InvalidEntry(
            f"{name[:40]!r}… has {len(name)} letters, and a model's name has {_LONGEST} at most: "
            "choose a shorter one with --name"
        )
    if not _NAME.fullmatch(name):
        raise InvalidEntry(f"{name!r} cannot name a model: use owner/name in lower-case")
    if name.endswith(_FILES):
        raise InvalidEntry(f"{name!r} would be taken for a file: choose another --name")
    owner = name.partition("/")[0]
    if owner in _BUILT_IN:
        raise InvalidEntry(
            f"{name!r} cannot name a model that is added: {owner}/ is of models that are built in, "
            "so choose another owner with --name"
        )


def path_of(data_dir: Path, name: str) -> Path:
    """Return where a model's entry is, below the data directory: no two names have one file."""
    return data_dir / FOLDER / f"{'--'.join(map(_part, name.split('/')))}.toml"


def _part(part: str) -> str:
    # What would be taken for the sign between owner and name is written with a letter of no name.
    return part.replace("-", "+") if "--" in part or part.endswith("-") else part


def find(data_dir: Path, name: str) -> Path | None:
    """Return where the entry of a model is that was added; None if there is none."""
    path = path_of(data_dir, name)
    with suppress(OSError):  # no file has so long a name
        if path.is_file():
            return path
    return None


def added(data_dir: Path) -> list[str]:
    """Return the entries of all models that were added, as `load_models` takes them."""
    return sorted(str(path.resolve()) for path in (data_dir / FOLDER).glob("*.toml"))


def remove(data_dir: Path, name: str) -> Path:
    """Delete the entry and measurements of a model, not its weights; return the path of the entry.

    Raises:
        NotFound: No such model was added.
    """
    path = find(data_dir, name)
    if path is None:
        known = ", ".join(name_of(Path(each)) for each in added(data_dir)) or "none"
        raise NotFound(f"no model {name!r} was added to {data_dir}: there is {known}")
    path.unlink()
    for beside in path.parent.glob(f"{path.stem}@*"):
        if beside.is_file():
            beside.unlink()
    return path


@contextmanager
def locked(data_dir: Path, name: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock for adding or removing a model; it ends with the process.

    Args:
        data_dir: The data directory.
        name: The name of the model.
        tell: Called with a line for the user before waiting for another process.

    Raises:
        InvalidEntry: Nothing can be written there.
    """
    path = path_of(data_dir, name).with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = _lock(path, partial(tell, f"waiting for another process that adds or removes {name}"))
    except OSError as error:
        raise InvalidEntry(
            f"{name} cannot be kept in {path.parent} ({error.strerror}): choose a data folder "
            "that can be written, with --data or data_dir"
        ) from None
    try:
        yield
    finally:
        # Still locked: a waiting process sees that the file is gone, and creates another.
        path.unlink(missing_ok=True)
        os.close(fd)


def _lock(path: Path, tell: Callable[[], None]) -> int:
    """Return the descriptor of a locked file that still has its name."""
    has_told = False
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not has_told:
                    tell()
                has_told = True
                fcntl.flock(fd, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def name_of(path: Path) -> str:
    """Return the name in an entry, or the name of the file if it cannot be read."""
    try:
        return read(path).name
    except (NotFound, InvalidEntry):
        # `swell models remove` needs the name.
        return path.stem.replace("--", "/").replace("+", "-")


def read(path: Path) -> Entry:
    """Read an entry.

    Raises:
        NotFound: There is no such file.
        InvalidEntry: The entry is invalid; the text says why.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(told, Entry)
    except FileNotFoundError:
        raise NotFound(f"there is no file {str(path)!r}: see `swell models add`") from None
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise InvalidEntry(f"{path.name} does not describe a model: {error}") from None


def check_files(entry: Entry) -> None:
    """Check that an entry's folder and files are there, and whole as far as sizes and heads tell.

    Raises:
        InvalidEntry: One is missing, has changed or is damaged.
    """
    # Workers read entries before they import large modules.
    from swell.weights.formats import read_header

    if not Path(entry.folder).is_dir():
        raise InvalidEntry(f"{entry.name}: its folder {entry.folder} is gone")
    for name, content in entry.weights.items():
        path = Path(entry.folder, name)  # that of an extra file is whole already
        size = path.stat().st_size if path.is_file() else None
        if size != content.bytes:
            told = "is missing" if size is None else "has changed"
            raise InvalidEntry(f"{entry.name}: {name} {told} since it was added")
        if path.suffix == ".safetensors":
            try:
                read_header(path)
            except SwellError as error:
                raise InvalidEntry(f"{entry.name}: {name} is damaged: {error.detail}") from None
    for extra in (entry.controlnet, entry.ip_adapter, entry.scenarios, *_loras(entry)):
        if extra and not Path(extra).exists():
            raise InvalidEntry(f"{entry.name}: {extra} is gone")


def _loras(entry: Entry) -> list[str]:
    return [each.file for each in entry.loras]


def write(path: Path, entry: Entry) -> None:
    """Write an entry, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{secrets.token_hex(8)}.fresh")
    try:
        fresh.write_text(as_toml(entry), encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def as_toml(entry: Entry) -> str:
    """Return what `write` writes."""
    told = msgspec.to_builtins(entry)
    lines = ["# Written by `swell models add`; `swell models remove` forgets it."]
    for name, value in told.items():
        if name not in ("loras", "loop", "weights") and value is not None:
            lines.append(f"{name} = {_value(value)}")
    for lora in told["loras"]:
        lines += ["", "[[loras]]", *(f"{name} = {_value(value)}" for name, value in lora.items())]
    if told["loop"] is not None:
        lines += ["", "[loop]", *(f"{n} = {_value(v)}" for n, v in told["loop"].items())]
    lines += ["", "[weights]"]
    for name, content in told["weights"].items():
        inner = ", ".join(f"{key} = {_value(value)}" for key, value in content.items())
        lines.append(f"{_value(name)} = {{ {inner} }}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """Return a text, number or truth as TOML writes it, which is as JSON does."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
