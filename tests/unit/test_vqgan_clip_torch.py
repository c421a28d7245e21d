"""VQGAN guided by CLIP, with small random networks; needs torch, diffusers and transformers."""

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pydantic
import pytest

from pages import blocks
from swell.core.errors import InvalidModel, SwellError
from swell.diffusion.families.detect_family import is_vqgan_clip
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.define import Definition
from swell.sdk.media import Image
from swell.sdk.model import Model
from swell_models.vqgan_clip import Phrase, define, is_complete, phrases, stride_px

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from safetensors.torch import save_file  # noqa: E402

from guided_networks import SIGHT_PX, save_networks  # noqa: E402
from swell_models.vqgan_clip_torch import (  # noqa: E402
    GROUP,
    Search,
    cut,
    distance,
    nearest,
    shear,
)

pytestmark = pytest.mark.usefixtures("one_thread")

F = torch.nn.functional

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_networks(tmp_path_factory.mktemp("vqgan-clip"))


@pytest.fixture(scope="module")
def definition(folder: Path) -> Definition:
    return define(folder, "test/guided")


@pytest.fixture(scope="module")
def model(definition: Definition) -> Model:
    made = definition.make()
    made.load("cpu")
    return made


class Heard:
    """Listens, and cancels once it has been asked so often or has heard so many steps."""

    def __init__(self, looks: float = math.inf, steps: float = math.inf) -> None:
        self.looks, self.steps = looks, steps
        self.told: list[tuple[int, int]] = []
        self.previews: list[PIL.Image.Image] = []

    def progress(self, done: int, total: int) -> None:
        self.told.append((done, total))

    def preview(self, make: Callable[[], Any]) -> None:
        self.previews.append(make())

    def is_cancelled(self) -> bool:
        self.looks -= 1
        return self.looks < 0 or len(self.told) >= self.steps


def item(definition: Definition, seed: int = 1, listener: Any = None, **asked: Any) -> Item[Any]:
    values = {"prompt": "red fox", "width": 48, "height": 32, "steps": 4, "cutouts": 4} | asked
    heard = Heard() if listener is None else listener
    return Item(definition.input_type(**values), seed=seed, listener=heard)


def pixels(result: Any) -> Any:
    assert isinstance(result, Image), result
    return np.asarray(result.pil())


def picture(seed: int, width: int = 48, height: int = 32) -> Image:
    """Smooth colours, which a VQGAN can say."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC))


def search(model: Any, definition: Definition, seed: int, **asked: Any) -> Search:
    of = item(definition, **asked)
    made = Search(model._networks, of.input, phrases(of.input.prompt), seed)
    made.begin()
    for step in range(of.input.steps):
        made.step(step, of.check)
    return made


def distance_to(model: Any, result: PIL.Image.Image, text: str) -> float:
    """Return the distance of a whole picture to a text, by transformers' own functions."""
    net = model._networks
    whole = torch.tensor(np.asarray(result.resize((SIGHT_PX, SIGHT_PX))) / 255.0).float()
    seen = net.clip.get_image_features(pixel_values=net.normalised(whole.movedim(-1, 0)[None]))
    tokens = net.tokenizer([text], padding="max_length", max_length=20, return_tensors="pt")
    words = net.clip.get_text_features(**tokens)
    angle = F.cosine_similarity(seen.pooler_output, words.pooler_output).arccos()
    return float(angle.square() / 2)


# --- a served picture ----------------------------------------------------------------------------


def test_a_picture_has_the_size_asked_for_and_tells_steps_and_previews(
    model: Model, definition: Definition
) -> None:
    heard = Heard()
    (result,) = model.run([item(definition, listener=heard, steps=5, width=64, height=34)])
    assert pixels(result).shape == (34, 64, 3)
    assert heard.told == [(done, 5) for done in range(1, 6)]
    assert len(heard.previews) == 5
    assert heard.previews[-1].size == (64, 34)
    assert result.metadata["distance"] > 0


def test_the_same_seed_gives_the_same_bits_and_another_gives_others(
    model: Model, definition: Definition
) -> None:
    together = model.run([item(definition, seed=seed) for seed in (1, 2, 1)])
    alone = model.run([item(definition, seed=1)])
    np.testing.assert_array_equal(pixels(together[0]), pixels(together[2]))
    np.testing.assert_array_equal(pixels(together[0]), pixels(alone[0]))
    assert (pixels(together[0]) != pixels(together[1])).mean() > 0.5


def test_a_seed_in_the_input_goes_before_the_tasks_and_counts_on_by_sample(
    model: Model, definition: Definition
) -> None:
    asked = definition.input_type(prompt="fox", width=32, height=32, steps=1, cutouts=1, seed=7)
    second = Item(asked, seed=99, index=1, count=2)
    (given,) = model.run([second])
    (plain,) = model.run([item(definition, 8, prompt="fox", width=32, steps=1, cutouts=1)])
    np.testing.assert_array_equal(pixels(given), pixels(plain))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_picture_comes_nearer_to_the_words(
    model: Model, definition: Definition, seed: int
) -> None:
    def ended(steps: int) -> float:
        (result,) = model.run([item(definition, seed, steps=steps, cutouts=8, learning_rate=lr)])
        return distance_to(model, result.pil(), "red fox")

    lr = 0.001
    before = ended(1)
    lr = 0.1
    assert ended(40) < before - 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_phrase_pulls_or_pushes_by_its_weight(
    model: Model, definition: Definition, seed: int
) -> None:
    def to_the_sea(weight: float) -> float:
        asked = item(definition, seed, prompt=f"red fox:0.2|sea:{weight}", steps=30, cutouts=8)
        (result,) = model.run([asked])
        return distance_to(model, result.pil(), "sea")

    pulled, pushed = to_the_sea(1), to_the_sea(-1)
    assert pulled < pushed - 0.2


def test_steps_begin_at_the_start_picture(model: Any, definition: Definition) -> None:
    start = picture(3)
    hold = {"start": start, "steps": 1, "learning_rate": 0.001}
    (result,) = model.run([item(definition, **hold)])
    whole = torch.tensor(pixels(start) / 255.0).float().movedim(-1, 0)[None]
    with torch.no_grad():
        said = model._networks.vqgan(whole * 2 - 1).sample
    expected = ((said[0].clamp(-1, 1) + 1) * 127.5).round().movedim(0, -1).numpy()
    # A step of 0.001 changes few codes.
    assert (abs(pixels(result) - expected) > 1).mean() < 0.1
    (other,) = model.run([item(definition, **(hold | {"start": picture(4)}))])
    assert (pixels(result) != pixels(other)).mean() > 0.5


def test_a_search_that_ends_in_no_numbers_fails(model: Any, definition: Definition) -> None:
    kept = model._networks.codebook.clone()
    model._networks.codebook.fill_(float("nan"))
    (result,) = model.run([item(definition, steps=1)])
    model._networks.codebook.copy_(kept)
    assert isinstance(result, FloatingPointError)


def test_the_start_is_kept_by_its_weight_and_codes_held_small_by_decay(
    model: Any, definition: Definition
) -> None:
    start = {"start": picture(3), "steps": 12}

    def away(**asked: Any) -> float:
        found = search(model, definition, 1, **start, **asked)
        return float((found._latents.detach() - found._first).square().mean())

    def large(**asked: Any) -> float:
        found = search(model, definition, 1, steps=12, **asked)
        return float(found._latents.detach().square().mean())

    assert away(start_weight=10) < away() / 2
    assert large(weight_decay=10) < large() * 0.9


def test_a_target_picture_pulls_as_words_do(model: Any, definition: Definition) -> None:
    target = picture(9, 32, 32)
    net = model._networks

    def away(result: Image) -> float:
        whole = [np.asarray(each.pil().resize((32, 32))) / 255.0 for each in (result, target)]
        seen = torch.tensor(np.stack(whole)).float().movedim(-1, 1)
        found = net.clip.get_image_features(pixel_values=net.normalised(seen)).pooler_output
        return float(F.cosine_similarity(found[:1], found[1:]).arccos())

    asked = {"prompt": "", "target": target, "steps": 30, "cutouts": 8}
    (pulled,) = model.run([item(definition, **asked)])
    (pushed,) = model.run([item(definition, **asked, target_weight=-1)])
    assert away(pulled) < away(pushed) - 0.2


def test_what_left_the_device_comes_back_as_it_was(definition: Definition, model: Model) -> None:
    before = pixels(model.run([item(definition)])[0])
    assert model.offload() == model.memory_bytes > 100_000
    model.onload()
    np.testing.assert_array_equal(pixels(model.run([item(definition)])[0]), before)


# --- ending --------------------------------------------------------------------------------------


def test_a_cancelled_picture_ends_before_the_next_step_and_others_go_on(
    model: Model, definition: Definition
) -> None:
    heard = Heard(steps=3)
    ended, whole = model.run([item(definition, listener=heard, steps=2000), item(definition)])
    assert isinstance(ended, Cancelled)
    assert heard.told == [(1, 2000), (2, 2000), (3, 2000)]
    assert pixels(whole).shape == (32, 48, 3)


def test_a_step_is_left_between_groups_of_cutouts(model: Any, definition: Definition) -> None:
    heard = Heard(looks=2)
    before = search(model, definition, 1, steps=0 + 1, cutouts=1)
    assert before.distance > 0
    of = item(definition, listener=heard, cutouts=3 * GROUP)
    found = Search(model._networks, of.input, phrases("fox"), 1)
    found.begin()
    with pytest.raises(Cancelled):
        found.step(0, of.check)
    # One look before the step, one before each group: the third look ended it, after one group.
    assert heard.looks == -1
    assert found._latents.grad is None


# --- the same as a plain loop --------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"augment": False, "noise": 0.0},
        {"cut_pow": 2.0, "weight_decay": 0.7, "start": picture(5), "start_weight": 0.4},
    ],
)
def test_it_draws_what_a_plain_loop_draws(
    model: Any, definition: Definition, asked: dict[str, Any]
) -> None:
    values = {"prompt": "red fox|sea:-0.5", "steps": 6, "cutouts": GROUP + 4, "height": 40} | asked
    of = item(definition, seed=11, **values)
    (result,) = model.run([of])
    expected = plain_loop(model._networks, of.input, [("red fox", 1.0), ("sea", -0.5)], 11)
    difference = abs(pixels(result).astype(int) - expected.astype(int))
    # Other orders of addition: a code that lies between two may fall to the other side.
    assert (difference > 1).mean() < 0.02
    assert difference.mean() < 0.2


def plain_loop(net: Any, asked: Any, wanted: list[tuple[str, float]], seed: int) -> Any:
    """Return the picture by the paper's loop: one graph, autograd everywhere, no groups."""
    clip, vqgan, codebook = net.clip, net.vqgan, net.codebook
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        tokens = net.tokenizer(
            [text for text, _ in wanted], padding="max_length", max_length=20, return_tensors="pt"
        )
        aims = F.normalize(clip.get_text_features(**tokens).pooler_output)
        if asked.start is None:
            places = torch.randint(64, (asked.height // 2, asked.width // 2), generator=generator)
            first = F.embedding(places, codebook).permute(2, 0, 1)[None]
        else:
            fitted = PIL.ImageOps.fit(
                asked.start.pil(), (asked.width, asked.height), PIL.Image.Resampling.LANCZOS
            )
            start = torch.tensor(np.asarray(fitted) / 255.0).float().movedim(-1, 0)[None]
            first = vqgan.encode(start * 2 - 1).latents
    z = first.clone().requires_grad_()
    momentum, energy = torch.zeros_like(z), torch.zeros_like(z)
    for number in range(asked.steps):
        flat = z.permute(0, 2, 3, 1).reshape(-1, 4)
        code = codebook[torch.cdist(flat, codebook).argmin(1)].view(z.movedim(1, -1).shape)
        code = z + (code.movedim(-1, 1) - z).detach()
        x = (vqgan.decode(code, force_not_quantize=True).sample + 1) / 2
        x.register_hook(partial(plain_clamp_gradient, x.detach()))
        x = x + (x.clamp(0, 1) - x).detach()
        views = plain_cutouts(x, asked, generator)
        mean, std = net.mean.view(3, 1, 1), net.std.view(3, 1, 1)
        seen = torch.stack([(view - mean) / std + noise for view, noise in views])
        seen = F.normalize(clip.get_image_features(pixel_values=seen).pooler_output)
        loss = asked.weight_decay * (1 - number / asked.steps) * z.square().mean()
        loss = loss + asked.start_weight * (z - first).square().mean()
        for aim, (_, weight) in zip(aims, wanted, strict=True):
            chord = (seen - aim).norm(dim=1)
            loss = loss + weight * (2 * (chord / 2).arcsin() ** 2).mean()
        (gradient,) = torch.autograd.grad(loss, z)
        momentum = 0.9 * momentum + 0.1 * gradient
        energy = 0.999 * energy + 0.001 * gradient**2
        move = momentum / (1 - 0.9 ** (number + 1))
        move = move / ((energy / (1 - 0.999 ** (number + 1))).sqrt() + 1e-8)
        low, high = codebook.min(0).values, codebook.max(0).values
        z = (z.detach() - asked.learning_rate * move).movedim(1, -1).clamp(low, high)
        z = z.movedim(-1, 1).clone().requires_grad_()
    with torch.no_grad():
        drawn = vqgan.decode(z).sample[0].clamp(-1, 1)
    return ((drawn + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def plain_clamp_gradient(x: Any, gradient: Any) -> Any:
    return torch.where((gradient < 0) & (x > 1) | (gradient > 0) & (x < 0), 0, gradient)


def plain_cutouts(x: Any, asked: Any, generator: Any) -> list[tuple[Any, Any]]:
    chance = torch.rand(10, asked.cutouts, generator=generator).double().tolist()
    noise = torch.zeros(asked.cutouts, 3, SIGHT_PX, SIGHT_PX)
    if asked.noise:
        noise = torch.randn(asked.cutouts, 3, SIGHT_PX, SIGHT_PX, generator=generator)
    views = []
    for i in range(asked.cutouts):
        row = [values[i] for values in chance]
        most = min(asked.width, asked.height)
        size = int(row[0] ** asked.cut_pow * (most - SIGHT_PX) + SIGHT_PX)
        top, left = int(row[1] * (asked.height - size + 1)), int(row[2] * (asked.width - size + 1))
        view = x[:, :, top : top + size, left : left + size]
        view = F.interpolate(view, (SIGHT_PX, SIGHT_PX), mode="bilinear", antialias=True)[0]
        if asked.augment:
            view = plain_augmented(view, row)
        views.append((view, noise[i] * row[8] * asked.noise))
    return views


def plain_augmented(view: Any, row: list[float]) -> Any:
    turn, lean, bright, contrast, colour = (2 * value - 1 for value in row[3:8])
    angle = turn * math.pi / 12
    if row[9] < 0.5:
        view = view.flip(-1)
    view = plain_shear(view, -math.tan(angle / 2) + lean * 0.1)
    view = plain_shear(view.mT, math.sin(angle)).mT
    view = plain_shear(view, -math.tan(angle / 2))
    view = view * (1 + bright * 0.1)
    view = view.mean() + (view - view.mean()) * (1 + contrast * 0.1)
    grey = view.mean(0)
    return grey + (view - grey) * (1 + colour * 0.1)


def plain_shear(view: Any, slope: float) -> Any:
    """Move rows by looking between two pixels; autograd finds its gradient."""
    side = view.shape[-1]
    rows = []
    for y in range(side):
        at = torch.arange(side, dtype=torch.double) + slope * (y - (side - 1) / 2)
        one, part = at.floor().long(), (at - at.floor()).to(view.dtype)
        left = view[:, y, one.clamp(0, side - 1)]
        rows.append(left + part * (view[:, y, (one + 1).clamp(0, side - 1)] - left))
    return torch.stack(rows, 1)


# --- its parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.7, 2.5])
def test_a_shear_has_the_gradient_of_looking_between_pixels(slope: float) -> None:
    torch.manual_seed(1)
    values = torch.rand(1, 3, 7, 7, dtype=torch.double, requires_grad=True)
    weight = torch.rand(1, 3, 7, 7, dtype=torch.double)
    ours = shear(values, torch.tensor([slope], dtype=torch.double))
    plain = plain_shear(values[0], slope)[None]
    torch.testing.assert_close(ours, plain)
    (of_ours,) = torch.autograd.grad((ours * weight).sum(), values)
    (of_plain,) = torch.autograd.grad((plain * weight).sum(), values)
    torch.testing.assert_close(of_ours, of_plain)


@pytest.mark.parametrize("size", [5, 32, 50])
def test_a_crop_is_scaled_as_torch_does_with_antialias(size: int) -> None:
    torch.manual_seed(1)
    values = torch.rand(1, 3, 60, 70)
    top, left = torch.tensor([3.0]), torch.tensor([11.0])
    ours = cut(values, top, left, torch.tensor([float(size)]), 32)
    crop = values[:, :, 3 : 3 + size, 11 : 11 + size]
    plain = F.interpolate(crop, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(ours, plain)


def test_distances_are_great_circles_and_have_gradients_everywhere() -> None:
    angles = torch.tensor([0.0, 0.5, 1.5, 3.0, math.pi], dtype=torch.double)
    points = torch.stack([angles.cos(), angles.sin()], 1).requires_grad_()
    found = distance(points, torch.tensor([[1.0, 0.0]], dtype=torch.double))[:, 0]
    torch.testing.assert_close(found, angles**2 / 2, atol=1e-2, rtol=0)
    found.sum().backward()
    assert points.grad.isfinite().all()


def test_the_nearest_code_is_that_of_the_smallest_difference() -> None:
    torch.manual_seed(1)
    latents, codebook = torch.randn(1, 4, 3, 5), torch.randn(9, 4)
    found = nearest(latents, codebook)
    for y in range(3):
        for x in range(5):
            apart = (codebook - latents[0, :, y, x]).norm(dim=1)
            assert found[0, :, y, x].tolist() == codebook[apart.argmin()].tolist()


# --- a VQGAN as its authors keep it --------------------------------------------------------------

nn = torch.nn


class Block(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(32, width, eps=1e-6) for width in (into, out))
        self.conv1, self.conv2 = nn.Conv2d(into, out, 3, 1, 1), nn.Conv2d(out, out, 3, 1, 1)
        if into != out:
            self.nin_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x: Any) -> Any:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Any) -> Any:
        h = self.norm(x)
        q, k, v = (each(h).flatten(2) for each in (self.q, self.k, self.v))
        looks = (q.mT @ k / q.shape[1] ** 0.5).softmax(-1)
        return x + self.proj_out((v @ looks.mT).view(x.shape))


class Level(nn.Module):
    """Blocks of one resolution; attention after each where there is any."""

    def __init__(self, widths: list[int], attends: bool) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.block = nn.ModuleList(Block(*pair) for pair in pairs)
        self.attn = nn.ModuleList(Attention(width) for _, width in pairs if attends)

    def forward(self, x: Any) -> Any:
        for number, block in enumerate(self.block):
            x = block(x)
            x = self.attn[number](x) if len(self.attn) else x
        return x


class Half(nn.Module):
    """The encoder or the decoder: 32 and 64 channels, attention at the coarser of two levels."""

    def __init__(self, side: str) -> None:
        super().__init__()
        first, last = (3, 4) if side == "down" else (4, 3)
        self.conv_in = nn.Conv2d(first, 32 if side == "down" else 64, 3, 1, 1)
        widths = [[32, 32], [32, 64]] if side == "down" else [[64, 32, 32], [64, 64, 64]]
        levels = [Level(widths[0], False), Level(widths[1], True)]
        resample = nn.Module()
        if side == "down":
            resample.conv = nn.Conv2d(32, 32, 3, 2)
            levels[0].downsample = resample
        else:
            resample.conv = nn.Conv2d(64, 64, 3, 1, 1)
            levels[1].upsample = resample
        setattr(self, side, nn.ModuleList(levels))
        self.mid = nn.Module()
        self.mid.block_1, self.mid.block_2 = Block(64, 64), Block(64, 64)
        self.mid.attn_1 = Attention(64)
        out = 64 if side == "down" else 32
        self.norm_out, self.conv_out = (
            nn.GroupNorm(32, out, eps=1e-6),
            nn.Conv2d(out, last, 3, 1, 1),
        )

    def middle(self, x: Any) -> Any:
        return self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))

    def forward(self, x: Any) -> Any:
        x = self.conv_in(x)
        if hasattr(self, "down"):
            x = self.down[0].downsample.conv(F.pad(self.down[0](x), (0, 1, 0, 1)))
            x = self.middle(self.down[1](x))
        else:
            x = self.up[1](self.middle(x))
            x = self.up[0](self.up[1].upsample.conv(F.interpolate(x, scale_factor=2.0)))
        return self.conv_out(F.silu(self.norm_out(x)))


class AuthorsVqgan(nn.Module):
    """A small VQGAN by the paper, with the names of weights that its authors gave them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Half("down"), Half("up")
        self.quant_conv, self.post_quant_conv = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)
        self.quantize, self.loss = nn.Module(), nn.Module()
        self.quantize.embedding = nn.Embedding(20, 6)
        self.loss.logvar = nn.Parameter(torch.zeros(()))


SETTINGS = {
    "embed_dim": 6,
    "n_embed": 20,
    "ddconfig": {
        "double_z": False,
        "z_channels": 4,
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [16],
        "dropout": 0.0,
    },
}


@pytest.fixture
def authors(folder: Path, tmp_path: Path) -> tuple[Path, Any]:
    """A folder with such a VQGAN beside the usual CLIP, and that VQGAN."""
    torch.manual_seed(5)
    network = AuthorsVqgan()
    made = tmp_path / "authors"
    shutil.copytree(folder / "clip", made / "clip")
    (made / "vqgan").mkdir()
    save_file(network.state_dict(), made / "vqgan" / "model.safetensors")
    (made / "vqgan" / "config.json").write_text(json.dumps(SETTINGS))
    return made, network


def test_a_vqgan_of_its_authors_draws_what_their_network_draws(
    authors: tuple[Path, Any],
) -> None:
    made, network = authors
    assert is_complete(made)
    definition = define(made, "test/authors")
    ours = definition.make()
    ours.load("cpu")
    torch.manual_seed(6)
    with torch.no_grad():
        seen = torch.rand(1, 3, 32, 40)
        expected = network.quant_conv(network.encoder(seen * 2 - 1))
        torch.testing.assert_close(ours._networks.encode(seen), expected, atol=1e-4, rtol=1e-4)
        codes = torch.randn(1, 6, 16, 20)
        expected = (network.decoder(network.post_quant_conv(codes)) + 1) / 2
        torch.testing.assert_close(ours._networks.decode(codes), expected, atol=1e-4, rtol=1e-4)
    (result,) = ours.run([item(definition, steps=2)])
    assert pixels(result).shape == (32, 48, 3)


def test_a_checkpoint_of_its_authors_is_converted_as_the_page_says(
    authors: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, network = authors
    [script] = blocks("docs/models/vqgan-clip.md")
    for path in (made / "vqgan").iterdir():
        path.unlink()
    made.rename(tmp_path / "dreams")
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "last.ckpt")
    # JSON is YAML too.
    told = {"model": {"target": "taming.models.vqgan.VQModel", "params": SETTINGS}}
    (tmp_path / "model.yaml").write_text(json.dumps(told))
    monkeypatch.chdir(tmp_path)
    exec(script, {})  # noqa: S102 - the lines of the page
    definition = define(tmp_path / "dreams", "test/authors")
    ours = definition.make()
    ours.load("cpu")
    torch.manual_seed(6)
    with torch.no_grad():
        codes = torch.randn(1, 6, 16, 20)
        expected = (network.decoder(network.post_quant_conv(codes)) + 1) / 2
        torch.testing.assert_close(ours._networks.decode(codes), expected, atol=1e-4, rtol=1e-4)


def test_a_vqgan_of_another_kind_is_told_apart(authors: tuple[Path, Any]) -> None:
    made, network = authors
    weights = network.state_dict()
    path = made / "vqgan" / "model.safetensors"
    save_file({**weights, "quantize.proj.weight": torch.zeros(1)}, path)
    with pytest.raises(InvalidModel, match=r"quantize\.proj\.weight"):
        define(made, "test/authors").make().load("cpu")
    del weights["encoder.mid.attn_1.q.weight"]
    save_file(weights, path)
    with pytest.raises(InvalidModel, match=r"Missing key.*encoder\.mid_block\.attentions\.0\.to_q"):
        define(made, "test/authors").make().load("cpu")
    (made / "vqgan" / "config.json").write_text(json.dumps({"ddconfig": {}, "n_embed": 20}))
    with pytest.raises(InvalidModel, match="lacks 'ch_mult' of a VQGAN"):
        define(made, "test/authors")
    doubled = {**SETTINGS, "ddconfig": {**SETTINGS["ddconfig"], "double_z": True}}
    (made / "vqgan" / "config.json").write_text(json.dumps(doubled))
    with pytest.raises(InvalidModel, match="no codebook"):
        define(made, "test/authors")


# --- what may be asked ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a fox", [("a fox", 1.0)]),
        (" a fox :0.5| sea:-1 ", [("a fox", 0.5), ("sea", -1.0)]),
        ("at 12:30", [("at 12", 30.0)]),
        ("scene: a fox", [("scene: a fox", 1.0)]),
        ("scene: a fox:2", [("scene: a fox", 2.0)]),
        (":3", [(":3", 1.0)]),
        ("a:nan", [("a:nan", 1.0)]),
        ("a||b:0|", [("a", 1.0)]),
        ("", []),
    ],
)
def test_a_prompt_is_phrases_with_weights(prompt: str, found: list[tuple[str, float]]) -> None:
    assert phrases(prompt) == [Phrase(text, weight) for text, weight in found]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"prompt": ""}, "Give a prompt or a target picture"),
        ({"prompt": "fox:0"}, "nothing says what to draw"),
        ({"prompt": "fox:101"}, "give -100 to 100"),
        ({"prompt": "|".join("abcdefghijklmnopq")}, "17 phrases: give 16"),
        ({"prompt": "abcdefghijklmnopqrs"}, "19 word pieces, and CLIP reads 18"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_what_to_change(
    model: Model, definition: Definition, asked: dict[str, Any], told: str
) -> None:
    (refused,) = model.run([item(definition, **asked)])
    assert isinstance(refused, Reject)
    assert told in str(refused)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("width", 33, "multiple of 2"),
        ("height", 1026, "less than or equal to 1024"),
        ("height", 16, "greater than or equal to 32"),
        ("steps", 0, "greater than or equal to 1"),
        ("cutouts", 129, "less than or equal to 128"),
        ("learning_rate", 0, "greater than or equal to 0.001"),
        ("cut_pow", 9, "less than or equal to 4"),
        ("seed", -1, "greater than or equal to 0"),
        ("guidance", 7, "Extra inputs are not permitted"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_the_schema(
    definition: Definition, field: str, value: Any, told: str
) -> None:
    with pytest.raises(pydantic.ValidationError, match=told):
        definition.input_type(**{"prompt": "a fox", field: value})


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_is_recognised_by_its_index_or_its_parts(folder: Path, tmp_path: Path) -> None:
    assert is_vqgan_clip(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert not is_vqgan_clip(copy)
    (copy / "model_index.json").unlink()
    assert is_vqgan_clip(copy)
    assert is_complete(folder)
    assert not is_vqgan_clip(tmp_path)
    assert not is_complete(tmp_path)


def test_sides_follow_the_stride_of_the_network() -> None:
    config = SimpleNamespace(block_out_channels=[1] * 5)
    assert stride_px(vars(config)) == 16


def test_a_version_changes_with_the_weights(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    before = define(tmp_path / "other", "test/guided").version()
    assert before == define(folder, "test/guided").version()
    path = tmp_path / "other" / "clip" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert define(tmp_path / "other", "test/guided").version() != before


def test_a_version_is_that_of_a_list_where_there_is_one(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "guided.toml"
    versions = set()
    for text in ("a", "b", "a"):
        listed.write_text(text)
        versions.add(define(folder, "test/guided", listed).version())
    assert len(versions) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda made: shutil.rmtree(made / "clip"), "clip/config.json is missing"),
        (lambda made: (made / "vqgan" / "config.json").write_text("{}"), "give a VQModel"),
        (lambda made: (made / "clip" / "config.json").write_text("{}"), "give a CLIPModel"),
        (lambda made: (made / "clip" / "config.json").write_text("["), "cannot be read"),
        (lambda made: (made / "clip" / "config.json").write_text("[]"), "no table"),
        (
            lambda made: next((made / "vqgan").glob("*.safetensors")).rename(made / "vqgan/x.bin"),
            "no .safetensors file",
        ),
    ],
)
def test_a_folder_that_is_not_whole_says_what_is_missing(
    folder: Path, tmp_path: Path, change: Callable[[Path], Any], told: str
) -> None:
    made = tmp_path / "made"
    shutil.copytree(folder, made)
    change(made)
    with pytest.raises(InvalidModel, match=told):
        define(made, "test/guided")


def test_weights_that_are_broken_are_told_when_they_are_loaded(
    folder: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    shutil.copytree(folder, made)
    config = json.loads((made / "vqgan" / "config.json").read_text())

    def with_config(**changed: Any) -> Model:
        (made / "vqgan" / "config.json").write_text(json.dumps(config | changed))
        return define(made, "test/guided").make()

    with pytest.raises(InvalidModel, match=r"vqgan/ cannot be loaded: .*size mismatch"):
        with_config(block_out_channels=[8, 8]).load("cpu")
    with pytest.raises(InvalidModel, match=r"vqgan/ lacks \d+ weights"):
        with_config(layers_per_block=2).load("cpu")
    (made / "clip" / "model.safetensors").write_bytes(b"<html>Please log in</html>")
    with pytest.raises(SwellError, match="no safetensors file"):
        with_config().load("cpu")
