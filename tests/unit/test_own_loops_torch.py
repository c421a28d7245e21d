"""Diffusers' own loop, given pictures and LoRAs by tasks, with small random networks.

Its pictures are those of diffusers' own pipelines, to one level of 255.
"""

import contextlib
import inspect
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from typer.testing import CliRunner  # noqa: E402

import family_cases as cases  # noqa: E402
import loop_cases  # noqa: E402
import tiny_loops as loops  # noqa: E402
import tiny_pipelines as tiny  # noqa: E402
from swell.cli import app  # noqa: E402
from swell.core.errors import InvalidModel  # noqa: E402
from swell.diffusion.families.diffusers_pipeline_torch import _fitted  # noqa: E402
from swell.diffusion.families.model_config import Entry, read, write  # noqa: E402
from swell.diffusion.families.pipeline_signatures import LOOPS, Loop  # noqa: E402
from swell.sdk.context import Cancelled, Item, Reject  # noqa: E402
from swell.sdk.define import Definition  # noqa: E402
from swell.sdk.media import Image, LoRA  # noqa: E402
from swell.sdk.model_loader import load_models  # noqa: E402
from swell.weights.lora import WrongLora  # noqa: E402

with warnings.catch_warnings():
    # It imports all pipelines of diffusers, and some of them warn.
    warnings.simplefilter("ignore")
    from swell.diffusion.families.diffusers_pipeline_torch import loop_of, new_loop

pytestmark = pytest.mark.filterwarnings("ignore")

Build = Callable[[Path], Path]
PHOTO, MASK = Image(cases.PHOTO), Image(cases.MASK)
FEW: dict[str, Any] = {"steps": 4}


@pytest.mark.parametrize("case", loop_cases.CASES, ids=lambda case: case.name)
def test_an_own_loop_draws_what_diffusers_draws(case: cases.Case, tmp_path: Path) -> None:
    mine, theirs = case.run(tmp_path)
    assert mine.shape == theirs.shape
    assert theirs.std() > 20, "there is something to see"
    assert apart(mine, theirs) <= 1


def quietly(build: Build, folder: Path) -> Path:
    with contextlib.redirect_stderr(io.StringIO()):
        return build(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quietly(cases.sd(loop_cases.unipc), tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Definition, Any]:
    return cases.loaded(cases.add(folder, tmp_path_factory.mktemp("data"), "test/loop"))


def model_of(tmp_path: Path, build: Build, *options: str) -> tuple[Definition, Any]:
    made = quietly(build, tmp_path / "weights")
    return cases.loaded(cases.add(made, tmp_path / "data", "test/it", *options))


def apart(one: Any, other: Any) -> int:
    return int(np.abs(one.astype(int) - other).max())


class Listener:
    """Who hears of steps, and may stop at one."""

    def __init__(self, stop_at: int = 0) -> None:
        self.steps: list[tuple[int, int]] = []
        self.stop_at = stop_at

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def preview(self, make: Callable[[], Any]) -> None:
        make()

    def is_cancelled(self) -> bool:
        return bool(self.stop_at) and len(self.steps) >= self.stop_at


def heard(served: tuple[Definition, Any], listener: Listener, **asked: Any) -> Any:
    definition, model = served
    given = definition.input_type(prompt="a fox", **asked)
    [result] = model.run([Item(given, listener=listener)])
    return result


# What the table says


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_the_table_says_what_diffusers_does(name: str) -> None:
    kind = getattr(diffusers, name)
    told = inspect.signature(kind.__call__).parameters
    needed = [each for each, what in told.items() if what.default is what.empty]
    assert set(needed) - {"self", "kwargs"} <= {"prompt"}
    assert "prompt" in told
    assert loop_of(kind) == LOOPS[name]


def test_what_is_left_out_as_broken_is_broken(tmp_path: Path) -> None:
    made = quietly(loops.chroma, tmp_path)
    pipeline = diffusers.ChromaInpaintPipeline.from_pretrained(made)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(AttributeError, match="guidance_embeds"):
        pipeline("a fox", image=cases.PHOTO, mask_image=cases.MASK, num_inference_steps=2)


# Pictures


def test_pictures_of_another_size_are_resized_as_by_models_in_steps(
    served: tuple[Definition, Any],
) -> None:
    wide = Image(cases.PHOTO.resize((50, 30)))
    asked = {"image": wide, "strength": 0.6, "steps": 5, **cases.LONG}
    mine = cases.draw(*served, **asked)
    assert mine.shape == (96, 64, 3)
    fitted = Image(cases.PHOTO.resize((50, 30)).resize((64, 96), 1))
    np.testing.assert_array_equal(mine, cases.draw(*served, **{**asked, "image": fitted}))
    assert apart(mine, cases.draw(*served, steps=5, **cases.LONG)) > 3


@pytest.fixture(scope="module")
def by_runge_kutta(tmp_path_factory: pytest.TempPathFactory) -> tuple[Definition, Any]:
    """Of whose scheduler diffusers' pipeline for masks changes a setting."""
    return model_of(tmp_path_factory.mktemp("runge-kutta"), cases.sd(cases.runge_kutta))


@pytest.mark.parametrize("model", ["served", "by_runge_kutta"])
@pytest.mark.parametrize("in_between", [{"image": PHOTO}, {"image": PHOTO, "mask": MASK}])
def test_words_give_the_same_bits_after_pictures(
    request: pytest.FixtureRequest, model: str, in_between: dict[str, Any]
) -> None:
    served = request.getfixturevalue(model)
    plain = cases.draw(*served, **FEW)
    assert apart(plain, cases.draw(*served, **FEW, **in_between)) > 3
    np.testing.assert_array_equal(plain, cases.draw(*served, **FEW))


def test_weights_that_are_there_in_half_precision_alone_are_read(tmp_path: Path) -> None:
    def build(folder: Path) -> Path:
        tiny.stable_diffusion(folder, cases.runge_kutta())
        for part in ("unet", "text_encoder"):
            for path in (folder / part).glob("*.safetensors"):
                path.rename(path.with_suffix(".fp16.safetensors"))
        return folder

    whole = quietly(
        lambda folder: tiny.stable_diffusion(folder, cases.runge_kutta()), tmp_path / "w"
    )
    half = quietly(build, tmp_path / "h")
    drawn = [
        cases.draw(
            *cases.loaded(cases.add(folder, tmp_path / "data", f"test/{folder.name}")), **FEW
        )
        for folder in (whole, half)
    ]
    np.testing.assert_array_equal(*drawn)


def test_schedulers_of_pictures_are_chosen_as_that_of_words(tmp_path: Path) -> None:
    """The autoencoder's own mean leaves it to its own loop, whatever the sampler."""

    def build(folder: Path) -> Path:
        tiny.stable_diffusion(folder)
        config = folder / "vae" / "config.json"
        told = json.loads(config.read_text()) | {"latents_mean": [0.0] * 4}
        config.write_text(json.dumps(told))
        return folder

    served = model_of(tmp_path, build, "--sampler", "ddim")
    cases.draw(*served, **FEW, image=PHOTO, mask=MASK)
    cases.draw(*served, **FEW, image=PHOTO)
    schedulers = [each.scheduler for each in served[1]._siblings.values()]
    assert [type(each).__name__ for each in schedulers] == ["DDIMScheduler"] * 3
    assert len({id(each) for each in schedulers}) == 3


def test_pictures_take_no_second_copy_of_the_weights(served: tuple[Definition, Any]) -> None:
    _, model = served
    cases.draw(*served, **FEW, image=PHOTO, mask=MASK)
    cases.draw(*served, **FEW, image=PHOTO)
    pipelines = list(model._siblings.values())
    assert {type(each).__name__ for each in pipelines} == {
        "StableDiffusionPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionImg2ImgPipeline",
    }
    for part in ("unet", "vae", "text_encoder"):
        assert len({id(getattr(each, part)) for each in pipelines}) == 1


def test_a_mask_lies_over_a_picture(served: tuple[Definition, Any]) -> None:
    with pytest.raises(Reject, match="Give the picture that the mask lies over"):
        cases.draw(*served, **FEW, mask=MASK)


def test_a_painter_into_pictures_wants_both(tmp_path: Path) -> None:
    painter = model_of(tmp_path, cases.sd(loop_cases.heun, channels=9))
    with pytest.raises(Reject, match="give `image` and `mask`"):
        cases.draw(*painter, **FEW, image=PHOTO)
    [example] = painter[0].facts.examples
    assert cases.draw(*painter, **{**example, **FEW}).std() > 20


@pytest.mark.parametrize("more", [{}, {"mask": MASK}], ids=["start", "mask"])
@pytest.mark.parametrize("steps", [1, 4, 49])
def test_a_little_strength_is_one_step_as_in_models_in_steps(
    served: tuple[Definition, Any], more: dict[str, Any], steps: int
) -> None:
    listener = Listener()
    result = heard(served, listener, image=PHOTO, strength=0.01, steps=steps, **more)
    assert isinstance(result, Image)
    assert listener.steps == [(1, 1)]


def test_progress_counts_the_steps_that_are_drawn(served: tuple[Definition, Any]) -> None:
    listener = Listener()
    heard(served, listener, image=PHOTO, strength=0.5, steps=8)
    assert listener.steps == [(step, 4) for step in range(1, 5)]


def test_progress_of_older_pipelines_ends_at_its_total(tmp_path: Path) -> None:
    """They do not tell how many steps they draw of a picture."""
    pixels = model_of(tmp_path, loops.deep_floyd)
    for asked, total in (
        ({}, 6),
        ({"image": PHOTO, "strength": 0.5}, 3),
        ({"image": PHOTO, "mask": MASK, "strength": 0.34}, 2),
    ):
        listener = Listener()
        assert isinstance(heard(pixels, listener, steps=6, **asked), Image)
        assert listener.steps == [(step, total) for step in range(1, total + 1)]


def test_a_pipeline_of_pixels_has_the_sides_of_its_network(tmp_path: Path) -> None:
    definition, model = model_of(tmp_path, loops.deep_floyd)
    fields = definition.input_type.model_fields
    assert (fields["width"].default, fields["height"].default) == (64, 64)
    assert cases.draw(definition, model, steps=2).shape == (64, 64, 3)


def test_what_is_not_installed_is_told_and_no_accident(tmp_path: Path) -> None:
    """An entry that was written by hand may name such a pipeline."""
    made = quietly(cases.sd(), tmp_path / "weights")
    index = json.loads((made / "model_index.json").read_text())
    index["_class_name"] = "Cosmos2TextToImagePipeline"
    for part in ("feature_extractor", "safety_checker", "image_encoder"):
        index.pop(part, None)
    index["transformer"] = index.pop("unet")
    (made / "unet").rename(made / "transformer")
    (made / "model_index.json").write_text(json.dumps(index))
    path = tmp_path / "models" / "test--it.toml"
    write(path, Entry(name="test/it", folder=str(made), loop=Loop()))
    [definition] = load_models(str(path))
    with pytest.raises(
        InvalidModel, match=r"needs a package that is not installed: .*pip install cosmos_gu"
    ):
        definition.make().load("cpu")


def test_a_sibling_that_diffusers_does_not_have_is_told_when_it_is_loaded(tmp_path: Path) -> None:
    made = quietly(cases.sd(), tmp_path / "weights")
    index = json.loads((made / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionModelEditingPipeline"
    (made / "model_index.json").write_text(json.dumps(index))
    path = tmp_path / "models" / "test--it.toml"
    write(path, Entry(name="test/it", folder=str(made), loop=Loop(image="NoSuchPipeline")))
    [definition] = load_models(str(path))
    with pytest.raises(InvalidModel, match="NoSuchPipeline is no pipeline of diffusers"):
        definition.make().load("cpu")


def test_a_cancelled_picture_ends_within_a_step(served: tuple[Definition, Any]) -> None:
    listener = Listener(stop_at=2)
    assert isinstance(heard(served, listener, image=PHOTO, strength=1, steps=8), Cancelled)
    assert len(listener.steps) == 2


def test_a_picture_that_the_vae_cannot_hold_fails_and_is_not_black(
    served: tuple[Definition, Any],
) -> None:
    vae = served[1]._pipeline.vae
    with cases.overflowing(vae), pytest.raises(FloatingPointError, match="bfloat16"):
        cases.draw(*served, **FEW)
    assert cases.draw(*served, **FEW).std() > 20


def test_what_a_scheduler_cannot_do_is_refused_in_its_words(tmp_path: Path) -> None:
    def build(folder: Path) -> Path:
        scheduler = diffusers.LCMScheduler(original_inference_steps=20, thresholding=True)
        return tiny.stable_diffusion(folder, scheduler)

    consistent = model_of(tmp_path, build)
    with pytest.raises(Reject, match=r"pipeline cannot do that: .*num_inference_steps"):
        cases.draw(*consistent, steps=30)


def test_a_refiner_refines(tmp_path: Path) -> None:
    def build(folder: Path) -> Path:
        tiny.stable_diffusion_xl(folder)
        index = json.loads((folder / "model_index.json").read_text())
        index |= {
            "_class_name": "StableDiffusionXLImg2ImgPipeline",
            "requires_aesthetics_score": True,
        }
        # Numbers of five, not of six: two scales of the picture and its score.
        for part in ("text_encoder", "tokenizer"):
            index[part] = [None, None]
        (folder / "model_index.json").write_text(json.dumps(index))
        torch.manual_seed(0)
        tiny.unet(
            states=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=72,
            use_linear_projection=True,
        ).save_pretrained(folder / "unet")
        return folder

    refiner = model_of(tmp_path, build)
    with pytest.raises(Reject, match="refines pictures: give `image`"):
        cases.draw(*refiner, **FEW)
    mine = cases.draw(*refiner, steps=6, guidance=5.0, image=PHOTO, strength=0.5)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        tmp_path / "weights", text_encoder=None, tokenizer=None
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        cases.PROMPT,
        image=cases.SMALL,
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=5.0,
        generator=cases.generator(),
    ).images[0]
    assert theirs.size == (32, 32)
    assert apart(mine, np.asarray(theirs)) <= 1


# LoRAs of tasks


@pytest.fixture(scope="module")
def loras(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[LoRA]:
    place = tmp_path_factory.mktemp("loras")
    scales = {"ink": 0.3, "oil": -0.4}
    return [LoRA(tiny.lora(place / f"{n}.safetensors", folder, scale=s)) for n, s in scales.items()]


def test_each_task_has_its_own_loras(
    served: tuple[Definition, Any], folder: Path, loras: list[LoRA], tmp_path: Path
) -> None:
    definition, model = served
    plain = cases.draw(*served, **FEW)
    asked = [definition.input_type(prompt=cases.PROMPT, **FEW, loras=[each]) for each in loras]
    together = [
        np.asarray(each.pil()) for each in model.run([Item(a, seed=cases.SEED) for a in asked])
    ]
    for number, lora in enumerate(loras):
        by_hand = tiny.with_lora(folder, Path(lora.source), tmp_path / str(number))
        theirs = cases.draw(
            *cases.loaded(cases.add(by_hand, tmp_path / f"data-{number}", "test/it")), **FEW
        )
        assert apart(together[number], theirs) <= 1
        assert apart(together[number], plain) > 3
    assert apart(*together) > 3
    np.testing.assert_array_equal(plain, cases.draw(*served, **FEW))


def test_loras_of_tasks_are_beside_those_that_are_always_on(
    served: tuple[Definition, Any], folder: Path, loras: list[LoRA], tmp_path: Path
) -> None:
    ink, oil = loras
    inked = cases.loaded(cases.add(folder, tmp_path, "test/inked", "--lora", str(ink.source)))
    both = cases.draw(*served, **FEW, loras=loras)
    np.testing.assert_array_equal(both, cases.draw(*inked, **FEW, loras=[oil]))
    alone = cases.draw(*served, **FEW, loras=[ink])
    np.testing.assert_array_equal(alone, cases.draw(*inked, **FEW))


def test_loras_reach_pictures_that_start_from_pictures(
    served: tuple[Definition, Any], loras: list[LoRA]
) -> None:
    asked = {**FEW, "image": PHOTO, "strength": 1.0}
    plain = cases.draw(*served, **asked)
    assert apart(plain, cases.draw(*served, **asked, loras=loras[:1])) > 3


def test_a_lora_of_another_model_is_refused_and_nothing_stays(
    served: tuple[Definition, Any], tmp_path: Path
) -> None:
    other = quietly(tiny.stable_diffusion_xl, tmp_path / "xl")
    wrong = LoRA(tiny.lora(tmp_path / "wrong.safetensors", other))
    plain = cases.draw(*served, **FEW)
    with pytest.raises(WrongLora):
        cases.draw(*served, **FEW, loras=[wrong])
    np.testing.assert_array_equal(plain, cases.draw(*served, **FEW))


def test_loras_come_and_go_around_an_offload(
    served: tuple[Definition, Any], loras: list[LoRA]
) -> None:
    _, model = served
    inked = cases.draw(*served, **FEW, loras=loras[:1])
    assert model.offload() == model.memory_bytes > 0
    model.onload()
    plain = cases.draw(*served, **FEW)
    assert apart(plain, inked) > 3
    np.testing.assert_array_equal(inked, cases.draw(*served, **FEW, loras=loras[:1]))


def test_a_transformer_of_no_family_takes_loras(tmp_path: Path) -> None:
    chroma = model_of(tmp_path, loops.chroma)
    file = tiny.lora(tmp_path / "ink.safetensors", tmp_path / "weights", network="transformer")
    asked = {**FEW, **cases.LONG}
    plain = cases.draw(*chroma, **asked)
    assert apart(plain, cases.draw(*chroma, **asked, loras=[LoRA(file)])) > 3
    np.testing.assert_array_equal(plain, cases.draw(*chroma, **asked))


# Pipelines that no table knows


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("FluxFillPipeline", "it takes image, mask_image, masked_image_latents, which it may"),
        ("StableDiffusionUpscalePipeline", "it takes image"),
        ("AudioLDM2Pipeline", "audio_length_in_s"),
        ("TextToVideoSDPipeline", "num_frames"),
        ("KandinskyPipeline", "it needs image_embeds, negative_image_embeds"),
        ("KandinskyPriorPipeline", "something else than pictures"),
        ("StableDiffusionLDM3DPipeline", "something else than pictures"),
        ("StableDiffusionDiffEditPipeline", "mask_image"),
        ("DDPMPipeline", "it takes no prompt"),
        ("Cosmos2TextToImagePipeline", "draws nothing without its own CosmosSafetyChecker"),
        ("OnnxStableDiffusionPipeline", "draws nothing without its own OnnxRuntimeModel"),
        ("NoSuchPipeline", "has no NoSuchPipeline: a newer one may"),
        ("AutoPipelineForText2Image", "has no AutoPipelineForText2Image"),
        ("ModelMixin", "has no ModelMixin"),
    ],
)
def test_what_needs_more_than_words_is_refused_by_its_signature(name: str, why: str) -> None:
    with pytest.raises(InvalidModel, match=why):
        new_loop({"_class_name": name})


def test_a_part_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    index = {"_class_name": "AuraFlowPipeline", "extra": ["os", "system"]}
    with pytest.raises(InvalidModel, match="only parts of diffusers and transformers"):
        new_loop(index)


def made_of_all(name: str) -> dict[str, Any]:
    """Return an index that names all that a pipeline is made of."""
    parts = inspect.signature(getattr(diffusers, name).__init__).parameters
    return {"_class_name": name, **{part: [None, None] for part in parts}}


def test_a_pipeline_without_its_parts_is_refused_by_their_names() -> None:
    index = made_of_all("StableDiffusionPipeline")
    for part in ("unet", "vae", "image_encoder", "safety_checker"):
        del index[part]
    with pytest.raises(InvalidModel, match=r"does not name unet, vae, which StableDiffusionPip"):
        new_loop(index)


def test_all_that_is_in_the_table_would_be_found_by_signature() -> None:
    """But for those that take pictures, or have one return what they draw, which may be else."""
    open_ones = {
        "Flux2KleinPipeline",
        "Flux2Pipeline",
        "FluxKontextPipeline",
        "GlmImagePipeline",
        "OmniGenPipeline",
        "StableCascadeCombinedPipeline",
        "WuerstchenCombinedPipeline",
    }
    refused = set()
    for name in LOOPS:
        try:
            assert new_loop(made_of_all(name)) == LOOPS[name]
        except InvalidModel:
            refused.add(name)
    assert refused == open_ones


def test_a_new_pipeline_of_words_is_added_and_drawn(tmp_path: Path) -> None:
    """One that is in no table since its makers have built on it; its folder is that of SD 1."""
    made = quietly(cases.sd(tiny.ddim), tmp_path / "weights")
    index = json.loads((made / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionModelEditingPipeline"
    (made / "model_index.json").write_text(json.dumps(index))
    file = cases.add(made, tmp_path / "data", "test/new")
    entry = read(file)
    assert entry.loop is not None
    assert (entry.loop.steps, entry.loop.guidance) == (50, 7.5)
    definition, model = cases.loaded(file)
    assert not {"image", "mask", "strength"} & set(definition.input_type.model_fields)
    mine = cases.draw(definition, model, **cases.guided()["asked"])
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        made, safety_checker=None, feature_extractor=None, image_encoder=None
    )
    pipeline.set_progress_bar_config(disable=True)
    given = {**cases.guided()["given"], "generator": cases.generator()}
    assert apart(mine, np.asarray(pipeline(cases.PROMPT, **given).images[0])) <= 1
    again = cases.add(made, tmp_path / "data", "test/new")
    assert read(again) == entry, "the same, said again, is the same model"


def test_one_that_needs_more_is_not_added(tmp_path: Path) -> None:
    made = quietly(tiny.stable_diffusion, tmp_path / "weights")
    index = json.loads((made / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionDepth2ImgPipeline"
    (made / "model_index.json").write_text(json.dumps(index))
    command = ["models", "add", str(made), "--name", "test/it", "--data", str(tmp_path / "data")]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code != 0
    assert not list((tmp_path / "data").glob("models/*.toml"))


def test_a_picture_of_a_camera_is_resized_as_it_was_held() -> None:
    plain, held = tiny.picture(3).crop((0, 0, 48, 32)), PIL.Image.Exif()
    held[PIL.ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    plain.save(file, "PNG", exif=held)
    turned = plain.transpose(PIL.Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(_fitted(Image(file.getvalue()), "RGB", None), np.asarray(turned))
