"""A model that was added without code: the small file that tells of it, and what is made of that.

    name = "acme/dreams"
    folder = "/srv/weights/dreams"
    steps = 25

    [[loras]]
    file = "/srv/loras/ink.safetensors"

    [weights]
    "unet/diffusion_pytorch_model.safetensors" = { sha256 = "9f86…", bytes = 3438167540 }

`swell models add` writes it into the data directory. It lists the content of all files, so that the
version, which is made of this file, changes with the weights, and nobody reads gigabytes for it.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from swell.errors import InvalidRequest, NotFound

__all__ = [
    "Content",
    "Entry",
    "Extra",
    "InvalidEntry",
    "added",
    "path_of",
    "read",
    "remove",
    "write",
]

#: Where entries lie below the data directory.
FOLDER: Final = "models"


class InvalidEntry(InvalidRequest):
    """A file tells of no model; the text says what is wrong with it."""

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
    sampler: str = ""
    few_step: str = ""
    steps: int | None = None
    guidance: float | None = None
    dtype: str = "auto"
    #: `fp8` on GPUs that compute with it, or nothing.
    quantize: str = ""
    #: See `swell.families.placement`.
    offload: str = "auto"
    #: Whether the blocks of the network are compiled, on a GPU.
    compile: bool = True
    loras: list[Extra] = []
    #: Folders as diffusers saves them.
    controlnet: str = ""
    #: A file of an IP-Adapter, with `image_encoder/` beside it or one folder up.
    ip_adapter: str = ""
    #: Whether it draws portraits of the face in a picture.
    portraits: bool = False
    #: A file of scenarios for them; empty for those that ship.
    scenarios: str = ""
    weights: dict[str, Content] = {}


def path_of(data_dir: Path, name: str) -> Path:
    """Return where a model's entry is, below the data directory."""
    return data_dir / FOLDER / f"{name.replace('/', '--')}.toml"


def added(data_dir: Path) -> list[str]:
    """Return the entries of all models that were added, as `load_models` takes them."""
    return sorted(str(path.resolve()) for path in (data_dir / FOLDER).glob("*.toml"))


def remove(data_dir: Path, name: str) -> Path:
    """Forget a model; its weights stay. Return where its entry was.

    Raises:
        NotFound: No such model was added.
    """
    path = path_of(data_dir, name)
    if not path.is_file():
        known = ", ".join(read(Path(each)).name for each in added(data_dir)) or "none"
        raise NotFound(f"no model {name!r} was added to {data_dir}: there is {known}")
    path.unlink()
    return path


def read(path: Path) -> Entry:
    """Read an entry.

    Raises:
        NotFound: There is no such file.
        InvalidEntry: It is not what it should be; the text says what.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(told, Entry)
    except FileNotFoundError:
        raise NotFound(f"there is no file {str(path)!r}: see `swell models add`") from None
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise InvalidEntry(f"{path.name} tells of no model: {error}") from None


def write(path: Path, entry: Entry) -> None:
    """Write an entry, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".fresh")
    fresh.write_text(_toml(entry), encoding="utf-8")
    fresh.replace(path)


def _toml(entry: Entry) -> str:
    told = msgspec.to_builtins(entry)
    lines = ["# Written by `swell models add`; `swell models remove` forgets it."]
    for name, value in told.items():
        if name not in ("loras", "weights") and value is not None:
            lines.append(f"{name} = {_value(value)}")
    for lora in told["loras"]:
        lines += ["", "[[loras]]", *(f"{name} = {_value(value)}" for name, value in lora.items())]
    lines += ["", "[weights]"]
    for name, content in told["weights"].items():
        inner = ", ".join(f"{key} = {_value(value)}" for key, value in content.items())
        lines.append(f"{_value(name)} = {{ {inner} }}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """Return a text, number or truth as TOML writes it, which is as JSON does."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
