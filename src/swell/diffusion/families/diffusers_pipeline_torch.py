"""Any other pipeline of diffusers that makes a picture of words, drawn by its own loop.

For families that have no file here, and for schedulers that the engine has no solver for. Samples
do not share steps then; progress, cancelling within a step and previews are there all the same.

Pictures to start from and masks are for other pipelines of diffusers, made of the same parts: what
they are is in `own_loops.py`.
"""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import diffusers
import PIL.Image
import torch
from torch import Tensor, nn

from swell.core.errors import InvalidModel
from swell.diffusion.families.components_torch import DAMAGED, class_of, precision
from swell.diffusion.families.lora_key_map import encoder_layer, sgm_layer
from swell.diffusion.families.model_definition import Described, fixed_loras
from swell.diffusion.families.pipeline_folder import UNUSED, missing_parts, used_parts
from swell.diffusion.families.schedulers import few_step, with_sampler
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
        described: What was said of it, and what its folder says.
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
        """Return schedulers as they are to be, by their parts' names.

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
        """Return what a file of LoRAs means by a layer's name."""
        components = self._pipeline.components
        found = encoder_layer(name, {part: components[part] for part in self._encoders()})
        is_xl = type(self._pipeline).__name__.startswith("StableDiffusionXL")
        return sgm_layer(found) if is_xl else found

    def _adapt(self, loras: Sequence[LoRA]) -> None:
        """Put on these LoRAs beside those that are always on, and take off all others."""
        if self._adapted is not None:
            self._adapted.apply([*self._loras, *loras])

    # --- the device ------------------------------------------------------------------------------

    def offload(self) -> int:
        """Leave the device for the host's memory; return how many bytes that takes."""
        if self._adapted is not None:
            self._adapted.apply(())
        self._pipeline.to("cpu")
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()
        return self.memory_bytes

    def onload(self) -> None:
        """Come back to the device."""
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
            Cancelled: Nobody wants it any more.
            Reject: The pipeline does not take what was asked for.
            FloatingPointError: It came to values that are not numbers.
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
        """Return what any pipeline is given, by the names of diffusers."""
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
        """Return the pipeline that draws what is asked, and the pictures that it is given.

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

    # --- what is told of it ----------------------------------------------------------------------

    def _told(self, item: Item[Any], pipeline: Any, strength: float) -> dict[str, Any]:
        """Return what a pipeline calls after each step; some know only the older way."""
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


MODEL = OwnLoop
