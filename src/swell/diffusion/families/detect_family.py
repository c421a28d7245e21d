"""Which family a folder of weights belongs to, and what its settings say.

A folder of diffusers has `model_index.json`, with the pipeline and its parts, and one folder for
each part with its `config.json`. Pure but for reading these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidModel
from swell.diffusion.families.family import OTHER, Family
from swell.diffusion.families.flux import Flux
from swell.diffusion.families.pipeline_folder import (
    UNUSED,
    check_names,
    check_parts,
    check_text,
    class_in,
    count_of,
    counts_of,
    number_of,
    parts_of,
    read_json,
    used_parts,
)
from swell.diffusion.families.pipeline_signatures import LOOPS, Loop, words_of
from swell.diffusion.families.schedulers import (
    SAMPLERS,
    check_sampler,
    few_step,
    sampler_of,
    with_sampler,
)
from swell.diffusion.families.stable_diffusion import StableDiffusion
from swell.diffusion.families.stable_diffusion_3 import StableDiffusion3
from swell.diffusion.families.stable_diffusion_xl import StableDiffusionXl
from swell.sdk.missing_packages import demo_module
from swell.weights.formats import is_allowed

FAMILIES: Final[Sequence[Family]] = (
    StableDiffusion(),
    StableDiffusionXl(),
    StableDiffusion3(),
    Flux(),
)

#: Names of autoencoders; a pipeline without one works on pixels.
_CODERS: Final = frozenset({"vae", "movq", "vqvae", "vqgan"})

#: The longest side of training pictures, in px.
MOST_PX: Final = 4096

#: The usual side of training pictures, in px.
_USUAL_PX: Final = 1024

_VAE: Final = "vae/config.json"
_SCHEDULER: Final = "scheduler/scheduler_config.json"


@dataclass(frozen=True, slots=True)
class Facts:
    """The settings of a folder. Sides are in px, those of latents in their own units."""

    family: Family
    index: Mapping[str, Any]
    network: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    #: A picture's sides are multiples of this.
    stride_px: int = 8
    #: Pixels a side for one latent.
    scale_px: int = 8
    #: Channels of latents.
    channels: int = 4
    #: The side of the training pictures.
    side_px: int = 512
    steps: int = 30
    guidance: float = 7.5
    #: Why it is not batched step by step although its family is; else empty.
    obstacle: str = ""
    #: The arguments of its pipeline, if diffusers' own loop runs it.
    loop: Loop | None = None

    @property
    def lays_all_steps(self) -> bool:
        """Whether image-to-image spreads all steps over the remaining noise.

        Others leave out the first steps.
        """
        is_lcm = words_of(str(self.index.get("_class_name"))) == "LatentConsistencyModelPipeline"
        return is_lcm and self.scheduler.get("_class_name") == SAMPLERS["lcm"]

    @property
    def has_net(self) -> bool:
        """Whether its folder has a control net."""
        return "controlnet" in parts_of(self.index)

    @property
    def input_channels(self) -> tuple[int, int]:
        """The network's possible input channels: for latents, and with mask and picture."""
        return self.family.input_channels(self.channels, self.scale_px)

    @property
    def sees_mask(self) -> bool:
        """Whether the mask and the picture around it are inputs of the network."""
        if self.loop is not None and not self.loop.mask:
            return False
        plain, masked = self.input_channels
        return bool(self.network.get("in_channels", plain) == masked)

    @property
    def is_masked(self) -> bool:
        """Whether it takes a mask at all."""
        return self.family is not OTHER if self.loop is None else bool(self.loop.mask)

    @property
    def refines(self) -> bool:
        """Whether it is a refiner, which only continues pictures of another model."""
        return bool(self.index.get("requires_aesthetics_score"))

    @property
    def takes_image(self) -> bool:
        """Whether it takes a picture to start from."""
        return self.loop is None or bool(self.loop.image or self.loop.mask)

    @property
    def takes_loras(self) -> bool:
        """Whether it has a network that LoRAs are made for."""
        return bool(self.network_class)

    @property
    def loaded_as(self) -> str:
        """The pipeline of diffusers that loads the parts, for its own loop."""
        words = words_of(str(self.index["_class_name"]))
        if self.loop is None or not (self.sees_mask or self.refines):
            return words
        return self.loop.mask if self.sees_mask else self.loop.image

    @property
    def network_class(self) -> str:
        """The class in diffusers of its U-Net or transformer; empty if it has neither."""
        parts = parts_of(self.index)
        return next((parts[name][1] for name in ("unet", "transformer") if name in parts), "")

    @property
    def takes_guidance(self) -> bool:
        """Whether a task may set guidance."""
        if self.loop is not None:
            # Flux takes it as a number or not at all.
            is_fixed = self.network_class == Flux.network_class and not self.hears_guidance
            return bool(self.loop.guided_by) and not is_fixed
        return self.is_guided or self.hears_guidance

    @property
    def hears_guidance(self) -> bool:
        """Whether guidance is an input of the network, which takes no second row."""
        return bool(self.network.get("guidance_embeds") or self.network.get("time_cond_proj_dim"))

    @property
    def is_guided(self) -> bool:
        """Whether guidance takes a second row, with the negative prompt."""
        if self.loop is not None:
            return self.loop.hears_unwanted and not self.network.get("time_cond_proj_dim")
        return self.family.has_negative_prompt and not self.hears_guidance

    def tokens(self, width: int, height: int) -> int:
        """Return the number of a picture's tokens in a transformer. Sides are in px."""
        token_px = self.scale_px * self.family.patch(self.network)
        return (height // token_px) * (width // token_px)


def look(
    folder: Path,
    *,
    sampler: str = "",
    few: str = "",
    steps: int | None = None,
    guidance: float | None = None,
    loop: Loop | None = None,
) -> Facts:
    """Read what a folder's settings say.

    Args:
        folder: Of weights, with `model_index.json`.
        sampler: A sampler in place of the folder's own, if not empty.
        few: How it was distilled to few steps, if it was.
        steps: The default number of steps; None for the family's.
        guidance: The default guidance scale; None for the family's.
        loop: The arguments of a pipeline that is not in `LOOPS`, if they are known.

    Raises:
        InvalidModel: It is no folder of a model, a part is missing, or Swell has no family for it.
    """
    index = read_json(folder, "model_index.json")
    pipeline = class_in(index, "model_index.json")
    family = _family(pipeline, loop)
    loop = LOOPS.get(words_of(pipeline), loop)
    is_other = family is OTHER
    check_parts(folder, index, in_steps=not is_other)
    file = _network_file(folder, family)
    network = read_json(folder, file, optional=is_other)
    vae = read_json(folder, _VAE, optional=is_other)
    config = _scheduler_config(folder, index, optional=is_other)
    check_sampler(sampler, few, flows=_flows(family, config), name=pipeline)
    usual = family.defaults(pipeline, network)
    if few:
        config, few_usual = few_step(config, few)
        usual = usual or few_usual
    usual_steps, usual_guidance = usual or _defaults(family, loop)
    if sampler:
        config = with_sampler(config, sampler)
    if not is_other:
        _check_settings(family, network, vae)
    scale_px = 1 if is_other and _CODERS.isdisjoint(parts_of(index)) else _scale(vae)
    stride_px, side_px = _sizes(family, network, scale_px, file)
    facts = Facts(
        family=family,
        index=index,
        network=network,
        vae=vae,
        scheduler=config,
        stride_px=stride_px,
        scale_px=scale_px,
        channels=4 if is_other else int(vae.get("latent_channels", 4)),
        side_px=max(side_px // stride_px, 1) * stride_px,
        steps=steps or usual_steps,
        guidance=usual_guidance if guidance is None else guidance,
    )
    scheduler = family.scheduler(pipeline, config, sees_mask=facts.sees_mask)
    return _placed(folder, replace(facts, scheduler=scheduler), loop)


def _network_file(folder: Path, family: Family) -> str:
    file = f"{family.network}/config.json"
    is_found = family is not OTHER or (folder / file).is_file()
    return file if is_found else "transformer/config.json"


def _scheduler_config(folder: Path, index: Mapping[str, Any], *, optional: bool) -> dict[str, Any]:
    config = read_json(folder, _SCHEDULER, optional=optional)
    class_in(config, _SCHEDULER)
    part = parts_of(index).get("scheduler")
    # People change the scheduler in `model_index.json` alone.
    return {**config, "_class_name": part[1]} if part is not None and config else config


def _placed(folder: Path, facts: Facts, loop: Loop | None) -> Facts:
    """Decide whether steps are batched or diffusers' own loop runs the model; return the facts.

    Raises:
        InvalidModel: Neither can run it.
    """
    why = _obstacle(facts)
    if why:
        found = _in_own_loop(facts, loop, why)
        for name, (library, _) in used_parts(facts.index).items():
            check_names(folder / name, library)
        return found
    channels, (plain, masked) = facts.network.get("in_channels"), facts.input_channels
    if facts.family.is_flow and channels not in (None, plain, masked):
        raise InvalidModel(
            f"transformer/config.json: in_channels is {channels}, and "
            f"{facts.family.name} with this autoencoder takes {plain}, or {masked} "
            "with a mask: a network with other image inputs cannot be added"
        )
    return facts


def _says_flow(config: Mapping[str, Any]) -> bool:
    return "Flow" in config.get("_class_name", "") or bool(config.get("use_flow_sigmas"))


def _flows(family: Family, config: Mapping[str, Any]) -> bool | None:
    """Whether a network predicts a flow rather than noise; None if that is not known."""
    if _says_flow(config):
        return True
    if family is not OTHER:
        return family.is_flow
    return False if config.get("_class_name") in SAMPLERS.values() else None


def _in_own_loop(facts: Facts, loop: Loop | None, why: str) -> Facts:
    """Return the facts of a model that diffusers' own loop runs.

    Raises:
        InvalidModel: The loop needs other inputs, or another scheduler.
    """
    kind = facts.scheduler.get("_class_name", "")
    usual = _usual_sampler(facts.family)
    is_unfit = not _says_flow(facts.scheduler) if facts.family.is_flow else "Flow" in kind
    if loop is not None and facts.family is not OTHER and kind and is_unfit:
        raise InvalidModel(
            f"{kind} is not for networks of {facts.family.name}: add --sampler {usual}"
        )
    if loop is None or facts.has_net:
        raise InvalidModel(
            f"{facts.index.get('_class_name')} needs other pictures than one to change, which "
            f"diffusers' own loop is not given here, and it is not drawn step by step, since {why}"
        )
    return replace(facts, family=OTHER, obstacle="" if facts.family is OTHER else why, loop=loop)


def _defaults(family: Family, loop: Loop | None) -> tuple[int, float]:
    if family is not OTHER or loop is None:
        return family.steps, family.guidance
    guidance = family.guidance if loop.guidance is None else loop.guidance
    return loop.steps or family.steps, guidance


def _usual_sampler(family: Family) -> str:
    return "flow_euler" if family.is_flow else "dpmpp_2m"


def is_known(pipeline: str) -> bool:
    """Whether a pipeline of diffusers is of a family or in `LOOPS`."""
    return any(pipeline in each.pipelines for each in FAMILIES) or words_of(pipeline) in LOOPS


def _family(pipeline: str, loop: Loop | None) -> Family:
    """Return the family of a pipeline in diffusers.

    Raises:
        InvalidModel: It is no text-to-image pipeline that Swell knows.
    """
    if loop is not None or is_known(pipeline):
        return next((each for each in FAMILIES if pipeline in each.pipelines), OTHER)
    if not pipeline.endswith("Pipeline"):
        raise InvalidModel(
            f"model_index.json names {pipeline[:80] or 'no pipeline'}: give a folder"
            " in diffusers' format, whose _class_name ends with Pipeline"
        )
    raise InvalidModel(
        f"{pipeline[:80]} is not a known text-to-image pipeline. A pipeline that"
        " needs other inputs, such as a length in seconds, or produces "
        "something else, cannot be added: write a model class for it. For a "
        "newer text-to-image pipeline install diffusers, which Swell then "
        "inspects: pip install 'swell[diffusers]'"
    )


def _check_settings(family: Family, network: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Check the numbers that Swell computes with.

    Raises:
        InvalidModel: One is no number, or out of bounds.
    """
    file = f"{family.network}/config.json"
    count_of(network, "in_channels", 4, least=1, most=1024, file=file)
    if network.get("time_cond_proj_dim") is not None:
        count_of(network, "time_cond_proj_dim", 0, least=4, most=1 << 16, file=file)
    if family.is_flow:
        count_of(network, "patch_size", 1, least=1, most=16, file=file)
    count_of(vae, "latent_channels", 4, least=1, most=256, file=_VAE)
    number_of(vae, "scaling_factor", 1.0, least=1e-6, most=1e6, file=_VAE)
    if vae.get("shift_factor") is not None:
        number_of(vae, "shift_factor", 0.0, least=-1e3, most=1e3, file=_VAE)


def _scale(vae: Mapping[str, Any]) -> int:
    """Return the side of a latent in px: each stage of the autoencoder halves."""
    names = ("block_out_channels", "encoder_block_out_channels")
    name = next((name for name in names if vae.get(name) is not None), None)
    if name is None:
        return 8
    stages = counts_of(vae, name, length=8, least=1, most=1 << 14, file=_VAE)
    return int(2 ** (len(stages) - 1))


def _sizes(family: Family, network: Mapping[str, Any], scale_px: int, file: str) -> tuple[int, int]:
    """Return the number that sides are multiples of, and the side of training pictures, in px."""
    size, stride_px = family.sample_size(network), family.stride_px(network, scale_px)
    # Today's transformers outside of the families have 2 x 2 latents as one token.
    if family is OTHER and file.startswith("transformer") and network:
        stride_px = 16 if scale_px == 1 else 2 * scale_px
        size = _USUAL_PX // scale_px if size is None else size
    return stride_px, _side(family, size, scale_px, file)


def _side(family: Family, size: Any, scale_px: int, file: str) -> int:
    """Return the side of the training pictures, in px.

    Raises:
        InvalidModel: It is out of bounds.
    """
    if isinstance(size, list) and size:
        size = size[0]
    size = 64 if size is None else size
    count = count_of({"sample_size": size}, "sample_size", 64, least=1, most=MOST_PX, file=file)
    if count * scale_px <= MOST_PX:
        return count * scale_px
    if family is OTHER:
        # Such sizes are of pixels already, or of other latents.
        return _USUAL_PX
    raise InvalidModel(
        f"{file}: sample_size {count} and {_VAE}: {scale_px} px for a latent are pictures of "
        f"{count * scale_px} px a side, and there are none of more than {MOST_PX}: correct them"
    )


def _obstacle(facts: Facts) -> str:
    """Return why Swell cannot batch its steps; empty if it can."""
    family = facts.family
    if family is OTHER:
        return "its family is not"
    if facts.vae.get("latents_mean") or facts.vae.get("latents_std"):
        return "its autoencoder has latents of another mean and spread"
    if facts.refines:
        return "it refines what another model has begun"
    classes = {name: kind for name, (_, kind) in parts_of(facts.index).items()}
    known = {"vae": "AutoencoderKL", family.network: family.network_class}
    if facts.has_net:
        known["controlnet"] = family.control
    for name, kind in known.items():
        if classes.get(name) != kind:
            return f"its {name} is {classes.get(name, 'missing')} and not {kind}"
    if sampler_of(facts.scheduler, 4, tokens=256, even=family.even) is None:
        found, usual = str(facts.scheduler.get("_class_name")), _usual_sampler(family)
        return f"there is no solver for {found} as it is set: add --sampler {usual}"
    return ""


def weight_files(folder: Path) -> list[str]:
    """Return the names of all files that a model may be made of, sorted.

    Raises:
        InvalidModel: A name is not UTF-8.
    """
    names = (each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    found = sorted(
        name for name in names if is_allowed(name) and name.partition("/")[0] not in UNUSED
    )
    for name in found:
        check_text(name)
    return found


def is_vqgan_clip(folder: Path) -> bool:
    """Whether a folder holds a VQGAN and a CLIP, which optimise a picture together."""
    if (folder / "model_index.json").is_file():
        return read_json(folder, "model_index.json").get("_class_name") == "VQGANCLIP"
    if not all((folder / part / "config.json").is_file() for part in ("vqgan", "clip")):
        return False
    return bool(demo_module("vqgan_clip").is_complete(folder))
