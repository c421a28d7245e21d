"""Models of diffusers without code, with small random networks: against diffusers' own pipelines.

Needs torch, diffusers and transformers.
"""

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import family_cases as cases  # noqa: E402
import tiny_pipelines as tiny  # noqa: E402
from swell.core.clock import SystemClock  # noqa: E402
from swell.core.errors import InvalidModel  # noqa: E402
from swell.diffusion.families import pictures_torch  # noqa: E402
from swell.diffusion.run_locally import Runs  # noqa: E402
from swell.diffusion.step_engine import Request, StepEngine  # noqa: E402
from swell.diffusion.torch_arrays import TorchNoise  # noqa: E402
from swell.sdk.context import Cancelled, Item, Reject  # noqa: E402
from swell.sdk.media import Image, LoRA  # noqa: E402
from swell.sdk.model_loader import load_models  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

#: Levels of 255 that a pixel may differ by: sums in another order round to another level.
TOLERANCE = 1


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with contextlib.redirect_stderr(io.StringIO()):
        return tiny.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def served(sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A definition and its model, which the tests of this module share."""
    return cases.loaded(cases.add(sd, tmp_path_factory.mktemp("data"), "test/sd"))


def apart(one: Any, other: Any) -> int:
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize("case", cases.CASES, ids=[case.name for case in cases.CASES])
def test_a_seed_gives_the_picture_that_diffusers_gives(case: cases.Case, tmp_path: Path) -> None:
    mine, theirs = case.run(tmp_path)
    assert mine.shape == theirs.shape
    assert theirs.std() > 20, "a picture with nothing on it proves nothing"
    assert apart(mine, theirs) <= TOLERANCE


# What is asked counts


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "a blue cat"},
        {"negative_prompt": "a dog"},
        {"guidance": 3.0},
        {"steps": 5},
        {"image": Image(tiny.picture()), "strength": 0.5},
        {"image": Image(tiny.picture()), "strength": 0.9, "mask": Image(tiny.mask())},
        {"seed": 12},
    ],
    ids=lambda asked: "+".join(asked),
)
def test_each_field_changes_the_picture(served: Any, asked: dict[str, Any]) -> None:
    plain = cases.draw(*served, steps=4)
    assert apart(plain, cases.draw(*served, **{"steps": 4, **asked})) > 3


def test_what_a_mask_keeps_is_kept(served: Any) -> None:
    """Left of the mask the picture is what the autoencoder makes of it, whatever the prompt."""
    asked = {"image": Image(cases.SMALL), "mask": Image(tiny.mask(32)), "strength": 1.0, "steps": 4}
    one, other = (cases.draw(*served, prompt=text, **asked) for text in ("a fox", "the sea"))
    assert apart(one[:, :4], other[:, :4]) <= 12
    assert apart(one[:, 20:], other[:, 20:]) > 30


def test_a_large_picture_leaves_no_tiles_to_the_next(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some autoencoders decode large pictures in tiles, and would encode others in them too."""
    monkeypatch.setattr(pictures_torch, "_TILED_PX", 128 * 128)
    _, model = served
    asked = {"steps": 3, "strength": 0.6, "width": 96, "height": 96, "image": Image(tiny.picture())}
    drawn = []
    for _ in range(2):
        model.pictures.cache.clear()
        drawn.append(cases.draw(*served, **asked))
        cases.draw(*served, steps=1, width=160, height=160)
    np.testing.assert_array_equal(*drawn)


def test_a_picture_of_a_camera_is_drawn_on_as_it_was_held(served: Any) -> None:
    plain, held = tiny.picture(3).crop((0, 0, 48, 32)), PIL.Image.Exif()
    held[PIL.ExifTags.Base.Orientation] = 6
    file, turned = io.BytesIO(), plain.transpose(PIL.Image.Transpose.ROTATE_270)
    plain.save(file, "PNG", exif=held)
    told = {"steps": 3, "strength": 0.5, "mask": Image(tiny.mask(32))}
    one, other = (
        cases.draw(*served, **told, image=Image(each)) for each in (file.getvalue(), turned)
    )
    np.testing.assert_array_equal(one, other)


def test_a_mask_of_16_bits_is_one_of_8(served: Any) -> None:
    grey = np.asarray(tiny.picture(3, mode="L"))
    file = io.BytesIO()
    PIL.Image.fromarray(grey.astype(np.uint16) * 257).save(file, "PNG")
    told = {"steps": 3, "image": Image(tiny.picture())}
    one, other = (cases.draw(*served, **told, mask=Image(each)) for each in (file.getvalue(), grey))
    np.testing.assert_array_equal(one, other)


def test_a_picture_depends_on_nobody_beside_it(served: Any) -> None:
    definition, model = served
    asked = [
        definition.input_type(prompt="a red fox", steps=5, negative_prompt="a dog"),
        definition.input_type(prompt="a blue cat", steps=3, guidance=1.0),
        definition.input_type(prompt="the sea", steps=4, image=Image(tiny.picture()), strength=0.5),
    ]
    alone = [Runs(model)([Item(each, seed=5)])[0] for each in asked]
    together = Runs(model)([Item(each, seed=5) for each in asked])
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(np.asarray(one.pil()), np.asarray(other.pil()))


def test_a_picture_that_the_vae_cannot_hold_fails_and_is_not_black(served: Any) -> None:
    with (
        cases.overflowing(served[1].parts.vae),
        pytest.raises(FloatingPointError, match="bfloat16"),
    ):
        cases.draw(*served, steps=2)
    assert cases.draw(*served, steps=2).std() > 20


def test_samples_of_one_task_have_seeds_of_their_own(served: Any) -> None:
    definition, model = served
    given = definition.input_type(prompt="a red fox", steps=3, seed=40)
    made = Runs(model)([Item(given, seed=1, index=index, count=2) for index in range(2)])
    second = cases.draw(*served, steps=3, seed=41)
    np.testing.assert_array_equal(np.asarray(made[1].pil()), second)


def test_a_prompt_is_encoded_once_whatever_picture_and_seed_it_starts_from(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition, model = served
    encoded: list[Any] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda words: encoded.extend(words) or encode(words))
    told = {"prompt": "a red fox", "steps": 3, "seed": 40, "strength": 0.7}
    pictures = [Image(tiny.picture()), Image(tiny.picture(5))]
    given = [definition.input_type(image=each, **told) for each in pictures]
    items = [Item(each, index=index, count=4) for each in given for index in range(4)]
    made = [np.asarray(each.pil()) for each in Runs(model)(items)]
    assert [words.with_prompt for words in encoded] == [True, False]
    for one, picture in enumerate(pictures):
        for index in range(4):
            alone = cases.draw(*served, **told | {"image": picture, "seed": 40 + index})
            np.testing.assert_array_equal(made[4 * one + index], alone)
    assert len({picture.tobytes() for picture in made}) == 8


def test_variations_of_a_picture_are_the_nearer_the_smaller_they_are(served: Any) -> None:
    definition, model = served

    def pictures(share: float) -> list[Any]:
        given = definition.input_type(prompt="a red fox", steps=3, seed=40, variation=share)
        made = Runs(model)([Item(given, seed=1, index=index, count=2) for index in range(2)])
        return [np.asarray(each.pil()) for each in made]

    first = cases.draw(*served, steps=3, seed=40)
    second = cases.draw(*served, steps=3, seed=41)
    for share in (0.0, 0.1, 0.6, 1.0):
        np.testing.assert_array_equal(pictures(share)[0], first)
    np.testing.assert_array_equal(pictures(0.0)[1], first)
    np.testing.assert_array_equal(pictures(1.0)[1], second)
    near, far = (np.abs(pictures(share)[1].astype(int) - first).mean() for share in (0.1, 0.6))
    assert 0 < near < far


@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_sample_ends_as_if_nothing_had_happened(tmp_path: Path, step: int) -> None:
    """With noise in each step, masks and draws of the picture's latents: the stream goes on."""
    folder = tiny.stable_diffusion(tmp_path / "weights", cases.ancestral())
    definition, model = cases.loaded(cases.add(folder, tmp_path / "data", "test/it"))
    given = definition.input_type(
        prompt="a red fox",
        steps=6,
        image=Image(tiny.picture()),
        mask=Image(tiny.mask()),
        strength=0.9,
    )
    [whole] = Runs(model)([Item(given, seed=3)])
    ended: dict[str, Any] = {}
    first = StepEngine(SystemClock(), ended.__setitem__)
    first.add([Request(id="a", model=model, item=Item(given, seed=3))])
    while first.samples["a"].step < step:
        assert first.boundary()
    kept = first.checkpoint("a")
    assert kept is not None
    second = StepEngine(SystemClock(), ended.__setitem__)
    second.add([Request(id="a", model=model, item=Item(given, seed=3), checkpoint=kept)])
    assert second.samples["a"].step == step
    while second.boundary():
        pass
    np.testing.assert_array_equal(np.asarray(ended["a"].pil()), np.asarray(whole.pil()))


# LoRAs


@pytest.mark.parametrize(
    ("build", "network"),
    [
        (tiny.stable_diffusion, "unet"),
        (tiny.stable_diffusion_xl, "unet"),
        (tiny.stable_diffusion_3, "transformer"),
        (tiny.flux, "transformer"),
    ],
    ids=["sd", "sdxl", "sd 3", "flux"],
)
def test_a_lora_is_put_on_and_taken_off(
    build: Callable[[Path], Path], network: str, tmp_path: Path
) -> None:
    folder = build(tmp_path / "weights")
    file = tiny.lora(tmp_path / "ink.safetensors", folder, network=network)
    definition, model = cases.loaded(cases.add(folder, tmp_path / "data", "test/it"))
    plain = cases.draw(definition, model, steps=3)
    inked = cases.draw(definition, model, steps=3, loras=[LoRA(file)])
    half = cases.draw(definition, model, steps=3, loras=[LoRA(file, scale=0.5)])
    again = cases.draw(definition, model, steps=3)
    np.testing.assert_array_equal(plain, again)
    assert apart(plain, inked) > 3
    assert apart(half, inked) > 0
    # The same as weights to which the same was added.
    by_hand = tiny.with_lora(folder, file, tmp_path / "by-hand", network=network)
    added = cases.loaded(cases.add(by_hand, tmp_path / "other", "test/it"))
    assert apart(cases.draw(*added, steps=3), inked) <= TOLERANCE


def test_loras_of_the_model_are_always_on(sd: Path, tmp_path: Path) -> None:
    file = tiny.lora(tmp_path / "ink.safetensors", sd)
    entry = cases.add(sd, tmp_path, "test/inked", "--lora", f"{file}:0.5")
    fixed = cases.draw(*cases.loaded(entry), steps=3)
    plain = cases.loaded(cases.add(sd, tmp_path, "test/plain"))
    np.testing.assert_array_equal(fixed, cases.draw(*plain, steps=3, loras=[LoRA(file, scale=0.5)]))


def test_a_lora_of_another_trainer_finds_its_layers(tmp_path: Path) -> None:
    """Names of the first code, and of text encoders by number."""
    folder = tiny.stable_diffusion_xl(tmp_path / "weights")
    _, model = cases.loaded(cases.add(folder, tmp_path / "data", "test/it"))
    named = {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
        ),
        "lora_unet_output_blocks_0_1_transformer_blocks_1_attn2_to_v": (
            "up_blocks.0.attentions.0.transformer_blocks.1.attn2.to_v.weight"
        ),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": "text_encoder.",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1": "text_encoder_2.",
        # As diffusers writes them, and as they are called where CLIP has one level less.
        "text_encoder.text_model.encoder.layers.0.mlp.fc2": "text_encoder.",
        "text_encoder_2.encoder.layers.0.mlp.fc2": "text_encoder_2.",
    }
    weights = model._weights()
    state, touched = {}, []
    for layer, weight in named.items():
        if weight.startswith("text_encoder"):
            [weight] = [
                name
                for name in weights
                if name.startswith(weight) and name.endswith(f"layers.0.mlp.{layer[-3:]}.weight")
            ]
        rows, columns = weights[weight].shape
        state[f"{layer}.lora_up.weight"] = torch.ones(rows, 1)
        state[f"{layer}.lora_down.weight"] = torch.ones(1, columns)
        touched.append(weight)
    path = tmp_path / "kohya.safetensors"
    tiny.save_file(state, path)
    before = {name: weights[name].clone() for name in touched}
    model.adapt([LoRA(path)])
    for name in touched:
        torch.testing.assert_close(weights[name], before[name] + 1)
    model.adapt(())
    for name in touched:
        assert torch.equal(weights[name], before[name])


# Rows of exact mode


def test_steps_of_exact_mode_have_the_rows_that_were_asked_for(sd: Path, tmp_path: Path) -> None:
    definition, model = cases.loaded(cases.add(sd, tmp_path, "test/sd", "--bucket", "5"))
    assert definition.facts.step_bucket == 5
    seen = []
    denoise = model.denoise
    model.denoise = lambda x, *rest: seen.append(len(x)) or denoise(x, *rest)
    given = definition.input_type(prompt=cases.PROMPT, steps=3, guidance=5)
    items = [Item(given, seed=seed) for seed in (3, 4)]
    alone = [np.asarray(model.run([item])[0].pil()) for item in items]
    together = [np.asarray(result.pil()) for result in model.run(items)]
    assert set(seen) == {5}
    assert len(seen) == 3 + 3 + 3, "two pictures share each step"
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize(
    ("guidance", "side", "rows"), [(5.0, 1024, 2), (5.0, 64, 2), (1.0, 1024, 1), (1.0, 64, 2)]
)
def test_a_picture_that_fills_a_gpu_has_its_own_rows_alone(
    sd: Path, tmp_path: Path, guidance: float, side: int, rows: int
) -> None:
    definition, model = cases.loaded(cases.add(sd, tmp_path, "test/sd"))
    given = definition.input_type(
        prompt=cases.PROMPT, steps=1, guidance=guidance, width=side, height=side
    )
    assert model.prepare(Item(given, seed=1)).bucket == rows


# The device


def test_a_model_that_left_the_device_comes_back_as_it_was(sd: Path, tmp_path: Path) -> None:
    file = tiny.lora(tmp_path / "ink.safetensors", sd)
    definition, model = cases.loaded(cases.add(sd, tmp_path, "test/sd"))
    inked = cases.draw(definition, model, steps=3, loras=[LoRA(file)])
    assert model.offload() >= model.memory_bytes > 0
    model.onload()
    model.adapt([LoRA(file)])
    np.testing.assert_array_equal(inked, cases.draw(definition, model, steps=3, loras=[LoRA(file)]))


def test_the_network_may_compute_in_half_precision(sd: Path, tmp_path: Path, served: Any) -> None:
    half = cases.loaded(cases.add(sd, tmp_path, "test/half", "--dtype", "bfloat16"))
    assert half[1].memory_bytes < 0.6 * served[1].memory_bytes
    assert (
        0
        < np.abs(cases.draw(*half, steps=3).astype(int) - cases.draw(*served, steps=3)).mean()
        < 12
    )


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def drawn(model: Any, items: list[Item[Any]], rows: int) -> dict[str, Any]:
    """Draw in steps of this many rows."""
    ended: dict[str, Any] = {}
    denoiser = StepEngine(SystemClock(), ended.__setitem__, bucket=rows)
    denoiser.add(Request(id=str(n), model=model, item=item) for n, item in enumerate(items))
    while denoiser.boundary():
        pass
    return ended


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
def test_blocks_may_be_compiled_and_left_as_they_are(sd: Path, tmp_path: Path) -> None:
    file = tiny.lora(tmp_path / "ink.safetensors", sd)
    definition, model = cases.loaded(cases.add(sd, tmp_path / "data", "test/sd"))
    plain = cases.draw(definition, model, steps=2)
    inked = cases.draw(definition, model, steps=2, loras=[LoRA(file)])
    model.parts.compile()
    assert model.parts.is_compiled
    assert apart(plain, cases.draw(definition, model, steps=2)) <= TOLERANCE
    again = cases.draw(definition, model, steps=2, loras=[LoRA(file)])
    assert apart(inked, again) <= TOLERANCE, "weights change below what was compiled"
    for rows in (1, 2):
        model.call_network(rows)
    compiled = graphs()
    assert compiled > 0
    for rows in (1, 2, 3, 5):
        asked = [definition.input_type(prompt="a hare", steps=1, guidance=g) for g in (1.0, 7.0)]
        ended = drawn(model, [Item(each) for each in asked], rows)
        assert not any(isinstance(each, Exception) for each in ended.values())
    assert graphs() == compiled, "no step compiles anything"
    assert any((tmp_path / "data" / "compiled").rglob("*.so"))
    model.parts.leave_uncompiled()
    np.testing.assert_array_equal(plain, cases.draw(definition, model, steps=2))


# Own loops


class Heard:
    """Listens, and cancels after so many steps."""

    def __init__(self, most: int = 100) -> None:
        self.most, self.told, self.previews = most, [], []

    def progress(self, done: int, total: int) -> None:
        self.told.append((done, total))

    def preview(self, make: Callable[[], Any]) -> None:
        self.previews.append(make().pil().size)

    def is_cancelled(self) -> bool:
        return len(self.told) >= self.most


def own_loop(tmp_path: Path) -> tuple[Any, Any]:
    folder = tiny.stable_diffusion(tmp_path / "weights", cases.runge_kutta())
    return cases.loaded(cases.add(folder, tmp_path / "data", "test/own"))


def test_an_own_loop_tells_progress_and_previews(tmp_path: Path) -> None:
    definition, model = own_loop(tmp_path)
    heard = Heard()
    model.run([Item(definition.input_type(prompt="a fox", steps=5), seed=1, listener=heard)])
    assert heard.told[0] == (1, 5)
    assert heard.told[-1] == (5, 5)
    assert set(heard.previews) == {(32, 32)}


def test_an_own_loop_stops_within_one_step(tmp_path: Path) -> None:
    definition, model = own_loop(tmp_path)
    heard = Heard(most=2)
    asked = definition.input_type(prompt="a fox", steps=5)
    [ended] = model.run([Item(asked, seed=1, listener=heard)])
    assert isinstance(ended, Cancelled)
    assert len(heard.told) == 2


# What cannot be


def test_a_mask_needs_a_picture(served: Any) -> None:
    with pytest.raises(Reject, match="Give the picture"):
        cases.draw(*served, mask=Image(tiny.mask()))


def test_a_painter_into_pictures_needs_both(tmp_path: Path) -> None:
    folder = tiny.stable_diffusion(tmp_path / "weights", channels=9)
    made = cases.loaded(cases.add(folder, tmp_path / "data", "test/it"))
    with pytest.raises(Reject, match="paints into pictures"):
        cases.draw(*made)


def test_weights_that_changed_since_are_refused(sd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(sd, folder)
    file = cases.add(folder, tmp_path / "data", "test/it")
    [definition] = load_models(str(file))
    with next((folder / "unet").glob("*.safetensors")).open("ab") as weights:
        weights.write(b"more")
    with pytest.raises(InvalidModel, match="has changed since it was added"):
        definition.make()


def test_eight_bits_need_a_gpu_that_has_them(sd: Path, tmp_path: Path) -> None:
    [definition] = load_models(str(cases.add(sd, tmp_path, "test/it", "--quantize", "fp8")))
    with pytest.raises(InvalidModel, match="fp8 needs a GPU"):
        definition.make().load("cpu")


# Noise


@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 3), (3, 5, 7)])
def test_noise_is_the_stream_of_torch(shape: tuple[int, ...]) -> None:
    noise = TorchNoise(7, before=[shape], between=[shape, shape])
    generator = torch.Generator("cpu").manual_seed(7)
    drawn = [torch.randn(shape, generator=generator).numpy() for _ in range(6)]
    np.testing.assert_array_equal(noise.draw(shape), drawn[1])
    out = np.empty(shape, np.float32)
    noise.fill(out)
    np.testing.assert_array_equal(out, drawn[4])
    np.testing.assert_array_equal(noise.draw(shape), drawn[5])


def test_noise_has_no_seeds_below_zero() -> None:
    with pytest.raises(ValueError, match="seed=-1: use 0 or more"):
        TorchNoise(-1)
