"""Schedules, solvers, and one update for a whole batch of samples. Pure.

A schedule lists the noise levels of a sample. When a sample is admitted, a solver turns it into
a table with one row of coefficients per step. Each step gathers the rows of all samples in the
batch, with any step counts, and `advance` moves all of them at once.

`advance` keeps the order of operations of diffusers 0.42. In float32 both end at the same bits, if
diffusers' scalar roots and logarithms are correctly rounded, as those here are. Schedules therefore
round to float32 where diffusers does; their values are float64.

`advance`, `scale_input` and `guide` take numpy arrays or torch tensors: they use only operators
that both have, and work in place.

Sources: DDIM, arXiv 2010.02502; LCM, arXiv 2310.04378; DPM-Solver++, arXiv 2211.01095; Euler,
Euler ancestral and Karras sigmas, arXiv 2206.00364 and k-diffusion; flow matching and its shift,
arXiv 2403.03206; PLMS, arXiv 2202.09778; spacing of timesteps, arXiv 2305.08891.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]
#: A numpy array or a torch tensor.
Array: TypeAlias = Any
#: Returns a column of coefficients, one per sample.
Column: TypeAlias = Callable[[int], Array]

Betas = Literal["scaled_linear", "linear"]
Spacing = Literal["leading", "trailing", "linspace"]
FlowSpacing = Literal["train", "even"]
Prediction = Literal["epsilon", "v"]
Name = Literal["euler", "euler_ancestral", "flow_euler", "ddim", "lcm", "dpmpp_2m", "plms"]


# Schedules


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Noise levels of n steps. Shape of timesteps: (n,)."""

    timesteps: Floats

    def __len__(self) -> int:
        return len(self.timesteps)

    def start(self, step: int) -> Self:
        """Return the rest from step number `step` on, for a sample that starts from an image.

        Raises:
            ValueError: There is no such step.
        """
        if not 0 <= step < len(self):
            raise ValueError(f"start at step {step}: use 0 to {len(self) - 1}")
        values = (getattr(self, each.name) for each in fields(self))
        return type(self)(*(v[step:] if isinstance(v, np.ndarray) else v for v in values))


@dataclass(frozen=True, slots=True, eq=False)
class Sigmas(Schedule):
    """A schedule by the ratio of noise to image. Shape of sigmas: (n + 1,).

    Step i goes from `sigmas[i]` to `sigmas[i + 1]`; the network gets `timesteps[i]`.
    """

    sigmas: Floats
    #: Standard deviation of the latents of a sample that starts from noise alone.
    peak: float


@dataclass(frozen=True, slots=True, eq=False)
class AlphaBars(Schedule):
    """A schedule by the image's share of the variance. Shapes: all (n,).

    Step i goes from `bars[i]` to `next_bars[i]`, which may differ from `bars[i + 1]`: DDIM steps by
    the distance between timesteps in training.
    """

    bars: Floats
    next_bars: Floats


@dataclass(frozen=True, slots=True, eq=False)
class PlmsBars(AlphaBars):
    """The schedule of PLMS. Shapes: all (n,).

    The second step of a sample repeats the first: it goes from `earlier_bars[1]` to `bars[1]`.
    """

    #: One usual step earlier, towards noise.
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
        betas: `linear` betas, or `scaled_linear`, with linear square roots.
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
        mu: Dynamic shift, which depends on the picture's size:
            s -> e^mu / (e^mu + 1/s - 1).
        spacing: Before the shift, `train` goes down to training's last sigma, as a bare scheduler
            does; `even` to 1/steps, as the pipelines of Flux and Qwen-Image do.
        terminal: Stretch the sigmas so that the last step starts here (`shift_terminal`).
        train_steps: Timestep of sigma 1.

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
    return AlphaBars(*_with_next(bars, steps, timesteps, clean_end))


def plms_bars(
    bars: Floats,
    steps: int,
    *,
    spacing: Spacing = "leading",
    offset: int = 0,
    clean_end: bool = False,
) -> PlmsBars:
    """Return the schedule of PLMS, with the second timestep twice.

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
    earlier = np.minimum(timesteps + len(bars) // steps, len(bars) - 1)
    return PlmsBars(*_with_next(bars, steps, timesteps, clean_end), bars[earlier])


def _with_next(
    bars: Floats, steps: int, timesteps: NDArray[np.int64], clean_end: bool
) -> tuple[Floats, Floats, Floats]:
    after = timesteps - len(bars) // steps
    next_bars = np.where(after >= 0, bars[np.maximum(after, 0)], 1.0 if clean_end else bars[0])
    return timesteps.astype(np.float64), bars[timesteps], next_bars


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


def _check_choice(name: str, value: str, choices: Any) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: use one of {', '.join(map(repr, allowed))}")


# Solvers


@dataclass(frozen=True, slots=True)
class Solver:
    """The form of the update, without numbers. Samples of one batch share it."""

    name: Name
    #: Output of the network: noise, or v (arXiv 2202.00512). For a flow it is the velocity.
    prediction: Prediction = "epsilon"
    #: The predicted image is clipped to -clip and clip (`clip_sample_range`).
    clip: float | None = None

    @property
    def scales_input(self) -> bool:
        """Whether the input of the network differs from the latents."""
        return self.name in ("euler", "euler_ancestral")

    @property
    def needs_noise(self) -> bool:
        """Whether `advance` always takes z; DDIM takes it if a sample of the batch has eta > 0."""
        return self.name in ("euler_ancestral", "lcm")

    @property
    def history(self) -> int:
        """Number of arrays that `advance` takes as h; they are zeros before the first step."""
        return {"dpmpp_2m": 1, "plms": 3}.get(self.name, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The n steps of a sample, computed when it is admitted. Tables are shared and read-only."""

    solver: Solver
    #: Input of the network. Shape: (n,).
    timesteps: Floats
    #: Factor of the network's input. Shape: (n,).
    c_in: Floats
    #: Rows for `advance` and `scale_input`, in the solver's own order. Shape: (n, k).
    coefficients: Singles
    #: Whether a step takes noise: one draw from the sample's stream. Shape: (n,).
    draws: NDArray[np.bool_]
    #: Factor of the first noise of a sample without an image.
    from_noise: float
    #: Factors of image and noise for a sample that starts with an image.
    from_image: tuple[float, float]
    #: `timesteps` as a tuple, for single lookups.
    heard: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.heard)


def _table(
    solver: Solver,
    schedule: Schedule,
    columns: Sequence[Any],
    from_image: tuple[Any, Any],
    *,
    c_in: Any = 1.0,
    draws: Any = False,
    from_noise: float = 1.0,
) -> Table:
    """Return a table; by default, it neither scales the input nor draws noise."""
    table = Table(
        solver,
        timesteps=schedule.timesteps.copy(),
        c_in=np.full(len(schedule), c_in),
        coefficients=_single(np.stack(columns, axis=1)),
        draws=np.full(len(schedule), draws),
        from_noise=from_noise,
        from_image=(float(from_image[0]), float(from_image[1])),
        heard=tuple(schedule.timesteps.tolist()),
    )
    for array in (table.timesteps, table.c_in, table.coefficients, table.draws):
        array.setflags(write=False)
    return table


def euler(schedule: Sigmas, *, prediction: Prediction = "epsilon") -> Table:
    """Return the table of Euler's method.

    Raises:
        ValueError: Unknown prediction.
    """
    s, after = _single(schedule.sigmas[:-1]), _single(schedule.sigmas[1:])
    return _eulers("euler", schedule, prediction, after, np.zeros_like(s))


def euler_ancestral(schedule: Sigmas, *, prediction: Prediction = "epsilon") -> Table:
    """Return the table of Euler's method that steps too far down and adds noise again.

    Raises:
        ValueError: Unknown prediction.
    """
    # Source: k-diffusion, with eta = 1.
    s, after = _single(schedule.sigmas[:-1]), _single(schedule.sigmas[1:])
    up = np.sqrt(after * after * (s * s - after * after) / (s * s))
    down = np.sqrt(np.maximum(after * after - up * up, 0))
    return _eulers("euler_ancestral", schedule, prediction, down, up)


def _eulers(name: Name, plan: Sigmas, kind: Prediction, down: Singles, up: Singles) -> Table:
    """Return a table of steps down to `down` that add the noise `up`."""
    _check_choice("prediction", kind, Prediction)
    s = _single(plan.sigmas[:-1])
    square = s * s + np.float32(1)
    norm = np.sqrt(square)
    of_m, of_x = (-s, np.ones_like(s)) if kind == "epsilon" else (-s / norm, square)
    return _table(
        Solver(name, kind),
        plan,
        (norm, of_m, of_x, -s, down - s, up),
        (1.0, s[0]),
        c_in=1 / np.sqrt(plan.sigmas[:-1] ** 2 + 1),
        draws=up > 0,
        from_noise=plan.peak,
    )


def flow_euler(schedule: Sigmas) -> Table:
    """Return the table of Euler's method along a flow; the network predicts the velocity."""
    s = schedule.sigmas
    columns = (np.ones(len(schedule)), np.diff(_single(s)))
    start = (1 - float(s[0]), s[0])
    return _table(Solver("flow_euler"), schedule, columns, start, from_noise=schedule.peak)


def ddim(
    schedule: AlphaBars,
    *,
    prediction: Prediction = "epsilon",
    eta: float = 0.0,
    clip: float | None = None,
) -> Table:
    """Return the table of DDIM. Source: arXiv 2010.02502, equation 12.

    Args:
        schedule: From `ddim_bars`.
        prediction: Output of the network: noise, or v.
        eta: Share of fresh noise: 0 none, 1 as in DDPM.
        clip: Clip the predicted image to -clip and clip.

    Raises:
        ValueError: Unknown prediction, `eta` is not 0 to 1, or `clip` is not above 0.
    """
    _check_choice("prediction", prediction, Prediction)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: use 0 to 1")
    _check_clip(clip)
    a, after = _single(schedule.bars), _single(schedule.next_bars)
    variance = (1 - after) / (1 - a) * (1 - a / after)
    fresh = np.float32(eta) * np.sqrt(np.maximum(variance, 0))
    ahead = np.sqrt(np.maximum(1 - after - fresh * fresh, 0))
    columns = (np.ones_like(a), -np.sqrt(1 - a), np.sqrt(a), np.sqrt(after), ahead, fresh)
    solver = Solver("ddim", prediction, clip=clip)
    return _table(solver, schedule, columns, _from_image(a[0]), draws=fresh > 0)


def lcm(schedule: AlphaBars, *, clip: float | None = None, timestep_scaling: float = 10.0) -> Table:
    """Return the table of a latent consistency model that predicts noise.

    Each step predicts the image and adds noise again; the last adds none.

    Args:
        schedule: From `lcm_bars`.
        clip: Clip the predicted image to -clip and clip.
        timestep_scaling: How sharply the prediction replaces the latents near timestep 0.

    Raises:
        ValueError: `clip` is not above 0.
    """
    _check_clip(clip)
    a, after = _single(schedule.bars), _single(schedule.next_bars)
    # c_skip and c_out. Source: arXiv 2310.04378, with a data deviation of 0.5.
    scaled = _single(schedule.timesteps) * np.float32(timestep_scaling)
    square = scaled * scaled + 0.25
    skip, out = 0.25 / square, scaled / np.sqrt(square)
    fresh = np.sqrt(1 - after)
    columns = (np.ones_like(a), -np.sqrt(1 - a), np.sqrt(a), out, skip, np.sqrt(after), fresh)
    solver = Solver("lcm", clip=clip)
    return _table(solver, schedule, columns, _from_image(a[0]), draws=fresh > 0)


def dpmpp_2m(schedule: Sigmas, *, prediction: Prediction = "epsilon") -> Table:
    """Return the table of DPM-Solver++(2M), midpoint form; its first and last steps are of order 1.

    Source: arXiv 2211.01095.

    Raises:
        ValueError: Unknown prediction.
    """
    _check_choice("prediction", prediction, Prediction)
    sigmas = _single(schedule.sigmas)
    share = np.float32(1) / np.sqrt(sigmas * sigmas + np.float32(1))
    level = sigmas * share
    with np.errstate(divide="ignore"):
        # In float64, since few logarithms of float32 are correctly rounded everywhere.
        logs = [_single(np.log(part.astype(np.float64))) for part in (share, level)]
    h = np.diff(logs[0] - logs[1])
    pull = share[1:] * (_single(np.exp(-h.astype(np.float64))) - np.float32(1))
    # How much of the prediction's change is added: (step) / (step before), 0 for order 1.
    lean, inner = np.zeros_like(h), slice(1, len(h) - 1)
    lean[inner] = np.float32(1) / (h[:-2] / h[inner])
    half = np.where(lean > 0, np.float32(0.5) * pull, np.float32(0))
    ratio = level[1:] / level[:-1]
    columns = (np.ones_like(h), -level[:-1], share[:-1], ratio, -pull, -lean, -half)
    solver, start = Solver("dpmpp_2m", prediction), (share[0], level[0])
    return _table(solver, schedule, columns, start, from_noise=schedule.peak)


#: Weights of the newest output of the network and of those kept before, and the sum's divisor.
#: Adams-Bashforth of rising order, arXiv 2202.09778, equation 12; the second step, which repeats
#: the first, takes the mean of both ends.
_PLMS: Final = (
    (1, 0, 0, 0, 1),
    (1, 1, 0, 0, 2),
    (3, -1, 0, 0, 2),
    (23, -16, 5, 0, 12),
    (55, -59, 37, -9, 24),
)


def plms(schedule: PlmsBars, *, prediction: Prediction = "epsilon") -> Table:
    """Return the table of PLMS: PNDM without Runge-Kutta steps, as in Stable Diffusion 1.

    It keeps the network's output of the last three steps. The second step repeats the first, so the
    first latents are kept until then. Source: arXiv 2202.09778, equation 9.

    Args:
        schedule: From `plms_bars`.
        prediction: Output of the network: noise, or v.

    Raises:
        ValueError: Unknown prediction.
    """
    _check_choice("prediction", prediction, Prediction)
    count = np.arange(len(schedule))
    again = (count == 1).astype(np.float64)
    a = _single(np.where(again, schedule.earlier_bars, schedule.bars))
    after = _single(np.where(again, schedule.bars, schedule.next_bars))
    *weights, divisor = np.array(_PLMS, np.float64)[np.minimum(count, len(_PLMS) - 1)].T
    # diffusers multiplies by 1 / 24, and divides otherwise.
    is_last = divisor == _PLMS[-1][-1]
    factor, divided = np.where(is_last, 1 / divisor, 1.0), np.where(is_last, 1.0, divisor)
    below = a * np.sqrt(1 - after) + np.sqrt(a * (1 - a) * after)
    bars = _single(schedule.bars)
    columns = (
        *(np.ones_like(a), *weights, factor, divided, again, count == 0),
        *(np.sqrt(a), np.sqrt(1 - a), np.sqrt(after / a), after - a, below),
        *(np.sqrt(bars), np.sqrt(1 - bars)),
    )
    return _table(Solver("plms", prediction), schedule, columns, _from_image(bars[0]))


def _from_image(share: Any) -> tuple[Any, Any]:
    """Return the factors of image and noise at the start."""
    return np.sqrt(share), np.sqrt(np.float32(1) - share)


def _check_clip(clip: float | None) -> None:
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip}: use None, or more than 0")


# A step of a batch


def gather(tables: Sequence[Table], steps: Sequence[int]) -> Singles:
    """Return the row of each sample at its own step. Shape: (B, k)."""
    if len(tables) == 1:
        return tables[0].coefficients[steps[0] : steps[0] + 1].copy()
    return np.stack([table.coefficients[i] for table, i in zip(tables, steps, strict=True)])


def scale_input(solver: Solver, x: Array, k: Array, out: Array) -> None:
    """Write the input of the network into `out`. Shapes: x, out (B, ...); k as in `advance`."""
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
        m: Output of the network, after guidance.
        k: Coefficients of each sample's step.
        z: Fresh noise; rows of samples without noise may have any finite numbers.
        h: History of the solver; changed in place.
        scratch: An array of the shape of x, to avoid an allocation.
    """
    if solver.name in _SCALED:
        m *= _column(k, 1, x)
    _ADVANCE[solver.name](solver, x, m, lambda index: _column(k, index, x), z, h, scratch)


# The functions below keep diffusers' order of operations. A difference a - b is written -b + a or
# -(b - a), which rounds alike. `c` returns a column of coefficients.


def _advance_euler(
    solver: Solver, x: Array, m: Array, c: Column, z: Array, h: Array, scratch: Array
) -> None:
    part = _copy(x, scratch)
    part /= c(2)
    m += part
    m -= x
    m /= c(3)
    m *= c(4)
    x += m
    _add_noise(x, z, c)


def _advance_flow(solver: Solver, x: Array, m: Array, *rest: Array) -> None:
    x += m


def _advance_ddim(
    solver: Solver, x: Array, m: Array, c: Column, z: Array, h: Array, scratch: Array
) -> None:
    if solver.prediction == "epsilon":
        part = _copy(m, scratch)
        part *= c(1)
        x += part
        x /= c(2)
    else:
        # The noise and the image that v predicts. Source: arXiv 2202.00512.
        part = _copy(x, scratch)
        part *= -c(1)
        x *= c(2)
        x += m * c(1)
        m *= c(2)
        m += part
    _clip(x, solver.clip)
    x *= c(3)
    m *= c(4)
    x += m
    _add_noise(x, z, c)


def _add_noise(x: Array, z: Array, c: Column) -> None:
    if z is not None:
        z *= c(5)
        x += z


def _advance_lcm(
    solver: Solver, x: Array, m: Array, c: Column, z: Array, h: Array, scratch: Array
) -> None:
    m += x
    m /= c(2)
    _clip(m, solver.clip)
    m *= c(3)
    x *= c(4)
    x += m
    x *= c(5)
    z *= c(6)
    x += z


def _advance_dpmpp(
    solver: Solver, x: Array, m: Array, c: Column, z: Array, h: Array, scratch: Array
) -> None:
    if solver.prediction == "epsilon":
        m += x
        m /= c(2)
    else:
        part = _copy(x, scratch)
        part *= c(2)
        m += part
    x *= c(3)
    part = _copy(m, scratch)
    part *= c(4)
    x += part
    kept = h[:, 0]
    kept -= m
    kept *= c(5)
    kept *= c(6)
    x += kept
    kept[...] = m


def _advance_plms(
    solver: Solver, x: Array, m: Array, c: Column, z: Array, h: Array, scratch: Array
) -> None:
    newest, older, oldest = h[:, 0], h[:, 1], h[:, 2]
    again, is_first = c(7), c(8)
    mean, part = _copy(m, scratch), x * again
    mean *= c(1)
    # The second step starts at the first latents, which the third entry holds.
    x -= part
    part[...] = oldest
    part *= again
    x += part
    for number, said in enumerate((newest, older, oldest), 2):
        part[...] = said
        part *= c(number)
        mean += part
    mean *= c(5)
    mean /= c(6)
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
        mean *= c(9)
        mean += x * c(10)
    x *= c(11)
    mean *= c(12)
    mean /= c(13)
    x -= mean


#: Their updates begin with the network's output times column 1.
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
    """Return one coefficient per sample: (B, 1, ...), or () for one sample, which is faster."""
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
    ...), first the outputs with the prompts of all samples, then without prompts for the
    first n; scale (n,), their g. The result is `m[:samples]`.
    """
    guided = len(scale)
    said, without = m[:guided], m[samples:]
    said -= without
    said *= scale.reshape((-1,) + (1,) * (m.ndim - 1))
    said += without


# Noise


class Noise:
    """One sample's own stream of noise: numpy's PCG64, seeded with the sample's seed.

    The first draw makes the latents that it starts from; each step that takes noise has the next.
    Image k of a task has the task's seed + k. Numbers are drawn on the CPU, so they are the same on
    every device, and each sample has its own stream.

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
