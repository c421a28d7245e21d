"""Any other pipeline of diffusers that makes a picture of words, drawn by its own loop.

For families that have no file here, and for schedulers that the engine has no solver for. Samples
do not share steps then; progress, cancelling within a step and previews are there all the same.

Pictures to start from and masks are for other pipelines of diffusers, made of the same parts: what
they are is in `pipeline_signatures.json`.
"""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Final, TypeAlias, get_args

import diffusers
import PIL.Image
import torch
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from swell.core.errors import InvalidModel
from swell.diffusion.families.adapters import encoder_layer
from swell.diffusion.families.components_torch import DAMAGED, class_of, is_part, precision
from swell.diffusion.families.model_definition import Described, fixed_loras
from swell.diffusion.families.pipeline_folder import UNUSED, missing_parts, used_parts
from swell.diffusion.families.pipeline_signatures import (
    MOST_GUIDANCE,
    MOST_STEPS,
    GuidedBy,
    Loop,
    Use,
)
from swell.diffusion.families.schedulers import few_step, with_sampler
from swell.diffusion.families.stable_diffusion_xl import sgm_layer
from swell.diffusion.torch_arrays import OUT_OF_MEMORY, inference
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.image_orientation import upright
from swell.sdk.media import Image, LoRA
from swell.sdk.model import Model
from swell.sdk.step_model import NOT_FINITE
from swell.weights.lora import WrongLora
from swell.weights.torch_lora import TorchAdaptedWeights

#: A preview's longer side, in latents.
_PREVIEW: Final = 32


class OwnLoop(Model):
    """A pipeline with the loop that diffusers has for it.

    Args:
        described: The entry and the settings of the folder.
    """

    def __init__(self, described: Described) -> None:
        assert described.facts.loop is not None, "it is what makes it one"
        self._described = described
        self._loop = described.facts.loop
        self._pipeline: Any = None
        #: The same parts as other pipelines, by their names: made when they are needed.
        self._siblings: dict[str, Any] = {}
        self._adapted: TorchAdaptedWeights | None = None
        self._loras = fixed_loras(described.entry)
        self._device = "cpu"

    def load(self, device: str) -> None:
        """Read all parts.

        Raises:
            InvalidModel: This diffusers has no such pipeline, it takes no words, or a part is
                missing.
            WrongLora: A LoRA that is always on does not fit.
        """
        described = self._described
        name = described.facts.loaded_as
        kind = _kind_of(name)
        for sibling in filter(None, (self._loop.image, self._loop.mask)):
            _kind_of(sibling)
        for part, (library, class_name) in used_parts(described.facts.index).items():
            class_of(part, library, class_name)
        told, is_gpu = described.entry.dtype, torch.device(device).type == "cuda"
        dtype = getattr(torch, ("bfloat16" if is_gpu else "float32") if told == "auto" else told)
        known = inspect.signature(kind.__init__).parameters
        left_out = {*UNUSED, *missing_parts(described.facts.index)}
        try:
            self._pipeline = kind.from_pretrained(
                described.folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                torch_dtype=dtype,
                **dict.fromkeys(part for part in left_out if part in known),
                **self._schedulers(),
                **self._precision(),
            )
        except OUT_OF_MEMORY:
            raise
        except ImportError as error:
            raise InvalidModel(f"{name} needs a package that is not installed: {error}") from error
        except DAMAGED as error:
            told = str(error) or type(error).__name__
            raise InvalidModel(f"{name} cannot be read: {told}") from error
        self._pipeline.set_progress_bar_config(disable=True)
        self._siblings = {name: self._pipeline}
        self._pipeline.to(device)
        self._device = device
        self._adapted = TorchAdaptedWeights(self._weights(), rename=self._layer)
        self._adapted.apply(self._loras)
        self.out_of_memory = OUT_OF_MEMORY
        self.memory_bytes = sum(
            value.nbytes for part in self._networks() for value in part.parameters()
        )

    def _precision(self) -> dict[str, str]:
        parts = used_parts(self._described.facts.index)
        found = [precision(self._described.folder / part) for part in parts]
        return next(filter(None, found), {})

    def _schedulers(self) -> dict[str, Any]:
        """Return new schedulers, by the names of their parts.

        Each pipeline has its own: some change settings of those that they are given.
        """
        made, folder = {}, self._described.folder
        for part, (library, class_name) in used_parts(self._described.facts.index).items():
            kind = class_of(part, library, class_name)
            if issubclass(kind, diffusers.SchedulerMixin):
                made[part] = kind.from_pretrained(folder / part, local_files_only=True)
        if "scheduler" in made:
            made["scheduler"] = self._chosen(made["scheduler"])
        return made

    def _chosen(self, own: Any) -> Any:
        """Return the scheduler that was asked for; the folder's own if none was."""
        entry = self._described.entry
        config = {**own.config, "_class_name": type(own).__name__}
        chosen = config
        if entry.few_step:
            chosen = few_step(chosen, entry.few_step)[0]
        if entry.sampler:
            chosen = with_sampler(chosen, entry.sampler)
        if chosen is config:
            return own
        return getattr(diffusers, chosen["_class_name"]).from_config(chosen)

    def _networks(self) -> list[nn.Module]:
        return [part for part in self._pipeline.components.values() if isinstance(part, nn.Module)]

    # --- LoRAs -----------------------------------------------------------------------------------

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights that LoRAs may change, by name."""
        components, encoders = self._pipeline.components, self._encoders()
        named = {
            f"{name}." if name in encoders else "": components[name]
            for name in ("unet", "transformer", *encoders)
            if isinstance(components.get(name), nn.Module)
        }
        return {
            f"{prefix}{name}": value
            for prefix, module in named.items()
            for name, value in module.named_parameters()
        }

    def _encoders(self) -> list[str]:
        return [name for name in self._pipeline.components if name.startswith("text_encoder")]

    def _layer(self, name: str) -> str:
        """Return the layer that a name in a LoRA file means."""
        components = self._pipeline.components
        found = encoder_layer(name, {part: components[part] for part in self._encoders()})
        is_xl = type(self._pipeline).__name__.startswith("StableDiffusionXL")
        return sgm_layer(found) if is_xl else found

    def _adapt(self, loras: Sequence[LoRA]) -> None:
        """Apply these LoRAs and the fixed ones, and remove all others."""
        if self._adapted is not None:
            self._adapted.apply([*self._loras, *loras])

    # --- the device ------------------------------------------------------------------------------

    def offload(self) -> int:
        """Move to host memory; return the bytes that this takes there."""
        if self._adapted is not None:
            self._adapted.apply(())
        self._pipeline.to("cpu")
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()
        return self.memory_bytes

    def onload(self) -> None:
        """Move back to the device."""
        self._pipeline.to(self._device)
        if self._adapted is not None:
            self._adapted.moved(self._weights())

    # --- a picture -------------------------------------------------------------------------------

    def run(self, items: list[Item[Any]]) -> list[Any]:
        """Draw one after another."""
        return [self._one(item) for item in items]

    def _one(self, item: Item[Any]) -> Image | Exception:
        try:
            item.check()
            pipeline, pictures = self._pictured(item.input)
            self._adapt(getattr(item.input, "loras", []))
            return self._drawn(item, pipeline, pictures)
        except (Cancelled, Reject, WrongLora, FloatingPointError) as ended:
            return ended

    @inference
    def _drawn(self, item: Item[Any], pipeline: Any, pictures: Mapping[str, Any]) -> Image:
        """Draw one.

        Raises:
            Cancelled: The task was cancelled.
            Reject: The pipeline does not accept the input.
            FloatingPointError: The picture has NaN or infinite values.
        """
        known = inspect.signature(pipeline.__call__).parameters
        told = self._told(item, pipeline, pictures.get("strength", 1.0))
        wanted = {**self._words(item), **pictures, **told}
        given = {
            name: value for name, value in wanted.items() if name in known and value is not None
        }
        try:
            with warnings.catch_warnings():
                # diffusers makes black pixels of NaN, and numpy warns of it.
                warnings.filterwarnings("error", "invalid value encountered in cast")
                made = pipeline(**given)
        except RuntimeWarning as error:
            raise FloatingPointError(NOT_FINITE) from error
        except ValueError as error:
            # So says diffusers of steps, sides and strengths that a pipeline does not take.
            raise Reject(f"This model's pipeline cannot do that: {error}") from error
        # That of Kandinsky 5 names them so.
        return Image((made.images if hasattr(made, "images") else made.image)[0])

    def _words(self, item: Item[Any]) -> dict[str, Any]:
        """Return the arguments that all pipelines take, by their names in diffusers."""
        asked, guided_by = item.input, self._loop.guided_by
        seed = item.seed if asked.seed is None else asked.seed + item.index
        unwanted = getattr(asked, "negative_prompt", "") or None
        if guided_by == "true_cfg_scale":
            # Without a second row this scale would mean nothing.
            unwanted = unwanted or " "
        found = {
            "prompt": asked.prompt,
            "negative_prompt": unwanted,
            "num_inference_steps": getattr(asked, "steps", None),
            "generator": torch.Generator("cpu").manual_seed(seed),
        }
        if self._described.facts.takes_guidance:
            found[guided_by] = asked.guidance
        if self._loop.is_sized:
            area = asked.width * asked.height
            found |= {"width": asked.width, "height": asked.height, "max_area": area}
        return found

    def _pictured(self, asked: Any) -> tuple[Any, dict[str, Any]]:
        """Return the pipeline for an input, and its arguments for pictures.

        Raises:
            Reject: A picture is missing.
        """
        image, mask = getattr(asked, "image", None), getattr(asked, "mask", None)
        facts = self._described.facts
        if mask is not None and image is None:
            raise Reject("Give the picture that the mask lies over, as `image`.")
        if facts.sees_mask and mask is None:
            raise Reject("This model paints into pictures: give `image` and `mask`.")
        if facts.refines and image is None:
            raise Reject("This model refines pictures: give `image`.")
        if image is None:
            return self._pipeline, {}
        pictures: dict[str, Any] = {"image": _fitted(image, "RGB", asked)}
        if mask is not None:
            pictures["mask_image"] = _fitted(mask, "L", asked)
        elif not self._loop.image:
            raise Reject("This model changes pictures under a mask: give `mask` too.")
        use = "image" if mask is None else "mask"
        if use in self._loop.strength:
            pictures["strength"] = _strength(asked)
        return self._sibling(self._loop.image if mask is None else self._loop.mask), pictures

    def _sibling(self, name: str) -> Any:
        """Return another pipeline of the same parts."""
        if name not in self._siblings:
            kind, parts = _kind_of(name), self._pipeline.components
            known = {**self._pipeline.config, **parts, **self._schedulers()}
            made = kind(
                **{
                    part: known[part]
                    for part in inspect.signature(kind.__init__).parameters
                    if part in known
                }
            )
            made.set_progress_bar_config(disable=True)
            self._siblings[name] = made
        return self._siblings[name]

    # --- progress and previews -------------------------------------------------------------------

    def _told(self, item: Item[Any], pipeline: Any, strength: float) -> dict[str, Any]:
        """Return the callback for each step; some pipelines take only the older one."""
        steps = getattr(item.input, "steps", 0)
        # Fewer where a picture is begun, which not all pipelines tell.
        expected = max(int(steps * strength), min(steps, 1))

        def tell(step: int, latents: Any) -> None:
            item.check()
            # They are more where a step asks the network twice.
            count = max(getattr(pipeline, "num_timesteps", None) or expected, step + 1)
            total = min(steps or count, count)
            item.progress(-(-(step + 1) * total // count), total)
            if isinstance(latents, Tensor) and latents.ndim == 4 and hasattr(pipeline, "vae"):
                item.preview(lambda: self._preview(latents[:1]))

        def heard(_: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            tell(step, tensors.get("latents"))
            return tensors

        def overheard(step: int, t: Any, latents: Any) -> None:
            tell(step, latents)

        if "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters:
            return {"callback_on_step_end": heard}
        return {"callback": overheard, "callback_steps": 1}

    def _preview(self, latents: Tensor) -> Image:
        vae = self._pipeline.vae
        longest = max(latents.shape[-2:])
        if longest > _PREVIEW:
            latents = nn.functional.interpolate(
                latents, scale_factor=_PREVIEW / longest, mode="area"
            )
        whole = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
        decoded = vae.decode(whole.to(vae.dtype), return_dict=False)[0]
        unit = (decoded / 2 + 0.5).clamp(0, 1).float()[0]
        return Image((unit * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _kind_of(name: str) -> Any:
    """Return the class of a pipeline.

    Raises:
        InvalidModel: This diffusers has no such pipeline, or it takes no words.
    """
    kind = getattr(diffusers, name, None)
    if kind is None or "prompt" not in inspect.signature(kind.__call__).parameters:
        raise InvalidModel(
            f"{name} is no pipeline of diffusers {diffusers.__version__} that makes pictures "
            "of words: a newer one may have it"
        )
    return kind


def _fitted(image: Image, mode: str, asked: Any) -> PIL.Image.Image:
    """Return a picture of the sides that are asked for, resized as diffusers does."""
    picture = upright(image).convert(mode)
    if not hasattr(asked, "width"):
        return picture
    return picture.resize((asked.width, asked.height), PIL.Image.Resampling.LANCZOS)


def _strength(asked: Any) -> float:
    """Return how far from a picture to go: always for one step at least, as models in steps do."""
    strength, steps = float(asked.strength), int(getattr(asked, "steps", 0))
    if not steps or steps * strength >= 1:
        return strength
    least = 1 / steps
    # In floating point, steps times one of them may be a little less than 1.
    return least if int(steps * least) == 1 else least * (1 + 1e-9)


#: Pipelines that always fail: this one reads `guidance_embeds` in the settings of
#: its transformer, which have none (diffusers 0.42.1).
_BROKEN: Final = frozenset({"ChromaInpaintPipeline"})

_Signature: TypeAlias = Mapping[str, inspect.Parameter]

#: Parameters of `__call__` that are not inputs.
_FREE: Final = frozenset({"self", "args", "kwargs"})

#: Words in the names of inputs that a picture made of words alone has no use for.
_OTHER_INPUTS: Final = ("audio", "control", "frame", "gligen", "image", "mask", "source", "video")

#: Inputs that have such a word in them and may be left out of any picture.
_LEFT_OUT: Final = ("attention_mask", "embeds_mask", "ip_adapter", "num_images_per_prompt")


def loop_of(kind: Any) -> Loop:
    """Return what the loop of a pipeline's class takes."""
    told = _call(kind)
    guided_by = _guided_by(told)
    guidance = _default(told, guided_by)
    siblings: dict[Use, Any] = {
        "image": _sibling(kind, "Img2Img"),
        "mask": _sibling(kind, "Inpaint"),
    }
    return Loop(
        is_sized={"width", "height"} <= set(told),
        steps=min(int(_default(told, "num_inference_steps") or 0), MOST_STEPS),
        guided_by=guided_by,
        guidance=None if guidance is None else min(guidance, MOST_GUIDANCE),
        # With a scale of 1 for the second row, the negative prompt has no effect.
        hears_unwanted="negative_prompt" in told and _default(told, "true_cfg_scale") != 1,
        **{name: "" if each is None else each.__name__ for name, each in siblings.items()},
        strength=[
            name
            for name, found in siblings.items()
            if found is not None and "strength" in _call(found)
        ],
    )


def new_loop(index: Mapping[str, Any]) -> Loop:
    """Return what the loop of a pipeline takes that no table knows.

    Args:
        index: What `model_index.json` says.

    Raises:
        InvalidModel: This diffusers has no such pipeline, or it does not make pictures of words
            alone, or a part is nothing that may be read.
    """
    name = str(index.get("_class_name", ""))
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise InvalidModel(
            f"diffusers {diffusers.__version__} has no {name[:80]}: a newer one may, "
            "pip install --upgrade diffusers"
        )
    why = _why_not(kind)
    if why:
        raise InvalidModel(
            f"{name} does not make pictures of words alone: {why}; write a model with code for it"
        )
    for part, (library, class_name) in used_parts(index).items():
        class_of(part, library, class_name)
    missing = _made_of(kind) - {*index, *UNUSED}
    if missing:
        raise InvalidModel(
            f"model_index.json does not name {', '.join(sorted(missing))}, which "
            f"{name} needs: give a folder in diffusers' format"
        )
    return loop_of(kind)


def _why_not(kind: Any) -> str:
    """Return why a pipeline cannot draw from a prompt alone; empty if it can."""
    told = _call(kind)
    if "prompt" not in told:
        return "it takes no prompt"
    needed = _needed(told) - {"prompt"}
    if needed:
        return f"it needs {', '.join(sorted(needed))}"
    others = [
        name
        for name in told
        if any(word in name for word in _OTHER_INPUTS)
        and not any(word in name for word in _LEFT_OUT)
    ]
    if others:
        return f"it takes {', '.join(others[:3])}, which it may need"
    checker = _own_checker(kind)
    if checker:
        return f"it draws nothing without its own {checker}, and no such part is loaded here"
    if _default(told, "output_type") != "pil" or not _makes_pictures(kind):
        return "it makes something else than pictures"
    return ""


def _made_of(kind: Any) -> set[str]:
    """Return what a pipeline cannot be made without."""
    needed = _needed(inspect.signature(kind.__init__).parameters)
    return needed - set(kind._optional_components)


def _own_checker(kind: Any) -> str:
    """Return the class of what checks pictures, where diffusers itself has none such; else empty.

    A pipeline with one makes it where it is given none, of a package of others.
    """
    told = inspect.signature(kind.__init__).parameters
    for name in UNUSED & told.keys():
        noted = told[name].annotation
        for each in get_args(noted) or (noted,):
            if isinstance(each, type) and each is not NoneType and not is_part(each):
                return each.__name__
    return ""


def _makes_pictures(kind: Any) -> bool:
    """Whether what its module returns has pictures."""
    known = vars(inspect.getmodule(kind)).values()
    outputs = [each for each in known if isinstance(each, type) and issubclass(each, BaseOutput)]
    return any({"image", "images"} & set(inspect.get_annotations(each)) for each in outputs)


def _sibling(kind: Any, infix: str) -> Any:
    """Return the pipeline that draws from pictures with the same parts; None if there is none."""
    # It imports all pipelines.
    from diffusers.pipelines import auto_pipeline

    known = {
        "Img2Img": auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        "Inpaint": auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    }[infix]
    keys = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    key = next((key for key, each in keys.items() if each is kind), "")
    name = f"{kind.__name__.removesuffix('Pipeline')}{infix}Pipeline"
    found = known.get(key) or getattr(diffusers, name, None)
    if found is None or found.__name__ in _BROKEN:
        return None
    pictures = {"Img2Img": {"image"}, "Inpaint": {"image", "mask_image"}}[infix]
    told = _call(found)
    is_fed = pictures <= set(told) and _needed(told) <= {"prompt", *pictures}
    has_parts = _needed(inspect.signature(found.__init__).parameters) <= set(
        inspect.signature(kind.__init__).parameters
    )
    return found if is_fed and has_parts else None


def _guided_by(told: _Signature) -> GuidedBy:
    """Return the argument that says how strictly words are taken; nothing if there is none."""
    # A scale of the second row that is on by default is the one that people mean.
    if (_default(told, "true_cfg_scale") or 1) > 1:
        return "true_cfg_scale"
    return "guidance_scale" if "guidance_scale" in told else ""


def _call(kind: Any) -> _Signature:
    return inspect.signature(kind.__call__).parameters


def _needed(told: _Signature) -> set[str]:
    return {name for name, each in told.items() if each.default is each.empty} - _FREE


def _default(told: _Signature, name: str) -> Any:
    """Return a number or a word that stands where nothing is given; None if there is none."""
    found = told[name].default if name in told else None
    return found if isinstance(found, int | float | str) else None


MODEL = OwnLoop
