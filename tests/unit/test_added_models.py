"""Models that are added, replaced and removed: each has its own name, file and weights."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import PIL.Image
import pytest
from typer.testing import CliRunner

from added_harness import NEW, OLD, add, dreams, hub_of_dreams, models, remove, safetensors
from hub_server import HubServer
from swell.cli import app
from swell.cli.added import names_of, with_added
from swell.core.errors import InvalidModel
from swell.core.records import Speed
from swell.diffusion.families.model_config import (
    Entry,
    added,
    check_files,
    find,
    locked,
    path_of,
    read,
    write,
)
from swell.diffusion.families.model_definition import Taken, contents, keep
from swell.sdk.define import Definition
from swell.sdk.model_loader import load_models
from swell.settings.load import load
from swell.weights.files import MOST_SETTINGS_BYTES
from swell_models import vqgan_clip

NETWORK = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_of_dreams(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def told(result: Any) -> str:
    """Return what a command said, without the breaks of its lines."""
    return " ".join(result.output.split())


def folder_of(data: Path, name: str) -> Path:
    return Path(read(path_of(data, name)).folder)


def two_branches(data: Path) -> None:
    for source, name in (("hf:acme/dreams", "x/one"), ("hf:acme/dreams@v2", "x/two")):
        result = add(data, source, "--name", name)
        assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_two_branches_of_a_repository_have_their_own_weights(
    hub: HubServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    two_branches(data)
    for name, source in (("x/one", "old"), ("x/two", "new")):
        found = (folder_of(data, name) / NETWORK).read_bytes()
        assert found == (tmp_path / source / NETWORK).read_bytes(), name
    # What is the same file takes its room once.
    encoders = [
        folder_of(data, name) / "text_encoder" / "model.safetensors" for name in ("x/one", "x/two")
    ]
    assert encoders[0].samefile(encoders[1])


def test_a_branch_that_moves_during_the_download_does_not_mix_two_commits(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.on_listed = lambda: hub.repositories["acme/dreams"].branches.update(main=NEW)
    result = add(tmp_path / "data", "hf:acme/dreams", "--name", "x/one")
    assert result.exit_code == 0, result.output
    assert read(path_of(tmp_path / "data", "x/one")).source.endswith(OLD)
    found = (folder_of(tmp_path / "data", "x/one") / NETWORK).read_bytes()
    assert found == (tmp_path / "old" / NETWORK).read_bytes()


@pytest.mark.slow
def test_removing_a_model_removes_its_weights_and_no_other_models(
    hub: HubServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    two_branches(data)
    one, two = folder_of(data, "x/one"), folder_of(data, "x/two")
    files = data / "weights" / "files"
    before = {path.name for path in files.glob("??/*")}
    own = read(path_of(data, "x/two")).weights[NETWORK].sha256
    assert remove(data, "X/Two").exit_code == 0, "as `models add` takes it"
    assert not two.exists()
    assert (one / NETWORK).is_file()
    assert {path.name for path in files.glob("??/*")} == before - {own}
    assert remove(data, "x/one").exit_code == 0
    assert not one.exists()
    assert not list(data.glob("models/*"))


@pytest.mark.slow
def test_what_another_pull_of_this_machine_names_stays_in_the_cache(
    hub: HubServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    two_branches(data)
    shared = read(path_of(data, "x/two")).weights["vae/model.safetensors"].sha256
    pulled = models("pull", "hf:acme/dreams", "--include", "vae/*", "--data", str(data))
    assert pulled.exit_code == 0, pulled.output
    for name in ("x/two", "x/one"):
        assert remove(data, name).exit_code == 0
    assert (data / "weights" / "files" / shared[:2] / shared).is_file()


def test_models_that_share_a_folder_keep_it_until_the_last_is_removed(
    hub: HubServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shared = dreams(data / "models" / "acme--dreams")
    for name in ("x/one", "x/two"):
        entry = Entry(name=name, folder=str(shared.resolve()), source="hf://acme/dreams@main")
        write(path_of(data, name), entry)
    result = add(data, "hf:acme/dreams")
    assert result.exit_code == 0, result.output
    assert folder_of(data, "acme/dreams") != shared.resolve(), "nothing of others is overwritten"
    assert "x/two" in told(remove(data, "x/one"))
    assert shared.is_dir()
    remove(data, "x/two")
    assert not shared.exists()
    assert (folder_of(data, "acme/dreams") / NETWORK).is_file()


@pytest.mark.parametrize("more", [(), ("--sampler", "nonsense")])
def test_a_folder_that_somebody_gave_stays_though_it_lies_among_those_of_hubs(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    data = tmp_path / "data"
    mine = dreams(data / "models" / "mine")
    result = add(data, mine, "--name", "x/mine", *more)
    assert (result.exit_code == 0) == (not more), result.output
    remove(data, "x/mine")
    assert (mine / NETWORK).is_file()


@pytest.mark.slow
def test_a_folder_that_has_the_name_of_a_hubs_model_stays(hub: HubServer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    mine = dreams(data / "models" / "acme--dreams", 9)
    before = (mine / NETWORK).read_bytes()
    for _ in range(2):
        result = add(data, "hf:acme/dreams")
        assert result.exit_code == 0, result.output
    assert (mine / NETWORK).read_bytes() == before
    assert folder_of(data, "acme/dreams") != mine.resolve()
    shutil.rmtree(mine)
    assert add(data, "hf:acme/dreams").exit_code == 0
    remove(data, "acme/dreams")
    assert not list((data / "models").iterdir()), "its own are not left behind"


def test_a_branch_that_moved_is_added_again_under_its_name(hub: HubServer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = json.loads(add(data, "hf:acme/dreams", "--json").stdout)
    hub.repositories["acme/dreams"].branches["main"] = NEW
    again = json.loads(add(data, "hf:acme/dreams", "--json").stdout)
    assert again["version"] != first["version"]
    assert (folder_of(data, "acme/dreams") / NETWORK).read_bytes() == (
        tmp_path / "new" / NETWORK
    ).read_bytes()
    assert [path.name for path in (data / "models").iterdir() if path.is_dir()] == ["acme--dreams"]


def test_what_cannot_be_served_leaves_what_is_served_as_it_was(
    hub: HubServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    add(data, "hf:acme/dreams")
    before = path_of(data, "acme/dreams").read_bytes()
    (tmp_path / "new" / "vae" / "config.json").write_text("[]")
    hub.repositories["acme/dreams"].branches["main"] = NEW
    assert add(data, "hf:acme/dreams").exit_code != 0
    assert path_of(data, "acme/dreams").read_bytes() == before
    assert (folder_of(data, "acme/dreams") / NETWORK).is_file()
    assert len(list((data / "models").iterdir())) == 2


@pytest.mark.parametrize("name", ["swell/artwork", "demo/mine", "Swell/anything"])
def test_names_of_built_in_models_are_refused(tmp_path: Path, name: str) -> None:
    result = add(tmp_path / "data", dreams(tmp_path / "dreams"), "--name", name)
    assert "built in" in told(result)
    assert added(tmp_path / "data") == []


@pytest.mark.parametrize("name", ["acme/dreams.toml", "acme/dreams.py"])
def test_names_that_would_be_taken_for_files_are_refused(tmp_path: Path, name: str) -> None:
    result = add(tmp_path / "data", dreams(tmp_path / "dreams"), "--name", name)
    assert "taken for a file" in told(result)


def test_names_that_are_alike_are_two_models(tmp_path: Path) -> None:
    data = tmp_path / "data"
    names = ["a--b/c", "a/b--c", "a-/b", "a/b", "a-b/c"]
    for number, name in enumerate(names):
        source = dreams(tmp_path / str(number), number)
        assert add(data, source, "--name", name).exit_code == 0
    assert len(added(data)) == len(names)
    assert sorted(read(Path(each)).name for each in added(data)) == sorted(names)
    remove(data, "a/b--c")
    assert find(data, "a--b/c") is not None


def test_a_name_that_is_taken_is_refused_unless_all_is_the_same(tmp_path: Path) -> None:
    data, source = tmp_path / "data", dreams(tmp_path / "dreams")
    first = add(data, source, "--name", "x/one", "--json").stdout
    assert add(data, source, "--name", "x/one", "--json").stdout == first
    for result in (
        add(data, source, "--name", "x/one", "--steps", "7"),
        add(data, dreams(tmp_path / "other"), "--name", "X/One"),
    ):
        assert result.exit_code != 0
        assert "swell models remove x/one" in told(result)
    assert read(path_of(data, "x/one")).steps is None


# What is served


def replaced(make: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    """Return what puts something else in the place of a file."""

    def replace(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return replace


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def too_long(path: Path) -> None:
    path.write_text('{"_name_or_path": "' + "x" * MOST_SETTINGS_BYTES + '"}')


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (replaced(os.mkfifo, "model_index.json"), "model_index.json cannot be read: it is a pipe"),
        (replaced(endless, "model_index.json"), "model_index.json cannot be read: it is a pipe"),
        (replaced(too_long, "model_index.json"), "model_index.json cannot be read: it has more"),
        (replaced(os.mkfifo, "unet/config.json"), "unet/config.json is a pipe or a device"),
        (replaced(endless, "vae/config.json"), "vae/config.json is a pipe or a device"),
        (replaced(too_long, "vae/config.json"), "vae/config.json cannot be read: it has more"),
        (replaced(os.mkfifo, "unet/x.safetensors"), "unet/x.safetensors is a pipe or a device"),
        (replaced(os.mkfifo, "vae/more/x.txt"), "vae/more/x.txt is a pipe or a device"),
        (replaced(Path.mkdir, NETWORK), f"{NETWORK} is a folder and no file"),
    ],
)
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    source = dreams(tmp_path / "source")
    (source / "vae" / "more").mkdir()
    spoil(source)
    result = add(tmp_path / "data", source, "--name", "x/odd")
    assert result.exit_code != 0
    assert why in told(result)
    assert isinstance(result.exception, SystemExit)


def test_a_read_me_that_is_a_pipe_is_none(tmp_path: Path) -> None:
    source = dreams(tmp_path / "source")
    os.mkfifo(source / "README.md")
    assert add(tmp_path / "data", source, "--name", "x/odd").exit_code == 0
    assert definition(path_of(tmp_path / "data", "x/odd")).facts.licence == ""


def test_files_of_an_added_model_that_became_pipes_are_refused_by_who_serves_it(
    tmp_path: Path,
) -> None:
    source = dreams(tmp_path / "source")
    assert add(tmp_path / "data", source, "--name", "x/odd").exit_code == 0
    replaced(os.mkfifo, "unet/config.json")(source)
    with pytest.raises(InvalidModel, match=r"unet/config.json is a pipe or a device"):
        load_models(str(path_of(tmp_path / "data", "x/odd")))


@pytest.mark.parametrize("part", ["vqgan", "clip"])
def test_a_vqgan_whose_settings_are_a_pipe_is_refused(tmp_path: Path, part: str) -> None:
    source = tmp_path / "source"
    for each, told_of in (("vqgan", {"_class_name": "VQModel"}), ("clip", {"model_type": "clip"})):
        (source / each).mkdir(parents=True)
        (source / each / "config.json").write_text(json.dumps(told_of))
    replaced(os.mkfifo, f"{part}/config.json")(source)
    result = add(tmp_path / "data", source, "--name", "x/odd")
    assert "the folder has no model_index.json" in told(result)
    with pytest.raises(InvalidModel, match=rf"{part}/config.json cannot be read: it is a pipe"):
        vqgan_clip.define(source, "x/odd")


def test_a_vqgan_takes_no_options_of_diffusers(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for part, told_of in (("vqgan", {"_class_name": "VQModel"}), ("clip", {"model_type": "clip"})):
        (source / part).mkdir(parents=True)
        (source / part / "config.json").write_text(json.dumps(told_of))
    options = ("--bucket", "4", "--no-compile", "--steps", "9")
    result = add(tmp_path / "data", source, "--name", "x/odd", *options)
    assert "steps, bucket, compile: a VQGAN and a CLIP take no options but --name" in told(result)
    assert find(tmp_path / "data", "x/odd") is None


def test_weights_of_a_vqgan_that_are_a_pipe_are_none(tmp_path: Path) -> None:
    for part, told_of in (("vqgan", {"_class_name": "VQModel"}), ("clip", {"model_type": "clip"})):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(told_of))
        safetensors(tmp_path / part / "model.safetensors")
    replaced(os.mkfifo, "clip/model.safetensors")(tmp_path)
    with pytest.raises(InvalidModel, match=r"clip/ has no .safetensors file"):
        vqgan_clip.define(tmp_path, "x/odd")


def test_scenarios_that_are_a_pipe_are_refused(tmp_path: Path) -> None:
    source, pipe = dreams(tmp_path / "source"), tmp_path / "scenarios.toml"
    os.mkfifo(pipe)
    more = ("--portraits", "--scenarios", str(pipe))
    result = add(tmp_path / "data", source, "--name", "x/odd", *more)
    assert "scenarios are a file, and" in told(result)
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("extra", ["--lora", "--ip-adapter", "--controlnet"])
def test_a_pipe_is_no_extra_either(tmp_path: Path, extra: str) -> None:
    source, pipe = dreams(tmp_path / "source"), tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    result = add(tmp_path / "data", source, "--name", "x/odd", extra, str(pipe))
    assert result.exit_code != 0
    assert "pipe.safetensors" in told(result)
    assert isinstance(result.exception, SystemExit)


def served(data: Path, models: str = "demo/upper") -> tuple[list[str], list[str]]:
    """Return which models workers would serve, and what is said of the others."""
    said: list[str] = []
    settings = load({"data_dir": data, "worker.models": models}).settings
    return names_of(with_added(settings, said.append)), said


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda folder, entry: shutil.rmtree(folder), "is gone"),
        (lambda folder, entry: (folder / NETWORK).unlink(), "is missing since"),
        (lambda folder, entry: (folder / NETWORK).write_bytes(b"short"), "has changed since"),
        (
            lambda folder, entry: (folder / NETWORK).write_bytes(
                bytes((folder / NETWORK).stat().st_size)
            ),
            "is damaged",
        ),
        (lambda folder, entry: (folder / "vae" / "config.json").write_text("[]"), "vae"),
        (lambda folder, entry: entry.write_text("name = 3"), "does not describe a model"),
        (
            lambda folder, entry: entry.write_text(
                entry.read_text().replace("bad/dreams", "swell/artwork")
            ),
            "built in",
        ),
    ],
    ids=["folder", "file", "size", "head", "settings", "entry", "a built-in's name"],
)
def test_an_added_model_that_is_broken_is_left_out_by_name_and_the_others_are_served(
    tmp_path: Path, harm: Any, why: str
) -> None:
    data = tmp_path / "data"
    for name in ("bad", "good"):
        assert add(data, dreams(tmp_path / name), "--name", f"{name}/dreams").exit_code == 0
    assert served(data) == (["demo/upper", "bad/dreams", "good/dreams"], [])
    entry = path_of(data, "bad/dreams")
    harm(tmp_path / "bad", entry)
    names, said = served(data)
    assert names == ["demo/upper", "good/dreams"]
    [line] = said
    assert why in line
    name = "swell/artwork" if why == "built in" else "bad/dreams"
    assert f"swell models remove {name}" in line


def test_an_added_model_that_is_named_is_served_once_and_not_left_out(tmp_path: Path) -> None:
    data = tmp_path / "data"
    add(data, dreams(tmp_path / "dreams"), "--name", "x/one")
    for ref in ("x/one", "X/One", str(path_of(data, "x/one"))):
        assert served(data, ref) == (["x/one"], [])
    (tmp_path / "dreams" / NETWORK).unlink()
    assert served(data, "x/one") == (["x/one"], []), "whoever starts with it is told"


@pytest.mark.slow
def test_an_added_model_is_run_and_checked_by_its_name(tmp_path: Path) -> None:
    data = tmp_path / "data"
    add(data, dreams(tmp_path / "dreams"), "--name", "x/one")
    result = CliRunner().invoke(app, ["run", "X/One", "--data", str(data)])
    assert "does not fit x/one" in told(result), "nothing was asked of it, but it is known"
    checked = json.loads(models("check", "x/one", "--data", str(data), "--json").stdout)
    assert [report["model"] for report in checked] == ["x/one"]


# What was measured


def taken(version: str, took_s: float = 1.0, device: str = "a slow one", **more: Any) -> Taken:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(buffer, "webp")
    speed = Speed(device, "512 x 512, 30 steps", took_s, "2026-11-25")
    return Taken(version, speed, 1 << 30, sample=buffer.getvalue(), caption="a fox", **more)


def definition(path: Path) -> Definition:
    [found] = load_models(str(path))
    return found


def test_what_a_check_measured_is_on_the_card_of_that_version_alone(tmp_path: Path) -> None:
    data, source = tmp_path / "data", dreams(tmp_path / "dreams")
    add(data, source, "--name", "x/one")
    path = path_of(data, "x/one")
    before = definition(path)
    assert keep(path, taken(before.version()))
    card = definition(path).card()
    assert card.version != before.version(), "so that servers which know it show the new card"
    assert card.memory_bytes == 1 << 30
    assert [speed.took_s for speed in card.speed] == [1.0]
    assert [(sample.caption, sample.content_type) for sample in card.samples] == [
        ("a fox", "image/webp")
    ]
    assert not keep(path, taken(before.version(), 9.0)), "another version was checked"
    safetensors(source / NETWORK, 7)
    assert add(data, source, "--name", "x/one").exit_code == 0
    assert definition(path).card().speed == []
    assert not definition(path).card().samples


def test_a_further_check_makes_a_new_version_only_where_it_has_news(tmp_path: Path) -> None:
    data = tmp_path / "data"
    add(data, dreams(tmp_path / "dreams"), "--name", "x/one")
    path = path_of(data, "x/one")
    keep(path, taken(definition(path).version()))
    version = definition(path).version()
    assert not keep(path, taken(version, 1.15)), "the same but for the weather"
    assert definition(path).version() == version
    assert keep(path, taken(version, 0.5))
    assert keep(path, taken(definition(path).version(), 0.1, "a fast one"))
    found = definition(path).card().speed
    assert [(speed.device, speed.took_s) for speed in found] == [
        ("a slow one", 0.5),
        ("a fast one", 0.1),
    ]
    remove(data, "x/one")
    assert not list((data / "models").iterdir())


def at_once(data: Path, *commands: tuple[str, ...]) -> list[tuple[int, str]]:
    """Run commands of `swell models` in processes of their own, all at the same time."""
    swell = [sys.executable, "-m", "swell", "models"]
    started = [
        subprocess.Popen(
            [*swell, *command, "--data", str(data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for command in commands
    ]
    said = [process.communicate(timeout=60)[0].decode() for process in started]
    return [
        (each.returncode, " ".join(text.split())) for each, text in zip(started, said, strict=True)
    ]


@pytest.mark.slow
def test_of_models_that_are_added_at_once_under_one_name_there_is_one_whole(
    hub: HubServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    branches = [("add", f"hf:acme/dreams{at}", "--name", "x/same") for at in ("", "@v2") * 2]
    results = at_once(data, *branches)
    assert sorted(code == 0 for code, _ in results) == [False, False, True, True], results
    for code, text in results:
        assert code == 0 or "x/same exists with other weights" in text
    entry = read(path_of(data, "x/same"))
    check_files(entry)
    assert contents(Path(entry.folder), list(entry.weights)) == entry.weights
    assert sorted(each.name for each in (data / "models").iterdir()) == ["x--same", "x--same.toml"]


def test_who_adds_or_removes_a_model_waits_for_who_does_already(tmp_path: Path) -> None:
    said: Queue[str] = Queue()
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path, "x/one", said.put):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path, "x/one", said.put):
            with locked(tmp_path, "x/two", said.put):
                assert said.empty(), "models of other names are no matter"
            waits = pool.submit(second)
            assert said.get(timeout=10) == "waiting for another process that adds or removes x/one"
            order.append("first")
        waits.result(10)
    assert order == ["first", "second"]
    assert not list((tmp_path / "models").iterdir()), "locks leave nothing behind"


def test_a_name_that_is_too_long_for_a_file_is_refused(tmp_path: Path) -> None:
    data, source = tmp_path / "data", dreams(tmp_path / "source")
    too_long = "x/" + "a" * 300
    for result, why in (
        (add(data, source, "--name", too_long), "letters, and a model's name has 120 at most"),
        (remove(data, too_long), "was added to"),
    ):
        assert isinstance(result.exception, SystemExit)
        assert why in told(result)
    assert not data.exists()
    name = "x-y/" + "a" * 116
    assert add(data, source, "--name", name).exit_code == 0
    assert remove(data, name).exit_code == 0


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    result = add(tmp_path / "data", dreams(tmp_path / "source"), "--name", "x/one")
    assert isinstance(result.exception, SystemExit)
    assert "choose a data folder that can be written" in told(result)


@pytest.mark.parametrize("place", ["unet/\udcff.json", "vae/\udcff", "\udcff/config.json"])
def test_names_of_files_that_are_no_text_are_refused(tmp_path: Path, place: str) -> None:
    source = dreams(tmp_path / "source")
    (source / place).parent.mkdir(exist_ok=True)
    (source / place).write_text("{}")
    result = add(tmp_path / "data", source, "--name", "x/odd")
    assert isinstance(result.exception, SystemExit)
    assert "is no UTF-8: give it another" in told(result)
    assert not list((tmp_path / "data" / "models").iterdir())


@pytest.mark.parametrize("option", ["", "--controlnet", "--ip-adapter", "--lora"])
def test_so_are_those_of_folders_and_of_what_is_added_beside(tmp_path: Path, option: str) -> None:
    odd = tmp_path / "w\udcfft.safetensors"
    source = dreams(tmp_path / "source")
    if option == "--lora":
        safetensors(odd)
    else:
        dreams(odd)
    more = (option, str(odd)) if option else ()
    result = add(tmp_path / "data", source if option else odd, "--name", "x/odd", *more)
    assert isinstance(result.exception, SystemExit)
    assert "is no UTF-8: give it another" in told(result)


@pytest.mark.parametrize(
    ("index", "why"),
    [
        ({"foo": []}, ""),
        ({"foo": [{"a": 1}, 2]}, "says of foo"),
        ({"../../etc": ["diffusers", "X"]}, "names a part '../../etc'"),
        ({"*": ["diffusers", "X"]}, "names a part '*'"),
    ],
)
def test_what_a_hubs_index_says_is_looked_at_before_more_is_fetched(
    hub: HubServer, tmp_path: Path, index: dict[str, Any], why: str
) -> None:
    path = tmp_path / "old" / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    result = add(tmp_path / "data", "hf:acme/dreams")
    assert (result.exit_code == 0) == (not why), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert why in told(result)
    if why:
        assert not any(path.endswith(NETWORK) for _, path, _ in hub.asked)
