"""What a folder of weights holds: its family, and all that must be known without opening weights.

A folder of diffusers has `model_index.json`, which names its pipeline and what that is made of, and
one folder for each part with its `config.json`. Pure but for reading these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from swell.core.errors import InvalidModel
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
    UNFIT,
    as_pipelines_take,
    check_sampler,
    few_step,
    sampler_of,
    with_sampler,
)
from swell.sdk.missing_packages import demo_module
from swell.weights.formats import is_allowed

__all__ = [
    "FAMILIES",
    "MOST_PX",
    "OTHER",
    "UNUSED",
    "Facts",
    "Family",
    "is_known",
    "is_vqgan_clip",
    "look",
    "read_json",
    "weight_files",
]


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one construction."""

    name: str
    #: Names of pipelines in diffusers; the first makes pictures of words alone.
    pipelines: tuple[str, ...]
    #: Where its model is, below `swell.diffusion.families`.
    module: str
    #: The part that draws: `unet` or `transformer`.
    network: str = "unet"
    #: Its class in diffusers.
    kind: str = "UNet2DConditionModel"
    steps: int = 30
    guidance: float = 7.5
    #: Whether a flow's steps are laid evenly before they are shifted.
    even: bool = False
    #: The class in diffusers of its control nets; empty if it can have none.
    control: str = ""
    #: Whether it can have a picture adapter.
    has_reference: bool = False


#: The class in diffusers of Flux's network.
_FLUX: Final = "FluxTransformer2DModel"

#: What autoencoders are called; a pipeline with none of them draws pixels.
_CODERS: Final = frozenset({"vae", "movq", "vqvae", "vqgan"})

#: Schedulers of diffusers 0.42 that cannot say what a picture looks like at a level of noise.
_PICTURELESS: Final = frozenset({"DDIMInverseScheduler", "IPNDMScheduler"})

#: No network is trained for a longer side, in px.
MOST_PX: Final = 4096

#: What most networks of today are trained for, in px a side.
_USUAL_PX: Final = 1024

#: Where the settings of the autoencoder stand.
_VAE: Final = "vae/config.json"

#: Where those of the scheduler stand.
_SCHEDULER: Final = "scheduler/scheduler_config.json"

#: Any other pipeline of diffusers that makes a picture of words: drawn by its own loop.
OTHER: Final = Family("pipeline", (), "diffusers_pipeline_torch")

FAMILIES: Final[Sequence[Family]] = (
    Family(
        "stable-diffusion",
        (
            "StableDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionInpaintPipeline",
            "StableDiffusionControlNetPipeline",
            "StableDiffusionControlNetImg2ImgPipeline",
            "StableDiffusionControlNetInpaintPipeline",
            "LatentConsistencyModelPipeline",
        ),
        "stable_diffusion_torch",
        control="ControlNetModel",
        has_reference=True,
    ),
    Family(
        "stable-diffusion-xl",
        (
            "StableDiffusionXLPipeline",
            "StableDiffusionXLImg2ImgPipeline",
            "StableDiffusionXLInpaintPipeline",
            "StableDiffusionXLControlNetPipeline",
            "StableDiffusionXLControlNetImg2ImgPipeline",
            "StableDiffusionXLControlNetInpaintPipeline",
        ),
        "stable_diffusion_xl_torch",
        guidance=5.0,
        control="ControlNetModel",
        has_reference=True,
    ),
    Family(
        "stable-diffusion-3",
        (
            "StableDiffusion3Pipeline",
            "StableDiffusion3Img2ImgPipeline",
            "StableDiffusion3InpaintPipeline",
            "StableDiffusion3ControlNetPipeline",
        ),
        "stable_diffusion_3_torch",
        network="transformer",
        kind="SD3Transformer2DModel",
        control="SD3ControlNetModel",
        steps=28,
        guidance=7.0,
    ),
    Family(
        "flux",
        (
            "FluxPipeline",
            "FluxImg2ImgPipeline",
            "FluxInpaintPipeline",
            "FluxFillPipeline",
            "FluxControlNetPipeline",
            "FluxControlNetImg2ImgPipeline",
            "FluxControlNetInpaintPipeline",
        ),
        "flux_torch",
        network="transformer",
        kind=_FLUX,
        control="FluxControlNetModel",
        steps=28,
        guidance=3.5,
        even=True,
    ),
)


#: Pipelines that change settings of the scheduler that a folder has.
_MENDING: Final = frozenset(
    {
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
    }
)

#: Steps and guidance of pipelines that differ from those of their families.
_USUAL: Final[Mapping[str, tuple[int, float]]] = {
    "LatentConsistencyModelPipeline": (4, 8.5),
    "FluxFillPipeline": (50, 30.0),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a folder's settings say. Sides are in px, sides of latents in their own units."""

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
    #: The side that it was trained for.
    side_px: int = 512
    steps: int = 30
    guidance: float = 7.5
    #: Why it is not drawn step by step, though its family is; else empty.
    obstacle: str = ""
    #: What diffusers' own loop takes, where that draws it.
    loop: Loop | None = None

    @property
    def lays_all_steps(self) -> bool:
        """Whether all steps are laid over what is left of the noise where a picture is the start.

        Others leave out the first steps.
        """
        is_lcm = words_of(str(self.index.get("_class_name"))) == "LatentConsistencyModelPipeline"
        return is_lcm and self.scheduler.get("_class_name") == SAMPLERS["lcm"]

    @property
    def has_net(self) -> bool:
        """Whether its folder has a control net."""
        return "controlnet" in parts_of(self.index)

    @property
    def heard(self) -> tuple[int, int]:
        """How many channels its network may hear: of latents alone, and with mask and surroundings.

        Flux hears 2 x 2 latents as one token, and of a mask each pixel.
        """
        if self.family.name == "flux":
            return 4 * self.channels, 4 * (2 * self.channels + self.scale_px**2)
        return self.channels, 2 * self.channels + 1

    @property
    def sees_mask(self) -> bool:
        """Whether its network is shown the mask and what lies around it."""
        if self.loop is not None and not self.loop.mask:
            return False
        return bool(self.network.get("in_channels", self.heard[0]) == self.heard[1])

    @property
    def is_masked(self) -> bool:
        """Whether it takes a mask at all."""
        if self.loop is not None:
            return bool(self.loop.mask)
        return self.family is not OTHER

    @property
    def refines(self) -> bool:
        """Whether it goes on with a picture that another model has begun, and draws no other."""
        return bool(self.index.get("requires_aesthetics_score"))

    @property
    def takes_image(self) -> bool:
        """Whether it takes a picture to start from."""
        return self.loop is None or bool(self.loop.image or self.loop.mask)

    @property
    def takes_loras(self) -> bool:
        """Whether it has a network that LoRAs are made for."""
        return not {"unet", "transformer"}.isdisjoint(parts_of(self.index))

    @property
    def loaded_as(self) -> str:
        """The pipeline of diffusers that reads its parts, for its own loop."""
        words = words_of(str(self.index["_class_name"]))
        if self.loop is None or not (self.sees_mask or self.refines):
            return words
        return self.loop.mask if self.sees_mask else self.loop.image

    @property
    def network_kind(self) -> str:
        """The class in diffusers of what draws; empty where that is no U-Net or transformer."""
        parts = parts_of(self.index)
        return next((parts[name][1] for name in ("unet", "transformer") if name in parts), "")

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance can be asked for."""
        if self.loop is not None:
            # Flux is told it as a number or not at all.
            is_deaf = self.network_kind == _FLUX and not self.hears_guidance
            return bool(self.loop.guided_by) and not is_deaf
        return self.is_guided or self.hears_guidance

    @property
    def hears_guidance(self) -> bool:
        """Whether its network is told guidance as a number, which takes no second row."""
        told = self.network.get("guidance_embeds") or self.network.get("time_cond_proj_dim")
        return bool(told)

    @property
    def is_guided(self) -> bool:
        """Whether guidance is by a second row, without the prompt or with what is unwanted."""
        if self.loop is not None:
            return self.loop.hears_unwanted and not self.network.get("time_cond_proj_dim")
        return self.family.name != "flux" and not self.hears_guidance

    def tokens(self, width: int, height: int) -> int:
        """Return how many tokens a transformer makes of a picture. Sides are in px."""
        patch = 2 if self.family.name == "flux" else int(self.network.get("patch_size", 1))
        return (height // self.scale_px // patch) * (width // self.scale_px // patch)


def look(
    folder: Path,
    *,
    sampler: str = "",
    few: str = "",
    steps: int | None = None,
    guidance: float | None = None,
    loop: Loop | None = None,
) -> Facts:
    """Return what a folder holds.

    Args:
        folder: Of weights, with `model_index.json`.
        sampler: Another than the folder's own; empty for that one.
        few: In which way it was distilled to few steps; empty for none.
        steps: The default; None for the family's.
        guidance: The default; None for the family's.
        loop: What the own loop takes of a pipeline that is not in `LOOPS`, where that is known.

    Raises:
        InvalidModel: It is no folder of a model, something is missing, or it has no family here.
    """
    index = read_json(folder, "model_index.json")
    pipeline = class_in(index, "model_index.json")
    family = _family(pipeline, loop)
    loop = LOOPS.get(words_of(pipeline), loop)
    check_parts(folder, index, in_steps=family is not OTHER)
    scheduler = read_json(folder, _SCHEDULER, optional=family is OTHER)
    class_in(scheduler, _SCHEDULER)
    told = parts_of(index).get("scheduler")
    if told is not None and scheduler:
        # A folder's scheduler may be changed there alone.
        scheduler = {**scheduler, "_class_name": told[1]}
    check_sampler(sampler, few, flows=_flows(family, scheduler), name=pipeline)
    distilled: tuple[int, float] | None = None
    if few:
        scheduler, count, scale = few_step(scheduler, few)
        distilled = (count, scale)
    if sampler:
        scheduler = with_sampler(scheduler, sampler)
    file = f"{family.network}/config.json"
    if family is OTHER and not (folder / file).is_file():
        file = "transformer/config.json"
    network = read_json(folder, file, optional=family is OTHER)
    vae = read_json(folder, "vae/config.json", optional=family is OTHER)
    usual = _usual(pipeline, family, network) or distilled or _defaults(family, loop)
    if family is not OTHER:
        _check_settings(family, network, vae)
    draws_pixels = family is OTHER and _CODERS.isdisjoint(parts_of(index))
    scale_px = 1 if draws_pixels else _scale(vae)
    stride_px = _stride(family, network, scale_px, file)
    facts = Facts(
        family=family,
        index=index,
        network=network,
        vae=vae,
        scheduler=scheduler,
        stride_px=stride_px,
        scale_px=scale_px,
        channels=4 if family is OTHER else int(vae.get("latent_channels", 4)),
        side_px=max(_side(family, network, scale_px, file) // stride_px, 1) * stride_px,
        steps=steps or usual[0],
        guidance=usual[1] if guidance is None else guidance,
    )
    if pipeline in _MENDING:
        mended = as_pipelines_take(scheduler, sees_mask=facts.sees_mask)
        facts = replace(facts, scheduler=mended)
    why = _obstacle(facts)
    if why:
        found = _in_own_loop(facts, loop, why)
        for name, (library, _) in used_parts(index).items():
            check_names(folder / name, library)
        return found
    _check_heard(facts)
    return facts


def _is_unfit(facts: Facts) -> bool:
    """Whether diffusers' pipelines of a family cannot draw with a scheduler."""
    kind = facts.scheduler.get("_class_name", "")
    if facts.family is OTHER or not kind:
        return False
    if facts.family.network == "unet":
        return kind in UNFIT
    return not ("Flow" in kind or facts.scheduler.get("use_flow_sigmas"))


def _flows(family: Family, scheduler: Mapping[str, Any]) -> bool | None:
    """Whether a network says a flow rather than noise; None if nobody knows."""
    # Some are told of by their scheduler alone.
    kind = scheduler.get("_class_name", "")
    if "Flow" in kind or scheduler.get("use_flow_sigmas"):
        return True
    if family is not OTHER:
        return family.network == "transformer"
    return False if kind in SAMPLERS.values() else None


def _in_own_loop(facts: Facts, loop: Loop | None, why: str) -> Facts:
    """Return what there is to know of a model that diffusers' own loop draws.

    Raises:
        InvalidModel: It needs more than that is given here.
    """
    kind = facts.scheduler.get("_class_name")
    if loop is not None and _is_unfit(facts):
        raise InvalidModel(
            f"{kind} is not for networks of {facts.family.name}: add --sampler "
            f"{_usual_sampler(facts)}"
        )
    if loop is not None and kind in _PICTURELESS:
        if replace(facts, loop=loop).sees_mask or facts.refines:
            raise InvalidModel(
                f"{kind} cannot begin with a picture, and this model draws nothing else: add "
                f"--sampler {_usual_sampler(facts)}"
            )
        loop = msgspec.structs.replace(loop, image="", mask="", strength=[])
    if loop is None or facts.has_net:
        raise InvalidModel(
            f"{facts.index.get('_class_name')} needs other pictures than one to change, which "
            f"diffusers' own loop is not given here, and it is not drawn step by step, since {why}"
        )
    return replace(facts, family=OTHER, obstacle="" if facts.family is OTHER else why, loop=loop)


def _defaults(family: Family, loop: Loop | None) -> tuple[int, float]:
    """Return steps and guidance where nobody says otherwise."""
    if family is not OTHER or loop is None:
        return family.steps, family.guidance
    guidance = family.guidance if loop.guidance is None else float(loop.guidance)
    return loop.steps or family.steps, guidance


def _usual(pipeline: str, family: Family, network: Mapping[str, Any]) -> tuple[int, float] | None:
    """Return steps and guidance of a pipeline's own; None if they are those of its family."""
    if pipeline in _USUAL:
        return _USUAL[pipeline]
    is_distilled = family.name == "flux" and not network.get("guidance_embeds")
    return (4, 0.0) if is_distilled else None


def is_known(pipeline: str) -> bool:
    """Whether a pipeline of diffusers is of a family, or its own loop is known."""
    return any(pipeline in each.pipelines for each in FAMILIES) or words_of(pipeline) in LOOPS


def _family(pipeline: str, loop: Loop | None) -> Family:
    """Return the family of a pipeline in diffusers.

    Raises:
        InvalidModel: It has none here, or needs more than is asked for here.
    """
    found = next((each for each in FAMILIES if pipeline in each.pipelines), OTHER)
    if loop is not None or is_known(pipeline):
        return found
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
    """Check the numbers of a family's networks that are reckoned with here.

    Raises:
        InvalidModel: One is no number, or out of bounds.
    """
    file = f"{family.network}/config.json"
    count_of(network, "in_channels", 4, least=1, most=1024, file=file)
    if network.get("time_cond_proj_dim") is not None:
        count_of(network, "time_cond_proj_dim", 0, least=4, most=1 << 16, file=file)
    if family.network == "transformer":
        count_of(network, "patch_size", 1, least=1, most=16, file=file)
    count_of(vae, "latent_channels", 4, least=1, most=256, file=_VAE)
    number_of(vae, "scaling_factor", 1.0, least=1e-6, most=1e6, file=_VAE)
    if vae.get("shift_factor") is not None:
        number_of(vae, "shift_factor", 0.0, least=-1e3, most=1e3, file=_VAE)


def _check_heard(facts: Facts) -> None:
    """Check that a transformer hears what it is told here.

    Raises:
        InvalidModel: It hears more, or of other latents.
    """
    told, (plain, masked) = facts.network.get("in_channels", facts.heard[0]), facts.heard
    if facts.family.network == "transformer" and told not in facts.heard:
        raise InvalidModel(
            f"transformer/config.json: in_channels is {told}, and "
            f"{facts.family.name} with this autoencoder takes {plain}, or {masked} "
            "with a mask: a network with other image inputs cannot be added"
        )


def _scale(vae: Mapping[str, Any]) -> int:
    """Return how many pixels a side are one latent: each stage of the autoencoder halves."""
    told = ("block_out_channels", "encoder_block_out_channels")
    name = next((name for name in told if vae.get(name) is not None), None)
    if name is None:
        return 8
    stages = counts_of(vae, name, length=8, least=1, most=1 << 14, file=_VAE)
    return int(2 ** (len(stages) - 1))


def _side(family: Family, network: Mapping[str, Any], scale_px: int, file: str) -> int:
    """Return the side that a network was trained for, in px.

    Raises:
        InvalidModel: Its settings say no such thing.
    """
    told = 128 if family.name == "flux" else network.get("sample_size")
    if isinstance(told, list) and told:
        told = told[0]
    if told is None:
        told = _USUAL_PX // scale_px if _is_transformer(family, network, file) else 64
    size = count_of({"sample_size": told}, "sample_size", 64, least=1, most=MOST_PX, file=file)
    if size * scale_px <= MOST_PX:
        return size * scale_px
    if family is OTHER:
        # Such sizes are of pixels already, or of latents that are made in other ways.
        return _USUAL_PX
    raise InvalidModel(
        f"{file}: sample_size {size} and {_VAE}: {scale_px} px for a latent are pictures of "
        f"{size * scale_px} px a side, and there are none of more than {MOST_PX}: correct them"
    )


def _is_transformer(family: Family, network: Mapping[str, Any], file: str) -> bool:
    """Whether it is a transformer of no family here: today's hear 2 x 2 latents as one token."""
    return family is OTHER and file.startswith("transformer") and bool(network)


def _stride(family: Family, network: Mapping[str, Any], scale_px: int, file: str) -> int:
    """Return what sides are multiples of. A U-Net would take any latents, and cut some anew."""
    if family.name == "flux" or _is_transformer(family, network, file):
        return 16 if scale_px == 1 else 2 * scale_px
    if family.network == "transformer":
        return scale_px * int(network.get("patch_size", 1))
    return max(scale_px, 8)


def _obstacle(facts: Facts) -> str:
    """Return why the engine does not draw it step by step; nothing if it does."""
    if facts.family is OTHER:
        return "its family is not"
    if facts.vae.get("latents_mean") or facts.vae.get("latents_std"):
        return "its autoencoder has latents of another mean and spread"
    if facts.index.get("requires_aesthetics_score"):
        return "it refines what another model has begun"
    kinds = {name: kind for name, (_, kind) in parts_of(facts.index).items()}
    known = {"vae": "AutoencoderKL", facts.family.network: facts.family.kind}
    if facts.has_net:
        known["controlnet"] = facts.family.control
    for name, kind in known.items():
        if kinds.get(name) != kind:
            return f"its {name} is {kinds.get(name, 'missing')} and not {kind}"
    if sampler_of(facts.scheduler, 4, tokens=256, even=facts.family.even) is None:
        told, usual = facts.scheduler.get("_class_name"), _usual_sampler(facts)
        return f"there is no solver for {told} as it is set: add --sampler {usual}"
    return ""


def _usual_sampler(facts: Facts) -> str:
    """Return the sampler that any network of its kind takes."""
    return "dpmpp_2m" if facts.family.network == "unet" else "flow_euler"


def weight_files(folder: Path) -> list[str]:
    """Return the names of all files that a model may be made of, in order.

    Raises:
        InvalidModel: One is no text.
    """
    names = (each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    found = sorted(
        name for name in names if is_allowed(name) and name.partition("/")[0] not in UNUSED
    )
    for name in found:
        check_text(name)
    return found


def is_vqgan_clip(folder: Path) -> bool:
    """Whether a folder holds a VQGAN and a CLIP, which search for a picture together."""
    if (folder / "model_index.json").is_file():
        return read_json(folder, "model_index.json").get("_class_name") == "VQGANCLIP"
    if not all((folder / part / "config.json").is_file() for part in ("vqgan", "clip")):
        return False
    return bool(demo_module("vqgan_clip").is_complete(folder))
