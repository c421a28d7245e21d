"""Reads a folder's `scheduler_config.json`: the solver of the engine, and its options. Pure.

A missing setting has the default of its class in diffusers 0.42. If the engine has no such solver,
the result is None, and diffusers' own loop draws the model, without sharing steps among samples.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Final

from swell.core.errors import InvalidModel
from swell.diffusion.families.pipeline_folder import choice_of, count_of, number_of
from swell.sdk.step_model import Sampler

Config = Mapping[str, Any]

#: Where settings stand, for errors.
_FILE: Final = "scheduler/scheduler_config.json"

#: How timesteps may be laid.
_SPACINGS: Final = ("linspace", "leading", "trailing")

#: Names of samplers that may be chosen → the scheduler's class in diffusers.
SAMPLERS: Final[Mapping[str, str]] = {
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "ddim": "DDIMScheduler",
    "lcm": "LCMScheduler",
    "plms": "PNDMScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
}

#: The one of them for networks that say a flow: which way from noise to the picture.
_FLOW: Final = "flow_euler"

#: Ways of being distilled to few steps → sampler, settings that differ, steps, guidance. Sources:
#: LCM-LoRA, arXiv 2311.05556; SDXL-Turbo, arXiv 2311.17042; SDXL-Lightning, arXiv 2402.13929.
FEW_STEPS: Final[Mapping[str, tuple[str, Config, int, float]]] = {
    "lcm": ("lcm", {}, 4, 1.0),
    "turbo": ("euler_ancestral", {"timestep_spacing": "trailing"}, 1, 0.0),
    "lightning": ("euler", {"timestep_spacing": "trailing"}, 4, 0.0),
}

#: Settings that differ from the defaults of a sampler's class.
_WITHOUT: Final[Mapping[str, Config]] = {"plms": {"skip_prk_steps": True}}

#: Settings that pipelines of Stable Diffusion 1 and 2 change in addition to the offset.
_MENDED: Final[Mapping[str, Config]] = {
    "words": {"clip_sample": False},
    "mask": {"skip_prk_steps": True},
}

_PREDICTIONS: Final = {"epsilon": "epsilon", "v_prediction": "v"}

#: Settings that the engine has no solver for, unless they have these values.
_PLAIN: Final[Config] = {
    "trained_betas": None,
    "interpolation_type": "linear",
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
    "timestep_type": "discrete",
    "rescale_betas_zero_snr": False,
    "final_sigmas_type": "zero",
    "thresholding": False,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "solver_order": 2,
    "lower_order_final": True,
    "euler_at_final": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "variance_type": None,
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "lambda_min_clipped": -math.inf,
}

#: Settings of other classes' solvers → what that of DPM-Solver++ has in their place.
_TAKEN_OVER: Final[Mapping[str, Mapping[Any, Any]]] = {
    "algorithm_type": {"deis": "dpmsolver++"},
    "solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
    # Of how noise is added, which it does not do; of learned variance there are more channels.
    "variance_type": dict.fromkeys(
        ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
    ),
}

#: Those of them that a class does not look at are no obstacle.
_READ: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "EulerDiscreteScheduler": (
            "trained_betas interpolation_type use_exponential_sigmas use_beta_sigmas sigma_min "
            "sigma_max timestep_type rescale_betas_zero_snr final_sigmas_type"
        ),
        "EulerAncestralDiscreteScheduler": "trained_betas rescale_betas_zero_snr",
        "DPMSolverMultistepScheduler": (
            "trained_betas thresholding algorithm_type solver_type solver_order lower_order_final "
            "euler_at_final use_exponential_sigmas use_beta_sigmas use_lu_lambdas use_flow_sigmas "
            "final_sigmas_type variance_type rescale_betas_zero_snr lambda_min_clipped"
        ),
        "DDIMScheduler": "trained_betas thresholding rescale_betas_zero_snr",
        "LCMScheduler": "trained_betas thresholding rescale_betas_zero_snr",
        "PNDMScheduler": "trained_betas",
        "FlowMatchEulerDiscreteScheduler": (
            "invert_sigmas use_exponential_sigmas use_beta_sigmas use_karras_sigmas "
            "stochastic_sampling time_shift_type"
        ),
    }.items()
}


def with_sampler(config: Config, name: str) -> dict[str, Any]:
    """Return a scheduler's settings as another class takes them over.

    Raises:
        InvalidModel: There is no sampler of that name.
    """
    if name not in SAMPLERS:
        raise InvalidModel(f"no sampler is called {name!r}: use one of {', '.join(SAMPLERS)}")
    return {**config, "_class_name": SAMPLERS[name], **_WITHOUT.get(name, {})}


def check_sampler(sampler: str, few: str, *, flows: bool | None, name: str) -> None:
    """Check that a sampler fits the prediction of the network.

    Args:
        sampler: Its name; empty for none.
        few: The way of being distilled to few steps, which has a sampler too; empty for none.
        flows: Whether the network predicts a flow rather than noise; None if unknown.
        name: The pipeline's, for errors.

    Raises:
        InvalidModel: It does not fit.
    """
    told = sampler or (FEW_STEPS[few][0] if few in FEW_STEPS else "")
    if flows is None or told not in SAMPLERS or (told == _FLOW) == flows:
        return
    fitting = [each for each in SAMPLERS if (each == _FLOW) == flows]
    option = f"--sampler {sampler}" if sampler else f"--few-step {few}"
    raise InvalidModel(
        f"{option} is for networks that say {'noise' if flows else 'a flow'}, and that of {name} "
        f"says {'a flow' if flows else 'noise'}: use --sampler {' or '.join(fitting)}, or the "
        "folder's own"
    )


def as_pipelines_take(config: Config, *, sees_mask: bool) -> dict[str, Any]:
    """Return settings as the pipelines of Stable Diffusion 1 and 2 take a folder's scheduler.

    They replace some settings of old folders for all scheduler classes. Pipelines for XL, control
    nets and LCM do not.

    Args:
        config: What the folder says.
        sees_mask: Whether the network sees masks: its pipeline is that which paints into pictures.

    Raises:
        InvalidModel: The offset is none.

    Source: `StableDiffusionPipeline` and `StableDiffusionInpaintPipeline` of diffusers 0.42, where
    they are made.
    """
    _offset(config)
    return {**config, "steps_offset": 1, **_MENDED["mask" if sees_mask else "words"]}


def few_step(config: Config, name: str) -> tuple[dict[str, Any], tuple[int, float]]:
    """Return the settings, steps and guidance of a model distilled in this way.

    Raises:
        InvalidModel: There is no such way.
    """
    if name not in FEW_STEPS:
        raise InvalidModel(f"no way to few steps is called {name!r}: use {', '.join(FEW_STEPS)}")
    sampler, changes, steps, guidance = FEW_STEPS[name]
    return {**with_sampler(config, sampler), **changes}, (steps, guidance)


def sampler_of(
    config: Config, steps: int, *, tokens: int = 0, even: bool = False
) -> Sampler | None:
    """Return the sampler, or None if the engine has no such solver.

    Args:
        config: The content of `scheduler_config.json`.
        steps: Number of steps.
        tokens: Tokens of the picture, for schedules that depend on its size.
        even: Whether the pipeline lays a flow's steps evenly, as that of Flux does.

    Raises:
        InvalidModel: A setting is no number, or out of bounds.
    """
    kind = str(config.get("_class_name"))
    make = _MAKERS.get(kind)
    if make is None or not _is_plain(config, kind):
        return None
    options = make(config)
    if options is None:
        return None
    if kind == SAMPLERS[_FLOW]:
        options |= _flow(config, tokens, even)
    names = {told: name for name, told in SAMPLERS.items()}
    return Sampler(names[kind], steps, **options)


def _is_plain(config: Config, kind: str) -> bool:
    looked_at = _READ[kind]
    if kind == SAMPLERS["dpmpp_2m"]:
        config = _taken_over(config)
    if "use_karras_sigmas" in looked_at and config.get("use_karras_sigmas"):
        return False
    return all(
        config.get(name, value) == value for name, value in _PLAIN.items() if name in looked_at
    )


def _taken_over(config: Config) -> Config:
    """Return the settings of another class as that of DPM-Solver++ takes them for its own."""
    meant = dict(config)
    for name, values in _TAKEN_OVER.items():
        value = meant.get(name)
        if isinstance(value, str) and value in values:
            meant[name] = values[value]
    return meant


def _training(config: Config, *, start: float, end: float, betas: str) -> dict[str, Any] | None:
    schedule = config.get("beta_schedule", betas)
    if schedule not in ("linear", "scaled_linear"):
        return None
    return {
        "betas": schedule,
        "beta_start": _number(config, "beta_start", start, least=1e-8, most=0.999),
        "beta_end": _number(config, "beta_end", end, least=1e-8, most=0.999),
        "train_steps": _trained(config),
    }


def _spaced(config: Config, spacing: str) -> dict[str, Any] | None:
    training = _training(config, start=0.0001, end=0.02, betas="linear")
    says = _PREDICTIONS.get(config.get("prediction_type", "epsilon"))
    if training is None or says is None:
        return None
    return training | {
        "prediction": says,
        "spacing": choice_of(config, "timestep_spacing", spacing, known=_SPACINGS, file=_FILE),
        "offset": _offset(config),
    }


def _karras(config: Config) -> dict[str, Any] | None:
    made = _spaced(config, "linspace")
    return None if made is None else made | {"karras": bool(config.get("use_karras_sigmas", False))}


def _ddim(config: Config) -> dict[str, Any] | None:
    made = _spaced(config, "leading")
    if made is None:
        return None
    clean_end = bool(config.get("set_alpha_to_one", True))
    return made | {"clean_end": clean_end, "clip": _clip(config, usual=True)}


def _plms(config: Config) -> dict[str, Any] | None:
    made = _spaced(config, "leading")
    # Runge-Kutta steps, which the class takes by itself, ask the network four times.
    if made is None or not config.get("skip_prk_steps", False):
        return None
    return made | {"clean_end": bool(config.get("set_alpha_to_one", False))}


def _lcm(config: Config) -> dict[str, Any] | None:
    made = _training(config, start=0.00085, end=0.012, betas="scaled_linear")
    if made is None or config.get("prediction_type", "epsilon") != "epsilon":
        return None
    return made | {
        "original_steps": count_of(
            config, "original_inference_steps", 50, least=1, most=1000, file=_FILE
        ),
        "timestep_scaling": _number(config, "timestep_scaling", 10.0, least=1e-3, most=1e6),
        "clip": _clip(config, usual=False),
    }


_MAKERS: Final[Mapping[str, Callable[[Config], dict[str, Any] | None]]] = {
    "EulerDiscreteScheduler": _karras,
    "EulerAncestralDiscreteScheduler": partial(_spaced, spacing="linspace"),
    "DPMSolverMultistepScheduler": _karras,
    "DDIMScheduler": _ddim,
    "LCMScheduler": _lcm,
    "PNDMScheduler": _plms,
    "FlowMatchEulerDiscreteScheduler": lambda config: {},
}


def _flow(config: Config, tokens: int, even: bool) -> dict[str, Hashable]:
    """Return the shift of a flow. Source: arXiv 2403.03206; a line through two sizes in Flux."""
    terminal = config.get("shift_terminal") or None
    options: dict[str, Hashable] = {
        "spacing": "even" if even else "train",
        "terminal": terminal and _number(config, "shift_terminal", 0.0, least=0, most=0.999),
        "train_steps": _trained(config),
    }
    if not config.get("use_dynamic_shifting", False):
        return options | {"shift": _number(config, "shift", 1.0, least=1e-3, most=1e3)}
    low = count_of(config, "base_image_seq_len", 256, least=1, most=1 << 20, file=_FILE)
    high = count_of(config, "max_image_seq_len", 4096, least=low + 1, most=1 << 21, file=_FILE)
    least, most = (
        _number(config, name, usual, least=-20, most=20)
        for name, usual in (("base_shift", 0.5), ("max_shift", 1.15))
    )
    slope = (most - least) / (high - low)
    return options | {"mu": tokens * slope + (least - slope * low)}


def _number(config: Config, name: str, usual: float, *, least: float, most: float) -> float:
    return number_of(config, name, usual, least=least, most=most, file=_FILE)


def _offset(config: Config) -> int:
    return count_of(config, "steps_offset", 0, least=0, most=1000, file=_FILE)


def _trained(config: Config) -> int:
    """Return the number of training timesteps."""
    return count_of(config, "num_train_timesteps", 1000, least=1, most=100_000, file=_FILE)


def _clip(config: Config, *, usual: bool) -> float | None:
    if not config.get("clip_sample", usual):
        return None
    return _number(config, "clip_sample_range", 1.0, least=1e-3, most=1e3)
