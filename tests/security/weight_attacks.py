"""Weights that are programs or lead elsewhere, as an operator pulls them."""

import asyncio
import json
import os
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from attacks import Attack
from picture_attacks import Program, archive, safetensors
from target import CANARY, Target

from swell.core.errors import SwellError
from swell.weights.cache import WeightCache
from swell.weights.download import pull

RAN = "the program runs, or the file is kept among the weights"
OUT = "a file from outside of the folder is kept, or one is written there"

_TENSOR = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def weight_attacks() -> Iterator[Attack]:
    """Yield them."""
    for suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"):
        for name in (f"model{suffix}", f"MODEL{suffix.upper()}"):
            yield Attack("weights", f"a pickle called {name}", RAN, partial(_pickled, name=name))
    for name in (
        "model.safetensors",
        "model.onnx",
        "model.safetensors.bin",
        "model.bin.safetensors",
        "model.onnx.pt",
        "model.h5",
        "model.keras",
        "model.zip",
        "model.tar",
        "model.tar.gz",
        "model.py",
        "model.so",
        "model.sh",
    ):
        yield Attack("weights", f"a pickle called {name}", RAN, partial(_pickled, name=name))
        yield Attack("weights", f"an archive called {name}", RAN, partial(_archived, name=name))
    for name, make in FOLDERS.items():
        yield Attack("weights", f"a folder with {name}", OUT, partial(_folder, make=make))
    for name in (
        "../escaped.safetensors",
        "/tmp/escaped.safetensors",
        "a/../../escaped.safetensors",
        "..\\escaped.safetensors",
        "a\0.safetensors",
        "a\n.safetensors",
        "./../escaped.safetensors",
    ):
        yield Attack("weights", f"a listing that names {name!r}", OUT, partial(_listed, name=name))


def _pickled(target: Target, name: str) -> str:
    mark = target.folder / "mark"
    return _pulled(target, name, pickle.dumps(Program(mark)))


def _archived(target: Target, name: str) -> str:
    return _pulled(target, name, archive(("archive/data.pkl", b"a"), ("../../escaped", b"a")))


def _pulled(target: Target, name: str, data: bytes) -> str:
    """Pull a file, then a folder in which it lies beside what is right."""
    folder = _fresh(target) / "model"
    folder.mkdir()
    (folder / name).write_bytes(data)
    for reference in (folder / name, folder):
        kept = _pull(target, reference)
        if kept:
            return f"{reference.name}: {kept}"
    return ""


def _folder(target: Target, make: Callable[[Path], None]) -> str:
    home = _fresh(target)
    (home / "secret.json").write_bytes(CANARY)
    (home / "secret.safetensors").write_bytes(safetensors(_TENSOR, CANARY[:4]))
    folder = home / "model"
    folder.mkdir()
    make(folder)
    return _pull(target, folder)


def _listed(target: Target, name: str) -> str:
    home = _fresh(target)
    near = home / "near.safetensors"
    near.write_bytes(safetensors(_TENSOR, bytes(4)))
    listing = home / "weights.json"
    table = {"model": "a/b", "version": "1", "weights": {name: {"url": near.as_uri()}}}
    listing.write_text(json.dumps(table))
    return _pull(target, listing)


def _pull(target: Target, reference: Path) -> str:
    """Return what was kept; nothing where it was refused, and nothing was written elsewhere."""
    mark, cache = target.folder / "mark", reference.parent.parent / "cache"
    try:
        listing = asyncio.run(pull(reference, WeightCache(cache)))
    except (SwellError, OSError, ValueError):
        listing = None
    if mark.exists():
        mark.rmdir()
        return "the program ran"
    escaped = [path for path in target.folder.rglob("escaped*") if "blobs" not in path.parts]
    if escaped or Path("/tmp/escaped.safetensors").exists():
        return f"{escaped} was written"
    return "" if listing is None or not listing.files else f"{sorted(listing.files)} is kept"


_count = iter(range(1 << 30))


def _fresh(target: Target) -> Path:
    folder = target.folder / "pulls" / str(next(_count))
    folder.mkdir(parents=True)
    return folder


def _link(name: str, to: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(to)


def _code(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('it ran')")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "model.safetensors")


def _outside(folder: Path) -> None:
    entries = b"\x0a\x08location\x12\x0b/etc/passwd"
    tensor = b"\x6a" + bytes([len(entries)]) + entries
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (folder / "model.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "a link to a file outside": _link("a.json", "../secret.json"),
    "a link to weights outside": _link("a.safetensors", "../secret.safetensors"),
    "a link to /etc/passwd": _link("a.txt", "/etc/passwd"),
    "a link to the folder above": _link("above", ".."),
    "a link to itself": _link("a.safetensors", "a.safetensors"),
    "a link to a device": _link("a.safetensors", "/dev/zero"),
    "a link to the memory of a process": _link("a.json", "/proc/self/environ"),
    "a pipe": _pipe,
    "code alone": _code,
    "ONNX that reads /etc/passwd": _outside,
}
