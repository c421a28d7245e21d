"""Collects the files of an image's models: code, small files, and links to weights.

    /opt/swell/models/1/poster.py                       a model's code, with the modules it imports
    /opt/swell/models/1/unet.safetensors                a link to a weights file in the cache
    /opt/swell/models/added/acme--dreams.toml           an added model; its folder is next to it
    /opt/swell/models/weights.json                      the digests of all weights, by model
    /opt/swell/weights/files/9f/9f86…                   weights, only in a baked image

Weights are named by the SHA-256 of their content, as in the weight cache. The cache is in the data
folder, and workers fill it at their start, or in the image. `places` decides the paths of declared
files.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from swell.containers.dockerfile import HOME
from swell.containers.look import Looked
from swell.containers.places import MODELS, Places
from swell.containers.secrets_in import looks_secret
from swell.containers.sources import SWELL, Code, Module, code_of, place_of, texts_in
from swell.core.errors import InvalidModel, InvalidRequest
from swell.diffusion.families.model_config import Content, as_toml, check_files, read
from swell.diffusion.families.model_config import Entry as Added
from swell.runtime.pep723 import NOTHING, Needs, parted
from swell.sdk.built_in_names import built_in_module
from swell.weights.files import content_of_link
from swell.weights.formats import WEIGHT_SUFFIXES
from swell.weights.weight_index import Entry, Listing

#: Paths in an image.
WEIGHTS: Final = HOME / "weights"

#: A larger file that is not weights gets a note for the user.
_LARGE_BYTES: Final = 32 << 20

#: Only the name of a larger file is checked for secrets, not its content.
_SECRET_BYTES: Final = 1 << 20

#: Names of an author's list of weights.
_LISTINGS: Final = ("weights.toml", "weights.json")

#: Packages that added models need, because no import in their files names them.
_DIFFUSERS: Final = ("diffusers", "transformers", "accelerate", "torch", "safetensors")


@dataclass(slots=True)
class Packed:
    """The files of an image's models. Places are paths in the image."""

    #: References of the models in the image, for `worker.models`.
    refs: list[str] = field(default_factory=list)
    #: Name → version of a model.
    versions: dict[str, str] = field(default_factory=dict)
    #: Place → file on this machine.
    files: dict[PurePosixPath, Path] = field(default_factory=dict)
    #: Place → content of a generated file.
    texts: dict[PurePosixPath, bytes] = field(default_factory=dict)
    #: Place of a link → digest of the weights.
    links: dict[PurePosixPath, str] = field(default_factory=dict)
    #: Digest of weights → file on this machine.
    contents: dict[str, Path] = field(default_factory=dict)
    listings: list[Listing] = field(default_factory=list)
    #: Place → an author's listing of weights on this machine.
    wanted: dict[PurePosixPath, Path] = field(default_factory=dict)
    #: Folders for `PYTHONPATH`.
    roots: list[PurePosixPath] = field(default_factory=list)
    #: Distributions that the code imports.
    distributions: set[str] = field(default_factory=set)
    needs: Needs = NOTHING
    #: Messages for the user.
    notes: list[str] = field(default_factory=list)

    @property
    def weight_bytes(self) -> int:
        """Size of all weights."""
        return sum(path.stat().st_size for path in self.contents.values())


class Packer:
    """Collects the files of models; writes nothing.

    Args:
        look: Loads and describes the models of a reference; see `look`.
        extra: Additional files and folders below a model's root.
        is_baked: Whether the image contains weights.
    """

    def __init__(
        self,
        look: Callable[[str], Sequence[Looked]],
        extra: Sequence[Path] = (),
        *,
        is_baked: bool = False,
    ) -> None:
        self._look = look
        self._extra = [path.resolve() for path in extra]
        self._is_baked = is_baked
        self._places = Places()
        self._packed = Packed()

    def pack(self, refs: Sequence[str]) -> Packed:
        """Collect the files of an image with these models.

        Args:
            refs: References for `load_models`; for an added model the path of its entry.

        Raises:
            InvalidModel: A model's code cannot be packed, or models need different environments.
            InvalidRequest: An additional file is not allowed, or looks like a secret.
            NotFound: A model does not exist.
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
        self._packed.roots = sorted(self._places.roots.values())
        listings = msgspec.json.format(msgspec.json.encode(self._packed.listings))
        self._packed.texts[MODELS / "weights.json"] = listings + b"\n"
        return self._packed

    # --- models with code ------------------------------------------------------------------------

    def _pack_code(self, ref: str) -> None:
        start, attribute = _start_of(ref)
        code = code_of(start)
        self._pack_modules(code)
        if not self._packed.needs:
            self._packed.distributions |= code.distributions
            if code.missing:
                self._packed.notes.append(
                    f"{ref} imports {', '.join(sorted(code.missing))} somewhere, which is not "
                    "installed here and will not be there"
                )
        shipped = _shipped(code)
        for model in self._look(ref):
            entries: dict[str, Entry] = {}
            for path in dict.fromkeys((*model.files, *model.samples, *shipped)):
                if not path.resolve().is_relative_to(SWELL):
                    for place in self._places.declared(path, code, model.source):
                        entries |= self._put(path, place)
            self._list(model, entries)
        self._packed.refs.append(_ref_in_image(ref, start, attribute, self._places))

    def _pack_modules(self, code: Code) -> None:
        for module in code.modules.values():
            if module.path.is_relative_to(SWELL):
                continue
            # The worker reads listings with `swell.weights.declared_weights` and downloads them.
            listings = [path for path in map(module.path.with_name, _LISTINGS) if path.is_file()]
            for path in (module.path, *listings):
                place = self._places.take(path, self._places.below(path, module.root))
                self._packed.files[place] = path
                if path in listings:
                    self._packed.wanted[place] = path

    def _put(self, path: Path, place: PurePosixPath, digest: str = "") -> dict[str, Entry]:
        """Pack a file; return its listing entry by name if it is weights, else nothing."""
        path = Path(os.path.normpath(path.absolute()))
        self._places.take(path, place)
        if not path.is_file():
            raise InvalidModel(f"there is no file {path}, which a model declares: put it there")
        size = path.stat().st_size
        if not path.name.endswith(WEIGHT_SUFFIXES):
            if size > _LARGE_BYTES:
                self._packed.notes.append(
                    f"{path.name} ({size / 1000000.0:,.0f} MB) is neither safetensors nor "
                    "ONNX, so it goes into the image: see --bake in swell build --help"
                )
            self._packed.files[place] = path
            return {}
        entry = Entry(digest or _digest(path), size)
        self._packed.links[place] = entry.sha256
        self._packed.contents[entry.sha256] = path
        name = place.relative_to(MODELS) if place.is_relative_to(MODELS) else place.relative_to("/")
        return {str(name): entry}

    # --- added models ----------------------------------------------------------------------------

    def _pack_added(self, path: Path) -> None:
        entry = read(path)
        check_files(entry)
        for looked in self._look(str(path)):
            base = MODELS / "added" / path.stem
            entries: dict[str, Entry] = {}
            moved = self._moved(entry, base, entries)
            for name in _demo_modules(entry):
                entries |= self._pack_demo(name)
            place = MODELS / "added" / path.name
            self._packed.texts[place] = as_toml(moved).encode()
            self._packed.refs.append(str(place))
            self._list(looked, entries)
            for beside in path.parent.glob(f"{path.stem}@*"):
                self._packed.files[MODELS / "added" / beside.name] = beside
        self._packed.distributions |= set(_DIFFUSERS)

    def _pack_demo(self, name: str) -> dict[str, Entry]:
        """Pack a module of `swell_models` with its dependencies; return its weights' entries."""
        start, _ = _start_of(name)
        code = code_of(start)
        self._pack_modules(code)
        self._packed.distributions |= code.distributions
        entries: dict[str, Entry] = {}
        for path in _shipped(code):
            entries |= self._put(path, self._places.below(path, start.root))
        return entries

    def _moved(self, entry: Added, base: PurePosixPath, entries: dict[str, Entry]) -> Added:
        """Pack an added model's files; return its entry with their places in the image."""
        folder = Path(entry.folder)
        # An absolute path names a file outside the folder.
        known = {folder / name: content for name, content in entry.weights.items()}
        places: dict[Path, PurePosixPath] = {}

        def put(path: str, name: str) -> str:
            """Pack a file or a whole folder; return its place."""
            if not path:
                return ""
            source = Path(path)
            inside = _below(source) if source.is_dir() else [source]
            for each in inside:
                place = base / name / each.relative_to(source).as_posix()
                digest = known[each].sha256 if each in known else ""
                entries.update(self._put(each, place, digest))
                places.setdefault(each, place)
            return str(base / name)

        loras = [
            msgspec.structs.replace(lora, file=put(lora.file, f"loras/{n}-{Path(lora.file).name}"))
            for n, lora in enumerate(entry.loras)
        ]
        adapter, encoder = entry.ip_adapter, _encoder_of(entry)
        if encoder is not None and not encoder.is_relative_to(folder):
            put(str(encoder), "adapter/image_encoder")
        moved = msgspec.structs.replace(
            entry,
            folder=put(entry.folder, "folder"),
            loras=loras,
            controlnet=put(entry.controlnet, "controlnet"),
            ip_adapter=put(adapter, f"adapter/models/{Path(adapter).name}"),
            scenarios=put(entry.scenarios, f"scenarios/{Path(entry.scenarios).name}"),
            # A path of this machine has no meaning in the image.
            source="" if Path(entry.source).is_absolute() else entry.source,
        )
        return msgspec.structs.replace(moved, weights=_renamed(entry, places, base / "folder"))

    # --- all models ------------------------------------------------------------------------------

    def _list(self, model: Looked, entries: dict[str, Entry]) -> None:
        if model.name in self._packed.versions:
            raise InvalidRequest(f"{model.name} is named twice: name each model once")
        self._packed.versions[model.name] = model.version
        if entries:
            self._packed.listings.append(Listing(model.name, model.version, entries).check())

    def _pack_extra(self) -> None:
        secrets: list[str] = []
        for path in self._extra:
            root = self._places.included(path)
            for each in _below(path, self._packed.notes) if path.is_dir() else [path]:
                place = self._places.below(each, root)
                if place in self._packed.links or place in self._packed.files:
                    continue
                if each.resolve() not in self._extra and _looks_secret(each):
                    secrets.append(str(each))
                    continue
                if self._put(each, place) and not self._is_baked:
                    raise InvalidRequest(
                        f"{each} is a weights file, which images do not contain, and no model "
                        "declares it, so no worker would download it: add it to a model's "
                        "`files`, or build with --bake"
                    )
        if secrets:
            told = ", ".join(secrets[:10]) + (" and others" if len(secrets) > 10 else "")
            raise InvalidRequest(
                "these files look like secrets, and everyone who has the image could "
                f"read them: {told}. Move them out of the folder, or include other files"
                " and folders by name. To add one on purpose, name it: --include "
                f"{secrets[0]}"
            )


def _demo_modules(entry: Added) -> tuple[str, ...]:
    """Return the modules of `swell_models` that an added model runs without importing them."""
    if entry.portraits:
        return "swell_models.added_portraits", "swell_models.added_portraits_torch"
    # Imported here because only added models need it.
    from swell.diffusion.families.detect_family import is_vqgan_clip  # noqa: PLC0415

    if is_vqgan_clip(Path(entry.folder)):
        return "swell_models.vqgan_clip", "swell_models.vqgan_clip_torch"
    return ()


def _encoder_of(entry: Added) -> Path | None:
    """Return the folder of the image encoder of an added model's IP-Adapter.

    Raises:
        InvalidModel: The model cannot be served.
    """
    if not entry.ip_adapter:
        return None
    # Imported here because few models need it.
    from swell.diffusion.families.model_definition import describe  # noqa: PLC0415

    adapter = describe(entry).adapter
    return None if adapter is None else adapter.encoder


def _renamed(
    entry: Added, places: Mapping[Path, PurePosixPath], folder: PurePosixPath
) -> dict[str, Content]:
    """Return the weights of an entry that are packed, by their names in the image."""
    renamed = {}
    for name, content in entry.weights.items():
        place = places.get(Path(entry.folder, name))
        if place is not None:  # hidden files are not packed
            inside = place.is_relative_to(folder)
            renamed[str(place.relative_to(folder) if inside else place)] = content
    return renamed


def _start_of(ref: str) -> tuple[Module, str]:
    """Return the module that a reference names, and the attribute in it."""
    name, _, attribute = ref.rpartition(":") if ":" in ref else (ref, "", "")
    if name.endswith(".py"):
        path = Path(name).resolve()
        return Module(path, path.parent), attribute
    if "/" in name:
        # `look` rejects unknown names and lists the known ones.
        name = built_in_module(name) or "swell.models"
    start = place_of(name)
    if start is not None and start.path.suffix == ".py":
        return start, attribute
    if name.startswith("swell_models."):
        raise InvalidModel(
            f"swell_models is not installed, {ref} needs it: pip install 'swell[embedded]'"
        )
    raise InvalidModel(
        f"{ref} has no code that can be packed: there is no module {name} with Python source "
        "here. Name a FILE.py or a module that Python finds (PYTHONPATH), or install it"
    )


def _shipped(code: Code) -> list[Path]:
    """Return the files of `swell_models` that the code names in string constants."""
    home = next((path.parent for path in code.modules if path.parent.name == "swell_models"), None)
    if home is None:
        return []
    named: set[str] = set()
    for module in code.modules.values():
        if module.path.is_relative_to(SWELL) or module.path.is_relative_to(home):
            named |= texts_in(module.path)
    return [path for path in sorted(home.rglob("*")) if path.name in named and not path.is_dir()]


def _ref_in_image(ref: str, start: Module, attribute: str, places: Places) -> str:
    if "," in ref:
        raise InvalidModel(f"{ref} has a comma, which parts models in worker.models: rename it")
    if ref.rpartition(":")[0].endswith(".py") or ref.endswith(".py"):
        path = str(places.below(start.path, start.root))
        return f"{path}:{attribute}" if attribute else path
    return ref


def _digest(path: Path) -> str:
    """Return a file's SHA-256; a link into the weight cache already names it."""
    if named := content_of_link(path):
        return named
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _looks_secret(path: Path) -> bool:
    is_small = path.is_file() and path.stat().st_size <= _SECRET_BYTES
    return looks_secret(path.name, path.read_bytes() if is_small else b"")


def _below(folder: Path, notes: list[str] | None = None) -> list[Path]:
    """Return all files below a folder, with links to files, without hidden ones.

    Args:
        folder: The folder.
        notes: Gets a message for each link to a folder, which is left out.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith((".", "__pycache__")))
        found += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        linked = [path for path in (Path(place, each) for each in folders) if path.is_symlink()]
        if notes is not None:
            notes += [f"{path} is a link to a folder, and is left out" for path in linked]
    return found
