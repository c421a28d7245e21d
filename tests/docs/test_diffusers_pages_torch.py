"""Pages on models of diffusers, typed with small networks of a hub on this machine; needs torch.

There is no GPU: `cuda:0` is `cpu` here, and pictures are small.
"""

import base64
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import PIL.Image
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny_pipelines as tiny
from commandline import Swell, ready_line, stop
from guided_networks import save_networks
from hub_server import HubServer, Repository
from pages import Reader, block
from swell.models.pictures import sample

#: Each process imports torch, on a machine that may be busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore")]

COMMIT = "5f3c" * 10
SDXL = "docs/serve-sdxl-flux.md"
DREAMS = "docs/models/diffusers.md"
GUIDED = "docs/models/vqgan-clip.md"
#: Those of one page and of another have one name; here they are served together.
GUIDED_HERE = (("dreams", "guided"),)


@dataclass(frozen=True)
class Served:
    """A Swell that serves what the pages have one add."""

    reader: Reader
    swell: Swell


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader who has added the models of the three pages by their lines."""
    folder = tmp_path_factory.mktemp("reader")
    with contextlib.redirect_stderr(io.StringIO()):
        xl = tiny.stable_diffusion_xl(tmp_path_factory.mktemp("hub") / "xl")
        third = tiny.stable_diffusion_3(tmp_path_factory.mktemp("hub") / "sd35")
        flux = tiny.flux(tmp_path_factory.mktemp("hub") / "flux")
        tiny.stable_diffusion(folder / "dreams")
        tiny.lora(folder / "lcm-lora-sdxl.safetensors", xl)
        adapter = tiny.ip_adapter(folder / "adapters", xl, "plus")
        adapter.rename(folder / "adapters" / "ip-adapter-plus-face_sdxl_vit-h.safetensors")
        save_networks(folder / "guided")
    repository = Repository({COMMIT: xl}, {"main": COMMIT})
    names = ("stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/sdxl-turbo")
    hub = HubServer(
        dict.fromkeys((*names, "acme/dreams-xl"), repository)
        | {
            "stabilityai/stable-diffusion-3.5-medium": Repository(
                {COMMIT: third}, {"main": COMMIT}
            ),
            "black-forest-labs/FLUX.1-schnell": Repository({COMMIT: flux}, {"main": COMMIT}),
        }
    )
    install, add, *_ = block(DREAMS, "swell models add ./dreams", "sh").splitlines()
    faces, _ = block(DREAMS, "--portraits", "sh").splitlines()
    guided, *_ = block(GUIDED, "swell models add dreams", "sh").splitlines()
    environment, also, sdxl = block(SDXL, "make setup", "sh").splitlines()
    # The environment with all of it is this one.
    assert "pip install" in install
    assert "pip install" in also
    assert "venv" in environment
    others = block(SDXL, "FLUX.1-schnell", "sh")
    few = block(SDXL, "--few-step turbo", "sh")
    with hub.serve():
        # Small networks are the fastest with one thread, whoever else is at work.
        reader = Reader(folder, {"HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1"}, patience_s=200)
        for each in ("\n".join([add, faces]), sdxl, others, few):
            reader.does(each)
        reader.does(guided, *GUIDED_HERE)
        yield reader


def test_models_are_checked_and_run_before_anything_is_served(added: Reader) -> None:
    probed = ("me/sdxl", "me/sdxl --probe-s 0")
    check, run = block(SDXL, "swell models check me/sdxl", "sh").splitlines()
    assert "me/sdxl" in added.does(check, ("cuda:0", "cpu"), probed).stdout
    assert "pictures/" in added.does(run, ("cuda:0", "cpu")).stdout
    _, _, check, *_ = block(DREAMS, "swell models add ./dreams", "sh").splitlines()
    assert "acme/dreams" in added.does(f"{check.partition('#')[0]} --probe-s 0").stdout


@pytest.fixture(scope="module")
def served(added: Reader) -> Iterator[Served]:
    """All of them served, with the settings of the page on SDXL."""
    settings = block(SDXL, "# swell.toml", "toml")
    (added.folder / "swell.toml").write_text(settings.replace("cuda:0", "cpu"))
    up, _ = block(SDXL, "swell tasks submit me/sdxl", "sh").splitlines()
    assert up == block(DREAMS, "swell models add ./dreams", "sh").splitlines()[3]
    assert up == block(GUIDED, "swell models add dreams", "sh").splitlines()[1]
    swell = Swell(added.folder)
    process = swell.start(*up.split()[1:], "--json", "--port", "0", OMP_NUM_THREADS="1")
    try:
        ready = ready_line(process, added.folder)
        told = {"SWELL_URL": ready["url"], "SWELL_KEY": ready["key"]}
        yield Served(Reader(added.folder, told, patience_s=200), swell)
    finally:
        assert stop(process) == 0, (added.folder / "stderr.txt").read_text()


def test_sdxl_draws_four_for_one_and_a_small_one_for_others(served: Served) -> None:
    _, submit = block(SDXL, "swell tasks submit me/sdxl", "sh").splitlines()
    assert served.reader.does(submit).stdout.count("pictures/") == 4
    curl = block(SDXL, "curl $SWELL_URL/v1/tasks", "sh")
    served.reader.does(curl, ("1024", "64"))
    with PIL.Image.open(served.reader.folder / "fox.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (64, 64))


@pytest.mark.parametrize("name", ["me/sd35", "me/flux"])
def test_what_is_added_like_sdxl_draws_too(served: Served, name: str) -> None:
    small = f"swell tasks submit {name} -i prompt=fox -i width=64 -i height=64 -i steps=2 --watch"
    assert "pictures/" in served.reader.does(small).stdout


def test_a_folder_of_diffusers_draws(served: Served) -> None:
    *_, submit = block(DREAMS, "swell models add ./dreams", "sh").splitlines()
    assert "pictures/" in served.reader.does(submit).stdout


def test_a_face_becomes_three_portraits(served: Served) -> None:
    (served.reader.folder / "me.jpg").write_bytes(base64.b64decode(sample().partition(",")[2]))
    _, submit = block(DREAMS, "--portraits", "sh").splitlines()
    assert served.reader.does(submit).stdout.count("pictures/") == 3


def test_words_are_searched_for_by_a_vqgan(served: Served) -> None:
    *_, submit = block(GUIDED, "swell models add dreams", "sh").splitlines()
    # The page's 300 steps at its own size are for a GPU, and this CLIP reads 18 word pieces.
    small = ("--watch", "-i width=32 -i height=32 -i steps=2 -i cutouts=2 --watch")
    short = ("a lighthouse in a storm", "a storm")
    assert "pictures/" in served.reader.does(submit, *GUIDED_HERE, small, short).stdout
