"""The search of VQGAN-CLIP: codes follow the gradient of CLIP's distance to the words.

Papers: Crowson et al., "VQGAN-CLIP" (arXiv 2204.08583); VQGAN: Esser et al. (arXiv 2012.09841);
CLIP: Radford et al. (arXiv 2103.00020). With latents z, codebook C, decoder G, cutouts A_i and the
image tower E, a step of Adam lowers

    L(z) = sum_p w_p mean_i d(E(A_i(x)), e_p) + a_t mean(z^2) + s mean((z - z_0)^2)
    x = clamp((G(q(z)) + 1) / 2, 0, 1),   q(z) = nearest of C,   d(u, v) = 2 arcsin(|u - v| / 2)^2

with e_p the unit embedding of phrase p and w_p its weight, a_t falling evenly to 0. The gradient
passes q as if it were not there (Bengio et al., arXiv 1308.3432), and passes the clamp where it
leads back into the range. After each step z is held within the range that C has in each channel.

All chance is drawn on the CPU from the sample's seed, and neither cutouts nor turns have a gradient
that adds up in whatever order threads come: crops are products of matrices, and a turn is three
shears (Paeth, "A fast algorithm for general raster rotation", 1986), each with a gather as its
gradient. So a seed gives the same picture, bit for bit, on the same machine.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from diffusers import VQModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from swell.core.errors import InvalidModel
from swell.sdk.context import Reject
from swell.sdk.image_orientation import upright
from swell.sdk.step_model import NOT_FINITE
from swell.weights.formats import read_header
from swell.weights.torch_tensors import load_torch
from swell_models.taming import diffusers_config, diffusers_name, is_taming
from swell_models.vqgan_clip import Phrase

OUT_OF_MEMORY: Final = (torch.OutOfMemoryError,)

#: Cutouts that CLIP looks at in one go: bounds memory, and how long a cancelled task goes on.
GROUP: Final = 16

#: A preview is this long at most.
PREVIEW_PX: Final = 256

#: Largest turn, in radians, and shear, of an augmented cutout; and how far its tints go.
TURN, SHEAR, TINT = math.radians(15), 0.1, 0.1

#: CLIP's normalisation where its folder says nothing. Source: Radford et al., released code.
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)


class Networks:
    """The two networks, frozen.

    Args:
        vqgan: A `VQModel` of diffusers.
        clip: A `CLIPModel` of transformers.
        tokenizer: Of that CLIP.
        mean: What is taken off each colour before CLIP sees it. Shapes: (3,).
        std: What each colour is divided by then. Shapes: (3,).
        device: As torch names it.
    """

    def __init__(
        self, vqgan: Any, clip: Any, tokenizer: Any, mean: Tensor, std: Tensor, device: str
    ) -> None:
        self.vqgan = vqgan
        self.clip = clip
        self.tokenizer = tokenizer
        self.mean = mean
        self.std = std
        self.device = device

    @classmethod
    def load(cls, folder: Path, device: str) -> "Networks":
        """Read `vqgan/` and `clip/`, safetensors only, from this machine only.

        Raises:
            InvalidModel: A part is not whole.
            BrokenWeights, RefusedFormat: A file of weights is not.
        """
        for path in sorted(folder.glob("*/*.safetensors")):
            read_header(path)
        told = json.loads((folder / "vqgan" / "config.json").read_text(encoding="utf-8"))
        if is_taming(told):
            vqgan = _of_its_authors(folder / "vqgan", told)
        else:
            # A package more would load the VQGAN in less memory; it is small.
            vqgan = _whole(VQModel, folder / "vqgan", low_cpu_mem_usage=False)
        # CLIP's other ways of attention have gradients that add up in no fixed order.
        clip = _whole(CLIPModel, folder / "clip", attn_implementation="eager")
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder / "clip", local_files_only=True)
        except (OSError, ValueError) as error:
            raise InvalidModel(f"clip/ has no tokenizer that can be read: {error}") from error
        for network in (vqgan, clip):
            network.float().eval().requires_grad_(False).to(device)
        mean, std = (torch.tensor(v, device=device) for v in _normalisation(folder / "clip"))
        return cls(vqgan, clip, tokenizer, mean, std, device)

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return sum(p.nbytes for net in (self.vqgan, self.clip) for p in net.parameters())

    def offload(self) -> int:
        """Move to the host's memory; return how many bytes that takes."""
        self.vqgan.to("cpu")
        self.clip.to("cpu")
        return self.size_bytes

    def onload(self) -> None:
        """Move back to the device."""
        self.vqgan.to(self.device)
        self.clip.to(self.device)

    @property
    def codebook(self) -> Tensor:
        """All codes. Shapes: (N, C)."""
        weight: Tensor = self.vqgan.quantize.embedding.weight
        return weight

    @property
    def stride_px(self) -> int:
        """Pixels a side that one code stands for."""
        return int(2 ** (len(self.vqgan.config.block_out_channels) - 1))

    @property
    def sight_px(self) -> int:
        """Side of what CLIP sees."""
        return int(self.clip.config.vision_config.image_size)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents. Shapes: (1, 3, H, W) in 0..1 -> (1, C, h, w)."""
        latents: Tensor = self.vqgan.quant_conv(self.vqgan.encoder(pixels * 2 - 1))
        return latents

    def decode(self, codes: Tensor) -> Tensor:
        """Return pixels, which may lie beyond 0..1. Shapes: (1, C, h, w) -> (1, 3, H, W)."""
        is_spatial = self.vqgan.config.norm_type == "spatial"
        hidden = self.vqgan.post_quant_conv(codes)
        pixels: Tensor = self.vqgan.decoder(hidden, codes if is_spatial else None)
        return (pixels + 1) / 2

    def words(self, texts: Sequence[str]) -> Tensor:
        """Return unit embeddings. Shapes: (N, D).

        Raises:
            Reject: One has more word pieces than CLIP reads.
        """
        most = int(self.clip.config.text_config.max_position_embeddings)
        for text in texts:
            pieces = len(self.tokenizer(text)["input_ids"])
            if pieces > most:
                raise Reject(
                    f"{text[:40]!r}… has {pieces - 2} word pieces, and CLIP reads {most - 2}: "
                    "shorten it, or cut it into phrases with | between them."
                )
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=most, return_tensors="pt"
        )["input_ids"]
        pooled = self.clip.text_model(input_ids=ids.to(self.device)).pooler_output
        return _unit(self.clip.text_projection(pooled))

    def see(self, normalised: Tensor) -> Tensor:
        """Return unit embeddings. Shapes: (N, 3, S, S) -> (N, D)."""
        pooled = self.clip.vision_model(pixel_values=normalised).pooler_output
        return _unit(self.clip.visual_projection(pooled))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return pixels as CLIP wants them. Shapes: (N, 3, S, S)."""
        return (pixels - self.mean[:, None, None]) / self.std[:, None, None]


def _whole(kind: Any, folder: Path, **options: Any) -> Any:
    """Return a network with weights for all of its parameters, from this machine only."""
    try:
        network, told = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise InvalidModel(f"{folder.name}/ cannot be loaded: {why}") from error
    if told["missing_keys"]:
        missing = sorted(told["missing_keys"])
        raise InvalidModel(
            f"{folder.name}/ lacks {len(missing)} weights, {missing[0]} the first: its files are "
            "not those of its config.json"
        )
    return network


def _of_its_authors(folder: Path, told: dict[str, Any]) -> Any:
    """Return a VQGAN whose weights have the names that its authors gave them."""
    config = diffusers_config(told)
    network = VQModel.from_config(config)
    levels = len(config["block_out_channels"])
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_torch(path).items():
            called = diffusers_name(name, levels)
            if called is not None:
                # Attention is by 1x1 convolutions there, and by products of matrices here.
                is_matrix = "attentions" in called and tensor.ndim == 4
                tensors[called] = tensor[:, :, 0, 0] if is_matrix else tensor
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise InvalidModel(f"vqgan/ cannot be loaded: {why}") from error
    return network


def _normalisation(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            told = json.loads((folder / name).read_text(encoding="utf-8"))
            told = told.get("image_processor", told)
            return told.get("image_mean", _MEAN), told.get("image_std", _STD)
    return _MEAN, _STD


def _unit(embedding: Tensor) -> Tensor:
    return embedding / embedding.norm(dim=-1, keepdim=True)


# --- what the loss is made of --------------------------------------------------------------------


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Return half the squared great-circle distance of unit vectors: 2 arcsin(|u - v| / 2)^2.

    Shapes: (N, D) and (P, D) -> (N, P). Equal and opposite vectors have a gradient too.
    """
    half = (one[:, None] - other[None]).square().sum(-1) / 4
    return 2 * half.clamp(1e-12, 1 - 1e-6).sqrt().arcsin().square()


def nearest(latents: Tensor, codebook: Tensor) -> Tensor:
    """Return the nearest code of each place. Shapes: (1, C, h, w) and (N, C) -> (1, C, h, w)."""
    flat = latents.movedim(1, -1).reshape(-1, codebook.shape[1])
    # |z|^2 is the same for all codes, so it is left out.
    chosen = (codebook.square().sum(1) - 2 * flat @ codebook.T).argmin(1)
    places = codebook[chosen].reshape(*latents.shape[2:], -1)
    return places.movedim(-1, 0)[None].contiguous()


class _Clamp(torch.autograd.Function):  # type: ignore[misc]
    """Clamps to 0..1; a gradient passes unless it would lead further out of the range."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        return gradient * (gradient * (values - values.clamp(0, 1)) >= 0)


class _Shear(torch.autograd.Function):  # type: ignore[misc]
    """Moves each row by its own number of pixels; see `shear`."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, shift: Tensor) -> Tensor:
        whole = shift.floor()
        part = (shift - whole)[:, None, :, None].to(pixels.dtype)
        ctx.save_for_backward(whole.long(), part)
        left, right = (_moved(pixels, whole.long() + more) for more in (0, 1))
        return left + part * (right - left)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole, part = ctx.saved_tensors
        left = _moved_back(gradient * (1 - part), whole)
        return left + _moved_back(gradient * part, whole + 1), None


def _moved(pixels: Tensor, shift: Tensor) -> Tensor:
    """Return out[x] = pixels[x + shift], the last pixel going on beyond the border."""
    places = _places(pixels, shift).clamp(0, pixels.shape[-1] - 1)
    return pixels.gather(-1, places.expand(pixels.shape))


def _moved_back(gradient: Tensor, shift: Tensor) -> Tensor:
    """Return the gradient of `_moved`: a gather too, and the sum of what lay beyond a border."""
    last = gradient.shape[-1] - 1
    origin, target = _places(gradient, -shift), _places(gradient, shift)
    inside = gradient.gather(-1, origin.clamp(0, last).expand(gradient.shape))
    found = inside * ((origin >= 0) & (origin <= last))
    found[..., 0] += (gradient * (target < 0)).sum(-1)
    found[..., last] += (gradient * (target > last)).sum(-1)
    return found


def _places(pixels: Tensor, shift: Tensor) -> Tensor:
    """Return where each pixel of a moved row comes from. Shapes: shift (N, S) -> (N, 1, S, S)."""
    return (torch.arange(pixels.shape[-1], device=pixels.device) + shift[..., None])[:, None]


def shear(pixels: Tensor, slope: Tensor) -> Tensor:
    """Move each row sideways by its distance from the middle times a slope.

    Shapes: pixels (N, 3, S, S), slope (N,). What moves in from beyond a border is the border.
    """
    rows = torch.arange(pixels.shape[-2], device=pixels.device) - (pixels.shape[-2] - 1) / 2
    moved: Tensor = _Shear.apply(pixels, slope[:, None] * rows)
    return moved


def cut(pixels: Tensor, top: Tensor, left: Tensor, size: Tensor, sight_px: int) -> Tensor:
    """Return square crops, scaled to what CLIP sees by a triangle as wide as a pixel of either.

    Shapes: pixels (1, 3, H, W); top, left, size (N,), in pixels -> (N, 3, S, S).
    """
    across = _lens(left, size, pixels.shape[-1], sight_px)
    down = _lens(top, size, pixels.shape[-2], sight_px)
    return torch.einsum("nsh,chw,ntw->ncst", down, pixels[0], across)


def _lens(start: Tensor, size: Tensor, length: int, sight_px: int) -> Tensor:
    """Return how much each pixel counts. Shapes: start, size (N,) -> (N, S, length)."""
    scale = (size / sight_px)[:, None, None]
    seen = torch.arange(sight_px, device=size.device)[None, :, None] + 0.5
    place = torch.arange(length, device=size.device)[None, None] + 0.5
    first, end = start[:, None, None], (start + size)[:, None, None]
    weight = (1 - (first + seen * scale - place).abs() / scale.clamp(min=1)).clamp(min=0)
    weight = weight * ((place > first) & (place < end))
    return weight / weight.sum(-1, keepdim=True)


@dataclass(frozen=True, slots=True)
class Chance:
    """What is drawn for the cutouts of one step. Shapes: each (N,), but noise (N, 3, S, S)."""

    top: Tensor
    left: Tensor
    size: Tensor
    mirror: Tensor
    turn: Tensor
    shear: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    noise: Tensor

    @classmethod
    def draw(cls, generator: torch.Generator, asked: Any, sight_px: int) -> "Chance":
        """Draw on the CPU.

        Args:
            generator: The sample's own.
            asked: The input: width, height, cutouts, cut_pow, augment, noise.
            sight_px: Side of what CLIP sees.
        """
        count = asked.cutouts
        uniform = torch.rand(10, count, generator=generator)
        most = min(asked.width, asked.height)
        least = min(most, sight_px)
        size = (uniform[0] ** asked.cut_pow * (most - least) + least).floor()
        spread = (uniform[3:8] * 2 - 1) * (1.0 if asked.augment else 0.0)
        noise = torch.zeros(count, 1, 1, 1)
        if asked.noise:
            noise = torch.randn(count, 3, sight_px, sight_px, generator=generator)
            noise = noise * (uniform[8] * asked.noise)[:, None, None, None]
        return cls(
            top=(uniform[1] * (asked.height - size + 1)).floor(),
            left=(uniform[2] * (asked.width - size + 1)).floor(),
            size=size,
            mirror=(uniform[9] < 0.5) & asked.augment,
            turn=spread[0] * TURN,
            shear=spread[1] * SHEAR,
            brightness=1 + spread[2] * TINT,
            contrast=1 + spread[3] * TINT,
            saturation=1 + spread[4] * TINT,
            noise=noise,
        )

    def group(self, start: int, device: str) -> "Chance":
        """Return that of some cutouts, on the device."""
        parts = {
            name: getattr(self, name)[start : start + GROUP].to(device)
            for name in self.__dataclass_fields__
        }
        return Chance(**parts)


def _cutouts(pixels: Tensor, chance: Chance, networks: Networks, *, augment: bool) -> Tensor:
    """Return what CLIP sees of a picture. Shapes: (1, 3, H, W) in 0..1 -> (N, 3, S, S)."""
    seen = cut(pixels, chance.top, chance.left, chance.size, networks.sight_px)
    if augment:
        seen = _augmented(seen, chance)
    return networks.normalised(seen) + chance.noise


def _augmented(seen: Tensor, chance: Chance) -> Tensor:
    def per_cutout(values: Tensor) -> Tensor:
        return values[:, None, None, None]

    seen = torch.where(per_cutout(chance.mirror), seen.flip(-1), seen)
    lean = -(chance.turn / 2).tan()
    seen = shear(seen, lean + chance.shear)
    seen = shear(seen.mT, chance.turn.sin()).mT
    seen = shear(seen, lean)
    seen = seen * per_cutout(chance.brightness)
    middle = seen.mean((1, 2, 3), keepdim=True)
    seen = middle + (seen - middle) * per_cutout(chance.contrast)
    grey = seen.mean(1, keepdim=True)
    return grey + (seen - grey) * per_cutout(chance.saturation)


# --- the search ----------------------------------------------------------------------------------


class Search:
    """The search for one picture.

    Args:
        networks: What draws, and what looks.
        asked: The input, `VqganClip.Input`.
        wanted: The phrases of its prompt.
        seed: Of all chance.
    """

    #: Mean distance of the cutouts to what is wanted, by weight, at the step before.
    distance: float

    def __init__(self, networks: Networks, asked: Any, wanted: Sequence[Phrase], seed: int) -> None:
        self._networks = networks
        self._asked = asked
        self._wanted = wanted
        self._chance = torch.Generator("cpu").manual_seed(seed % 2**64)
        self.distance = math.nan

    def begin(self) -> None:
        """Encode what is wanted, and choose where the search begins.

        Raises:
            Reject: A phrase is too long for CLIP.
        """
        networks, asked = self._networks, self._asked
        with torch.no_grad(), _exact():
            self._embeddings, self._weights = self._aims()
            low, high = networks.codebook.aminmax(dim=0)
            self._low, self._high = low[None, :, None, None], high[None, :, None, None]
            if asked.start is None:
                latents = self._random_codes()
            else:
                latents = networks.encode(self._pixels(asked.start, asked.width, asked.height))
        self._first = latents
        self._latents = latents.clone().requires_grad_()
        self._adam = torch.optim.Adam([self._latents], lr=asked.learning_rate, foreach=False)
        self._shown: Tensor | None = None

    def step(self, number: int, check: Callable[[], None]) -> None:
        """Take one step of Adam.

        Args:
            number: From 0.
            check: Called between groups of cutouts; what it raises ends the step.
        """
        check()
        networks, asked = self._networks, self._asked
        chance = Chance.draw(self._chance, asked, networks.sight_px)
        with _exact():
            self._latents.grad = None
            # The gradient passes the codes as if they were the latents.
            codes = nearest(self._latents.detach(), networks.codebook).requires_grad_()
            pixels: Tensor = _Clamp.apply(networks.decode(codes))
            self._shown = pixels.detach()
            # Groups of cutouts add up to the picture's gradient, which goes through the VQGAN once.
            picture = self._shown.requires_grad_()
            total = torch.zeros((), device=networks.device)
            for start in range(0, asked.cutouts, GROUP):
                check()
                part = chance.group(start, networks.device)
                seen = networks.see(_cutouts(picture, part, networks, augment=asked.augment))
                loss = (distance(seen, self._embeddings) @ self._weights).sum() / asked.cutouts
                loss.backward()
                total += loss.detach()
            check()
            pixels.backward(picture.grad)
            self._latents.grad = codes.grad
            self._regularise(number)
            self._adam.step()
            with torch.no_grad():
                self._latents.clamp_(self._low, self._high)
        self.distance = float(total)

    def picture(self) -> PIL.Image.Image:
        """Return the picture that the latents stand for now.

        Raises:
            FloatingPointError: They are not numbers.
        """
        if not self._latents.isfinite().all():
            raise FloatingPointError(NOT_FINITE)
        with torch.no_grad(), _exact():
            codes = nearest(self._latents, self._networks.codebook)
            return _picture(self._networks.decode(codes))

    def preview(self) -> PIL.Image.Image:
        """Return the last step's picture, small."""
        assert self._shown is not None, "step() comes first"
        small = _picture(self._shown)
        small.thumbnail((PREVIEW_PX, PREVIEW_PX))
        return small

    def _aims(self) -> tuple[Tensor, Tensor]:
        """Return unit embeddings and their weights. Shapes: (P, D), (P,)."""
        networks, asked = self._networks, self._asked
        found, weights = [], [phrase.weight for phrase in self._wanted]
        if self._wanted:
            found.append(networks.words([phrase.text for phrase in self._wanted]))
        if asked.target is not None and asked.target_weight:
            pixels = self._pixels(asked.target, networks.sight_px, networks.sight_px)
            found.append(networks.see(networks.normalised(pixels)))
            weights.append(asked.target_weight)
        return torch.cat(found), torch.tensor(weights, device=networks.device)

    def _random_codes(self) -> Tensor:
        networks, asked = self._networks, self._asked
        shape = (asked.height // networks.stride_px, asked.width // networks.stride_px)
        count = networks.codebook.shape[0]
        chosen = torch.randint(count, shape, generator=self._chance).to(networks.device)
        return networks.codebook[chosen].movedim(-1, 0)[None].contiguous()

    def _pixels(self, image: Any, width: int, height: int) -> Tensor:
        """Return a picture that fills the size, cropped in the middle. Shapes: (1, 3, H, W)."""
        whole = upright(image).convert("RGB")
        fitted = PIL.ImageOps.fit(whole, (width, height), PIL.Image.Resampling.LANCZOS)
        values = torch.from_numpy(np.asarray(fitted, np.float32) / 255)
        return values.movedim(-1, 0)[None].to(self._networks.device)

    def _regularise(self, number: int) -> None:
        """Add the gradients of what holds the latents small, and near the start."""
        asked, latents = self._asked, self._latents.detach()
        assert self._latents.grad is not None, "step() has filled it"
        decay = asked.weight_decay * (1 - number / asked.steps)
        if decay:
            self._latents.grad += 2 * decay / latents.numel() * latents
        if asked.start_weight:
            away = latents - self._first
            self._latents.grad += 2 * asked.start_weight / latents.numel() * away


def _picture(pixels: Tensor) -> PIL.Image.Image:
    values = (pixels[0].detach().clamp(0, 1) * 255).round().to(torch.uint8)
    array: NDArray[np.uint8] = values.movedim(0, -1).cpu().numpy()
    return PIL.Image.fromarray(array)


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Let cuDNN choose what gives the same bits each time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield
