"""Makes the definition and the model of an entry that `swell models add` wrote."""

import hashlib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pydantic

from swell.core.errors import InvalidModel
from swell.core.records import ModelCard, Speed
from swell.diffusion.families.adapters import Adapter, Net, read_adapter, read_net
from swell.diffusion.families.detect_family import Facts, is_known, is_vqgan_clip, look
from swell.diffusion.families.family import OTHER
from swell.diffusion.families.input_schema import examples_of, input_type
from swell.diffusion.families.model_config import Content, Entry, InvalidEntry, check_files, read
from swell.diffusion.families.offload_plan import CHOICES
from swell.diffusion.families.pipeline_folder import (
    check_folder,
    check_weights,
    class_in,
    licence_in,
    read_json,
    used_parts,
)
from swell.sdk.define import Definition
from swell.sdk.media import Image, LoRA
from swell.sdk.missing_packages import demo_module
from swell.sdk.model import Model
from swell.weights.files import content_of_link, open_file

#: How to install the packages that Swell alone does not need.
INSTALL: Final = "install it with: pip install 'swell[diffusers]'"

#: Of models that draw in steps: rows that exact mode has where the entry says nothing, and the most
#: that a step may have.
BUCKET: Final = 2
MOST_ROWS: Final = 16

#: A picture of this many pixels fills a GPU, so that a second row costs as much as the first:
#: measured at 1024 x 1024 px for Qwen-Image on an H200 (sglang #22183), SDXL on an L4
#: (datadreamer #34) and FLUX.1-Kontext (diffusers #12459). With a quarter of the pixels two rows
#: cost hardly more than one.
FILLS_PX: Final = 3 << 18

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*/[a-z0-9][a-z0-9_.-]*")

#: What asks diffusers; imported only for pipelines that no table knows, as it takes seconds.
_SIGNATURES: Final = "swell.diffusion.families.diffusers_pipeline_torch"

_PORTRAYS: Final = (
    "One picture of a face becomes a pack of portraits, one per scenario. "
    "The model draws a new person from the features that its adapter "
    "extracts from the face: similar, not identical. Use it only with "
    "pictures of people who agreed to it."
)

_DTYPES: Final = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Described:
    """An entry, and what its folder says."""

    entry: Entry
    facts: Facts
    #: The data directory that it was added to.
    home: Path = Path()
    #: Its picture adapter, if it has one.
    adapter: Adapter | None = None
    #: Its control net, if it has one: the one that was given, else its folder's own.
    net: Net | None = None

    @property
    def folder(self) -> Path:
        """Where its weights are."""
        return Path(self.entry.folder)

    @property
    def scenarios(self) -> Path:
        """Where the scenarios of its portraits are."""
        told = self.entry.scenarios
        found: Path = Path(told) if told else demo_module("added_portraits").SCENARIOS
        return found


def with_loop(entry: Entry) -> Entry:
    """Return an entry with the arguments of its pipeline, if they are not in the table.

    Raises:
        InvalidModel: Diffusers has no such pipeline, or it needs more than words.
    """
    index = read_json(Path(entry.folder), "model_index.json")
    pipeline = class_in(index, "model_index.json")
    if is_known(pipeline) or not pipeline.endswith("Pipeline"):
        return entry
    try:
        signatures = importlib.import_module(_SIGNATURES)
    except (ImportError, RuntimeError):
        # diffusers raises RuntimeError if one of its own files cannot be imported.
        return entry
    return msgspec.structs.replace(entry, loop=signatures.new_loop(index))


def describe(entry: Entry, home: Path = Path()) -> Described:
    """Look at an entry's folder; at the heads of its weights only while it is being added.

    Raises:
        InvalidModel: The folder is invalid, or a setting of the entry does not fit.
        RefusedFormat, BrokenWeights: A file of weights has another format, or is damaged.
    """
    if not _NAME.fullmatch(entry.name):
        raise InvalidModel(f"{entry.name!r} cannot name a model: use owner/name in lower-case")
    facts = look(
        Path(entry.folder),
        sampler=entry.sampler,
        few=entry.few_step,
        steps=entry.steps,
        guidance=entry.guidance,
        loop=entry.loop,
    )
    _check_options(entry, facts)
    _check_portraits(entry, facts)
    net = _net_of(entry, facts)
    if not entry.weights:
        _check_weights(entry, facts)
    return Described(entry, facts, home, _adapter_of(entry, facts), net)


def _net_of(entry: Entry, facts: Facts) -> Net | None:
    """Return its control net, if it has one.

    Raises:
        InvalidModel: It is none, or does not fit.
    """
    if not (entry.controlnet or facts.has_net):
        return None
    folder = Path(entry.controlnet or Path(entry.folder, "controlnet"))
    family = facts.family
    latents, _ = facts.input_channels
    net = read_net(folder, family, facts.network, latents=latents, scale_px=facts.scale_px)
    if net.borrows_places and facts.sees_mask:
        raise InvalidModel(
            f"{folder.name}/ has no first layer, and the first layer of an "
            "inpainting network does not fit it: use another control net, or a "
            "network without masks"
        )
    return net


def _adapter_of(entry: Entry, facts: Facts) -> Adapter | None:
    """Return the picture adapter of an entry, if it has one, after checking its image encoder.

    Raises:
        InvalidModel: It does not fit, or its image encoder is missing or invalid.
        RefusedFormat, BrokenWeights: A file of weights has another format, or is damaged.
    """
    if not entry.ip_adapter:
        return None
    adapter = read_adapter(Path(entry.ip_adapter), Path(entry.folder), facts.network)
    check_folder(adapter.encoder)
    if not entry.weights:
        check_weights(adapter.encoder)
    return adapter


def _check_weights(entry: Entry, facts: Facts) -> None:
    """Check that files of weights are whole, the control net's included.

    Raises:
        InvalidModel: The control net's folder holds what may not be opened.
        RefusedFormat, BrokenWeights: A file of weights is not what its name says, or not whole.
    """
    for part in used_parts(facts.index):
        check_weights(Path(entry.folder, part))
    if entry.controlnet:
        check_folder(Path(entry.controlnet))
        check_weights(Path(entry.controlnet))


def _since(facts: Facts) -> str:
    """Return what to add to an error about a model that could be drawn step by step."""
    return f", since {facts.obstacle}" if facts.obstacle else ""


def _check_options(entry: Entry, facts: Facts) -> None:
    """Check that the options fit the model, and each other.

    Raises:
        InvalidModel: They do not.
    """
    if entry.dtype not in _DTYPES:
        raise InvalidModel(f"dtype {entry.dtype!r}: use one of {', '.join(_DTYPES)}")
    if entry.quantize not in ("", "fp8"):
        raise InvalidModel(f"quantize {entry.quantize!r}: use fp8, or nothing")
    if entry.offload not in CHOICES:
        raise InvalidModel(f"offload {entry.offload!r}: use one of {', '.join(CHOICES)}")
    if entry.bucket is not None and not 1 <= entry.bucket <= MOST_ROWS:
        raise InvalidModel(f"bucket {entry.bucket}: a step has 1 to {MOST_ROWS} rows")
    for what, is_given, can in (
        ("a control net", bool(entry.controlnet), bool(facts.family.control)),
        ("a picture adapter", bool(entry.ip_adapter), facts.family.has_reference),
        ("--quantize", bool(entry.quantize), facts.family is not OTHER),
        ("--offload", entry.offload not in ("auto", "never"), facts.family is not OTHER),
        ("--bucket", entry.bucket is not None, facts.family is not OTHER),
    ):
        if is_given and not can:
            why = f"{facts.family.name} models cannot have {what} here{_since(facts)}"
            raise InvalidModel(f"{why}; or leave it out")
    if entry.quantize and entry.loras:
        raise InvalidModel("weights of 8 bits take no LoRAs: leave out --quantize or --lora")
    if entry.quantize and entry.offload in ("turns", "blocks"):
        raise InvalidModel(
            f"weights of 8 bits stay on their device: use --offload always, not {entry.offload}"
        )


def _check_portraits(entry: Entry, facts: Facts) -> None:
    """Check that a model of portraits has what these need.

    Raises:
        InvalidModel: A requirement is missing, or an option conflicts.
    """
    if not entry.portraits:
        if entry.scenarios:
            raise InvalidModel("scenarios are for portraits: give --portraits too")
        return
    if entry.scenarios and not Path(entry.scenarios).is_file():
        raise InvalidModel(f"scenarios are a file, and {entry.scenarios} is none")
    if not entry.ip_adapter:
        raise InvalidModel(
            "portraits need an image adapter for the face: add --ip-adapter FILE, "
            "preferably of the plus-face kind"
        )
    if entry.controlnet or facts.has_net:
        raise InvalidModel("portraits take no picture for a control net: leave --controlnet out")
    if facts.sees_mask:
        raise InvalidModel("this model paints into pictures: portraits need one that does not")


def contents(folder: Path, names: Sequence[str]) -> dict[str, Content]:
    """Return what files hold; reads all of them."""
    found = {}
    for name in names:
        with open_file(folder / name) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[name] = Content(digest, (folder / name).stat().st_size)
    return found


def _check_contents(entry: Entry, added_ns: int) -> None:
    """Check that the files are there, and as they were when the model was added.

    After `check_files`, files that are newer than the entry are read in full, because a write can
    leave the size unchanged.

    Args:
        entry: The model's.
        added_ns: When it was added, in nanoseconds, by the clock of its disk.

    Raises:
        InvalidModel: One is missing or has changed.
    """
    try:
        check_files(entry)
    except InvalidEntry as error:
        raise InvalidModel(f"{error.detail}; add it again") from None
    for name, content in entry.weights.items():
        path = Path(entry.folder, name)  # that of an extra file is whole already
        if content_of_link(path) == content.sha256:
            continue  # as an image has it; who fetched it has read it whole
        is_younger = path.stat().st_mtime_ns > added_ns
        if is_younger and contents(path.parent, [path.name])[path.name] != content:
            raise InvalidModel(f"{entry.name}: {name} has changed since it was added; add it again")


# --- definitions ---------------------------------------------------------------------------------


def _bare_definition(path: Path) -> Definition:
    """Return the model of an entry, without measurements.

    Raises:
        NotFound, InvalidModel: As `read` and `describe`.
    """
    entry = read(path)
    added_ns = path.stat().st_mtime_ns
    if is_vqgan_clip(Path(entry.folder)):
        _check_contents(entry, added_ns)
        vqgan_clip = demo_module("vqgan_clip")
        defined: Definition = vqgan_clip.define(Path(entry.folder), entry.name, path)
        return defined
    described = describe(entry)
    in_steps = described.facts.family is not OTHER
    files = _code(described.facts)
    output: Any = Image
    if entry.portraits:
        portraits = demo_module("added_portraits")
        known = portraits.read_scenarios(described.scenarios)
        asked, examples = portraits.input_type(described.facts, known), portraits.examples_of(known)
        output = list[Image]
        files = (*files, *portraits.FILES, described.scenarios)
    else:
        asked = input_type(
            described.facts,
            controlled=described.net is not None,
            modes=0 if described.net is None else described.net.modes,
            refers=bool(entry.ip_adapter),
        )
        examples = examples_of(described.facts)
    facts = ModelCard(
        name=entry.name,
        version="",
        description=_card(described),
        input_schema=asked.model_json_schema(),
        output_schema=pydantic.TypeAdapter(output).json_schema(mode="serialization"),
        examples=list(examples),
        step_bucket=(entry.bucket or BUCKET) if in_steps else 0,
        step_rows=MOST_ROWS if in_steps else 0,
        licence=licence_in(Path(entry.folder)),
    )
    return Definition(
        facts,
        asked,
        source=path,
        files=files,
        make=partial(_make, entry, path.resolve().parent.parent, added_ns),
    )


def _make(entry: Entry, home: Path, added_ns: int) -> Model:
    """Make the model of an entry, not yet loaded.

    Args:
        entry: The model's.
        home: The data directory that it was added to.
        added_ns: When, as `_check_contents` takes it.

    Raises:
        InvalidModel: A package is not installed, or files have changed.
    """
    _check_contents(entry, added_ns)
    described = describe(entry, home)
    is_other = described.facts.family is OTHER
    name = "diffusers_pipeline_torch" if is_other else "latent_diffusion_torch"
    try:
        kind: type[Model] = importlib.import_module(f"swell.diffusion.families.{name}").MODEL
    except ModuleNotFoundError as error:
        raise InvalidModel(f"{entry.name} needs {error.name}: {INSTALL}") from error
    if entry.portraits:
        kind = demo_module("added_portraits_torch").MODEL
    named = type(kind.__name__, (kind,), {"name": entry.name, "__module__": kind.__module__})
    made: Model = named(described)
    return made


def bucket_of(entry: Entry, *, is_guided: bool, width: int, height: int) -> int:
    """Return how many rows each step of a picture has in exact mode.

    The default is the number of rows of one picture, so that no row is padding; or two, where a
    second row costs little.

    Args:
        entry: The model's.
        is_guided: Whether the picture has two rows in a step.
        width: Of the picture, in pixels.
        height: The same.
    """
    if entry.bucket is not None:
        return entry.bucket
    return 1 if not is_guided and width * height >= FILLS_PX else BUCKET


def fixed_loras(entry: Entry) -> list[LoRA]:
    """Return the LoRAs that are always on."""
    return [LoRA(each.file, scale=each.scale, digest=each.sha256) for each in entry.loras]


def _code(facts: Facts) -> tuple[Path, ...]:
    """Return the files of Swell that decide how its pictures are drawn."""
    here = Path(__file__).parent
    modules = [kind.__module__ for kind in type(facts.family).__mro__[:-1]]
    names = {"schedulers.py", *(f"{module.rpartition('.')[2]}.py" for module in modules)}
    if facts.family is OTHER:
        names |= {"diffusers_pipeline_torch.py", "pipeline_signatures.json"}
    else:
        names |= {"latent_diffusion_torch.py", "pictures_torch.py", "sample_plan.py"}
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
    if described.adapter is not None:
        rows.append(("picture adapter", described.adapter.kind))
    if entry.source:
        rows.append(("weights", f"`{entry.source}`"))
    table = "\n".join(f"| {name} | {told} |" for name, told in rows)
    what = _PORTRAYS if entry.portraits else "Pictures by the words."
    return (
        f"{what}\n\n| | |\n|---|---|\n{table}\n\n"
        "The weights' licence is their makers': read it before you serve them."
    )


# --- measurements --------------------------------------------------------------------------------
#
# `swell models check` writes `acme--dreams@measured.json` and `acme--dreams@sample.webp` next to
# `acme--dreams.toml`. They count for one version of the model.

#: Smaller differences are not stored, so that a check alone makes no new version.
_ALIKE: Final = 0.2


class Taken(msgspec.Struct, frozen=True):
    """The measurements of one check."""

    #: The version that was checked, and the duration of its example.
    version: str
    speed: Speed
    #: Memory on the device; 0 if unknown.
    memory_bytes: int = 0
    #: A picture in WebP; empty where the example gives none.
    sample: bytes = b""
    caption: str = ""


class _Measured(msgspec.Struct, frozen=True):
    of: str
    memory_bytes: int = 0
    speed: list[Speed] = []
    #: Caption → name of the file in the same folder.
    samples: dict[str, str] = {}


def definition_of(path: Path) -> Definition:
    """Return the definition of an entry, with its measurements.

    Raises:
        NotFound, InvalidModel: As `read` and `describe`.
    """
    bare = _bare_definition(path)
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
    """Store the measurements of a check; return whether the card changes.

    Args:
        path: The entry.
        taken: The measurements.

    Raises:
        OSError: The folder cannot be written.
    """
    if definition_of(path).version() != taken.version:
        return False  # the model was added again in the meantime
    bare = _bare_definition(path)
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
