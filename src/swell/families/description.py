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

import hashlib
import importlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pydantic

from swell.errors import NotFound
from swell.families import vqgan_clip
from swell.families.asked import examples_of, input_type
from swell.families.recognise import OTHER, Facts, is_vqgan_clip, look
from swell.media import Image, LoRA
from swell.model import Batch, Definition, InvalidModel, Model

__all__ = ["Entry", "Extra", "added", "definition_of", "describe", "read", "remove", "write"]

#: What has to be installed, and is not with Swell alone.
INSTALL: Final = "install it with: pip install 'swell[diffusers]'"

#: Of models that draw in steps: rows that exact mode has, and the most that a step may have.
BUCKET: Final = 2
MOST_ROWS: Final = 16

#: Where entries lie below the data directory.
FOLDER: Final = "models"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*/[a-z0-9][a-z0-9_.-]*")

_DTYPES: Final = ("auto", "float32", "float16", "bfloat16")


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
    #: Whether the blocks of the network are compiled, on a GPU.
    compile: bool = True
    loras: list[Extra] = []
    #: Folders as diffusers saves them.
    controlnet: str = ""
    #: A file of an IP-Adapter, with `image_encoder/` beside it or one folder up.
    ip_adapter: str = ""
    weights: dict[str, Content] = {}


@dataclass(frozen=True, slots=True)
class Described:
    """An entry, and what its folder says."""

    entry: Entry
    facts: Facts
    #: The data directory that it was added to.
    home: Path = Path()

    @property
    def folder(self) -> Path:
        """Where its weights are."""
        return Path(self.entry.folder)


def describe(entry: Entry, home: Path = Path()) -> Described:
    """Look at an entry's folder.

    Raises:
        InvalidModel: The folder is not what it should be, or something in the entry does not fit.
    """
    if not _NAME.fullmatch(entry.name):
        raise InvalidModel(f"{entry.name!r} cannot name a model: use owner/name in lower-case")
    if entry.dtype not in _DTYPES:
        raise InvalidModel(f"dtype {entry.dtype!r}: use one of {', '.join(_DTYPES)}")
    if entry.quantize not in ("", "fp8"):
        raise InvalidModel(f"quantize {entry.quantize!r}: use fp8, or nothing")
    facts = look(
        Path(entry.folder),
        sampler=entry.sampler,
        few=entry.few_step,
        steps=entry.steps,
        guidance=entry.guidance,
    )
    for what, given, can in (
        ("a control net", entry.controlnet, facts.family.has_control),
        ("a picture adapter", entry.ip_adapter, facts.family.has_reference),
    ):
        if given and not can:
            raise InvalidModel(f"{facts.family.name} models cannot have {what} here")
    if entry.quantize and entry.loras:
        raise InvalidModel("weights of 8 bits take no LoRAs: leave out --quantize or --lora")
    return Described(entry, facts, home)


# --- files ---------------------------------------------------------------------------------------


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
        InvalidModel: It is not what it should be; the text says what.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(told, Entry)
    except FileNotFoundError:
        raise NotFound(f"there is no file {str(path)!r}: see `swell models add`") from None
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise InvalidModel(f"{path.name} tells of no model: {error}") from None


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


def contents(folder: Path, names: Sequence[str]) -> dict[str, Content]:
    """Return what files hold; reads all of them."""
    found = {}
    for name in names:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[name] = Content(digest, (folder / name).stat().st_size)
    return found


def check_contents(entry: Entry) -> None:
    """Check that the files are there, and as large as they were when the model was added.

    Raises:
        InvalidModel: One is missing or has changed.
    """
    for name, content in entry.weights.items():
        path = Path(entry.folder) / name
        size = path.stat().st_size if path.is_file() else None
        if size != content.bytes:
            told = "is missing" if size is None else "has changed"
            raise InvalidModel(f"{entry.name}: {name} {told} since it was added; add it again")


# --- what the worker knows -----------------------------------------------------------------------


def definition_of(path: Path) -> Definition:
    """Return the model that an entry tells of.

    Raises:
        NotFound, InvalidModel: As `read` and `describe`.
    """
    entry = read(path)
    if is_vqgan_clip(Path(entry.folder)):
        return vqgan_clip.define(Path(entry.folder), entry.name)
    described = describe(entry)
    asked = input_type(
        described.facts, controlled=bool(entry.controlnet), refers=bool(entry.ip_adapter)
    )
    in_steps = described.facts.family is not OTHER
    return Definition(
        name=entry.name,
        description=_card(described),
        input_type=asked,
        output_schema=pydantic.TypeAdapter(Image).json_schema(mode="serialization"),
        examples=examples_of(described.facts),
        batch=Batch(),
        stage="live",
        source=path,
        files=_code(described.facts),
        make=partial(make, entry, path.resolve().parent.parent),
        step_bucket=BUCKET if in_steps else 0,
        step_rows=MOST_ROWS if in_steps else 0,
    )


def make(entry: Entry, home: Path) -> Model:
    """Make the model of an entry, not yet loaded.

    Raises:
        InvalidModel: What it needs is not installed, or its files have changed.
    """
    described = describe(entry, home)
    check_contents(entry)
    try:
        module = importlib.import_module(f"swell.families.{described.facts.family.module}")
    except ModuleNotFoundError as error:
        raise InvalidModel(f"{entry.name} needs {error.name}: {INSTALL}") from error
    kind: type[Model] = module.MODEL
    named = type(kind.__name__, (kind,), {"name": entry.name, "__module__": kind.__module__})
    made: Model = named(described)
    return made


def fixed_loras(entry: Entry) -> list[LoRA]:
    """Return the LoRAs that are always on."""
    return [LoRA(each.file, scale=each.scale, digest=each.sha256) for each in entry.loras]


def _code(facts: Facts) -> tuple[Path, ...]:
    """Return the files of Swell that decide how its pictures are drawn."""
    here = Path(__file__).parent
    names = {"schedulers.py", f"{facts.family.module}.py"}
    if facts.family is not OTHER:
        names.add("latent_torch.py")
    return tuple(here / name for name in sorted(names))


def _card(described: Described) -> str:
    entry, facts = described.entry, described.facts
    pipeline = facts.index.get("_class_name")
    rows = [
        ("family", facts.family.name if facts.family is not OTHER else f"{pipeline} of diffusers"),
        ("scheduler", str(facts.scheduler.get("_class_name", "its own"))),
        ("steps, guidance", f"{facts.steps}, {facts.guidance:g}"),
        ("trained for", f"{facts.side_px} px a side"),
    ]
    if entry.source:
        rows.append(("weights", f"`{entry.source}`"))
    table = "\n".join(f"| {name} | {told} |" for name, told in rows)
    return (
        f"Pictures by the words.\n\n| | |\n|---|---|\n{table}\n\n"
        "The weights' licence is their makers': read it before you serve them."
    )
