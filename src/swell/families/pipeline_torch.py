"""Any other pipeline of diffusers that makes a picture of words, drawn by its own loop.

For families that have no file here, and for schedulers that the engine has no solver for. Samples
do not share steps then; progress, cancelling within a step and previews are there all the same.
"""

import inspect
from collections.abc import Callable
from typing import Any, Final

import diffusers
import torch
from torch import Tensor, nn

from swell.families.description import Described, fixed_loras
from swell.families.layer_names import encoder_layer, sgm_layer
from swell.families.networks_torch import DAMAGED, class_of, frozen
from swell.families.parts import UNUSED, used_parts
from swell.families.schedulers import few_step, with_sampler
from swell.media import Image
from swell.model import Cancelled, InvalidModel, Item, Model
from swell.torch_arrays import OUT_OF_MEMORY
from swell.weights.torch_lora import TorchAdaptedWeights

__all__ = ["MODEL", "OwnLoop"]

#: A preview's longer side, in latents.
_PREVIEW: Final = 32


class OwnLoop(Model):
    """A pipeline with the loop that diffusers has for it.

    Args:
        described: What was said of it, and what its folder says.
    """

    def __init__(self, described: Described) -> None:
        self._described = described
        self._pipeline: Any = None
        self._device = "cpu"

    def load(self, device: str) -> None:
        """Read all parts.

        Raises:
            InvalidModel: This diffusers has no such pipeline, it takes no words, or a part is
                missing.
        """
        described = self._described
        name = str(described.facts.index["_class_name"])
        kind = getattr(diffusers, name, None)
        if kind is None or "prompt" not in inspect.signature(kind.__call__).parameters:
            raise InvalidModel(
                f"{name} is no pipeline of diffusers {diffusers.__version__} that makes pictures "
                "of words: a newer one may have it"
            )
        for part, (library, class_name) in used_parts(described.facts.index).items():
            class_of(part, library, class_name)
        told, is_gpu = described.entry.dtype, torch.device(device).type == "cuda"
        dtype = getattr(torch, ("bfloat16" if is_gpu else "float32") if told == "auto" else told)
        known = inspect.signature(kind.__init__).parameters
        unused = dict.fromkeys(part for part in UNUSED if part in known)
        try:
            self._pipeline = kind.from_pretrained(
                described.folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                torch_dtype=dtype,
                **unused,
            )
        except OUT_OF_MEMORY:
            raise
        except DAMAGED as error:
            told = str(error) or type(error).__name__
            raise InvalidModel(f"{name} cannot be read: {told}") from error
        self._choose_scheduler()
        self._pipeline.set_progress_bar_config(disable=True)
        self._adapt()
        self._pipeline.to(device)
        self._device = device
        self.out_of_memory = OUT_OF_MEMORY
        self.memory_bytes = sum(
            value.nbytes for part in self._networks() for value in part.parameters()
        )

    def _choose_scheduler(self) -> None:
        entry, own = self._described.entry, self._pipeline.scheduler
        config = {**own.config, "_class_name": type(own).__name__}
        chosen = config
        if entry.few_step:
            chosen = few_step(chosen, entry.few_step)[0]
        if entry.sampler:
            chosen = with_sampler(chosen, entry.sampler)
        if chosen is not config:
            kind = getattr(diffusers, chosen["_class_name"])
            self._pipeline.scheduler = kind.from_config(chosen)

    def _adapt(self) -> None:
        """Put the LoRAs on that are always on, once and for all.

        Raises:
            WrongLora: One does not fit.
        """
        loras = fixed_loras(self._described.entry)
        if not loras:
            return
        components = self._pipeline.components
        encoders = [name for name in components if name.startswith("text_encoder")]
        named = {
            f"{name}." if name in encoders else "": components[name]
            for name in ("unet", "transformer", *encoders)
            if isinstance(components.get(name), nn.Module)
        }
        weights = {
            f"{prefix}{name}": value
            for prefix, module in named.items()
            for name, value in module.named_parameters()
        }
        is_xl = type(self._pipeline).__name__.startswith("StableDiffusionXL")

        def rename(name: str) -> str:
            found = encoder_layer(name, encoders)
            return sgm_layer(found) if is_xl else found

        TorchAdaptedWeights(weights, rename=rename).apply(loras)

    def _networks(self) -> list[nn.Module]:
        return [part for part in self._pipeline.components.values() if isinstance(part, nn.Module)]

    def offload(self) -> int:
        """Leave the device for the host's memory; return how many bytes that takes."""
        self._pipeline.to("cpu")
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()
        return self.memory_bytes

    def onload(self) -> None:
        """Come back to the device."""
        self._pipeline.to(self._device)

    def run(self, items: list[Item[Any]]) -> list[Any]:
        """Draw one after another."""
        return [self._one(item) for item in items]

    @frozen
    def _one(self, item: Item[Any]) -> Image | Exception:
        asked = item.input
        seed = item.seed if asked.seed is None else asked.seed + item.index
        wanted = {
            "prompt": asked.prompt,
            "negative_prompt": getattr(asked, "negative_prompt", "") or None,
            "width": asked.width,
            "height": asked.height,
            "num_inference_steps": asked.steps,
            "guidance_scale": getattr(asked, "guidance", None),
            "generator": torch.Generator("cpu").manual_seed(seed),
            "callback_on_step_end": self._told(item),
        }
        known = inspect.signature(self._pipeline.__call__).parameters
        given = {
            name: value for name, value in wanted.items() if name in known and value is not None
        }
        try:
            item.check()
            return Image(self._pipeline(**given).images[0])
        except Cancelled as ended:
            return ended

    def _told(self, item: Item[Any]) -> Callable[..., dict[str, Any]]:
        total = item.input.steps

        def heard(pipeline: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            item.check()
            item.progress(min(step + 1, total), total)
            latents = tensors.get("latents")
            if isinstance(latents, Tensor) and latents.ndim == 4 and hasattr(pipeline, "vae"):
                item.preview(lambda: self._preview(latents[:1]))
            return tensors

        return heard

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


MODEL = OwnLoop
