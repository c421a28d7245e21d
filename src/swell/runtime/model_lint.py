"""Hints: what would make a working model better to serve. Pure.

Hints come from a model's card, and from a few more runs (`model_check_probe.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from swell.core.records import ModelCard

#: The field that sets the seed.
_SEED: Final = "seed"

#: A model that needs less memory need not declare it.
_LEAST_BYTES: Final = 64 * 2**20

#: A longer warm-up delays each start of a worker, in seconds.
_SLOW_WARMUP_S: Final = 30.0

#: A first run that is slower than the second by more, as a factor and in seconds, is cold.
_COLD_FACTOR: Final = 2.0
_COLD_S: Final = 0.5


class Hint(msgspec.Struct, frozen=True):
    """Something that a model lacks: a stable code, and what to do about it."""

    code: str
    detail: str


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of a model."""

    warmup_s: float
    run_s: float
    #: The same input once more; None if it was not run again.
    again_s: float | None = None
    #: Growth of the process while the model was loaded, and the size that the model declares.
    grown_bytes: int = 0
    said_bytes: int = 0
    is_cpu: bool = True


def hints_of_card(card: ModelCard) -> list[Hint]:
    """Return hints from the card and the input's schema."""
    return [*_of_card(card), *_of_bounds(card)]


def _of_card(card: ModelCard) -> Iterator[Hint]:
    if not card.description.strip():
        yield Hint("no_description", "write a docstring: it is the text of the model's card")
    if not card.licence.strip():
        yield Hint(
            "no_licence",
            'say under which licence code and weights are: licence = "…" in a class, '
            'licence="…" in @swell.model',
        )
    properties, required = _properties(card), card.input_schema.get("required", [])
    first = card.examples[0] if card.examples else {}
    for name in required:
        prop = properties.get(name, {})
        is_made = first.get(name) == "example" and not prop.get("examples")
        if is_made and prop.get("type") == "string" and "enum" not in prop:
            yield Hint(
                "no_example",
                f"give an input that works: examples = ({{{name!r}: …}},), or "
                f'Field(examples=["…"]) of {name!r}; docs, checks and warm-up take it',
            )
            return


def _of_bounds(card: ModelCard) -> Iterator[Hint]:
    for name, prop in _properties(card).items():
        if name == _SEED or prop.get("x-ui", {}).get("widget") == _SEED:
            continue
        for choice in (prop, *prop.get("anyOf", ())):
            if choice.get("type") not in ("integer", "number") or "enum" in choice:
                continue
            if "maximum" not in choice and "exclusiveMaximum" not in choice:
                yield Hint(
                    "no_bounds",
                    f"{name!r} has no largest value: write Field(ge=…, le=…), or one request may "
                    "hold the device for as long as it likes",
                )
            elif "minimum" not in choice and "exclusiveMinimum" not in choice:
                yield Hint("no_bounds", f"{name!r} has no smallest value: write Field(ge=…)")


def _properties(card: ModelCard) -> Mapping[str, Mapping[str, Any]]:
    found = card.input_schema.get("properties", {})
    return {name: prop for name, prop in found.items() if isinstance(prop, Mapping)}


def hints_of_files(pickles: Sequence[Path]) -> list[Hint]:
    """Return hints for files that are pickles."""
    return [
        Hint(
            "pickled_weights",
            f"{path.name} is a pickle, which can run its author's code in this "
            "process. Convert it once (safetensors.torch.save_file of its tensors) "
            "and load that instead",
        )
        for path in pickles
    ]


def hints_of_times(times: Times) -> list[Hint]:
    """Return hints from durations and memory."""
    return [*_of_memory(times), *_of_warmup(times)]


def _of_memory(times: Times) -> Iterator[Hint]:
    if times.said_bytes:
        return
    if not times.is_cpu:
        yield Hint(
            "no_memory",
            "declare the device memory that it needs: memory_bytes = …; Swell "
            "measures on a GPU only what torch allocates, and worker.device_memory_bytes needs it",
        )
    elif times.grown_bytes > _LEAST_BYTES:
        rounded = round(times.grown_bytes, -7)
        yield Hint(
            "no_memory",
            (f"declare its memory: memory_bytes = {rounded:_}, measured here while it loaded"),
        )


def _of_warmup(times: Times) -> Iterator[Hint]:
    if times.warmup_s > _SLOW_WARMUP_S:
        yield Hint(
            "slow_warmup",
            f"its warm-up takes {times.warmup_s:.0f} s at each start of a worker: "
            "run something smaller, or cache the compiled program",
        )
    again_s = times.again_s
    if again_s is not None and times.run_s > max(_COLD_FACTOR * again_s, again_s + _COLD_S):
        yield Hint(
            "cold_first_run",
            f"its first run took {times.run_s:.1f} s and its second {again_s:.1f} s: write "
            "`warmup`, with a run like that, so that the first user does not wait",
        )
