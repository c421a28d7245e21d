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
from collections.abc import Callable, Sequence
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
from swell.diffusion.families.model_config import Entry as Added
from swell.diffusion.families.model_config import as_toml, check_files, read
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
    is_baked: bool = False
    #: Manifests that name baked weights.
    manifests: list[Listing] = field(default_factory=list)
    dockerfile: str = ""
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
        #: Weights of the model that is packed now.
        self._entries: dict[str, Entry] = {}

    def pack(self, refs: Sequence[str]) -> Packed:
        """Collect the files of an image with these models.

        Args:
            refs: References for `load_models` that can share a process; for an added model the
                path of its entry.

        Raises:
            InvalidModel: A model's code cannot be packed.
            InvalidRequest: An additional file is not allowed, or looks like a secret.
            NotFound: A model does not exist.
        """
        self._packed.needs = parted(refs)[0].needs
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
        start = _start_of(ref)
        code = self._follow(start)
        if code.missing and not self._packed.needs:
            self._packed.notes.append(
                f"{ref} imports {', '.join(sorted(code.missing))} somewhere, which is not "
                "installed here and will not be there"
            )
        shipped = _shipped(code)
        for model in self._look(ref):
            for path in dict.fromkeys((*map(Path, model.files), *shipped)):
                if not path.resolve().is_relative_to(SWELL):
                    for place in self._places.declared(path, code, model.source):
                        self._put(path, place)
            self._list(model)
        self._packed.refs.append(_ref_in_image(ref, start, self._places))

    def _follow(self, start: Module) -> Code:
        """Pack a module with all that it imports."""
        code = code_of(start)
        self._packed.distributions |= code.distributions
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
        return code

    def _put(self, path: Path, place: PurePosixPath, digest: str = "") -> bool:
        """Pack a file; return whether it is weights, which a worker downloads."""
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
            return False
        entry = Entry(digest or _digest(path), size)
        self._packed.links[place] = entry.sha256
        self._packed.contents[entry.sha256] = path
        name = place.relative_to(MODELS if place.is_relative_to(MODELS) else "/")
        self._entries[str(name)] = entry
        return True

    # --- added models ----------------------------------------------------------------------------

    def _pack_added(self, path: Path) -> None:
        entry = read(path)
        check_files(entry)
        for looked in self._look(str(path)):
            moved = self._moved(entry, MODELS / "added" / path.stem)
            for start in map(_start_of, _demo_modules(entry)):
                for shipped in _shipped(self._follow(start)):
                    self._put(shipped, self._places.below(shipped, start.root))
            place = MODELS / "added" / path.name
            self._packed.texts[place] = as_toml(moved).encode()
            self._packed.refs.append(str(place))
            self._list(looked)
            for beside in path.parent.glob(f"{path.stem}@*"):
                self._packed.files[MODELS / "added" / beside.name] = beside
        self._packed.distributions |= set(_DIFFUSERS)

    def _moved(self, entry: Added, base: PurePosixPath) -> Added:
        """Pack an added model's files; return its entry with their places in the image."""
        folder = Path(entry.folder)
        # An absolute path names a file outside the folder.
        known = {folder / name: content.sha256 for name, content in entry.weights.items()}
        places: dict[Path, PurePosixPath] = {}

        def put(path: str, name: str) -> str:
            """Pack a file or a whole folder; return its place."""
            if not path:
                return ""
            source = Path(path)
            for each in _below(source) if source.is_dir() else [source]:
                place = base / name / each.relative_to(source).as_posix()
                self._put(each, place, known.get(each, ""))
                places.setdefault(each, place)
            return str(base / name)

        loras = [
            msgspec.structs.replace(lora, file=put(lora.file, f"loras/{n}-{Path(lora.file).name}"))
            for n, lora in enumerate(entry.loras)
        ]
        # Imported here because few models need it.
        from swell.diffusion.families.model_definition import describe  # noqa: PLC0415

        adapter = describe(entry).adapter if entry.ip_adapter else None
        if adapter and adapter.encoder and not adapter.encoder.is_relative_to(folder):
            put(str(adapter.encoder), "adapter/image_encoder")
        moved = msgspec.structs.replace(
            entry,
            folder=put(entry.folder, "folder"),
            loras=loras,
            controlnet=put(entry.controlnet, "controlnet"),
            ip_adapter=put(entry.ip_adapter, f"adapter/models/{Path(entry.ip_adapter).name}"),
            scenarios=put(entry.scenarios, f"scenarios/{Path(entry.scenarios).name}"),
            # A path of this machine has no meaning in the image.
            source="" if Path(entry.source).is_absolute() else entry.source,
        )
        weights = {
            str(places[folder / name]) if Path(name).is_absolute() else name: content
            for name, content in entry.weights.items()
            if folder / name in places  # hidden files are not packed
        }
        return msgspec.structs.replace(moved, weights=weights)

    # --- all models ------------------------------------------------------------------------------

    def _list(self, model: Looked) -> None:
        if model.name in self._packed.versions:
            raise InvalidRequest(f"{model.name} is named twice: name each model once")
        self._packed.versions[model.name] = model.version
        if self._entries:
            listing = Listing(model.name, model.version, self._entries).check()
            self._packed.listings.append(listing)
        self._entries = {}

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


def _start_of(ref: str) -> Module:
    """Return the module that a reference names."""
    name = ref.rpartition(":")[0] or ref
    if name.endswith(".py"):
        path = Path(name).resolve()
        return Module(path, path.parent)
    if "/" in name:
        # `look` rejects unknown names and lists the known ones.
        name = built_in_module(name) or "swell.models"
    start = place_of(name)
    if start is not None and start.path.suffix == ".py":
        return start
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


def _ref_in_image(ref: str, start: Module, places: Places) -> str:
    if "," in ref:
        raise InvalidModel(f"{ref} has a comma, which parts models in worker.models: rename it")
    name = ref.rpartition(":")[0] or ref
    place = str(places.below(start.path, start.root)) if name.endswith(".py") else name
    return place + ref.removeprefix(name)


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
