"""VQGAN guided by CLIP: what a folder must hold, what may be asked, and the model itself.

The search for a picture is in `vqgan_clip_torch`, which needs torch; this file does not, so that
whoever only wants the schema has it without.

Source: Crowson et al., "VQGAN-CLIP: Open Domain Image Generation and Editing with Natural Language
Guidance" (arXiv 2204.08583).
"""

import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.errors import InvalidModel
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.define import Definition
from swell.sdk.define import define as define_model
from swell.sdk.media import Image
from swell.sdk.model import Model
from swell.weights.files import read_settings
from swell_models.taming import diffusers_config, is_taming

#: A side is this long at most; the decoder and its gradient take 1 GB for each 256 x 256 px.
MAX_SIDE_PX: Final = 1024
DEFAULT_SIDE_PX: Final = 256

#: Phrases of one prompt.
MAX_PHRASES: Final = 16
#: Of one phrase, either way.
MAX_WEIGHT: Final = 100.0

_SEARCH: Final = "swell_models.vqgan_clip_torch"

#: What a folder of weights is made of; anything else in it is not looked at.
_SUFFIXES: Final = (".json", ".txt", ".safetensors")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of a prompt, and how much it counts; below 0 the picture keeps away from it."""

    text: str
    weight: float = 1.0


def is_complete(folder: Path) -> bool:
    """Whether a folder has both parts, whatever its `model_index.json` says, if there is one."""
    try:
        vqgan = _read(folder / "vqgan" / "config.json")
        clip = _read(folder / "clip" / "config.json")
    except InvalidModel:
        return False
    is_vqgan = is_taming(vqgan) or vqgan.get("_class_name") == "VQModel"
    return is_vqgan and clip.get("model_type") == "clip"


def phrases(prompt: str) -> list[Phrase]:
    """Return the phrases of a prompt, `a castle | in fog:0.5 | text:-1`.

    What follows the last colon of a phrase is its weight if it is a number; else it is text.

    Raises:
        Reject: There are too many, or a weight is out of bounds.
    """
    found = []
    for part in prompt.split("|"):
        text, _, told = part.rpartition(":")
        weight = _number(told) if text.strip() else None
        phrase = Phrase(part.strip()) if weight is None else Phrase(text.strip(), weight)
        if abs(phrase.weight) > MAX_WEIGHT:
            raise Reject(f"{phrase.text!r} weighs {phrase.weight:g}: give -100 to 100.")
        if phrase.text and phrase.weight:
            found.append(phrase)
    if len(found) > MAX_PHRASES:
        raise Reject(f"The prompt has {len(found)} phrases: give {MAX_PHRASES} at most.")
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# --- the input -----------------------------------------------------------------------------------


class _Asked(BaseModel):
    """What may be asked, whatever the VQGAN."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[
        str,
        Field(
            max_length=2000,
            title="Prompt",
            description="Phrases with | between them, each with a weight if you like: "
            "`a castle in fog | oil on canvas:0.5 | letters:-0.3`.",
            examples=["a lighthouse | oil on canvas:0.5"],
        ),
        ui.textarea(),
    ] = ""
    #: Their limits depend on the VQGAN: see `_input_type`.
    width: int = DEFAULT_SIDE_PX
    height: int = DEFAULT_SIDE_PX
    start: Annotated[
        Image | None,
        Field(title="Start picture", description="Where the search begins; else at random codes."),
        ui.image(),
    ] = None
    start_weight: Annotated[
        float,
        Field(
            ge=0, le=10, title="Keep the start", description="How hard codes are drawn back to it."
        ),
        ui.slider(step=0.05, advanced=True),
    ] = 0.0
    target: Annotated[
        Image | None,
        Field(
            title="Target picture",
            description="A picture that complements the prompt: the result should look similar "
            "to CLIP.",
        ),
        ui.image(advanced=True),
    ] = None
    target_weight: Annotated[
        float,
        Field(ge=-10, le=10, title="Weight of the target picture"),
        ui.slider(step=0.1, advanced=True),
    ] = 1.0
    steps: Annotated[
        int,
        Field(ge=1, le=2000, title="Steps", description="Most happens in the first 300."),
        ui.slider(step=1),
    ] = 300
    cutouts: Annotated[
        int,
        Field(
            ge=1,
            le=128,
            title="Cutouts",
            description="Crops that CLIP looks at in each step: more give a calmer picture, and "
            "take longer.",
        ),
        ui.slider(step=1, advanced=True),
    ] = 32
    cut_pow: Annotated[
        float,
        Field(
            ge=0.1,
            le=4,
            title="Power of the cutouts' size",
            description="Above 1 more of them are small, below 1 more are large.",
        ),
        ui.slider(step=0.1, advanced=True),
    ] = 1.0
    augment: Annotated[
        bool,
        Field(
            title="Augment",
            description="Mirror, turn, shear and tint each cutout, so that no trick of the pixels "
            "passes for the words.",
        ),
        ui.hint(advanced=True),
    ] = True
    noise: Annotated[
        float,
        Field(ge=0, le=1, title="Noise", description="Largest amount on each cutout."),
        ui.slider(step=0.01, advanced=True),
    ] = 0.1
    learning_rate: Annotated[
        float, Field(ge=0.001, le=1, title="Learning rate"), ui.slider(step=0.005, advanced=True)
    ] = 0.1
    weight_decay: Annotated[
        float,
        Field(
            ge=0,
            le=10,
            title="Weight decay",
            description="How hard codes are held small; falls to nothing until the last step.",
        ),
        ui.slider(step=0.05, advanced=True),
    ] = 0.0
    seed: Annotated[
        int | None,
        Field(ge=0, lt=2**63, title="Seed", description="The same seed, the same picture."),
        ui.seed(),
    ] = None


def _input_type(stride_px: int) -> type[BaseModel]:
    """Return the input with sides that are multiples of the VQGAN's stride."""
    least = stride_px * max(1, math.ceil(32 / stride_px))
    default = max(least, DEFAULT_SIDE_PX // stride_px * stride_px)

    def side(title: str) -> Any:
        limits = Field(ge=least, le=MAX_SIDE_PX, multiple_of=stride_px, title=title)
        return (Annotated[int, limits, ui.slider(step=stride_px)], default)

    return pydantic.create_model(
        "VqganClipInput",
        __base__=_Asked,
        __module__=__name__,
        width=side("Width in px"),
        height=side("Height in px"),
    )


# --- the model -----------------------------------------------------------------------------------


class VqganClip(Model):
    """A picture found by search: CLIP says how far a VQGAN's picture is from the words, and the
    codes that it is made of follow the gradient, step by step.

    The oldest way of open text-to-image, and still one of its own: dense, painterly, never the
    photograph. Several phrases pull at once, each with its weight, and some may push away.

    | | |
    |---|---|
    | method | VQGAN-CLIP, Crowson et al., arXiv 2204.08583 |
    | sides | multiples of the VQGAN's stride, up to 1024 px |
    | prompt | phrases with `|` between them, `phrase:weight`, weights below 0 push away |
    | start, target | a picture to begin at; a picture to resemble |
    | seed | the same seed, input and machine give the same picture, bit for bit |

    Weights are those of the folder that was added; their licences are their makers'.
    """

    #: Where the weights lie; set in the class that `define` makes.
    folder: ClassVar[Path] = Path()
    Output = Image
    #: Few steps: it is drawn when the model is checked, perhaps on a CPU.
    examples = ({"prompt": "a lighthouse | oil on canvas:0.5", "steps": 10, "cutouts": 8},)

    def __init__(self) -> None:
        self._networks: Any = None
        self._search: Any = None

    def load(self, device: str) -> None:
        """Read both networks.

        Raises:
            InvalidModel: torch, diffusers or transformers is missing, or the folder is not whole.
        """
        try:
            module = importlib.import_module(_SEARCH)
        except ModuleNotFoundError as error:
            raise InvalidModel(
                f"{self.name} needs {error.name}, which is not installed: install "
                "torch, diffusers and transformers"
            ) from error
        self.out_of_memory = module.OUT_OF_MEMORY
        self._networks = module.Networks.load(self.folder, device)
        self._search = module.Search
        self.memory_bytes = self._networks.size_bytes

    def offload(self) -> int:
        """Leave the device for the host's memory; return how many bytes that takes."""
        size_bytes: int = self._networks.offload()
        return size_bytes

    def onload(self) -> None:
        """Come back to the device."""
        self._networks.onload()

    def run(self, items: list[Item[Any]]) -> list[Any]:
        """Search one picture after another. They share the weights, and nothing that changes."""
        return [self._one(item) for item in items]

    def _one(self, item: Item[Any]) -> Image | Exception:
        asked = item.input
        try:
            wanted = phrases(asked.prompt)
            if not wanted and (asked.target is None or not asked.target_weight):
                return Reject("Give a prompt or a target picture: nothing says what to draw.")
            seed = item.seed if asked.seed is None else asked.seed + item.index
            search = self._search(self._networks, asked, wanted, seed)
            search.begin()
            for step in range(asked.steps):
                search.step(step, item.check)
                item.progress(step + 1, asked.steps)
                item.preview(search.preview)
            item.check()
            return Image(search.picture(), metadata={"distance": round(search.distance, 5)})
        except (Cancelled, Reject, FloatingPointError) as ended:
            return ended


def define(folder: Path, name: str, listed: Path | None = None) -> Definition:
    """Return the model that a folder holds.

    Args:
        folder: With `vqgan/` (a `VQModel` of diffusers, or a VQGAN as its authors keep it, see
            `taming`) and `clip/` (a `CLIPModel` of transformers and its tokenizer), both as
            `config.json` and safetensors.
        name: `owner/name`.
        listed: A file that lists what the weights hold, from which the version is made then; else
            all of them are read for it.

    Raises:
        InvalidModel: Something is missing, or is not what it should be; the text says what.
    """
    vqgan, clip = _read(folder / "vqgan" / "config.json"), _read(folder / "clip" / "config.json")
    if is_taming(vqgan):
        vqgan = diffusers_config(vqgan)
    if vqgan.get("_class_name") != "VQModel":
        raise InvalidModel(
            f"vqgan/config.json is of {str(vqgan.get('_class_name'))[:80]}: give a VQModel of "
            "diffusers, or the settings that a VQGAN's authors gave it"
        )
    if clip.get("model_type") != "clip":
        raise InvalidModel(
            f"clip/config.json is of {str(clip.get('model_type'))[:80]}: give a CLIPModel"
        )
    files = []
    for part in ("vqgan", "clip"):
        # Not pipes, at which whoever reads them would wait.
        inside = (path for path in (folder / part).iterdir() if path.is_file())
        found = sorted(path for path in inside if path.suffix in _SUFFIXES)
        if not any(path.suffix == ".safetensors" for path in found):
            raise InvalidModel(
                f"{part}/ has no .safetensors file: convert its weights, other formats are not "
                "opened"
            )
        files += found
    made = type(
        "VqganClipOfFolder",
        (VqganClip,),
        {
            "__module__": __name__,
            "__doc__": VqganClip.__doc__,
            "name": name,
            "folder": folder,
            "Input": _input_type(stride_px(vqgan)),
            "files": tuple(path.resolve() for path in [*_code(), *([listed] if listed else files)]),
        },
    )
    return define_model(made)


def stride_px(vqgan: Mapping[str, Any]) -> int:
    """Return how many pixels a side one code stands for, by a VQModel's `config.json`."""
    return int(2 ** (len(vqgan.get("block_out_channels") or (64,)) - 1))


def _code() -> list[Path]:
    """Return the files beside this one that the picture depends on."""
    return [Path(__file__).with_name(f"{name}.py") for name in ("vqgan_clip_torch", "taming")]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_settings(path))
    except FileNotFoundError:
        where = path.relative_to(path.parents[1])
        raise InvalidModel(f"{where} is missing: give a folder with vqgan/ and clip/") from None
    except RecursionError:
        where = path.relative_to(path.parents[1])
        raise InvalidModel(f"{where} cannot be read: tables within tables without end") from None
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{path.relative_to(path.parents[1])} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InvalidModel(f"{path.relative_to(path.parents[1])} is no table of settings")
    return found
