"""What an image has of its models: their code, the small files beside it, and links to weights.

    /opt/swell/models/1/poster.py                       a model's code, with the modules it imports
    /opt/swell/models/1/unet.safetensors                a link to where its content will lie
    /opt/swell/models/added/acme--dreams.toml           a model that was added, its folder beside
    /opt/swell/models/weights.json                      the content of all weights, by model
    /opt/swell/weights/files/9f/9f86…                   that content, in an image that is baked

Weights are told by the SHA-256 of their content, and lie where a cache of weights keeps them: below
the data folder, where they come when a worker starts, or in the image.
"""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from swell.containers.sources import SWELL, Code, Module, Nowhere, code_of, place_of, texts_in
from swell.errors import InvalidRequest
from swell.families.entries import Entry as Added
from swell.families.entries import as_toml, check_files, read
from swell.model import InvalidModel
from swell.weights.formats import WEIGHT_SUFFIXES
from swell.weights.listing import Entry, Listing
from swell.worker.needs import NOTHING, Needs, parted

__all__ = [
    "DATA",
    "HOME",
    "MODELS",
    "WEIGHTS",
    "Looked",
    "Packed",
    "Packer",
    "packed_distributions",
]

#: Where things are in an image.
HOME: Final = PurePosixPath("/opt/swell")
MODELS: Final = HOME / "models"
WEIGHTS: Final = HOME / "weights"
DATA: Final = PurePosixPath("/var/lib/swell")

#: A file beside a model that is no weights, and yet so large that people should hear of it.
_LARGE_BYTES: Final = 32 << 20

#: How an author says which weights a model needs.
_LISTINGS: Final = ("weights.toml", "weights.json")

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

#: What added models need, in whose code nothing of theirs is imported by name.
_FAMILIES: Final = ("swell.families.pipeline_torch", "swell.families.stable_diffusion_torch")
_DIFFUSERS: Final = ("diffusers", "transformers", "accelerate", "torch", "safetensors")


@dataclass(frozen=True, slots=True)
class Looked:
    """What a model says of itself."""

    name: str
    version: str
    files: tuple[Path, ...]
    samples: tuple[Path, ...]


@dataclass(slots=True)
class Packed:
    """What an image has of its models. Places are paths in the image."""

    #: As `worker.models`.
    refs: list[str] = field(default_factory=list)
    #: Name → version, as it is here.
    versions: dict[str, str] = field(default_factory=dict)
    #: Place → the file here.
    files: dict[PurePosixPath, Path] = field(default_factory=dict)
    #: Place → what is written there.
    texts: dict[PurePosixPath, bytes] = field(default_factory=dict)
    #: Place of a link → digest of the weights.
    links: dict[PurePosixPath, str] = field(default_factory=dict)
    #: Digest of weights → the file here.
    contents: dict[str, Path] = field(default_factory=dict)
    listings: list[Listing] = field(default_factory=list)
    #: Folders for Python's path.
    roots: list[PurePosixPath] = field(default_factory=list)
    #: Packages whose modules are imported.
    distributions: set[str] = field(default_factory=set)
    needs: Needs = NOTHING
    #: What people should know.
    notes: list[str] = field(default_factory=list)

    @property
    def weight_bytes(self) -> int:
        """What all weights take."""
        return sum(path.stat().st_size for path in self.contents.values())


class Packer:
    """Packs models. Reads files, and has models looked at; writes nothing.

    Args:
        look: Tells what the models of a reference say of themselves; see `swell.containers.look`.
        extra: Files and folders below a model's root that go with it.
    """

    def __init__(self, look: Callable[[str], Sequence[Looked]], extra: Sequence[Path] = ()) -> None:
        self._look = look
        self._extra = [path.resolve() for path in extra]
        self._places: dict[Path, PurePosixPath] = {}
        self._packed = Packed()

    def pack(self, refs: Sequence[str]) -> Packed:
        """Return what an image with these models has.

        Args:
            refs: As `load_models` takes them; an added model by its entry's file.

        Raises:
            InvalidModel: One has no code that can be packed, or they do not go into one process.
            NotFound: One does not exist.
        """
        parts = parted(refs)
        if len(parts) > 1:
            told = "; ".join(f"swell build {' '.join(part.refs)}" for part in parts)
            raise InvalidModel(
                "these models need different environments, and a worker has one: build an image "
                f"for each ({told})"
            )
        self._packed.needs = parts[0].needs
        for ref in refs:
            if ref.endswith(".toml"):
                self._pack_added(Path(ref))
            else:
                self._pack_code(ref)
        self._pack_extra()
        self._packed.roots = sorted(self._places.values())
        listings = msgspec.json.format(msgspec.json.encode(self._packed.listings))
        self._packed.texts[MODELS / "weights.json"] = listings + b"\n"
        return self._packed

    # --- models of code --------------------------------------------------------------------------

    def _pack_code(self, ref: str) -> None:
        start, attribute = _start_of(ref)
        code = code_of(start)
        for module in code.modules.values():
            if not module.path.is_relative_to(SWELL):
                self._packed.files[self._place(module.path, module.root)] = module.path
                # What `swell.weights.provided` reads, and the worker fetches by.
                for listing in map(module.path.with_name, _LISTINGS):
                    if listing.is_file():
                        self._packed.files[self._place(listing, module.root)] = listing
        if not self._packed.needs:
            self._packed.distributions |= code.distributions
            self._note_missing(ref, code)
        shipped = _shipped(code)
        for model in self._look(ref):
            self._note(model)
            entries: dict[str, Entry] = {}
            for path in dict.fromkeys((*model.files, *model.samples, *shipped)):
                if not path.resolve().is_relative_to(SWELL):
                    entries |= self._pack_file(path, code)
            self._list(model, entries)
        self._packed.refs.append(_ref_in_image(ref, start, attribute, self._place))

    def _note_missing(self, ref: str, code: Code) -> None:
        if code.missing:
            self._packed.notes.append(
                f"{ref} imports {', '.join(sorted(code.missing))} somewhere, which is not "
                "installed here and will not be there"
            )

    def _pack_file(self, path: Path, code: Code) -> dict[str, Entry]:
        """Pack a declared file; return what travels apart, by its name."""
        real = path.absolute()
        roots = {module.root for module in code.modules.values()}
        root = next((each for each in roots if real.is_relative_to(each)), None)
        # Elsewhere it is named by its whole path, which it keeps.
        place = PurePosixPath(real) if root is None else self._place(real, root)
        return self._put(real, place)

    def _put(self, path: Path, place: PurePosixPath, digest: str = "") -> dict[str, Entry]:
        if not path.is_file():
            raise InvalidModel(f"there is no file {path}, which a model declares: put it there")
        size = path.stat().st_size
        if not path.name.endswith(WEIGHT_SUFFIXES):
            if size > _LARGE_BYTES:
                self._packed.notes.append(
                    f"{path.name} ({size / 1e6:,.0f} MB) is no safetensors and no ONNX, so it goes "
                    "into the image: swell build --help tells of --bake"
                )
            self._packed.files[place] = path
            return {}
        entry = Entry(digest or _digest(path), size)
        self._packed.links[place] = entry.sha256
        self._packed.contents[entry.sha256] = path
        name = place.relative_to(MODELS) if place.is_relative_to(MODELS) else place.relative_to("/")
        return {str(name): entry}

    def _place(self, path: Path, root: Path) -> PurePosixPath:
        """Return where a file lies in the image that lies below a root here."""
        if root not in self._places:
            self._places[root] = MODELS / str(len(self._places) + 1)
        return self._places[root] / path.relative_to(root).as_posix()

    # --- models that were added ------------------------------------------------------------------

    def _pack_added(self, path: Path) -> None:
        entry = read(path)
        check_files(entry)
        for looked in self._look(str(path)):
            self._note(looked)
            base = MODELS / "added" / path.stem
            entries: dict[str, Entry] = {}
            moved = self._moved(entry, base, entries)
            place = MODELS / "added" / path.name
            self._packed.texts[place] = as_toml(moved).encode()
            self._packed.refs.append(str(place))
            self._list(looked, entries)
            for beside in path.parent.glob(f"{path.stem}@*"):
                self._packed.files[MODELS / "added" / beside.name] = beside
        self._packed.distributions |= set(_DIFFUSERS)
        for name in _FAMILIES:
            self._packed.distributions |= code_of(place_of(name)).distributions

    def _moved(self, entry: Added, base: PurePosixPath, entries: dict[str, Entry]) -> Added:
        """Pack an added model's files; return its entry with their places in the image."""
        known = {name: content.sha256 for name, content in entry.weights.items()}

        def put(path: str, name: str) -> str:
            """Pack a file, or a folder with all in it."""
            if not path:
                return ""
            source = Path(path)
            inside = _below(source) if source.is_dir() else [source]
            for each in inside:
                inner = each.relative_to(source).as_posix() if source.is_dir() else ""
                place = base / name / inner if inner else base / name
                digest = known.get(inner, "") if path == entry.folder else ""
                entries.update(self._put(each, place, digest))
            return str(base / name)

        loras = [
            msgspec.structs.replace(lora, file=put(lora.file, f"loras/{n}-{Path(lora.file).name}"))
            for n, lora in enumerate(entry.loras)
        ]
        adapter = ""
        if entry.ip_adapter:
            path = Path(entry.ip_adapter)
            adapter = put(str(path), f"adapter/models/{path.name}")
            for folder in (path.parent, path.parent.parent):
                if (folder / "image_encoder").is_dir():
                    put(str(folder / "image_encoder"), "adapter/image_encoder")
                    break
        return msgspec.structs.replace(
            entry,
            folder=put(entry.folder, "folder"),
            loras=loras,
            controlnet=put(entry.controlnet, "controlnet"),
            ip_adapter=adapter,
            scenarios=put(entry.scenarios, f"scenarios/{Path(entry.scenarios).name}"),
        )

    # --- for both --------------------------------------------------------------------------------

    def _note(self, model: Looked) -> None:
        if model.name in self._packed.versions:
            raise InvalidRequest(f"{model.name} is named twice: name each model once")
        self._packed.versions[model.name] = model.version

    def _list(self, model: Looked, entries: dict[str, Entry]) -> None:
        if entries:
            self._packed.listings.append(Listing(model.name, model.version, entries).check())

    def _pack_extra(self) -> None:
        for path in self._extra:
            root = next((root for root in self._places if path.is_relative_to(root)), None)
            if root is None:
                known = ", ".join(map(str, self._places)) or "none"
                raise InvalidRequest(
                    f"{path} lies below no folder of a model's code ({known}): --include takes "
                    "what the code finds beside itself"
                )
            for each in _below(path) if path.is_dir() else [path]:
                self._put(each, self._place(each, root))


def packed_distributions(packed: Packed) -> list[str]:
    """Return the packages that the models' own code needs; none where it has an environment."""
    return [] if packed.needs else sorted(packed.distributions)


def _start_of(ref: str) -> tuple[Module, str]:
    """Return the file that a reference names, and the attribute in it."""
    name, _, attribute = ref.rpartition(":") if ":" in ref else (ref, "", "")
    if name.endswith(".py"):
        path = Path(name).resolve()
        return Module(path, path.parent), attribute
    if "/" in name:
        owner, _, inner = name.partition("/")
        inner = inner.replace("-", "_")
        for module in (f"swell.zoo.{inner}", "swell.zoo.stub"):
            if (module.endswith("stub") and owner == "demo") or not module.endswith("stub"):
                try:
                    return place_of(module), attribute
                except Nowhere:
                    continue
        # Whoever looks at it tells what there is.
        return place_of("swell.zoo"), attribute
    try:
        start = place_of(name)
    except Nowhere:
        raise InvalidModel(
            f"{ref} has no code that can be packed: there is no module {name} with a source file "
            "here. Name a FILE.py or a module that Python finds (PYTHONPATH), or install it"
        ) from None
    if start.path.suffix not in (".py",):
        raise InvalidModel(
            f"{ref} has no code that can be packed: {start.path.name} is compiled. Name a module "
            "of Python that imports it"
        )
    return start, attribute


def _shipped(code: Code) -> list[Path]:
    """Return the files of `swell_models` whose names stand in the code, declared or not."""
    home = next((path.parent for path in code.modules if path.parent.name == "swell_models"), None)
    if home is None:
        return []
    named: set[str] = set()
    for module in code.modules.values():
        if module.path.suffix == ".py" and module.path.is_relative_to(SWELL):
            named |= texts_in(module.path)
    return [path for path in sorted((home / "weights").iterdir()) if path.name in named]


def _ref_in_image(
    ref: str, start: Module, attribute: str, place: Callable[[Path, Path], PurePosixPath]
) -> str:
    if ref.rpartition(":")[0].endswith(".py") or ref.endswith(".py"):
        path = str(place(start.path, start.root))
        return f"{path}:{attribute}" if attribute else path
    return ref


def _digest(path: Path) -> str:
    """Return a file's SHA-256; one in a cache of weights has it for a name."""
    real = path.resolve()
    if _DIGEST.fullmatch(real.name):
        return real.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _below(folder: Path) -> list[Path]:
    """Return all files below a folder, links to files included, hidden ones not."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith((".", "__pycache__")))
        found += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    return found
