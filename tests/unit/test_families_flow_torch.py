"""Masks and control nets of Stable Diffusion 3 and Flux: against diffusers' own pipelines.

Needs torch, diffusers and transformers.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers  # noqa: E402

import family_cases as cases  # noqa: E402
import flow_cases as flow  # noqa: E402
import tiny_pipelines as tiny  # noqa: E402
from swell.diffusion.families.offload_plan import CHOICES  # noqa: E402
from swell.diffusion.run_locally import Runs  # noqa: E402
from swell.sdk.context import Item, Reject  # noqa: E402
from swell.sdk.media import Image, LoRA  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

#: Levels of 255 that a pixel may differ by: sums in another order round to another level.
TOLERANCE = 1

FAMILIES = {
    "sd 3": (tiny.stable_diffusion_3, tiny.control_net_3),
    "flux": (tiny.flux, tiny.control_net_flux),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are the fastest so, whoever else is at work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Made:
    """A folder of weights with a control net beside it."""

    def __init__(self, place: Path, family: str) -> None:
        self.place = place
        build, net = FAMILIES[family]
        with contextlib.redirect_stderr(io.StringIO()):
            self.weights = build(place / "weights")
            self.net = net(place / "net", self.weights)

    def loaded(self, name: str, *options: str) -> tuple[Any, Any]:
        entry = cases.add(
            self.weights,
            self.place / "data",
            f"test/{name}",
            "--controlnet",
            str(self.net),
            *options,
        )
        return cases.loaded(entry)


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"), request.param)


@pytest.fixture(scope="module")
def served(made: Made) -> tuple[Any, Any]:
    """A definition and its model, which the tests of this module share."""
    return made.loaded("it")


def apart(one: Any, other: Any) -> int:
    return int(np.abs(one.astype(int) - other).max())


class Shown:
    """What transformers are shown in each step, of each network one after another.

    Small networks hear little of what is far away, so that a picture alone tells little of it.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.networks: list[Any] = []
        self.steps: list[list[Any]] = []
        for kind in (diffusers.SD3Transformer2DModel, diffusers.FluxTransformer2DModel):
            patch.setattr(kind, "forward", self._noting(kind.forward))

    def _noting(self, forward: Any) -> Any:
        def noting(network: Any, **given: Any) -> Any:
            if not self.networks or self.networks[-1] is not network:
                self.networks.append(network)
                self.steps.append([])
            added = [given.get(name) for name in ADDED]
            told = [given["hidden_states"], *(each for every in added for each in every or ())]
            self.steps[-1].append([each.clone() for each in told])
            return forward(network, **given)

        return noting


#: What control nets add, as networks name it.
ADDED = (
    "block_controlnet_hidden_states",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
)


@pytest.mark.parametrize("case", flow.CASES, ids=[case.name for case in flow.CASES])
def test_a_seed_gives_the_picture_that_diffusers_gives(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown(monkeypatch)
    mine, theirs = case.run(tmp_path)
    assert mine.shape == theirs.shape
    assert theirs.std() > 20, "a picture with nothing on it proves nothing"
    assert apart(mine, theirs) <= TOLERANCE
    one, other = shown.steps
    assert len(one) == len(other) > 2
    for step, told in zip(one, other, strict=True):
        # The row with the prompt is the first one here, and the last one there.
        ours, its = ([each[row] for each in rows] for row, rows in ((0, step), (-1, told)))
        torch.testing.assert_close(ours, its, atol=1e-4, rtol=1e-3)


SIDES = {"width": 64, "height": 64}
CONTROL = {"control": Image(tiny.picture(5))}
UNDER = {"image": Image(tiny.picture()), "mask": Image(tiny.mask(32)), "strength": 0.9}


@pytest.mark.parametrize(
    "asked",
    [
        CONTROL,
        {**CONTROL, "control_scale": 0.4},
        {**CONTROL, "image": Image(tiny.picture()), "strength": 0.7},
        UNDER,
        {**UNDER, **CONTROL},
    ],
    ids=lambda asked: "+".join(asked),
)
def test_each_field_changes_the_picture(served: Any, asked: dict[str, Any]) -> None:
    without = {name: value for name, value in asked.items() if name != list(asked)[-1]}
    if "mask" in asked and "control" not in asked:
        without = {name: value for name, value in asked.items() if name != "mask"}
    size = {**SIDES, "steps": 4}
    plain, changed = (cases.draw(*served, **size, **told) for told in (without, asked))
    assert apart(plain, changed) > 3


def test_a_map_of_depth_in_16_bits_is_one_of_8(served: Any) -> None:
    grey = np.asarray(tiny.picture(5, mode="L"))
    file = io.BytesIO()
    PIL.Image.fromarray(grey.astype(np.uint16) * 257).save(file, "PNG")
    told = {**SIDES, "steps": 2}
    one, other = (
        cases.draw(*served, **told, control=Image(each)) for each in (file.getvalue(), grey)
    )
    np.testing.assert_array_equal(one, other)


def test_a_scale_of_nothing_is_no_control_net(served: Any) -> None:
    size = {**SIDES, "steps": 3}
    plain = cases.draw(*served, **size, seed=5)
    # Flux draws the latents of the net's picture first, so that other noise is left.
    without = cases.draw(*served, **size, **CONTROL, control_scale=0.0, seed=5)
    assert (apart(plain, without) == 0) == (served[1].facts.family.name != "flux")


def test_what_a_mask_keeps_is_kept(served: Any) -> None:
    """Left of the mask, the picture's own latents are decoded, whatever the prompt."""
    asked = {**UNDER, "strength": 1.0, "steps": 4, **SIDES}
    decoded: list[Any] = []
    decoder = served[1].parts.modules["vae"].decoder
    hook = decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(inputs[0]))
    for text in ("a fox", "the sea"):
        cases.draw(*served, prompt=text, **asked)
    hook.remove()
    one, other = decoded
    half = one.shape[-1] // 2
    assert torch.equal(one[..., :half], other[..., :half])
    assert not torch.allclose(one[..., half:], other[..., half:], atol=0.01)


def test_a_picture_depends_on_nobody_beside_it(served: Any) -> None:
    """Rows of one step have scales, masks and starts of their own."""
    definition, model = served
    size = SIDES
    asked = [
        definition.input_type(prompt="a red fox", steps=5, **size, **CONTROL),
        definition.input_type(prompt="a blue cat", steps=3, control_scale=0.3, **size, **CONTROL),
        definition.input_type(prompt="the sea", steps=4, **size, **UNDER),
        definition.input_type(prompt="the sea", steps=5, **size, **UNDER | {"strength": 1.0}),
        definition.input_type(prompt="a tree", steps=4, **size, **UNDER, **CONTROL),
        definition.input_type(prompt="a tree", steps=3, **size),
        definition.input_type(
            prompt="a tree", steps=4, image=Image(tiny.picture()), strength=0.7, **size, **CONTROL
        ),
    ]
    alone = [Runs(model)([Item(each, seed=5)])[0] for each in asked]
    together = Runs(model)([Item(each, seed=5) for each in asked])
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(np.asarray(one.pil()), np.asarray(other.pil()))


def test_conditions_are_of_a_seed_only_where_the_control_nets_picture_is_drawn_with_it(
    served: Any,
) -> None:
    """Whatever picture it starts from; where nobody has one, they are of the prompt alone."""
    definition, model = served

    def heard(**told: Any) -> int:
        told = {"prompt": "a fox", "strength": 0.7, **SIDES, **told}
        given = definition.input_type(**told)
        return len({model.prepare(Item(given, seed=seed)).words for seed in (1, 2)})

    start = {"image": Image(tiny.picture())}
    assert heard(**start) == 1
    assert heard(**start, **CONTROL) == heard(**CONTROL) == 1 + (model.facts.family.name == "flux")
    assert heard(**UNDER) == 2


def test_the_control_nets_picture_has_the_middle_of_its_latents_whatever_the_seed(
    tmp_path: Path,
) -> None:
    """Of Stable Diffusion 3, where diffusers' draw is of no seed; with zeros, without the shift."""
    made = Made(tmp_path, "sd 3")
    definition, model = made.loaded("it")
    given = definition.input_type(prompt="a fox", **CONTROL)
    words = [model.planner.words(given, seed) for seed in (1, 2)]
    one, other = (model.encode([each])[0]["control"] for each in words)
    assert torch.equal(one, other)
    vae = diffusers.AutoencoderKL.from_pretrained(made.weights, subfolder="vae")
    pixels = model.pictures.pixels(words[0].control, words[0])
    with torch.no_grad():
        middle = vae.encode(pixels).latent_dist.mode()[0] * vae.config.scaling_factor
    assert vae.config.shift_factor
    torch.testing.assert_close(one, middle)


# What else a model may have


@pytest.mark.parametrize("choice", [each for each in CHOICES if each not in ("auto", "never")])
def test_a_picture_has_the_same_bits_wherever_parts_live(made: Made, choice: str) -> None:
    asked = {"steps": 3, **SIDES, **CONTROL, **UNDER}
    pictures = []
    for place in ("never", choice):
        definition, model = made.loaded(f"{choice}-{place}", "--offload", place)
        # At round addresses, as in the tests of offloading.
        model.offload()
        model.onload()
        pictures.append(cases.draw(definition, model, **asked))
    np.testing.assert_array_equal(*pictures)


def test_with_always_the_control_net_stays_with_what_draws(made: Made) -> None:
    definition, model = made.loaded("always", "--offload", "always")
    cases.draw(definition, model, steps=2, **SIDES, **CONTROL)
    visitors = model.parts._visitors
    assert {"transformer", "controlnet"} & visitors.keys() == set()
    assert {"vae", "text_encoder"} <= visitors.keys()


def test_loras_go_with_control_nets_and_masks(made: Made, served: Any, tmp_path: Path) -> None:
    file = tiny.lora(tmp_path / "ink.safetensors", made.weights, network="transformer")
    asked = {"steps": 3, **SIDES, **CONTROL, **UNDER}
    plain, inked, again = (
        cases.draw(*served, **asked, loras=loras) for loras in ([], [LoRA(file)], [])
    )
    np.testing.assert_array_equal(plain, again)
    assert apart(plain, inked) > 3


def test_the_networks_may_compute_in_half_precision(made: Made, served: Any) -> None:
    half = made.loaded("half", "--dtype", "bfloat16")
    asked = {"steps": 3, **SIDES, **CONTROL, **UNDER}
    found = np.abs(cases.draw(*half, **asked).astype(int) - cases.draw(*served, **asked)).mean()
    assert 0 < found < 12


def test_a_folder_with_its_own_net_draws_as_one_that_was_given(
    made: Made, served: Any, tmp_path: Path
) -> None:
    pipeline_type, net_type = {
        "flux": (diffusers.FluxControlNetPipeline, diffusers.FluxControlNetModel),
        "stable-diffusion-3": (
            diffusers.StableDiffusion3ControlNetPipeline,
            diffusers.SD3ControlNetModel,
        ),
    }[served[1].facts.family.name]
    with contextlib.redirect_stderr(io.StringIO()):
        pipeline_type.from_pretrained(
            made.weights,
            controlnet=net_type.from_pretrained(made.net),
            feature_extractor=None,
            image_encoder=None,
        ).save_pretrained(tmp_path / "whole")
    own = cases.loaded(cases.add(tmp_path / "whole", tmp_path / "data", "test/own"))
    asked = {"steps": 3, **SIDES, **CONTROL}
    np.testing.assert_array_equal(cases.draw(*own, **asked), cases.draw(*served, **asked))


# What cannot be


@pytest.mark.parametrize(
    "build",
    [flow.flux(fills=True), flow.three(channels=16, sees_mask=True)],
    ids=["flux fill", "sd 3"],
)
def test_a_painter_into_pictures_needs_both(build: Any, tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        made = cases.loaded(cases.add(build(tmp_path / "weights"), tmp_path / "data", "test/it"))
    with pytest.raises(Reject, match="paints into pictures"):
        cases.draw(*made)
    with pytest.raises(Reject, match="Give the picture"):
        cases.draw(*made, mask=Image(tiny.mask()))


def test_a_net_of_another_family_is_refused_when_it_is_added(made: Made, tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        net = tiny.control_net(tmp_path / "net", tiny.stable_diffusion(tmp_path / "sd"))
    with pytest.raises(AssertionError, match="net/ is a ControlNetModel: give a control net"):
        cases.add(made.weights, tmp_path / "data", "test/it", "--controlnet", str(net))
