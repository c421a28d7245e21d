"""Parts that live in the host's memory, and come for their stage: on the CPU, where both are one.

Needs torch, diffusers and transformers.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import family_cases as cases  # noqa: E402
import tiny_pipelines as tiny  # noqa: E402
from swell.core.errors import InvalidModel  # noqa: E402
from swell.diffusion.families.components_torch import read_parts  # noqa: E402
from swell.diffusion.families.model_config import read  # noqa: E402
from swell.diffusion.families.model_definition import describe  # noqa: E402
from swell.diffusion.families.offload_plan import CHOICES, working  # noqa: E402
from swell.sdk.media import Image, LoRA  # noqa: E402
from swell.sdk.model_loader import load_models  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

OFFLOADED = [choice for choice in CHOICES if choice not in ("auto", "never")]


class Made:
    """One folder of weights, added in several ways."""

    def __init__(self, place: Path, build: Any, *options: str) -> None:
        self.place, self.options = place, options
        with contextlib.redirect_stderr(io.StringIO()):
            self.weights = build(place / "weights")

    def entry(self, choice: str, *more: str) -> Path:
        name = f"test/{choice}-{len(more)}"
        given = ("--offload", choice, *self.options, *more)
        return cases.add(self.weights, self.place / "data", name, *given)

    def loaded(self, choice: str, *more: str) -> tuple[Any, Any]:
        """Return a model whose weights all lie at round addresses.

        Those of a file need not, and the CPU's kernels then add in another order.
        """
        definition, model = cases.loaded(self.entry(choice, *more))
        model.offload()
        model.onload()
        return definition, model


BUILDS = {
    "sd": tiny.stable_diffusion,
    "sdxl": tiny.stable_diffusion_xl,
    "sd 3": tiny.stable_diffusion_3,
    "flux": tiny.flux,
}


@pytest.fixture(scope="module", params=BUILDS.values(), ids=BUILDS)
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"), request.param)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("sd"), tiny.stable_diffusion)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """With a control net and a picture adapter."""
    made = Made(tmp_path_factory.mktemp("full"), tiny.stable_diffusion_xl)
    net = tiny.control_net(made.place / "net", made.weights)
    adapter = tiny.ip_adapter(made.place / "adapter", made.weights, "plus")
    made.options = ("--controlnet", str(net), "--ip-adapter", str(adapter))
    return made


def here(model: Any) -> set[str]:
    """Return the parts that are on the device."""
    visitors = model.parts._visitors
    return {name for name in model.parts.modules if name not in visitors or visitors[name].is_here}


class Watch:
    """Notes, of each network that computes, who else was on the device."""

    def __init__(self, model: Any) -> None:
        self.seen: dict[str, set[str]] = {}
        for name, module in model.parts.modules.items():
            module.register_forward_pre_hook(self._hook(model, name))
        # The autoencoder's halves are called by themselves.
        for half in (model.parts.modules["vae"].encoder, model.parts.modules["vae"].decoder):
            half.register_forward_pre_hook(self._hook(model, "vae"))

    def _hook(self, model: Any, name: str) -> Any:
        def note(module: Any, inputs: Any) -> None:
            self.seen.setdefault(name, set()).update(here(model))

        return note


# The same pictures


@pytest.mark.parametrize("choice", OFFLOADED)
def test_a_picture_has_the_same_bits_wherever_parts_live(made: Made, choice: str) -> None:
    asked = {"steps": 3, "image": Image(tiny.picture()), "strength": 0.7}
    for told in ({"steps": 3}, asked):
        np.testing.assert_array_equal(
            cases.draw(*made.loaded("never"), **told), cases.draw(*made.loaded(choice), **told)
        )


@pytest.mark.parametrize("choice", OFFLOADED)
def test_so_it_has_with_control_nets_and_reference_pictures(full: Made, choice: str) -> None:
    asked = {
        "steps": 3,
        "control": Image(tiny.picture()),
        "reference": Image(tiny.picture(1)),
        "image": Image(tiny.picture(2)),
        "mask": Image(tiny.mask()),
    }
    np.testing.assert_array_equal(
        cases.draw(*full.loaded("never"), **asked), cases.draw(*full.loaded(choice), **asked)
    )


@pytest.mark.parametrize("choice", OFFLOADED)
def test_loras_are_put_on_and_taken_off_at_home(made: Made, choice: str, tmp_path: Path) -> None:
    network = "unet" if (made.weights / "unet").is_dir() else "transformer"
    file = tiny.lora(tmp_path / "ink.safetensors", made.weights, network=network)
    plain, offloaded = made.loaded("never"), made.loaded(choice)
    for loras in ([], [LoRA(file)], [], [LoRA(file, scale=0.5)]):
        np.testing.assert_array_equal(
            cases.draw(*plain, steps=2, loras=loras), cases.draw(*offloaded, steps=2, loras=loras)
        )


@pytest.mark.parametrize("choice", OFFLOADED)
def test_what_left_the_device_for_another_model_comes_back(sd: Made, choice: str) -> None:
    definition, model = sd.loaded(choice)
    before = cases.draw(definition, model, steps=2)
    for _ in range(2):
        assert model.offload() > 0
        model.onload()
        np.testing.assert_array_equal(before, cases.draw(definition, model, steps=2))


# Who is where


def test_with_always_parts_come_for_their_stage_alone(full: Made) -> None:
    definition, model = full.loaded("always")
    stays = {"unet", "controlnet"}
    assert here(model) == stays
    watch = Watch(model)
    asked = {"control": Image(tiny.picture()), "reference": Image(tiny.picture(1))}
    cases.draw(definition, model, steps=2, **asked)
    assert watch.seen["unet"] == watch.seen["controlnet"] == stays
    assert watch.seen["text_encoder_2"] == stays | {"text_encoder", "text_encoder_2"}
    assert watch.seen["image_encoder"] == stays | {"image_encoder"}
    assert watch.seen["vae"] == stays | {"vae"}
    assert here(model) == stays


def test_with_turns_what_draws_leaves_for_what_does_not_fit_beside_it(sd: Made) -> None:
    definition, model = sd.loaded("turns")
    assert here(model) == set()
    watch = Watch(model)
    cases.draw(definition, model, steps=2)
    assert watch.seen == {"unet": {"unet"}, "text_encoder": {"text_encoder"}, "vae": {"vae"}}


def test_with_blocks_one_block_is_there_at_a_time(sd: Made) -> None:
    definition, model = sd.loaded("blocks")
    blocks = model.parts._blocks
    assert {"down_blocks.0", "mid_block", "up_blocks.1"} <= blocks.keys()
    seen: list[set[str]] = []

    def note(module: Any, inputs: Any) -> None:
        seen.append({name for name, visitor in blocks.items() if visitor.is_here})

    for visitor in blocks.values():
        visitor.module.register_forward_pre_hook(note)
    cases.draw(definition, model, steps=1, guidance=1.0)
    assert seen == [{name} for name in ("down_blocks.0", "down_blocks.1", "mid_block",
                                        "up_blocks.0", "up_blocks.1")]  # fmt: skip
    assert not any(visitor.is_here for visitor in blocks.values())


def test_parts_leave_also_where_a_stage_fails(sd: Made) -> None:
    definition, model = sd.loaded("always")

    def fail(module: Any, inputs: Any) -> None:
        raise RuntimeError("no memory")

    hook = model.parts.modules["vae"].decoder.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        cases.draw(definition, model, steps=1)
    assert here(model) == {"unet"}
    hook.remove()
    np.testing.assert_array_equal(
        cases.draw(definition, model, steps=1), cases.draw(*sd.loaded("never"), steps=1)
    )


# What it takes


def test_the_memory_that_a_model_declares_is_what_is_there_at_one_time(full: Made) -> None:
    taken = {choice: full.loaded(choice)[1].memory_bytes for choice in CHOICES}
    assert taken["auto"] == taken["never"], "the CPU's memory is the host's"
    assert taken["never"] > taken["always"] > taken["turns"] > 0
    assert taken["always"] > taken["blocks"]


@pytest.mark.parametrize(
    ("missing", "expected"), [(0, "never"), (1, "always"), (10**8, "blocks")], ids=str
)
def test_a_device_with_too_little_memory_has_parts_offloaded(
    sd: Made, missing: int, expected: str
) -> None:
    described = describe(read(sd.entry("auto")))
    whole = read_parts(described, "cpu", "float16").size_bytes
    # Headers tell of weights, and not of the few buffers that are made.
    weights = sum(
        value.nbytes
        for module in read_parts(described, "cpu", "float16").modules.values()
        for value in module.parameters()
    )
    assert 0 <= whole - weights < 2000
    facts = described.facts
    needed = working(facts.side_px, facts.vae, 4, facts.family.row_gib)
    room_bytes = weights + max(needed.values()) - missing
    parts = read_parts(described, "cpu", "float16", room_bytes)
    assert parts.placement.choice == expected
    if expected != "never":
        assert parts.size_bytes < whole
        assert "GiB of weights" in parts.placement.reason


def test_what_cannot_be_offloaded_is_refused_when_it_is_added(sd: Made, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="use one of auto, never"):
        sd.entry("sometimes")
    with pytest.raises(AssertionError, match="use --offload always"):
        sd.entry("turns", "--quantize", "fp8")
    own = Made(tmp_path, lambda folder: tiny.stable_diffusion(folder, cases.runge_kutta()))
    with pytest.raises(AssertionError, match=r"--offload here, since .*leave it out"):
        own.entry("always")
    [definition] = load_models(str(sd.entry("always", "--quantize", "fp8")))
    with pytest.raises(InvalidModel, match="fp8 needs a GPU"):
        definition.make().load("cpu")
