import hashlib
import json
import re
import shutil
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

from swell.config import describe
from swell.containers.building import Wanted, parts_of, tag_of
from swell.containers.context import Parts, write_context
from swell.containers.packing import Looked, Packer
from swell.containers.pins import pins
from swell.containers.sources import Module, code_of, place_of
from swell.containers.wheels import write_wheel
from swell.errors import InvalidRequest, NotFound
from swell.model import InvalidModel, load_models
from swell.worker.run import Home


def look(ref: str) -> list[Looked]:
    """As a process of its own would; models of tests may be looked at here."""
    return [
        Looked(each.name, each.version(), each.files, tuple(each.samples.values()), each.source)
        for each in load_models(ref)
    ]


@pytest.fixture
def poster(tmp_path: Path) -> Path:
    """A model with two neighbours, weights, a vocabulary, and much that is nobody's business."""
    folder = tmp_path / "project"
    (folder / "inks").mkdir(parents=True)
    (folder / "poster.py").write_text(
        "import swell\nfrom inks import black\n\n\n"
        '@swell.model("acme/poster", files=["poster.safetensors", "words.txt"])\n'
        "def poster(text: str) -> str:\n"
        "    from lettering import capitals\n\n"
        "    return capitals(text) + black.NAME\n"
    )
    (folder / "lettering.py").write_text("import numpy\n\n\ndef capitals(text):\n    return text\n")
    (folder / "inks" / "__init__.py").write_text("from . import red\n")
    (folder / "inks" / "black.py").write_text("NAME = 'black'\n")
    (folder / "inks" / "red.py").write_text("def never():\n    import swell_nothing_like_this\n")
    (folder / "poster.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "words.txt").write_text("a\nb\n")
    (folder / ".env").write_text("KEY=secret")
    (folder / "unused.py").write_text("PASSWORD = 'secret'\n")
    return folder / "poster.py"


def test_code_is_followed_through_imports_and_nothing_else_of_the_folder_goes_in(
    poster: Path,
) -> None:
    code = code_of(Module(poster, poster.parent))
    assert {path.relative_to(poster.parent).as_posix() for path in code.modules} == {
        "poster.py",
        "lettering.py",
        "inks/__init__.py",
        "inks/black.py",
        "inks/red.py",
    }
    assert code.distributions == {"numpy"}
    assert code.missing == {"swell_nothing_like_this"}


def test_a_module_is_found_on_the_path_and_its_packages_go_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "studio_of_tests" / "models"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from ..paper import A4\n")
    (package.parent / "paper.py").write_text("A4 = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    start = place_of("studio_of_tests.models")
    assert start.root == tmp_path
    names = {path.relative_to(tmp_path).as_posix() for path in code_of(start).modules}
    assert names == {
        "studio_of_tests/__init__.py",
        "studio_of_tests/models/__init__.py",
        "studio_of_tests/paper.py",
    }


def test_weights_become_links_by_their_content_and_texts_go_in(poster: Path) -> None:
    packed = Packer(look).pack([str(poster)])
    digest = hashlib.sha256(b"\x02\0\0\0\0\0\0\0{}").hexdigest()
    home = PurePosixPath("/opt/swell/models/1")
    assert packed.refs == ["/opt/swell/models/1/poster.py"]
    assert packed.links == {home / "poster.safetensors": digest}
    assert home / "words.txt" in packed.files
    assert not {path.name for path in packed.files.values()} & {".env", "unused.py"}
    [listing] = packed.listings
    assert (listing.model, listing.version) == ("acme/poster", packed.versions["acme/poster"])
    assert listing.files["1/poster.safetensors"].sha256 == digest
    assert ["swell_nothing_like_this" in note for note in packed.notes] == [True]


def test_a_listing_of_weights_beside_the_code_goes_with_it(poster: Path) -> None:
    (poster.parent / "weights.toml").write_text('model = "acme/poster"\n')
    packed = Packer(look).pack([str(poster)])
    assert PurePosixPath("/opt/swell/models/1/weights.toml") in packed.files


def test_an_included_folder_goes_in_without_what_is_hidden(poster: Path) -> None:
    data = poster.parent / "data"
    data.mkdir()
    (data / "palette.csv").write_text("red")
    (data / ".secret").write_text("x")
    packed = Packer(look, [data]).pack([str(poster)])
    assert PurePosixPath("/opt/swell/models/1/data/palette.csv") in packed.files
    assert not [path for path in packed.files.values() if path.name == ".secret"]
    with pytest.raises(InvalidRequest, match="below no folder"):
        Packer(look, [Path("/etc/hostname")]).pack([str(poster)])


@pytest.mark.parametrize("is_baked", [False, True])
def test_the_context_has_what_is_packed_and_no_weights_but_baked_ones(
    poster: Path, tmp_path: Path, is_baked: bool
) -> None:
    packed = Packer(look).pack([str(poster)])
    folder = tmp_path / "context"
    folder.mkdir()
    write_context(folder, Parts("FROM scratch\n", packed, pins([]), is_baked=is_baked))
    link = folder / "tree/opt/swell/models/1/poster.safetensors"
    [digest] = packed.contents
    root = "/opt/swell/weights" if is_baked else "/var/lib/swell/weights"
    assert str(link.readlink()) == f"{root}/files/{digest[:2]}/{digest}"
    baked = folder / "weights" / "files" / digest[:2] / digest
    assert baked.exists() == is_baked
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    text = b"".join(path.read_bytes() for path in found if path.suffix != ".whl")
    assert b"secret" not in text
    assert {path.stat().st_mode & 0o777 for path in found} == {0o644}
    assert len({path.stat().st_mtime for path in found}) == 1


def test_built_in_models_take_their_texts_along_and_leave_their_weights() -> None:
    pytest.importorskip("swell_models")
    packed = Packer(look).pack(["swell/icons"])
    assert packed.refs == ["swell/icons"]
    weights = {place.name for place in packed.links}
    assert weights == {"icons-text.onnx", "icons-unet.onnx", "icons-decoder.onnx", "upscale.onnx"}
    assert not [path for path in packed.files.values() if path.name.endswith(".onnx")]
    assert "onnxruntime" in packed.distributions
    assert "swell-models" not in packed.distributions
    assert packed.weight_bytes > 30e6


def test_models_that_need_different_environments_are_told_apart(tmp_path: Path) -> None:
    block = '# /// script\n# dependencies = ["einops"]\n# ///\n'
    model = 'import swell\n\n\n@swell.model("a/{}")\ndef it(text: str) -> str:\n    return text\n'
    for name, text in (("plain", ""), ("needy", block)):
        (tmp_path / f"{name}.py").write_text(text + model.format(name))
    refs = [str(tmp_path / "plain.py"), str(tmp_path / "needy.py")]
    with pytest.raises(InvalidModel, match="build an image for each"):
        Packer(look).pack(refs)
    packed = Packer(look).pack(refs[1:])
    assert packed.needs.requirements == ("einops",)


def test_what_has_no_source_cannot_be_packed() -> None:
    for ref in ("swell_nothing_like_this", "itertools:count", "pydantic_core._pydantic_core:Url"):
        with pytest.raises(InvalidModel, match="no code that can be packed"):
            Packer(look).pack([ref])


def test_a_model_named_twice_is_refused(poster: Path) -> None:
    with pytest.raises(InvalidRequest, match="acme/poster is named twice"):
        Packer(look).pack([str(poster), f"{poster}:poster"])


def test_packages_are_pinned_to_what_is_installed_with_all_that_they_need() -> None:
    found = pins(["pillow"])
    pinned = dict(line.split("==") for line in found.constraints)
    assert pinned["pillow"] == metadata.version("pillow")
    assert {"starlette", "pydantic-core", "aiohttp", "multidict", "pillow"} <= set(pinned)
    assert not [line for line in found.constraints if line.startswith(("pytest", "swell"))]
    assert all("+" not in version for version in pinned.values())
    assert "asyncpg" not in pinned
    assert "opentelemetry-sdk>=1.36" in pins([], ["telemetry"]).requirements
    with pytest.raises(KeyError, match="nothing"):
        pins([], ["nothing"])


def test_the_wheel_is_the_same_bytes_each_time_and_runs_the_command(tmp_path: Path) -> None:
    first = write_wheel(tmp_path).read_bytes()
    again = write_wheel(tmp_path)
    assert again.read_bytes() == first
    listed = {name for name in _names(again) if not name.startswith("swell/")}
    home = again.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    assert listed == {f"{home}/{n}" for n in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    assert not [name for name in _names(again) if "__pycache__" in name]
    assert "swell/stores/sql/schema/sqlite.sql" in _names(again)


def _names(path: Path) -> list[str]:
    return zipfile.ZipFile(path).namelist()


def test_added_models_keep_what_their_entry_says_with_places_in_the_image(tmp_path: Path) -> None:
    folder, entry = tmp_path / "dreams", tmp_path / "models" / "acme--dreams.toml"
    (folder / "unet").mkdir(parents=True)
    weights = b"\x02\0\0\0\0\0\0\0{}"
    (folder / "unet" / "model.safetensors").write_bytes(weights)
    (folder / "model_index.json").write_text("{}")
    entry.parent.mkdir()
    digest = hashlib.sha256(weights).hexdigest()
    entry.write_text(
        f'name = "acme/dreams"\nfolder = "{folder}"\nsteps = 7\n\n[weights]\n'
        f'"unet/model.safetensors" = {{ sha256 = "{digest}", bytes = {len(weights)} }}\n'
    )
    packed = Packer(lambda ref: [Looked("acme/dreams", "1", (), ())]).pack([str(entry)])
    place = PurePosixPath("/opt/swell/models/added/acme--dreams.toml")
    assert packed.refs == [str(place)]
    text = packed.texts[place].decode()
    assert 'folder = "/opt/swell/models/added/acme--dreams/folder"' in text
    assert "steps = 7" in text
    assert str(tmp_path) not in text
    inside = PurePosixPath("/opt/swell/models/added/acme--dreams/folder")
    assert packed.links == {inside / "unet" / "model.safetensors": digest}
    assert inside / "model_index.json" in packed.files
    assert json.loads(packed.texts[PurePosixPath("/opt/swell/models/weights.json")])


@pytest.mark.parametrize("is_cuda", [False, True])
def test_each_setting_of_an_image_exists(poster: Path, is_cuda: bool) -> None:
    parts = parts_of(Wanted([str(poster)], Home(), "1", is_cuda=is_cuda))
    told = set(re.findall(r"\b(SWELL_\w+)=", parts.dockerfile))
    known = {each.variable: each for each in describe()}
    assert told <= set(known)
    assert not [name for name in told if known[name].is_secret]
    assert ("SWELL_WORKER__DEVICE" in told) == is_cuda
    assert tag_of(parts.packed) == "acme/poster:latest"


def test_a_model_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    for text, why in (("1 / 0\n", "ZeroDivisionError"), ("import os\nos._exit(3)\n", "failed")):
        broken.write_text(text)
        with pytest.raises(InvalidModel, match=why):
            parts_of(Wanted([str(broken)], Home(), "1"))
    with pytest.raises(NotFound, match="no file"):
        parts_of(Wanted([str(tmp_path / "not.py")], Home(), "1"))
    with pytest.raises(NotFound, match="no built-in model"):
        parts_of(Wanted(["swell/nothing"], Home(), "1"))


def test_links_give_a_model_the_same_version_before_its_weights_have_come(
    poster: Path, tmp_path: Path
) -> None:
    [here] = load_models(str(poster))
    place, digest = tmp_path / "image", hashlib.sha256(b"\x02\0\0\0\0\0\0\0{}").hexdigest()
    shutil.copytree(poster.parent, place)
    link = place / "poster.safetensors"
    link.unlink()
    content = tmp_path / "cache" / "files" / digest[:2] / digest
    link.symlink_to(content)
    [there] = load_models(str(place / "poster.py"))
    assert not link.exists()
    assert there.version() == here.version()
    link.unlink()
    link.symlink_to(tmp_path / "cache" / "files" / "00" / digest)
    with pytest.raises(InvalidModel, match=r"cannot read poster\.safetensors"):
        there.version()
