import dataclasses
import hashlib
import json
import math
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

from added_harness import add, dreams, safetensors
from swell.bootstrap.environments import model_home
from swell.containers.building import Wanted, contents_of, tag_of
from swell.containers.context import write_context
from swell.containers.look import Looked, described
from swell.containers.packing import Packer
from swell.containers.pins import pins
from swell.containers.places import Places
from swell.containers.secrets_in import line_with_secret, looks_secret
from swell.containers.sources import Module, code_of, place_of
from swell.containers.wheels import wheel, wheel_name
from swell.core.errors import InvalidModel, InvalidRequest, NotFound
from swell.diffusion.families.model_config import added, check_files, read
from swell.diffusion.families.model_definition import describe
from swell.runtime.venvs import Home
from swell.sdk.model_loader import load_models
from swell.settings.describe import describe as describe_settings
from swell.settings.load import Settings
from swell.weights.cache import DigestMismatch, WeightCache
from swell.weights.manifest import manifest_digest, note_manifest
from swell.weights.weight_index import Entry, Listing
from swell.worker.weight_prefetch import wishes_of


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
    assert start is not None
    assert start.root == tmp_path
    names = {path.relative_to(tmp_path).as_posix() for path in code_of(start).modules}
    assert names == {
        "studio_of_tests/__init__.py",
        "studio_of_tests/models/__init__.py",
        "studio_of_tests/paper.py",
    }


def test_weights_become_links_by_their_content_and_texts_go_in(poster: Path) -> None:
    packed = Packer(described).pack([str(poster)])
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
    packed = Packer(described).pack([str(poster)])
    assert PurePosixPath("/opt/swell/models/1/weights.toml") in packed.files


def test_an_included_folder_goes_in_without_what_is_hidden(poster: Path) -> None:
    data = poster.parent / "data"
    data.mkdir()
    (data / "palette.csv").write_text("red")
    (data / ".secret").write_text("x")
    packed = Packer(described, [data]).pack([str(poster)])
    assert PurePosixPath("/opt/swell/models/1/data/palette.csv") in packed.files
    assert not [path for path in packed.files.values() if path.name == ".secret"]
    with pytest.raises(InvalidRequest, match="not in a folder"):
        Packer(described, [Path("/etc/hostname")]).pack([str(poster)])


@pytest.mark.slow
@pytest.mark.parametrize("is_baked", [False, True])
def test_the_context_has_what_is_packed_and_no_weights_but_baked_ones(
    poster: Path, tmp_path: Path, is_baked: bool
) -> None:
    packed = Packer(described).pack([str(poster)])
    folder = tmp_path / "context"
    folder.mkdir()
    packed.is_baked = is_baked
    write_context(folder, packed)
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


@pytest.mark.slow
def test_built_in_models_take_their_texts_along_and_leave_their_weights() -> None:
    pytest.importorskip("swell_models")
    packed = Packer(described).pack(["swell/icons"])
    assert packed.refs == ["swell/icons"]
    weights = {place.name for place in packed.links}
    assert weights == {"icons-text.onnx", "icons-unet.onnx", "icons-decoder.onnx", "upscale.onnx"}
    assert not [path for path in packed.files.values() if path.name.endswith(".onnx")]
    assert "onnxruntime" in packed.distributions
    assert "swell-models" not in packed.distributions
    assert packed.weight_bytes > 20e6


@pytest.mark.slow
def test_demo_models_take_the_code_and_the_files_that_they_read() -> None:
    pytest.importorskip("swell_models")
    packed = Packer(described).pack(["swell/portraits"])
    assert packed.refs == ["swell/portraits"]
    files = {str(place).partition("/swell_models/")[2] for place in packed.files}
    assert {"portraits.py", "paint.py", "scenes.toml", "samples/portraits-beach.webp"} <= files
    assert "translate.py" not in files
    assert {"faces.onnx", "cutout.onnx"} <= {place.name for place in packed.links}


def test_models_that_need_different_environments_are_told_apart(tmp_path: Path) -> None:
    block = '# /// script\n# dependencies = ["einops"]\n# ///\n'
    model = 'import swell\n\n\n@swell.model("a/{}")\ndef it(text: str) -> str:\n    return text\n'
    for name, text in (("plain", ""), ("needy", block)):
        (tmp_path / f"{name}.py").write_text(text + model.format(name))
    refs = [str(tmp_path / "plain.py"), str(tmp_path / "needy.py")]
    with pytest.raises(InvalidRequest, match="build an image for each"):
        model_home(Settings(), refs)
    packed = Packer(described).pack(refs[1:])
    assert packed.needs.requirements == ("einops",)


def test_what_has_no_source_cannot_be_packed() -> None:
    for ref in ("swell_nothing_like_this", "itertools:count", "pydantic_core._pydantic_core:Url"):
        with pytest.raises(InvalidModel, match="no code that can be packed"):
            Packer(described).pack([ref])


def test_a_model_named_twice_is_refused(poster: Path) -> None:
    with pytest.raises(InvalidRequest, match="acme/poster is named twice"):
        Packer(described).pack([str(poster), f"{poster}:poster"])


def test_packages_are_pinned_to_what_is_installed_with_all_that_they_need() -> None:
    found = pins(["pillow"])
    pinned = dict(line.split("==") for line in found.constraints)
    assert pinned["pillow"] == metadata.version("pillow")
    assert {"starlette", "pydantic-core", "aiohttp", "multidict", "pillow"} <= set(pinned)
    assert not [line for line in found.constraints if line.startswith(("pytest", "swell"))]
    assert all("+" not in version for version in pinned.values())
    assert "asyncpg" not in pinned
    assert "opentelemetry-sdk>=1.36" in pins([], ["telemetry"]).requirements
    with pytest.raises(InvalidRequest, match="no extra 'nothing'"):
        pins([], ["nothing"])


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution with one module, and says where it came from."""
    folder = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def install(name: str, url: str = "") -> None:
        home = folder / f"{name}-1.0.dist-info"
        home.mkdir(parents=True)
        (folder / f"{name}.py").write_text("")
        (home / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (home / "RECORD").write_text(f"{name}.py,,\n{home.name}/METADATA,,\n")
        if url:
            (home / "direct_url.json").write_text(json.dumps({"url": url, "dir_info": {}}))

    return install


def test_a_package_that_came_from_no_index_is_not_taken_from_one(
    packages: Callable[..., None], tmp_path: Path
) -> None:
    packages("indexed")
    packages("ours", "git+https://me:word@git.example/ours")
    model = tmp_path / "poster.py"
    model.write_text(
        "import indexed\nimport ours\nimport swell\n\n\n@swell.model('acme/poster')\n"
        "def poster(text: str) -> str:\n    return text\n"
    )
    wanted = Wanted([str(model)], Home())
    with pytest.raises(InvalidRequest, match="not installed from an index: ours ") as caught:
        contents_of(wanted)
    assert "word" not in caught.value.detail
    assert "--constraints" in caught.value.detail
    (tmp_path / "versions.txt").write_text("ours @ git+https://git.example/ours\nindexed==1.0\n")
    packed = contents_of(dataclasses.replace(wanted, constraints=tmp_path / "versions.txt"))
    assert {"indexed", "ours"} <= set(packed.dockerfile.split())


@pytest.mark.parametrize(
    "line",
    [
        "-i https://me:word@index.example/simple",
        "--find-links=https://t0ken@index.example/simple",
        "ours @ git+https://me:word@git.example/ours@v1#egg=ours",
        "ours @ git+ssh://git:word@git.example/ours",
        "ours @ https://files.example/ours.whl?X-Amz-Signature=abcdef",
        "ours @ https://files.example/ours.whl?private_token=abc",
        "# was https://me:word@index.example/simple",
        "-f http://${NAME}:word@index.example/links",
        "--proxy http://[bad",
    ],
)
def test_a_file_of_versions_with_a_password_is_refused_since_it_stays_in_the_image(
    tmp_path: Path, line: str
) -> None:
    versions = tmp_path / "versions.txt"
    versions.write_text(f"numpy==2.0\n{line}\n")
    wanted = Wanted(["swell/icons"], Home(), constraints=versions)
    with pytest.raises(InvalidRequest, match=f"line 2 of {versions} has a password") as caught:
        contents_of(wanted)
    assert "word" not in caught.value.detail.replace("password", "")
    assert "t0ken" not in caught.value.detail


def test_addresses_without_passwords_and_names_of_variables_may_stand_there() -> None:
    told = """
        -i https://${NAME}:${WORD}@index.example/simple
        ours @ git+ssh://git@git.example/ours@v1
        theirs @ https://files.example/theirs.whl?version=1&token=${TOKEN}#sha256=00ff
        numpy==2.0  # see https://numpy.example/?page=keys
    """
    assert line_with_secret(told) is None


def test_a_file_that_ends_its_process_is_told_as_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import argparse\n\nargparse.ArgumentParser().parse_args(['--nothing'])\n")
    with pytest.raises(InvalidModel, match=r"exits the process \(exit code 2\).*__main__"):
        contents_of(Wanted([str(script)], Home()))


def test_what_is_not_installed_here_is_told_and_torch_still_has_its_index() -> None:
    found = pins(["torch", "no-such-thing-here"])
    assert "no-such-thing-here" in found.missing
    assert found.has("torch")
    assert not found.has("tensorflow")


@pytest.mark.slow
def test_the_wheel_is_the_same_bytes_each_time_and_runs_the_command(tmp_path: Path) -> None:
    again = tmp_path / wheel_name()
    again.write_bytes(wheel())
    assert again.read_bytes() == wheel()
    listed = {name for name in _names(again) if not name.startswith("swell/")}
    home = again.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    assert listed == {f"{home}/{n}" for n in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    assert not [name for name in _names(again) if "__pycache__" in name]
    assert "swell/db/schema/sqlite/0001_baseline.sql" in _names(again)


def _names(path: Path) -> list[str]:
    return zipfile.ZipFile(path).namelist()


@pytest.mark.slow
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
    packed = Packer(lambda ref: [Looked("acme/dreams", "1", ())]).pack([str(entry)])
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


@pytest.mark.slow
def test_added_portraits_take_the_code_and_the_weights_of_their_face_detector(
    tmp_path: Path,
) -> None:
    pytest.importorskip("swell_models")
    entry = tmp_path / "models" / "acme--faces.toml"
    entry.parent.mkdir()
    (tmp_path / "dreams").mkdir()
    entry.write_text(
        f'name = "acme/faces"\nfolder = "{tmp_path / "dreams"}"\nportraits = true\n[weights]\n'
    )
    packed = Packer(lambda ref: [Looked("acme/faces", "1", ())]).pack([str(entry)])
    files = {str(place).partition("/swell_models/")[2] for place in packed.files}
    assert {"__init__.py", "added_portraits.py", "added_portraits_torch.py"} <= files
    assert {"faces.py", "scenes.py", "scenes.toml", "weights/portrait.webp"} <= files
    assert {place.name for place in packed.links} == {"faces.onnx"}
    assert "onnxruntime" in packed.distributions


@pytest.mark.slow
def test_an_added_vqgan_takes_the_code_of_its_search(tmp_path: Path) -> None:
    pytest.importorskip("swell_models")
    entry = tmp_path / "models" / "acme--guided.toml"
    entry.parent.mkdir()
    folder = tmp_path / "guided"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "VQGANCLIP"}')
    entry.write_text(f'name = "acme/guided"\nfolder = "{folder}"\n[weights]\n')
    packed = Packer(lambda ref: [Looked("acme/guided", "1", ())]).pack([str(entry)])
    files = {str(place).partition("/swell_models/")[2] for place in packed.files}
    assert {"vqgan_clip.py", "vqgan_clip_torch.py", "taming.py"} <= files
    assert not packed.links


@pytest.mark.parametrize("is_cuda", [False, True])
def test_each_setting_of_an_image_exists(poster: Path, is_cuda: bool) -> None:
    packed = contents_of(Wanted([str(poster)], Home(), is_cuda=is_cuda))
    told = set(re.findall(r"\b(SWELL_\w+)=", packed.dockerfile))
    known = {each.variable: each for each in describe_settings()}
    assert told <= set(known)
    assert not [name for name in told if known[name].is_secret]
    assert ("SWELL_WORKER__DEVICE" in told) == is_cuda
    assert tag_of(packed) == "acme/poster:latest"


@pytest.mark.slow
def test_a_model_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    for text, why in (("1 / 0\n", "ZeroDivisionError"), ("import os\nos._exit(3)\n", "failed")):
        broken.write_text(text)
        with pytest.raises(InvalidModel, match=why):
            contents_of(Wanted([str(broken)], Home()))
    with pytest.raises(NotFound, match="no file"):
        contents_of(Wanted([str(tmp_path / "not.py")], Home()))
    with pytest.raises(NotFound, match="no built-in model"):
        contents_of(Wanted(["swell/nothing"], Home()))


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


WEIGHTS = b"\x02\0\0\0\0\0\0\0{}"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
IMAGE = PurePosixPath("/opt/swell/models")


def model_in(folder: Path, *lines: str, files: str = "[]", name: str = "acme/x") -> Path:
    """Write a model, with weights beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.safetensors").write_bytes(WEIGHTS)
    text = f'@swell.model("{name}", files={files})\ndef x(text: str) -> str:\n    return text\n'
    (folder / "m.py").write_text("\n".join(["import swell", *lines, text]))
    return folder / "m.py"


def context_of(home: Path, wanted: Wanted) -> Path:
    """Write what a build sees."""
    folder = home / "context-of-build"
    folder.mkdir()
    write_context(folder, contents_of(wanted))
    return folder


def test_a_declared_file_lies_beside_the_module_that_declares_it_where_roots_nest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "common_of_nest.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    inner = model_in(tmp_path / "a", "import common_of_nest", files='["x.safetensors"]')
    packed = Packer(described).pack([str(inner)])
    [ref], [place] = packed.refs, packed.links
    assert place == PurePosixPath(ref).with_name("x.safetensors")
    # And where the module is imported from above, while a neighbour is from where it lies.
    text = '@swell.model("acme/y", files=["x.safetensors"])\ndef y(text: str) -> str: ...\n'
    package = tmp_path / "b_of_nest"
    model_in(package, name="acme/z")
    (package / "own.py").write_text(f"import swell\nimport beside_of_nest\n{text}")
    (package / "beside_of_nest.py").write_text("")
    monkeypatch.syspath_prepend(str(package))
    packed = Packer(described).pack(["b_of_nest.own"])
    [module] = [place for place in packed.files if place.name == "own.py"]
    assert set(packed.links) == {module.with_name("x.safetensors")}


def test_a_file_beside_the_folder_of_its_module_is_found_from_there_and_no_further(
    tmp_path: Path,
) -> None:
    above = '["../weights/x.safetensors"]'
    path = model_in(tmp_path / "one" / "models", files=above)
    model_in(tmp_path / "one" / "weights")
    other = model_in(tmp_path / "two" / "models", files=above, name="acme/y")
    (model_in(tmp_path / "two" / "weights").parent / "x.safetensors").write_bytes(WEIGHTS + b" ")
    packed = Packer(described).pack([str(path)])
    assert packed.links == {IMAGE / "weights" / "x.safetensors": DIGEST}
    assert list(packed.listings[0].files) == ["weights/x.safetensors"]
    with pytest.raises(InvalidModel, match="would both be"):
        Packer(described).pack([str(path), str(other)])
    computed = "[Path(__file__).parent.parent / 'weights' / 'x.safetensors']"
    again = model_in(tmp_path / "three" / "models", "from pathlib import Path", files=computed)
    model_in(tmp_path / "three" / "weights")
    packed = Packer(described).pack([str(again)])
    assert set(packed.links) == {IMAGE / "weights" / "x.safetensors"}


def test_a_link_in_pythons_path_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "real" / "package_of_links"
    model_in(folder, files='["x.safetensors"]')
    (folder / "__init__.py").write_text("")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    monkeypatch.syspath_prepend(str(tmp_path / "linked"))
    packed = Packer(described, [folder / "x.safetensors"]).pack(["package_of_links.m"])
    assert set(packed.links) == {IMAGE / "1/package_of_links/x.safetensors"}


@pytest.mark.parametrize("name", ["../../../../x.safetensors", "../../9/x.safetensors"])
def test_a_file_that_would_lie_among_the_systems_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "9").mkdir()
    for place in (tmp_path, tmp_path / "9"):
        (place / "x.safetensors").write_bytes(WEIGHTS)
    folder = tmp_path / "a" / "b" / "c" / "d"
    path = model_in(folder, files=f'["{name}"]')
    if "9" in name:
        path = model_in(tmp_path / "a", files='["../9/x.safetensors"]')
    with pytest.raises(InvalidModel, match=r"folder that the image reserves|rename 9"):
        Packer(described).pack([str(path)])


def test_a_file_that_is_named_by_its_whole_path_keeps_it() -> None:
    code = code_of(Module(Path(__file__), Path(__file__).parent))
    named = "/srv/weights-of-tests/x.safetensors"
    [place] = Places().declared(Path(named), code, __file__)
    assert place == PurePosixPath(named)


@pytest.mark.parametrize("is_baked", [False, True])
def test_included_weights_are_refused_unless_they_are_declared_or_baked(
    tmp_path: Path, is_baked: bool
) -> None:
    path = model_in(tmp_path / "a", files='["x.safetensors"]')
    packed = Packer(described, [tmp_path / "a" / "x.safetensors"]).pack([str(path)])
    assert set(packed.links.values()) == {DIGEST}
    model_in(tmp_path / "a" / "more")
    packer = Packer(described, [tmp_path / "a" / "more"], is_baked=is_baked)
    if is_baked:
        assert IMAGE / "1/more/x.safetensors" in packer.pack([str(path)]).links
        return
    with pytest.raises(InvalidRequest, match="no worker would download it"):
        packer.pack([str(path)])


def test_hidden_files_never_go_in_and_links_to_folders_are_told(tmp_path: Path) -> None:
    path = model_in(tmp_path / "a")
    hidden, data = tmp_path / "a" / ".secrets", tmp_path / "a" / "data"
    hidden.mkdir()
    data.mkdir()
    for file in (tmp_path / "a" / ".env", hidden / "key"):
        file.write_text("KEY=secret")
        with pytest.raises(InvalidRequest, match="is hidden"):
            Packer(described, [file]).pack([str(path)])
    (data / "else").symlink_to(tmp_path)
    packed = Packer(described, [data]).pack([str(path)])
    assert [note for note in packed.notes if "link to a folder" in note]


PEM = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n-----END OPENSSH PRIVATE KEY-----\n"


def test_what_looks_like_a_secret_in_an_included_folder_is_refused(tmp_path: Path) -> None:
    path = model_in(tmp_path / "a")
    folder = path.parent
    (folder / "notes.txt").write_text("a fox")
    (folder / "swell.toml").write_text("[worker]\ntoken = 'swell_x'\n")
    (folder / "keys").mkdir()
    (folder / "keys" / "id_rsa").write_bytes(PEM)
    (folder / "keys" / "deploy.txt").write_bytes(PEM)
    with pytest.raises(InvalidRequest, match="look like secrets") as refused:
        Packer(described, [folder], is_baked=True).pack([str(path)])
    for name in ("swell.toml", "keys/id_rsa", "keys/deploy.txt"):
        assert str(folder / name) in refused.value.detail
    assert "notes.txt" not in refused.value.detail
    assert f"--include {folder / 'swell.toml'}" in refused.value.detail


def test_a_secret_that_is_named_itself_goes_in(tmp_path: Path) -> None:
    path = model_in(tmp_path / "a")
    (path.parent / "swell.toml").write_text("")
    named = [path.parent / "swell.toml"]
    for include in (named, [path.parent / "x.safetensors", *named]):
        packed = Packer(described, include, is_baked=True).pack([str(path)])
        assert IMAGE / "1/swell.toml" in packed.files
    packed = Packer(described, [path.parent, *named], is_baked=True).pack([str(path)])
    assert IMAGE / "1/swell.toml" in packed.files


@pytest.mark.parametrize(
    "name",
    [
        *("swell.toml", "Prod.env", "id_ed25519", "store.P12", "kubeconfig", "credentials.json"),
        *("service-account-7f.json", "client_secret_1.json", "netrc", "secrets.toml"),
    ],
)
def test_a_file_may_have_the_name_of_a_secret(name: str) -> None:
    assert looks_secret(name, b"")


@pytest.mark.parametrize(
    "data",
    [
        PEM,
        PEM.replace(b"OPENSSH ", b""),
        b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n",
        b'{"type": "service_account", "private_key" : "-----BEGIN PRIVATE KEY-----\\nMII"}',
        b"aws_access_key_id=AKIA" + b"Z2" * 8,
        b"HF_TOKEN=hf_" + b"aB3" * 11,
        b"token: ghp_" + b"aB3" * 12,
        b"OPENAI_API_KEY=sk-proj-" + b"aB3" * 15,
        b"key = 'swell_" + b"aB3_-" * 8 + b"xyz'",
    ],
)
def test_a_file_may_hold_what_only_secrets_hold(data: bytes) -> None:
    assert looks_secret("notes.txt", b"# mine\n" + data)


def test_settings_may_hold_a_password_in_a_url() -> None:
    text = b'[store]\nurl = "postgresql://swell:hunter2@db/swell"\n'
    assert looks_secret("prod.toml", text)
    assert not looks_secret("README.md", text)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("id_rsa.pub", b"ssh-rsa AAAA"),
        ("keys.py", b"import secrets\nprivate_key = secrets.token_hex()\n"),
        ("tokens.json", b'{"<pad>": 0, "private_key": 5}'),
        ("cacert.pem", b"-----BEGIN CERTIFICATE-----\n"),
        ("slides.key", b"PK"),
        ("kubeconfig_test.py", b""),
        ("id_rsa_utils.py", b""),
        ("openapi.json", b'{"private_key": "string"}'),
        ("example.ini", b"aws_access_key_id = AKIAIOSFODNN7EXAMPLE"),
        ("m.py", b"swell_" + b"a" * 43 + b" swell_" + b"aB" * 30),
        ("environment.yml", b"name: a\n"),
        ("swarm.toml", b'url = "https://files.example/a:b@c"\nstore = "postgresql://u:${PW}@db"\n'),
        ("credentials.md", b"AKIA and swell_"),
    ],
)
def test_most_files_do_not_look_like_secrets(name: str, data: bytes) -> None:
    assert not looks_secret(name, data)


@pytest.mark.slow
def test_a_program_stays_one(tmp_path: Path) -> None:
    path = model_in(tmp_path / "a")
    (tmp_path / "a" / "tool.sh").write_text("#!/bin/sh\n")
    (tmp_path / "a" / "tool.sh").chmod(0o700)
    wanted = Wanted([str(path)], Home(), include=[tmp_path / "a" / "tool.sh"])
    folder = context_of(tmp_path, wanted)
    modes = {each.name: each.stat().st_mode & 0o777 for each in folder.rglob("tree/**/*.*")}
    assert modes == {"tool.sh": 0o755, "m.py": 0o644, "weights.json": 0o644}


def test_a_comma_in_a_files_name_is_refused(tmp_path: Path) -> None:
    path = model_in(tmp_path / "a").rename(tmp_path / "a" / "m,n.py")
    with pytest.raises(InvalidModel, match="has a comma"):
        Packer(described).pack([str(path)])


@pytest.mark.slow
def test_what_is_baked_is_read_whatever_its_name_promises(tmp_path: Path) -> None:
    path = model_in(tmp_path / "a", files='["x.safetensors"]')
    cached = tmp_path / "files" / DIGEST[:2] / DIGEST
    cached.parent.mkdir(parents=True)
    cached.write_bytes(WEIGHTS[:-2] + b"[]")
    link = tmp_path / "a" / "x.safetensors"
    link.unlink()
    link.symlink_to(cached)
    with pytest.raises(DigestMismatch, match="check both"):
        context_of(tmp_path, Wanted([str(path)], Home(), is_baked=True))
    # A name that is no cache's says nothing.
    other = tmp_path / ("ab" * 32)
    other.write_bytes(WEIGHTS)
    link.unlink()
    link.symlink_to(other)
    assert set(Packer(described).pack([str(path)]).links.values()) == {DIGEST}


def listed_model(folder: Path, *, manifest: str = "") -> Path:
    """Write a model that says by `weights.toml` what it needs."""
    path = model_in(
        folder, "from swell.weights.declared_weights import provided", "W = provided(__file__)"
    )
    pinned = f'manifest = "{manifest}"\n' if manifest else ""
    text = f'model = "acme/x"\nversion = "1"\n{pinned}[weights]\n"x.safetensors" = "{DIGEST}"\n'
    (folder / "weights.toml").write_text(text)
    return path


@pytest.mark.slow
def test_weights_that_are_listed_are_fetched_by_their_listing_or_baked(tmp_path: Path) -> None:
    path, home = listed_model(tmp_path / "a"), tmp_path / "cache"
    apart = contents_of(Wanted([str(path)], Home()))
    assert 'SWELL_WORKER__WEIGHTS="/opt/swell/models/1/weights.toml"' in apart.dockerfile
    wanted = Wanted([str(path)], Home(), is_baked=True, cache_dir=home)
    baked = contents_of(wanted)
    assert 'SWELL_WORKER__BAKED_DIR="/opt/swell/weights"' in baked.dockerfile
    assert "COPY weights /opt/swell/weights" in baked.dockerfile
    folder = context_of(tmp_path, wanted)
    held = WeightCache(tmp_path / "empty", below=folder / "weights")
    [wish] = wishes_of([str(folder / "tree/opt/swell/models/1/m.py")], [], None)
    assert wish.is_in(held)
    # Where only the cache has it, it comes from there; and from nowhere else.
    (tmp_path / "a" / "x.safetensors").unlink()
    with pytest.raises(InvalidRequest, match="swell models pull"):
        contents_of(wanted)
    place = WeightCache(home).path(DIGEST)
    place.parent.mkdir(parents=True)
    place.write_bytes(WEIGHTS)
    assert contents_of(wanted).contents == {DIGEST: place}


@pytest.mark.slow
def test_weights_that_a_manifest_names_are_baked_with_it(tmp_path: Path) -> None:
    manifest = Listing("acme/x", "1", {"x.safetensors": Entry(DIGEST, len(WEIGHTS))})
    home = WeightCache(tmp_path / "cache")
    path = listed_model(tmp_path / "a", manifest=manifest_digest(manifest))
    wanted = Wanted([str(path)], Home(), is_baked=True, cache_dir=home.folder)
    with pytest.raises(InvalidRequest, match="names the manifest"):
        contents_of(wanted)
    note_manifest(home, manifest)
    folder = context_of(tmp_path, wanted)
    held = WeightCache(tmp_path / "empty", below=folder / "weights")
    [wish] = wishes_of([], [str(folder / "tree/opt/swell/models/1/weights.toml")], None)
    assert wish.is_in(held)


def test_where_there_is_nothing_to_bake_it_is_said(tmp_path: Path) -> None:
    path = model_in(tmp_path / "a")
    packed = contents_of(Wanted([str(path)], Home(), is_baked=True))
    assert not packed.is_baked
    assert "COPY weights" not in packed.dockerfile
    assert [note for note in packed.notes if "nothing to bake" in note]


@pytest.mark.slow
def test_an_added_model_finds_its_net_and_its_adapter_where_only_the_image_is(
    tmp_path: Path,
) -> None:
    made, net, data = dreams(tmp_path / "srv" / "dreams"), tmp_path / "srv" / "net", tmp_path / "d"
    unet = made / "unet" / "config.json"
    unet.write_text(json.dumps(json.loads(unet.read_text()) | {"cross_attention_dim": 64}))
    net.mkdir()
    (net / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    safetensors(net / "model.safetensors", 5)
    adapter = picture_adapter(tmp_path / "srv" / "models")
    named = ("--name", "acme/dreams", "--controlnet", str(net), "--ip-adapter", str(adapter))
    assert (said := add(data, made, *named)).exit_code == 0, said.output
    [entry] = added(data)
    packed = Packer(described).pack([entry])
    [listing] = packed.listings
    assert len(listing.files) == len(packed.links) == 6
    folder, image = tmp_path / "context", tmp_path / "image"
    folder.mkdir()
    packed.is_baked = True
    write_context(folder, packed)
    (folder / "tree/opt/swell/models").rename(image)
    for place in packed.links:
        path = image / place.relative_to(IMAGE)
        digest = path.readlink().name
        path.unlink()
        path.symlink_to(folder / "weights" / "files" / digest[:2] / digest)
    shutil.rmtree(tmp_path / "srv")
    shutil.rmtree(data)
    there = image / "added" / "acme--dreams.toml"
    text = there.read_text()
    assert str(tmp_path) not in text
    there.write_text(text.replace(str(IMAGE), str(image)))
    read_again = read(there)
    check_files(read_again)
    assert len(read_again.weights) > 6
    definition = describe(read_again)
    assert definition.net is not None
    assert definition.net.folder.is_relative_to(image)
    assert definition.adapter is not None
    assert definition.adapter.encoder.is_relative_to(image)
    assert load_models(str(there))


def picture_adapter(folder: Path) -> Path:
    """Write an IP-Adapter, with an encoder that does not fit beside it and one that does."""
    for width, place in ((48, folder.parent / "sdxl"), (32, folder)):
        (place / "image_encoder").mkdir(parents=True)
        (place / "image_encoder" / "config.json").write_text(json.dumps({"hidden_size": width}))
        safetensors(place / "image_encoder" / "model.safetensors", width)
    shapes = {"latents": (1, 16, 128), "proj_in.weight": (128, 32), "proj_out.weight": (64, 128)}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        offsets = [at, at + size]
        header[f"image_proj.{name}"] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        at += size
    told = json.dumps(header).encode()
    path = folder.parent / "sdxl" / "plus-face.safetensors"
    path.write_bytes(struct.pack("<Q", len(told)) + told + bytes(at))
    return path
