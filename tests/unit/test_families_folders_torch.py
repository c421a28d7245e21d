"""Folders of weights that say what they should not, where diffusers is at hand."""

import contextlib
import io
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import family_cases as cases  # noqa: E402
import tiny_pipelines as tiny  # noqa: E402
from swell.core.errors import InvalidModel  # noqa: E402
from swell.diffusion.families.components_torch import class_of  # noqa: E402
from swell.diffusion.families.model_config import Entry  # noqa: E402
from swell.diffusion.families.model_definition import describe  # noqa: E402
from swell.sdk.media import Image  # noqa: E402
from swell.sdk.model_loader import load_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("library", "kind", "why"),
    [
        ("diffusers", "DiffusionPipeline", "no network, tokenizer, processor or scheduler"),
        ("diffusers", "StableDiffusionPipeline", "no network"),
        ("transformers", "AutoModel", "no network"),
        ("transformers", "pipeline", "no network"),
        ("transformers", "GenerationConfig", "no network"),
        ("diffusers", "NoSuchModel", "this diffusers has no NoSuchModel"),
        ("os", "system", "only parts of diffusers and transformers"),
        ("stable_diffusion", "StableDiffusionPipeline", "no network"),
    ],
)
def test_a_class_that_is_no_part_reads_nothing(library: str, kind: str, why: str) -> None:
    with pytest.raises(InvalidModel, match=why):
        class_of("extra", library, kind)


@pytest.mark.parametrize(
    ("kind", "package"),
    [("LMSDiscreteScheduler", "scipy"), ("DPMSolverSDEScheduler", "torchsde")],
)
def test_a_part_that_needs_another_package_says_which(kind: str, package: str) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(InvalidModel, match=f"scheduler is a {kind}, .* makes of {package}: instal"):
        class_of("scheduler", "diffusers", kind)


@pytest.mark.parametrize(
    ("library", "kind"),
    [
        ("diffusers", "UNet2DConditionModel"),
        ("diffusers", "PNDMScheduler"),
        ("transformers", "CLIPTextModel"),
        ("transformers", "CLIPTokenizer"),
        ("transformers", "CLIPImageProcessor"),
        ("stable_diffusion", "StableDiffusionSafetyChecker"),
    ],
)
def test_networks_tokenizers_processors_and_schedulers_are_parts(library: str, kind: str) -> None:
    assert class_of("part", library, kind).__name__.startswith(kind)


def test_a_class_that_was_renamed_is_found_by_its_old_name() -> None:
    assert (
        "CLIPImageProcessor"
        in class_of("feature_extractor", "transformers", "CLIPFeatureExtractor").__name__
    )


def test_loras_of_the_model_are_on_in_an_own_loop_too(tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        folder = tiny.stable_diffusion(tmp_path / "weights", cases.runge_kutta())
    file = tiny.lora(tmp_path / "ink.safetensors", folder)
    by_hand = tiny.with_lora(folder, file, tmp_path / "by-hand")
    plain, inked, added = (
        cases.draw(*cases.loaded(cases.add(source, tmp_path / name, "test/it", *more)), steps=5)
        for name, source, more in (
            ("plain", folder, []),
            ("inked", folder, ["--lora", str(file)]),
            ("added", by_hand, []),
        )
    )
    assert np.abs(plain.astype(int) - inked).max() > 3
    assert np.abs(added.astype(int) - inked).max() <= 1


def test_a_folder_with_a_control_net_draws_as_one_that_was_given(tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        folder = tiny.stable_diffusion(tmp_path / "weights")
        net = tiny.control_net(tmp_path / "net", folder)
        whole = tmp_path / "whole"
        diffusers.StableDiffusionControlNetPipeline.from_pretrained(
            folder,
            controlnet=diffusers.ControlNetModel.from_pretrained(net),
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
        ).save_pretrained(whole)
    asked = {"steps": 3, "control": Image(tiny.picture())}
    given = cases.add(folder, tmp_path / "a", "test/it", "--controlnet", str(net))
    own = cases.add(whole, tmp_path / "b", "test/it")
    one, other = (cases.draw(*cases.loaded(file), **asked) for file in (given, own))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one.astype(int) - cases.draw(*cases.loaded(own), steps=3)).max() > 3


def test_files_that_are_younger_and_the_same_are_what_was_added(tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        folder = tiny.stable_diffusion(tmp_path / "weights")
    entry = cases.add(folder, tmp_path / "data", "test/it")
    later = entry.stat().st_mtime_ns + 10**9
    for file in folder.rglob("*.safetensors"):
        os.utime(file, ns=(later, later))
    [definition] = load_models(str(entry))
    assert definition.make() is not None


@pytest.mark.parametrize("scheduler", [cases.runge_kutta, tiny.euler], ids=["own loop", "in steps"])
@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("text_encoder/config.json", {"hidden_size": "x"}),
        ("text_encoder/config.json", {"num_attention_heads": 0}),
        ("vae/config.json", {"norm_num_groups": None}),
        ("unet/config.json", {"layers_per_block": {}}),
        ("unet/config.json", {"block_out_channels": [16, 64]}),
    ],
    ids=str,
)
def test_networks_that_cannot_be_made_are_told_of(
    tmp_path: Path, scheduler: Any, file: str, change: dict[str, Any]
) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        folder = tiny.stable_diffusion(tmp_path / "weights", scheduler())
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(settings | change))
    [definition] = load_models(str(cases.add(folder, tmp_path / "data", "test/it")))
    with pytest.raises(InvalidModel, match=r"cannot be read: ."):
        definition.make().load("cpu")


def test_the_example_of_a_painter_into_pictures_is_one_that_it_can_draw(tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        folder = tiny.stable_diffusion(tmp_path / "weights", channels=9)
    definition, model = cases.loaded(cases.add(folder, tmp_path / "data", "test/it"))
    [example] = definition.facts.examples
    assert cases.draw(definition, model, **{**example, "steps": 2}).std() > 20


def test_an_image_encoder_that_is_there_as_a_pickle_alone_is_refused(tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        folder = tiny.stable_diffusion(tmp_path / "weights")
        file = tiny.ip_adapter(tmp_path / "adapter", folder)
    entry = Entry(name="test/it", folder=str(folder), ip_adapter=str(file))
    assert describe(entry).adapter is not None
    encoder = file.parent / "image_encoder"
    (encoder / "model.safetensors").rename(encoder / "pytorch_model.bin")
    with pytest.raises(InvalidModel, match=r"image_encoder/ has no .safetensors file"):
        describe(entry)
