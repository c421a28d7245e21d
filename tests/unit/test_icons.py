import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from denoise_harness import Ears
from pydantic import ValidationError

import swell
from manual_clock import ManualClock
from swell.diffusion.batch_buffers import table_of
from swell.diffusion.step_engine import Request, StepEngine
from swell.sdk.context import Cancelled, Item
from swell.sdk.media import Image
from swell.sdk.model_loader import load_models
from swell.sdk.step_model import whole

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

import swell_models
from swell.models.icons import LATENTS, STYLES, Icons, WordPiece
from swell.models.upscale import Upscale, Upscaler

SOURCE = Path(swell.__file__).parent
WEIGHTS = swell_models.path("files.json").parent


@pytest.fixture(scope="module")
def icons() -> Icons:
    model = Icons(threads=1)
    model.load("cpu")
    model.warmup()
    return model


def item(prompt: str = "cat", ears: Ears | None = None, **rest: Any) -> Item[Icons.Input]:
    rest = {"steps": 3, "size": 128, "seed": 1} | rest
    return Item(Icons.Input(prompt=prompt, **rest), listener=ears or Ears())


def pixels(result: Any) -> np.ndarray:
    assert isinstance(result, Image), result
    return np.asarray(result.pil()).astype(int)


def heard(rows: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """What the network may hear of so many samples, each of them another."""
    rng = np.random.default_rng(rows)
    return (
        rng.standard_normal((rows, 48, 8, 8), np.float32),
        rng.random(rows, np.float32),
        {
            "states": rng.standard_normal((rows, 16, 384), np.float32),
            "sentence": rng.standard_normal((rows, 384), np.float32),
            "style": rng.integers(-1, len(STYLES), rows),
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5])
def test_a_row_has_the_same_bits_however_many_rows_and_cores_there_are(
    icons: Icons, threads: int
) -> None:
    model = Icons(threads)
    model.load("cpu")
    x, t, conditions = heard(16)

    def said(start: int, end: int) -> list[bytes]:
        part = {name: rows[start:end] for name, rows in conditions.items()}
        rows = model.denoise(x[start:end], t[start:end], part)
        return [row.tobytes() for row in rows]

    alone = [icons.denoise(x[n : n + 1], t[n : n + 1], _one(conditions, n)) for n in range(16)]
    expected = [row.tobytes() for row in alone]
    assert said(0, 16) == expected
    assert said(0, 6) == expected[:6]
    assert said(3, 15) == expected[3:15]
    assert said(0, 4) == expected[:4]
    assert said(1, 6) == expected[1:6]
    assert said(4, 5) == expected[4:5]


def _one(conditions: dict[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    return {name: rows[row : row + 1] for name, rows in conditions.items()}


def test_the_tokenizer_cuts_words_as_bert_does() -> None:
    words = WordPiece(WEIGHTS / "icons-vocab.txt")
    pieces = (WEIGHTS / "icons-vocab.txt").read_text().splitlines()

    def cut(text: str) -> list[str]:
        return [pieces[i] for i in words.ids(text)]

    assert cut("A Red fox!") == ["[CLS]", "a", "red", "fox", "!", "[SEP]"]
    assert cut("café") == ["[CLS]", "cafe", "[SEP]"]
    assert cut("") == ["[CLS]", "[SEP]"]
    assert cut("t-shirt, blue_ish")[:5] == ["[CLS]", "t", "-", "shirt", ","]
    long = cut("zyzzyvaphobia")[1:-1]
    assert "".join(p.removeprefix("##") for p in long) == "zyzzyvaphobia"
    assert "[UNK]" in cut("猫")
    assert len(words.ids("cat " * 400)) == 64


@pytest.mark.slow
def test_a_picture_is_the_same_alone_and_among_others(icons: Icons) -> None:
    alone = pixels(icons.run([item("a blue cat", style="ink", guidance=5)])[0])
    others = [item("dog", seed=9), item("a blue cat", style="ink", guidance=5), item("sun " * 60)]
    among = pixels(icons.run(others)[1])
    assert np.abs(alone - among).max() <= 2
    assert np.abs(alone - pixels(icons.run([item("a blue cat", style="ink", seed=2)])[0])).max() > 9


@pytest.mark.slow
def test_an_input_without_a_seed_takes_the_one_of_its_item(icons: Icons) -> None:
    given = Icons.Input(prompt="cat", steps=2, size=128)
    a, b = icons.run([Item(given, seed=5), Item(given, seed=6)])
    fixed = Icons.Input(prompt="cat", steps=2, size=128, seed=5)
    assert np.abs(pixels(a) - pixels(b)).max() > 9
    assert np.abs(pixels(a) - pixels(icons.run([Item(fixed, seed=7)])[0])).max() <= 2


def test_samples_of_one_task_differ_though_it_fixes_the_seed(icons: Icons) -> None:
    fixed = Icons.Input(prompt="cat", steps=2, size=128, seed=5)
    a, b = icons.run([Item(fixed, index=0, count=2), Item(fixed, index=1, count=2)])
    assert np.abs(pixels(a) - pixels(b)).max() > 9


def test_neighbouring_seeds_choose_different_looks_and_the_same_seed_the_same(
    icons: Icons,
) -> None:
    words = [icons.prepare(item("a fox", seed=seed)).words for seed in range(12)]
    assert all(len(set(words[at : at + 4])) == 4 for at in range(9))
    assert words[:6] == words[6:]
    assert {icons.prepare(item("a fox", seed=n, vary=False)).words for n in range(6)} == {"a fox"}
    assert {icons.prepare(item("a fox at night", seed=n)).words for n in range(6)} == {
        "a fox at night"
    }


@pytest.mark.slow
def test_four_pictures_of_a_task_look_different_and_can_be_drawn_again(icons: Icons) -> None:
    def drawn() -> list[np.ndarray]:
        given = Icons.Input(prompt="a rokcet", steps=4, size=128, seed=1)
        ears = Ears()
        found = [
            pixels(whole(each))
            for each in icons.run([Item(given, index=n, listener=ears) for n in range(4)])
        ]
        assert {each.code for each in ears.warnings} == {"typo"}
        return found

    first, again = drawn(), drawn()
    for place, picture in enumerate(first):
        assert np.array_equal(picture, again[place])
        for other in first[:place]:
            assert np.abs(picture - other).mean() > 20


@pytest.mark.parametrize("size", [128, 512])
def test_a_seed_may_mirror_its_picture(icons: Icons, size: int) -> None:
    latents = np.random.default_rng(0).standard_normal(LATENTS, np.float32)
    plain = pixels(whole(icons.decode(latents, item("a blue cat", seed=0, size=128))))
    assert np.array_equal(
        pixels(whole(icons.decode(latents, item("a blue cat", seed=1, size=128)))), plain[:, ::-1]
    )
    mark = pixels(whole(icons.decode(latents, item("a check mark", seed=1, size=128))))
    assert np.array_equal(mark, plain)
    assert pixels(whole(icons.decode(latents, item(seed=1, size=size)))).shape == (size, size, 3)


def test_a_cancelled_item_stops_at_the_next_step_and_others_go_on(icons: Icons) -> None:
    stops, goes = Ears(stop_after=1), Ears()
    results = icons.run([item(ears=stops, steps=4), item(ears=goes, steps=4)])
    assert isinstance(results[0], Cancelled)
    assert isinstance(results[1], Image)
    assert stops.heard == [(1, 4)]
    assert goes.heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_work_ends_once_every_item_is_cancelled(icons: Icons) -> None:
    ears = Ears(stop_after=2)
    assert isinstance(icons.run([item(ears=ears, steps=50)])[0], Cancelled)
    assert len(ears.heard) == 2


@pytest.mark.slow
def test_a_sample_has_the_same_bits_whoever_it_is_drawn_with(icons: Icons) -> None:
    wanted = item("a blue cat", style="ink", seed=3, steps=4)
    others = [item("dog", steps=2), item("sun", guidance=1, steps=5), item(seed=9)]
    alone = pixels(icons.run([wanted])[0])
    for bucket in (None, 2, 4, 8):
        results: dict[str, Any] = {}
        denoiser = StepEngine(ManualClock(), results.__setitem__, bucket=bucket)
        for name, one in enumerate([*others, wanted]):
            denoiser.add([Request(id=str(name), model=icons, item=one)])
            denoiser.boundary()
        while denoiser.boundary():
            pass
        is_same = icons.batch_invariant or bucket in (None, icons.bucket)
        assert np.abs(pixels(results["3"]) - alone).max() <= (0 if is_same else 1)


@pytest.mark.slow
def test_rows_that_differ_by_their_company_keep_the_bucket(icons: Icons) -> None:
    class Differs(Icons):
        def denoise(self, x: Any, t: Any, conditions: Any) -> Any:
            return super().denoise(x, t, conditions) + np.float32(len(x) / 1024)

    model = Differs()
    model.load("cpu")
    model.warmup()
    assert not model.batch_invariant
    assert icons.batch_invariant


def test_guidance_of_one_needs_no_second_row(icons: Icons) -> None:
    assert icons.prepare(item(guidance=1)).guidance is None
    assert icons.prepare(item(guidance=0)).guidance == 0


@pytest.mark.parametrize("steps", [1, 7, 12, 50])
def test_time_goes_in_even_steps_from_noise_to_picture(icons: Icons, steps: int) -> None:
    table = table_of(icons.prepare(item(steps=steps)).sampler)
    times = np.linspace(1, 0, steps + 1, dtype=np.float32)
    assert np.array_equal(table.timesteps.astype(np.float32), times[:-1])
    assert np.array_equal(table.coefficients[:, 1], np.diff(times))


def test_previews_are_small_pictures_made_on_demand(icons: Icons) -> None:
    ears = Ears()
    icons.run([item(ears=ears)])
    assert len(ears.previews) == 3
    assert ears.previews[0]().size == (128, 128)


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
def test_another_thread_decodes_small_pictures_where_each_core_has_rows_of_its_own(
    cores: int,
) -> None:
    icons = Icons(cores)
    icons.load("cpu")
    latents = np.random.default_rng(1).standard_normal(LATENTS, np.float32)
    small = icons.decode(latents, item())
    assert callable(small) == (cores == 2)
    seen = np.asarray(icons.preview(latents, item())).astype(int)
    assert np.abs(pixels(whole(small)) - seen).max() <= 1
    assert isinstance(icons.decode(latents, item(size=512)), Image)


@pytest.mark.slow
def test_the_large_size_is_the_small_picture_enlarged(icons: Icons) -> None:
    small, large = icons.run([item("heart", steps=6), item("heart", steps=6, size=512)])
    assert isinstance(large, Image)
    assert large.pil().size == (512, 512)
    again = np.asarray(large.pil().resize((128, 128), PIL.Image.Resampling.BOX)).astype(int)
    assert np.abs(again - pixels(small)).mean() < 6


@pytest.mark.slow
def test_a_heart_is_red_and_a_blue_cat_is_blue(icons: Icons) -> None:
    heart, cat = icons.run(
        [item("red heart", steps=8, style="flat"), item("a blue cat", steps=8, style="flat")]
    )
    red, blue = (pixels(p)[40:88, 40:88].mean((0, 1)) for p in (heart, cat))
    assert red[0] > red[2] + 60
    assert blue[2] > blue[0] + 60


@pytest.mark.parametrize("style", [*STYLES, "none"])
def test_every_style_draws(icons: Icons, style: str) -> None:
    assert pixels(icons.run([item(style=style)])[0]).shape == (128, 128, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": "   "},
        {"prompt": "\x00\x00"},
        {"prompt": "\u200b \u00ad\n"},
        {"prompt": "x" * 501},
        {"prompt": "cat", "style": "oil"},
        {"prompt": "cat", "steps": 0},
        {"prompt": "cat", "steps": 51},
        {"prompt": "cat", "size": 64},
        {"prompt": "cat", "seed": -1},
        {},
    ],
)
def test_inputs_that_cannot_be_drawn_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Icons.Input(**wrong)


@pytest.mark.parametrize("prompt", ["猫", "🦊", "cat\x00", "ñandú", "a" * 500, "!" * 500])
def test_strange_prompts_still_give_a_picture(icons: Icons, prompt: str) -> None:
    assert pixels(icons.run([item(prompt, steps=1)])[0]).shape == (128, 128, 3)


def test_a_blank_prompt_is_refused_in_words_and_by_the_schema() -> None:
    with pytest.raises(ValidationError, match="The prompt is empty"):
        Icons.Input(prompt=" ")
    assert Icons.Input.model_json_schema()["properties"]["prompt"]["pattern"] == r"\S"


def test_an_empty_batch_is_no_work(icons: Icons) -> None:
    assert icons.run([]) == []


@pytest.mark.slow
def test_tiles_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    upscaler = Upscaler(threads=1)
    whole = upscaler(picture)
    assert whole.shape == (160, 360, 3)
    monkeypatch.setattr("swell.models.upscale.TILE_PX", 32)
    assert np.abs(upscaler(picture).astype(int) - whole).max() <= 1


def test_the_upscaler_keeps_transparency_and_refuses_what_is_too_large() -> None:
    model = Upscale(threads=1)
    model.load("cpu")
    clear = PIL.Image.new("RGBA", (20, 10), (200, 30, 30, 128))
    [kept] = model.run([Item(Upscale.Input(image=Image(clear)))])
    assert isinstance(kept, Image)
    assert kept.pil().mode == "RGBA"
    assert kept.pil().size == (80, 40)
    with pytest.raises(ValidationError, match="1025 x 4 px: give 1024 px a side at most"):
        Upscale.Input(image=Image(PIL.Image.new("RGB", (1025, 4))))


@pytest.mark.parametrize("name", ["swell/icons", "swell/upscale"])
def test_the_models_are_built_in(name: str) -> None:
    definition = load_models(name)[0]
    assert definition.name == name
    assert all(path.is_file() for path in definition.files)


def test_the_card_says_what_it_repeats_and_where_the_judge_is_blind() -> None:
    card = " ".join((Icons.__doc__ or "").split())
    script = (SOURCE.parents[1] / "benchmarks/model_quality.py").read_text("utf-8")
    method = " ".join(str(ast.get_docstring(ast.parse(script))).split())
    assert "repeats them closely" in card
    assert "It cannot judge `ink`: it recognised 9 % of the drawn icons and 10 % of the" in card
    assert "The drawn icons resemble those of the training set" in method
    assert "Of `ink` the stranger says nothing" in method


def test_the_card_says_whose_art_was_learned_from() -> None:
    sets = json.loads((WEIGHTS / "sets.json").read_text())
    notice = (SOURCE.parents[1] / "packages/swell-models/NOTICE.md").read_text()
    card = Icons.__doc__ or ""
    for key, one in sets.items():
        assert key in STYLES
        assert one["author"]["name"] in notice
        assert one["author"]["name"].split()[0] in card
        assert one["licence"]["spdx"] in card


@pytest.mark.slow
def test_nothing_in_swell_imports_torch_but_what_models_import_for_it() -> None:
    for_models = {
        SOURCE / "diffusion" / "torch_arrays.py",
        *(SOURCE / "weights" / f"torch_{each}.py" for each in ("compiled", "lora", "tensors")),
        *(SOURCE / "diffusion" / "families").glob("*_torch.py"),
    }
    for path in set(SOURCE.rglob("*.py")) - for_models:
        tree = ast.parse(path.read_text())
        # A family's file imports it in methods, when a model is loaded.
        for node in tree.body if path.parent.name == "families" else ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torch" for name in names), path


def test_the_page_of_the_docs_has_the_facts_of_the_card() -> None:
    page = SOURCE.parents[1] / "docs" / "models" / "README.md"
    if not page.is_file():
        pytest.skip("installed without its documentation")
    card = inspect.cleandoc(Icons.__doc__ or "")
    told = " ".join(page.read_text(encoding="utf-8").split())
    licences = re.findall(r"^\| `\w+` \|.*$", card, re.MULTILINE)
    assert len(licences) == len(STYLES)
    facts = re.findall(r"\d[\d,.]* (?:icons|M parameters|MB|hours)", card)
    assert len(facts) > 3
    assert [each for each in (*licences, *facts) if each not in told] == []
