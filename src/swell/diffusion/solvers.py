"""From noise to picture: schedules, solvers, and one update for a whole batch. Pure.

A schedule says at which noise levels a sample stops. A solver turns it, when the sample is
admitted, into a table: one row of coefficients a step. At each step the rows of all samples of the
batch are gathered, whatever their step counts, and one update moves them:

    x <- A x + B m + C z + D h

with x the latents, m what the network said (after guidance), z fresh noise, h what a solver that
looks back keeps of the steps before: one array, or several. `Table.affine` has A, B, C, D in
float64. `advance` does the same update in the order of operations that diffusers 0.42 has: in
float32 both end at the same bits, if the scalar roots and logarithms of diffusers are rounded once,
as those here are. For that, schedules round to float32 where diffusers does: their values are
float64, but most of them are numbers that float32 has too.

`advance`, `scale_input` and `guide` take numpy arrays or torch tensors alike: they use nothing but
operators that both have, and work in place.

Sources: DDIM, arXiv 2010.02502; LCM, arXiv 2310.04378; DPM-Solver++, arXiv 2211.01095; Euler,
Euler ancestral and Karras sigmas, arXiv 2206.00364 and k-diffusion; flow matching and its shift,
arXiv 2403.03206; PLMS, arXiv 2202.09778; spacing of timesteps, arXiv 2305.08891.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]
#: A numpy array or a torch tensor.
Array: TypeAlias = Any

Betas = Literal["scaled_linear", "linear"]
Spacing = Literal["leading", "trailing", "linspace"]
FlowSpacing = Literal["train", "even"]
Prediction = Literal["epsilon", "v"]
Name = Literal["euler", "euler_ancestral", "flow_euler", "ddim", "lcm", "dpmpp_2m", "plms"]


# --- schedules -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Sigmas:
    """A schedule told by the ratio of noise to picture. Shapes: timesteps (n,), sigmas (n + 1,).

    Step i goes from `sigmas[i]` to `sigmas[i + 1]`, and the network hears `timesteps[i]`.
    """

    timesteps: Floats
    sigmas: Floats
    #: Standard deviation of the latents of a sample that starts from nothing but noise.
    peak: float

    def __len__(self) -> int:
        return len(self.timesteps)

    def start(self, step: int) -> "Sigmas":
        """Return what is left from step number `step` on, for a sample that starts from a picture.

        Raises:
            ValueError: There is no such step.
        """
        _check_start(step, len(self))
        return Sigmas(self.timesteps[step:], self.sigmas[step:], self.peak)


@dataclass(frozen=True, slots=True, eq=False)
class AlphaBars:
    """A schedule told by the picture's share of the variance. Shapes: all (n,).

    Step i goes from `bars[i]` to `next_bars[i]`, which need not be `bars[i + 1]`: DDIM goes by the
    distance between timesteps that it was trained with.
    """

    timesteps: Floats
    bars: Floats
    next_bars: Floats

    def __len__(self) -> int:
        return len(self.timesteps)

    def start(self, step: int) -> Self:
        """Return what is left from step number `step` on, for a sample that starts from a picture.

        Raises:
            ValueError: There is no such step.
        """
        _check_start(step, len(self))
        return type(self)(*(getattr(self, each.name)[step:] for each in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class PlmsBars(AlphaBars):
    """The schedule of PLMS. Shapes: all (n,).

    Its second step, wherever a sample starts, takes the first one again: it goes from
    `earlier_bars[1]` to `bars[1]`.
    """

    #: At the timestep from which a step of usual length ends at this one.
    earlier_bars: Floats


def first_step(steps: int, strength: float) -> int:
    """Return the step at which a sample starts that keeps 1 - `strength` of a picture.

    Raises:
        ValueError: `strength` is not above 0 and at most 1, or `steps` is below 1.
    """
    _check_steps(steps)
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}: use more than 0 and at most 1")
    return steps - max(1, int(steps * strength))


def alpha_bars(
    betas: Betas = "scaled_linear",
    *,
    start: float = 0.00085,
    end: float = 0.012,
    train_steps: int = 1000,
) -> Floats:
    """Return the picture's share of the variance at each of training's timesteps.

    Args:
        betas: `linear` betas, or `scaled_linear`, whose roots are linear.
        start: Beta of the first timestep; the default is that of Stable Diffusion.
        end: Beta of the last one.
        train_steps: How many timesteps the network was trained with.

    Raises:
        ValueError: Unknown betas, or not 0 < start <= end < 1, or fewer than two timesteps.
    """
    _check_choice("betas", betas, Betas)
    if not 0 < start <= end < 1:
        raise ValueError(f"start={start}, end={end}: use 0 < start <= end < 1")
    if train_steps < 2:
        raise ValueError(f"train_steps={train_steps}: use 2 or more")
    if betas == "linear":
        beta = _line(start, end, train_steps)
    else:
        root = _line(start**0.5, end**0.5, train_steps)
        beta = root * root
    bars = np.cumprod((np.float32(1) - beta).astype(np.float64))
    return bars.astype(np.float32).astype(np.float64)


def euler_sigmas(
    bars: Floats,
    steps: int,
    *,
    spacing: Spacing = "leading",
    offset: int = 0,
    karras: bool = False,
) -> Sigmas:
    """Return the schedule of Euler and Euler ancestral.

    Args:
        bars: From `alpha_bars`.
        steps: How many steps.
        spacing: How they are laid over training's timesteps.
        offset: Added to the timesteps of `leading` (`steps_offset`).
        karras: Lay the sigmas between the first and the last of `spacing` by Karras' rule.

    Raises:
        ValueError: Steps or offset out of range, or an unknown spacing.
    """
    timesteps = _rounded(_spaced(steps, len(bars), spacing, offset))
    levels = _levels(bars)
    sigmas = np.interp(timesteps, np.arange(len(bars)), levels)
    if karras:
        sigmas = _karras(sigmas[0], sigmas[-1], steps)
        timesteps = _times(sigmas, levels)
    top = np.max(_single(sigmas))
    peak = np.sqrt(top * top + np.float32(1)) if spacing == "leading" else top
    return Sigmas(_rounded(timesteps), _rounded(np.append(sigmas, 0.0)), float(peak))


def dpmpp_sigmas(
    bars: Floats,
    steps: int,
    *,
    spacing: Spacing = "leading",
    offset: int = 0,
    karras: bool = False,
) -> Sigmas:
    """Return the schedule of DPM++ 2M: whole timesteps, and no step from the cleanest one.

    Args:
        bars: From `alpha_bars`.
        steps: How many steps.
        spacing: How they are laid over training's timesteps.
        offset: Added to the timesteps of `leading` (`steps_offset`).
        karras: Lay the sigmas over the whole of training's range by Karras' rule instead.

    Raises:
        ValueError: Steps or offset out of range, or an unknown spacing.
    """
    _check_steps(steps, len(bars) - 1)
    if spacing == "trailing":
        timesteps = _spaced(steps, len(bars), spacing, offset)
    else:
        timesteps = _spaced(steps + 1, len(bars), spacing, offset)[:-1].round()
    levels = _levels(bars)
    if karras:
        sigmas = _karras(float(levels[-1]), float(levels[0]), steps)
        timesteps = _times(sigmas, levels).round()
    else:
        sigmas = np.interp(timesteps, np.arange(len(bars)), levels)
    return Sigmas(_rounded(timesteps), _rounded(np.append(sigmas, 0.0)), 1.0)


def flow_sigmas(
    steps: int,
    *,
    shift: float = 1.0,
    mu: float | None = None,
    spacing: FlowSpacing = "train",
    terminal: float | None = None,
    train_steps: int = 1000,
) -> Sigmas:
    """Return the schedule of a flow-matching network: from 1, all noise, to 0.

    Args:
        steps: How many steps.
        shift: Static shift towards noise: s -> shift s / (1 + (shift - 1) s). Unused with `mu`.
        mu: Dynamic shift, which depends on the picture's size (`flow_mu`):
            s -> e^mu / (e^mu + 1/s - 1).
        spacing: Before the shift, `train` goes down to training's last sigma, as a bare scheduler
            does; `even` to 1/steps, as the pipelines of Flux and Qwen-Image do.
        terminal: Stretch the sigmas so that the last step starts here (`shift_terminal`).
        train_steps: What sigma 1 is called when the network hears it.

    Raises:
        ValueError: Steps, shift or terminal out of range, or an unknown spacing.
    """
    _check_steps(steps)
    _check_choice("spacing", spacing, FlowSpacing)
    if shift <= 0:
        raise ValueError(f"shift={shift}: use more than 0")
    if terminal is not None and not 0 < terminal < 1:
        raise ValueError(f"terminal={terminal}: use None, or more than 0 and less than 1")
    sigmas: Any
    if spacing == "even":
        sigmas = _single(np.linspace(1.0, 1 / steps, steps))
    else:
        ends = _single(np.array([1.0, 1.0])) / _single(np.array([1.0, train_steps]))
        if mu is None:
            ends = shift * ends / (1 + (shift - 1) * ends)
        high, low = (float(end) * train_steps for end in ends)
        sigmas = np.linspace(high, low, steps) / train_steps
    if mu is None:
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    else:
        sigmas = math.exp(mu) / (math.exp(mu) + (1 / sigmas - 1))
    if terminal is not None:
        clean = 1 - sigmas
        if clean[-1] <= 0:
            raise ValueError(f"terminal={terminal}: needs more than one step")
        sigmas = 1 - clean / (clean[-1] / (1 - terminal))
    timesteps = _single(sigmas) * np.float32(train_steps)
    return Sigmas(timesteps.astype(np.float64), _rounded(np.append(sigmas, 0.0)), 1.0)


def flow_mu(
    tokens: int,
    *,
    low: tuple[int, float] = (256, 0.5),
    high: tuple[int, float] = (4096, 1.15),
) -> float:
    """Return the dynamic shift of a picture of so many tokens: a line through two points.

    The defaults are those of Flux: `base_image_seq_len`, `base_shift` and their `max_` twins.
    """
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return tokens * slope + (low[1] - slope * low[0])


def ddim_bars(
    bars: Floats,
    steps: int,
    *,
    spacing: Spacing = "leading",
    offset: int = 0,
    clean_end: bool = True,
) -> AlphaBars:
    """Return the schedule of DDIM.

    Where `trailing` does not divide training's timesteps it ends a little above timestep 0, with
    that one's noise, as in diffusers.

    Args:
        bars: From `alpha_bars`.
        steps: How many steps.
        spacing: How they are laid over training's timesteps.
        offset: Added to the timesteps of `leading` (`steps_offset`).
        clean_end: End without noise (`set_alpha_to_one`) rather than with that of timestep 0.

    Raises:
        ValueError: Steps or offset out of range, or an unknown spacing.
    """
    timesteps = _spaced(steps, len(bars), spacing, offset).round().astype(np.int64)
    after = timesteps - len(bars) // steps
    end = 1.0 if clean_end else bars[0]
    next_bars = np.where(after >= 0, bars[np.maximum(after, 0)], end)
    return AlphaBars(timesteps.astype(np.float64), bars[timesteps], next_bars)


def plms_bars(
    bars: Floats,
    steps: int,
    *,
    spacing: Spacing = "leading",
    offset: int = 0,
    clean_end: bool = False,
) -> PlmsBars:
    """Return the schedule of PLMS: the network hears the second timestep twice.

    So there is one step more than `steps`, unless that is 1.

    Args:
        bars: From `alpha_bars`.
        steps: How many steps; one is added.
        spacing: How they are laid over training's timesteps.
        offset: Added to the timesteps of `leading` (`steps_offset`).
        clean_end: End without noise (`set_alpha_to_one`) rather than with that of timestep 0.

    Raises:
        ValueError: Steps or offset out of range, or an unknown spacing.
    """
    timesteps = _spaced(steps, len(bars), spacing, offset).round().astype(np.int64)
    timesteps = np.concatenate([timesteps[:2], timesteps[1:]])
    stride = len(bars) // steps
    after, before = timesteps - stride, np.minimum(timesteps + stride, len(bars) - 1)
    next_bars = np.where(after >= 0, bars[np.maximum(after, 0)], 1.0 if clean_end else bars[0])
    return PlmsBars(timesteps.astype(np.float64), bars[timesteps], next_bars, bars[before])


def lcm_bars(
    bars: Floats, steps: int, *, original_steps: int = 50, strength: float = 1.0
) -> AlphaBars:
    """Return the schedule of a latent consistency model; it ends without noise.

    Args:
        bars: From `alpha_bars`.
        steps: How many steps.
        original_steps: How many it was distilled with (`original_inference_steps`).
        strength: Less than 1 to start from a picture: `steps` steps over this part of the noise.

    Raises:
        ValueError: More steps than the distillation had, or a strength out of range.
    """
    _check_steps(original_steps, len(bars), "original_steps")
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}: use more than 0 and at most 1")
    count = int(original_steps * strength)
    _check_steps(steps, count)
    known = np.arange(count, 0, -1) * (len(bars) // original_steps) - 1
    timesteps = known[np.floor(np.linspace(0, count, steps, endpoint=False)).astype(np.int64)]
    next_bars = np.append(bars[timesteps[1:]], 1.0)
    return AlphaBars(timesteps.astype(np.float64), bars[timesteps], next_bars)


def _single(values: Any) -> Singles:
    return np.asarray(values, np.float32)


def _rounded(values: Any) -> Floats:
    """Return what float32 makes of them, as float64."""
    return np.asarray(values, np.float32).astype(np.float64)


def _line(start: float, end: float, count: int) -> Singles:
    """Return torch's `linspace`: from both ends to the middle, each value rounded once."""
    first, last = np.float32(start), np.float32(end)
    step = np.float64((last - first) / np.float32(count - 1))
    index = np.arange(count)
    up, down = first + step * index, last - step * (count - 1 - index)
    return _single(np.where(index < count // 2, up, down))


def _levels(bars: Floats) -> Singles:
    """Return sigma at each timestep of training."""
    bar = _single(bars)
    return _single(np.sqrt((np.float32(1) - bar) / bar))


def _spaced(steps: int, train_steps: int, spacing: Spacing, offset: int) -> Floats:
    """Return timesteps from the noisiest on. Source: arXiv 2305.08891, table 2."""
    _check_steps(steps, train_steps)
    _check_choice("spacing", spacing, Spacing)
    if spacing == "linspace":
        return np.linspace(0, train_steps - 1, steps)[::-1]
    if spacing == "trailing":
        return np.arange(train_steps, 0, -train_steps / steps).round()[:steps] - 1
    stride = train_steps // steps
    most = train_steps - 1 - stride * (steps - 1)
    if not 0 <= offset <= most:
        raise ValueError(f"offset={offset}: use 0 to {most} with {steps} steps")
    return (np.arange(steps)[::-1] * stride + offset).astype(np.float64)


def _karras(high: float, low: float, steps: int, rho: float = 7.0) -> Floats:
    """Return sigmas from `high` to `low`. Source: arXiv 2206.00364, equation 5."""
    first, last = high ** (1 / rho), low ** (1 / rho)
    return np.asarray((first + np.linspace(0, 1, steps) * (last - first)) ** rho)


def _times(sigmas: Floats, levels: Singles) -> Floats:
    """Return the timesteps, with fractions, at which training had these sigmas."""
    logs = _single(np.log(levels.astype(np.float64)))
    return np.asarray(np.interp(np.log(sigmas), logs, np.arange(len(levels))))


def _check_steps(steps: int, most: int | None = None, name: str = "steps") -> None:
    if steps < 1 or (most is not None and steps > most):
        allowed = "1 or more" if most is None else f"1 to {most}"
        raise ValueError(f"{name}={steps}: use {allowed}")


def _check_start(step: int, steps: int) -> None:
    if not 0 <= step < steps:
        raise ValueError(f"start at step {step}: use 0 to {steps - 1}")


def _check_choice(name: str, value: str, choices: Any) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: use one of {', '.join(map(repr, allowed))}")


# --- solvers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Solver:
    """What samples of one batch must share: the form of the update, but none of its numbers."""

    name: Name
    #: What the network says: the noise, or v (arXiv 2202.00512). A flow's velocity is its own.
    prediction: Prediction = "epsilon"
    #: The foreseen picture is kept within -clip and clip (`clip_sample_range`).
    clip: float | None = None

    #: Whether the network sees other numbers than the latents.
    scales_input: bool = field(init=False, repr=False, compare=False)
    #: Whether a table of it may ask for noise in a step.
    may_draw: bool = field(init=False, repr=False, compare=False)
    #: Whether `advance` takes z always; DDIM takes it if a sample of the batch has eta > 0.
    needs_noise: bool = field(init=False, repr=False, compare=False)
    #: How many arrays `advance` takes as h; a sample's are zeros before its first step.
    history: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """What follows from the name is looked at in each step."""
        follows = {
            "scales_input": self.name in ("euler", "euler_ancestral"),
            "may_draw": self.name in ("euler_ancestral", "lcm", "ddim"),
            "needs_noise": self.name in ("euler_ancestral", "lcm"),
            "history": {"dpmpp_2m": 1, "plms": 3}.get(self.name, 0),
        }
        for name, value in follows.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All that a sample needs to know of its n steps; made once, when it is admitted."""

    solver: Solver
    #: What the network hears. Shape: (n,).
    timesteps: Floats
    #: What the network's input is multiplied with. Shape: (n,).
    c_in: Floats
    #: A, B, C, D of `x <- A x + B m + C z + D h`, with a D for each array of h, or one of zeros.
    #: Shape: (n, 4) or (n, 3 + arrays).
    affine: Floats
    #: Rows for `advance` and `scale_input`, in the solver's own order. Shape: (n, k).
    coefficients: Singles
    #: Whether a step takes noise: then one draw from the sample's own stream. Shape: (n,).
    draws: NDArray[np.bool_]
    #: Latents of a sample that starts from nothing: `from_noise` times noise.
    from_noise: float
    #: Latents of a sample that starts from a picture: so much picture, so much noise.
    from_image: tuple[float, float]
    #: `timesteps` once more, each of which is looked up for itself.
    heard: tuple[float, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """A table is shared: nobody may write into it."""
        for array in (self.timesteps, self.c_in, self.affine, self.coefficients, self.draws):
            array.setflags(write=False)
        object.__setattr__(self, "heard", tuple(self.timesteps.tolist()))

    def __len__(self) -> int:
        return len(self.heard)


def euler(schedule: Sigmas, *, prediction: Prediction = "epsilon") -> Table:
    """Return the table of Euler's method.

    Raises:
        ValueError: Unknown prediction.
    """
    return _eulers("euler", schedule, prediction)


def euler_ancestral(schedule: Sigmas, *, prediction: Prediction = "epsilon") -> Table:
    """Return the table of Euler's method that goes too far down and adds noise again.

    Raises:
        ValueError: Unknown prediction.
    """
    return _eulers("euler_ancestral", schedule, prediction)


def _eulers(name: Literal["euler", "euler_ancestral"], plan: Sigmas, kind: Prediction) -> Table:
    _check_choice("prediction", kind, Prediction)
    one = np.float32(1)
    s, after = _single(plan.sigmas[:-1]), _single(plan.sigmas[1:])
    down, up = _ancestral(s, after) if name == "euler_ancestral" else (after, np.zeros_like(s))
    norm = np.sqrt(s * s + one)
    of_m: NDArray[Any]
    of_x: NDArray[Any]
    if kind == "epsilon":
        of_m, of_x = -s, np.ones_like(s)
    else:
        of_m, of_x = -s / norm, s * s + one
    # The same in float64, for the closed form.
    wide, wide_after = plan.sigmas[:-1], plan.sigmas[1:]
    to, fresh = wide_after, np.zeros_like(wide)
    if name == "euler_ancestral":
        to, fresh = _ancestral(wide, wide_after)
    variance = wide**2 + 1
    if kind == "epsilon":
        a, b = np.ones_like(wide), to - wide
    else:
        a, b = 1 + (to - wide) * wide / variance, (to - wide) / np.sqrt(variance)
    return Table(
        solver=Solver(name, kind),
        timesteps=plan.timesteps.copy(),
        c_in=1 / np.sqrt(variance),
        affine=_columns(a, b, fresh, np.zeros_like(wide)),
        coefficients=_single(_columns(norm, of_m, of_x, -s, down - s, up)),
        draws=up > 0,
        from_noise=plan.peak,
        from_image=(1.0, float(s[0])),
    )


def _ancestral(s: Any, after: Any) -> tuple[Any, Any]:
    """Return how far down to go and how much noise to add. Source: k-diffusion, with eta = 1."""
    up = np.sqrt(after * after * (s * s - after * after) / (s * s))
    return np.sqrt(np.maximum(after * after - up * up, 0)), up


def flow_euler(schedule: Sigmas) -> Table:
    """Return the table of Euler's method along a flow, whose velocity the network says."""
    s = schedule.sigmas
    nothing = np.zeros(len(schedule))
    ones = np.ones(len(schedule))
    step = np.diff(_single(s))
    return Table(
        solver=Solver("flow_euler"),
        timesteps=schedule.timesteps.copy(),
        c_in=ones,
        affine=_columns(ones, np.diff(s), nothing, nothing),
        coefficients=_single(_columns(ones, step)),
        draws=np.zeros(len(schedule), np.bool_),
        from_noise=schedule.peak,
        from_image=(1 - float(s[0]), float(s[0])),
    )


def ddim(
    schedule: AlphaBars,
    *,
    prediction: Prediction = "epsilon",
    eta: float = 0.0,
    clip: float | None = None,
) -> Table:
    """Return the table of DDIM.

    Args:
        schedule: From `ddim_bars`.
        prediction: What the network says: the noise, or v.
        eta: How much of the noise is fresh: 0 none, 1 as much as in DDPM.
        clip: Keep the foreseen picture within -clip and clip.

    Raises:
        ValueError: Unknown prediction, `eta` is not 0 to 1, or `clip` is not above 0.
    """
    _check_choice("prediction", prediction, Prediction)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: use 0 to 1")
    _check_clip(clip)
    a, after = schedule.bars, schedule.next_bars
    rest, root, root_after, ahead, fresh = _ddim(_single(a), _single(after), np.float32(eta))
    _, _, _, wide_ahead, wide_fresh = _ddim(a, after, eta)
    ones, nothing = np.ones(len(schedule)), np.zeros(len(schedule))
    if prediction == "epsilon":
        of_x, of_m = np.sqrt(after / a), wide_ahead - np.sqrt(after * (1 - a) / a)
    else:
        of_x = np.sqrt(after * a) + wide_ahead * np.sqrt(1 - a)
        of_m = wide_ahead * np.sqrt(a) - np.sqrt(after * (1 - a))
    return Table(
        solver=Solver("ddim", prediction, clip=clip),
        timesteps=schedule.timesteps.copy(),
        c_in=ones,
        affine=_columns(of_x, of_m, wide_fresh, nothing),
        coefficients=_single(_columns(ones, -rest, root, root_after, ahead, fresh)),
        draws=fresh > 0,
        from_noise=1.0,
        from_image=_from_image(a[0]),
    )


def _ddim(a: Any, after: Any, eta: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return the numbers of the steps, in the precision of `a`. Source: arXiv 2010.02502, (12)."""
    variance = (1 - after) / (1 - a) * (1 - a / after)
    fresh = eta * np.sqrt(np.maximum(variance, 0))
    ahead = np.sqrt(np.maximum(1 - after - fresh * fresh, 0))
    return np.sqrt(1 - a), np.sqrt(a), np.sqrt(after), ahead, fresh


def lcm(schedule: AlphaBars, *, clip: float | None = None, timestep_scaling: float = 10.0) -> Table:
    """Return the table of a latent consistency model that says the noise.

    Each step foresees the picture and adds noise again; the last adds none.

    Args:
        schedule: From `lcm_bars`.
        clip: Keep the foreseen picture within -clip and clip.
        timestep_scaling: How sharply the network's word replaces the latents near timestep 0.

    Raises:
        ValueError: `clip` is not above 0.
    """
    _check_clip(clip)
    a, after = schedule.bars, schedule.next_bars
    skip, out = _boundary(_single(schedule.timesteps) * np.float32(timestep_scaling))
    wide_skip, wide_out = _boundary(schedule.timesteps * timestep_scaling)
    one, bar, next_bar = np.float32(1), _single(a), _single(after)
    ones, nothing = np.ones(len(schedule)), np.zeros(len(schedule))
    fresh = np.sqrt(one - next_bar)
    return Table(
        solver=Solver("lcm", clip=clip),
        timesteps=schedule.timesteps.copy(),
        c_in=ones,
        affine=_columns(
            np.sqrt(after) * (wide_skip + wide_out / np.sqrt(a)),
            -np.sqrt(after) * wide_out * np.sqrt((1 - a) / a),
            np.sqrt(1 - after),
            nothing,
        ),
        coefficients=_single(
            _columns(ones, -np.sqrt(one - bar), np.sqrt(bar), out, skip, np.sqrt(next_bar), fresh)
        ),
        draws=fresh > 0,
        from_noise=1.0,
        from_image=_from_image(a[0]),
    )


def _boundary(scaled: Any) -> tuple[Any, Any]:
    """Return c_skip and c_out. Source: arXiv 2310.04378, with a data deviation of 0.5."""
    sum_of_squares = scaled * scaled + 0.25
    return 0.25 / sum_of_squares, scaled / np.sqrt(sum_of_squares)


def dpmpp_2m(schedule: Sigmas, *, prediction: Prediction = "epsilon") -> Table:
    """Return the table of DPM-Solver++(2M), midpoint form; its first and last steps are of order 1.

    Raises:
        ValueError: Unknown prediction.
    """
    _check_choice("prediction", prediction, Prediction)
    share, level, ratio, pull, lean = _dpmpp(_single(schedule.sigmas))
    wide = _dpmpp(schedule.sigmas)
    ones, nothing = np.ones(len(schedule)), np.zeros(len(schedule))
    # x <- ratio x - pull (x0 + lean (x0 - h) / 2)
    towards, back = -wide[3] * (1 + wide[4] / 2), wide[3] * wide[4] / 2
    if prediction == "epsilon":
        a, b = wide[2] + towards / wide[0], -towards * wide[1] / wide[0]
    else:
        a, b = wide[2] + towards * wide[0], -towards * wide[1]
    half = np.where(lean > 0, np.float32(0.5) * pull, np.float32(0))
    return Table(
        solver=Solver("dpmpp_2m", prediction),
        timesteps=schedule.timesteps.copy(),
        c_in=ones,
        affine=_columns(a, b, nothing, back),
        coefficients=_single(_columns(ones, -level, share, ratio, -pull, -lean, -half)),
        draws=np.zeros(len(schedule), np.bool_),
        from_noise=schedule.peak,
        from_image=(float(share[0]), float(level[0])),
    )


def _dpmpp(sigmas: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return the numbers of the steps, in the precision of `sigmas`. Source: arXiv 2211.01095.

    They are the picture's share, the noise's level, their ratio's change, the pull towards the
    foreseen picture, and how far to lean on its change: (step) / (step before), or 0 for order 1.
    """
    kind = sigmas.dtype.type
    share = kind(1) / np.sqrt(sigmas * sigmas + kind(1))
    level = sigmas * share
    with np.errstate(divide="ignore"):
        # float64 within, since few logarithms of float32 are rounded well everywhere.
        logs = [np.log(part.astype(np.float64)).astype(kind) for part in (share, level)]
    half_log_snr = logs[0] - logs[1]
    h = np.diff(half_log_snr)
    decay = np.exp(-h.astype(np.float64)).astype(kind)
    pull = share[1:] * (decay - kind(1))
    lean = np.zeros_like(h)
    inner = slice(1, len(h) - 1)
    lean[inner] = kind(1) / (h[:-2] / h[inner])
    return share[:-1], level[:-1], level[1:] / level[:-1], pull, lean


#: PLMS: what the newest word of the network counts, those kept before, and what divides the sum.
#: Adams and Bashforth's formulas, of rising order. Source: arXiv 2202.09778, equation 12; for the
#: second step, which takes the first again, the mean of both ends.
_PLMS: Final = (
    (1, 0, 0, 0, 1),
    (1, 1, 0, 0, 2),
    (3, -1, 0, 0, 2),
    (23, -16, 5, 0, 12),
    (55, -59, 37, -9, 24),
)


def plms(schedule: PlmsBars, *, prediction: Prediction = "epsilon") -> Table:
    """Return the table of PLMS: PNDM without Runge-Kutta steps, as Stable Diffusion 1 has it.

    It keeps what the network said in the last three steps. The second step takes the first again,
    with the mean of what was said at both of its ends, so the first latents are kept until then.

    Args:
        schedule: From `plms_bars`.
        prediction: What the network says: the noise, or v.

    Raises:
        ValueError: Unknown prediction.
    """
    _check_choice("prediction", prediction, Prediction)
    count = len(schedule)
    numbers = np.arange(count)
    again = (numbers == 1).astype(np.float64)
    a = np.where(again, schedule.earlier_bars, schedule.bars)
    after = np.where(again, schedule.bars, schedule.next_bars)
    parts = np.array(_PLMS, np.float64)[np.minimum(numbers, len(_PLMS) - 1)]
    weights, divisor = parts[:, :4], parts[:, 4]
    # diffusers multiplies by a twenty-fourth, and divides otherwise.
    is_last = divisor == _PLMS[-1][-1]
    factor, divided = np.where(is_last, 1 / divisor, 1.0), np.where(is_last, 1.0, divisor)
    root, rest, ratio, rise, below = _plms(_single(a), _single(after))
    heard = _single(schedule.bars)
    # The same in float64, for the closed form.
    wide_root, wide_rest, wide_ratio, wide_rise, wide_below = _plms(a, after)
    of_x, of_m = wide_ratio, -wide_rise / wide_below
    if prediction == "v":
        of_x, of_m = of_x + of_m * wide_rest, of_m * wide_root
    of_each = of_m[:, None] * weights / divisor[:, None]
    ones, nothing = np.ones(count), np.zeros(count)
    return Table(
        solver=Solver("plms", prediction),
        timesteps=schedule.timesteps.copy(),
        c_in=ones,
        affine=_columns(
            of_x * (1 - again),
            of_each[:, 0],
            nothing,
            of_each[:, 1],
            of_each[:, 2],
            of_each[:, 3] + of_x * again,
        ),
        coefficients=_single(
            _columns(
                *(ones, *weights.T, factor, divided, again, numbers == 0),
                *(root, rest, ratio, rise, below),
                *(np.sqrt(heard), np.sqrt(np.float32(1) - heard)),
            )
        ),
        draws=np.zeros(count, np.bool_),
        from_noise=1.0,
        from_image=_from_image(schedule.bars[0]),
    )


def _plms(a: Any, after: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return the numbers of the steps, in the precision of `a`. Source: arXiv 2202.09778, (9)."""
    below = a * np.sqrt(1 - after) + np.sqrt(a * (1 - a) * after)
    return np.sqrt(a), np.sqrt(1 - a), np.sqrt(after / a), after - a, below


def _from_image(bar: float) -> tuple[float, float]:
    """Return how much picture and how much noise a sample starts from, in single precision."""
    share = np.float32(bar)
    return float(np.sqrt(share)), float(np.sqrt(np.float32(1) - share))


def _columns(*columns: Any) -> Any:
    return np.stack(columns, axis=1)


def _check_clip(clip: float | None) -> None:
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip}: use None, or more than 0")


# --- a step of a batch ---------------------------------------------------------------------------


def gather(tables: Sequence[Table], steps: Sequence[int]) -> Singles:
    """Return the row of each sample at its own step. Shape: (B, k)."""
    if len(tables) == 1:
        return tables[0].coefficients[steps[0] : steps[0] + 1].copy()
    return np.stack([table.coefficients[i] for table, i in zip(tables, steps, strict=True)])


def scale_input(solver: Solver, x: Array, k: Array, out: Array) -> None:
    """Write what the network is to see into `out`. Shapes: x, out (B, ...); k as in `advance`."""
    out[...] = x
    if solver.scales_input:
        out /= _column(k, 0, x)


def advance(
    solver: Solver,
    x: Array,
    m: Array,
    k: Array,
    *,
    z: Array | None = None,
    h: Array | None = None,
    scratch: Array | None = None,
) -> None:
    """Move a batch by one step, each sample by its own row. `m`, `z` and `scratch` are spent.

    Shapes: x, m, z, scratch (B, ...) float32; h (B, `solver.history`, ...) float32; k (B, columns)
    float32 from `gather`. Samples do not touch each other's numbers, so a sample ends with the same
    bits alone and in any batch.

    Args:
        solver: Shared by all tables that `k` was gathered from.
        x: Latents; changed in place.
        m: What the network said, after guidance.
        k: Coefficients of each sample's step.
        z: Fresh noise; any finite numbers in the rows of samples that draw none.
        h: What the solver keeps of the steps before; becomes what it keeps of this one.
        scratch: Anything of the shape of x; without it a solver that needs one allocates.

    Raises:
        ValueError: The solver needs `z` or `h`, and it is None.
    """
    if z is None and solver.needs_noise:
        raise ValueError(f"{solver.name} adds noise: pass z")
    if h is None and solver.history:
        raise ValueError(f"{solver.name} looks back: pass h")
    if solver.name in _SCALED:
        m *= _column(k, 1, x)
    _ADVANCE[solver.name](solver, x, m, k, z=z, h=h, scratch=scratch)


# Each function below keeps the order of diffusers' operations. A difference a - b is written
# -b + a or -(b - a), which rounds alike.


def _advance_euler(
    solver: Solver, x: Array, m: Array, k: Array, *, z: Array, h: Array, scratch: Array
) -> None:
    if solver.prediction == "epsilon":
        m += x
    else:
        part = _copy(x, scratch)
        part /= _column(k, 2, x)
        m += part
    m -= x
    m /= _column(k, 3, x)
    m *= _column(k, 4, x)
    x += m
    if z is not None:
        z *= _column(k, 5, x)
        x += z


def _advance_flow(
    solver: Solver, x: Array, m: Array, k: Array, *, z: Array, h: Array, scratch: Array
) -> None:
    x += m


def _advance_ddim(
    solver: Solver, x: Array, m: Array, k: Array, *, z: Array, h: Array, scratch: Array
) -> None:
    if solver.prediction == "epsilon":
        part = _copy(m, scratch)
        part *= _column(k, 1, x)
        x += part
        x /= _column(k, 2, x)
    else:
        # The noise that v tells, and the picture that it foresees. Source: arXiv 2202.00512.
        part = _copy(x, scratch)
        part *= -_column(k, 1, x)
        x *= _column(k, 2, x)
        x += m * _column(k, 1, x)
        m *= _column(k, 2, x)
        m += part
    _clip(x, solver.clip)
    x *= _column(k, 3, x)
    m *= _column(k, 4, x)
    x += m
    if z is not None:
        z *= _column(k, 5, x)
        x += z


def _advance_lcm(
    solver: Solver, x: Array, m: Array, k: Array, *, z: Array, h: Array, scratch: Array
) -> None:
    m += x
    m /= _column(k, 2, x)
    _clip(m, solver.clip)
    m *= _column(k, 3, x)
    x *= _column(k, 4, x)
    x += m
    x *= _column(k, 5, x)
    z *= _column(k, 6, x)
    x += z


def _advance_dpmpp(
    solver: Solver, x: Array, m: Array, k: Array, *, z: Array, h: Array, scratch: Array
) -> None:
    if solver.prediction == "epsilon":
        m += x
        m /= _column(k, 2, x)
    else:
        part = _copy(x, scratch)
        part *= _column(k, 2, x)
        m += part
    x *= _column(k, 3, x)
    part = _copy(m, scratch)
    part *= _column(k, 4, x)
    x += part
    foreseen = h[:, 0]
    foreseen -= m
    foreseen *= _column(k, 5, x)
    foreseen *= _column(k, 6, x)
    x += foreseen
    foreseen[...] = m


def _advance_plms(
    solver: Solver, x: Array, m: Array, k: Array, *, z: Array, h: Array, scratch: Array
) -> None:
    newest, older, oldest = h[:, 0], h[:, 1], h[:, 2]
    again, is_first = _column(k, 7, x), _column(k, 8, x)
    mean, part = _copy(m, scratch), x * again
    mean *= _column(k, 1, x)
    # The second step starts where the first did: there are only two words then, and a place left.
    x -= part
    part[...] = oldest
    part *= again
    x += part
    for number, said in enumerate((newest, older, oldest), 2):
        part[...] = said
        part *= _column(k, number, x)
        mean += part
    mean *= _column(k, 5, x)
    mean /= _column(k, 6, x)
    part[...] = x
    part *= is_first
    oldest[...] = older
    oldest *= 1 - is_first
    oldest += part
    older[...] = newest
    newest *= again
    m *= 1 - again
    newest += m
    if solver.prediction == "v":
        mean *= _column(k, 9, x)
        mean += x * _column(k, 10, x)
    x *= _column(k, 11, x)
    mean *= _column(k, 12, x)
    mean /= _column(k, 13, x)
    x -= mean


#: Their updates begin with what the network said times column 1, which is done before.
_SCALED: Final = frozenset({"euler", "euler_ancestral", "flow_euler", "lcm", "dpmpp_2m"})

_ADVANCE: Final[Mapping[Name, Callable[..., None]]] = {
    "euler": _advance_euler,
    "euler_ancestral": _advance_euler,
    "flow_euler": _advance_flow,
    "ddim": _advance_ddim,
    "lcm": _advance_lcm,
    "dpmpp_2m": _advance_dpmpp,
    "plms": _advance_plms,
}


def _column(k: Array, index: int, like: Array) -> Array:
    """Return one number a sample, shaped to meet latents: (B, 1, ...), or () for a single one.

    The bits are the same, and numpy takes half as long.
    """
    if len(k) == 1 and isinstance(k, np.ndarray):
        return k[0, index]
    return k[:, index].reshape((-1,) + (1,) * (like.ndim - 1))


def _copy(source: Array, scratch: Array | None) -> Array:
    if scratch is None:
        return source * 1
    scratch[...] = source
    return scratch


def _clip(values: Array, limit: float | None) -> None:
    if limit is not None:
        values[...] = values.clip(-limit, limit)


def guide(m: Array, samples: int, scale: Array) -> None:
    """Apply classifier-free guidance in place: `u + g (c - u)`. Source: arXiv 2207.12598.

    Only samples with an unconditional row are touched; they come first. Shapes: m (samples + n,
    ...), first what the network said with the words for all samples, then without them for the
    first n; scale (n,), their g. The result is `m[:samples]`.

    Raises:
        ValueError: More unconditional rows than samples, or another number of rows in `m`.
    """
    guided = len(scale)
    if guided > samples or len(m) != samples + guided:
        raise ValueError(
            f"{len(m)} rows for {samples} samples, {guided} of them guided: use {samples} + "
            f"{guided} rows, and no more guided than samples"
        )
    said, without = m[:guided], m[samples:]
    said -= without
    said *= scale.reshape((-1,) + (1,) * (m.ndim - 1))
    said += without


# --- noise ---------------------------------------------------------------------------------------


class Noise:
    """One sample's own stream of noise: numpy's PCG64, seeded with the sample's seed.

    The first draw makes the latents that it starts from; each step that takes noise has the next.
    Image k of a task has the task's seed + k. Drawn on the CPU, so the same on every device;
    neighbours in a batch have streams of their own.

    Raises:
        ValueError: The seed is negative.
    """

    __slots__ = ("_generator",)

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed={seed}: use 0 or more")
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def draw(self, shape: tuple[int, ...]) -> Singles:
        """Return the next numbers, of mean 0 and deviation 1."""
        return self._generator.standard_normal(shape, np.float32)

    def fill(self, out: Singles) -> None:
        """Write the next numbers into `out`, which is contiguous: the same as `draw` gives."""
        self._generator.standard_normal(dtype=np.float32, out=out)


def blend(other: Singles, own: Singles, share: float) -> Singles:
    """Return noise between two, of deviation 1 as they are: on the circle through both.

    Args:
        other: Noise of mean 0 and deviation 1.
        own: The same, not depending on it.
        share: Of the second: 0 gives the first alone, 1 the second.
    """
    share = min(1.0, max(0.0, share))
    return np.float32(math.sqrt(1 - share**2)) * other + np.float32(share) * own


def noise(seed: int, shape: tuple[int, ...]) -> Singles:
    """Return the first draw of the stream of `seed`."""
    return Noise(seed).draw(shape)
