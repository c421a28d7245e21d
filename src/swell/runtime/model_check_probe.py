"""A few more runs of a model that works, to see whether it keeps what people take for granted.

The same input and seed give the same result, whoever runs beside it; another seed gives another
one where there is one; and each input counts for something. Each run is compared with that of the
example. All of this is worth a hint, never an error.
"""

import contextlib
import hashlib
import json
import sys
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from swell.core.clock import Clock
from swell.runtime.example_inputs import NOTHING_ELSE, other_value
from swell.runtime.local_run import Loaded, LocalResult, check_input, run_together
from swell.runtime.model_lint import Hint, Times, hints_of_times
from swell.sdk.media import Attachment, Image

#: Endings of files that may be pickles.
_PICKLED: Final = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib")

#: Of an encoding, not of what is made.
_FORMATS: Final = frozenset({"output_format", "format"})

_SEED: Final = "seed"
_FIRST, _SECOND = 1, 2
#: Another number than the two, from which another is made.
_OWN_SEED: Final = 4321


class Opened:
    """Sees which files are opened, while it is entered, that may be pickles."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._is_looking = False
        # Such a hook can never be taken away, so it is one that a short process has.
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not self._is_looking or not isinstance(arguments[0], str):
            return
        if arguments[0].lower().endswith(_PICKLED):
            self._paths.add(arguments[0])

    def __enter__(self) -> None:
        self._is_looking = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._is_looking = False

    def pickles(self, declared: Sequence[Path]) -> list[Path]:
        """Return the files that are pickles, of those that were opened and of the declared ones."""
        named = {path for path in declared if path.name.lower().endswith(_PICKLED)}
        paths = named | {Path(each) for each in self._paths}
        return sorted(path for path in paths if _is_pickle(path))


def _is_pickle(path: Path) -> bool:
    with contextlib.suppress(OSError, zipfile.BadZipFile):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("data.pkl") for name in archive.namelist())
        with path.open("rb") as file:
            start = file.read(2)
        # The opcode PROTO, and the protocols that have it.
        return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5
    return False


class Probe:
    """Runs a model again, with small changes.

    Args:
        loaded: The model.
        example: Its input.
        result: What came of that, with seed 1.
        together: The same in a batch of two; None where it takes none.
        times: What was measured until now.
        clock: Tells how long it may go on.
        trying: Told what is tried before it is.
    """

    def __init__(
        self,
        loaded: Loaded,
        example: Mapping[str, Any],
        result: LocalResult,
        together: LocalResult | None,
        times: Times,
        clock: Clock,
        trying: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._trying = trying
        self._loaded = loaded
        self._example = dict(example)
        self._first = _Print.of(result)
        self._makes_files = bool(result.files)
        #: A verdict or a score is often the same for two inputs; a picture or a text seldom is.
        self._is_telling = self._makes_files or isinstance(result.output, str)
        self._together = None if together is None else _Print.of(together)
        #: Whether what is beside the files is the same each time: it may tell times.
        self._is_steady = True
        self._times = times
        self._clock = clock
        self._end_s = 0.0
        self._last_s = result.run_s
        schema = loaded.definition.input_schema
        self._properties: Mapping[str, Any] = schema.get("properties", {})
        self._defs: Mapping[str, Any] = schema.get("$defs", {})
        #: What there was no time for.
        self.left_out: list[str] = []

    def hints(self, limit_s: float) -> Iterator[Hint]:
        """Yield what it lacks, as it is found."""
        self._end_s = self._clock.monotonic_s() + limit_s
        again = self._run("the same again", self._example, _FIRST)
        again_s = None if again is None else again.run_s
        yield from hints_of_times(msgspec.structs.replace(self._times, again_s=again_s))
        if again is None:
            return
        self._is_steady = _Print.of(again).output == self._first.output
        if not self._is_same(_Print.of(again)):
            yield Hint(
                "not_reproducible",
                "the same input and seed gave two results: draw all that is random from the seed "
                "of the input, the item or the context, with numpy.random.default_rng(seed), or "
                "torch.Generator().manual_seed(seed) on the CPU, and with no generator that the "
                "whole process shares",
            )
            return
        if self._together is not None and not self._is_same(self._together):
            yield Hint(
                "depends_on_company",
                "in a batch of two its result was another one than alone, if only in rounding: it "
                "should depend on nothing but the item; pad to fixed lengths, run batches of one "
                "size, and draw noise for each item",
            )
        yield from self._of_seed()
        if not self._is_telling:
            return
        for name in self._properties:
            yield from self._of_input(name)

    def _of_seed(self) -> Iterator[Hint]:
        if self._example.get(_SEED) is not None:
            return
        other = self._run("another seed", self._example, _SECOND)
        if other is None:
            return
        is_drawn = not self._is_same(_Print.of(other))
        if is_drawn and _SEED not in self._properties:
            yield Hint(
                "no_seed",
                "its results depend on the seed, and no input sets it: add "
                "seed: Annotated[int | None, ui.seed()] = None",
            )
        elif not is_drawn and _SEED in self._properties and self._makes_files:
            yield Hint(
                "seed_not_drawn",
                "two tasks without a seed gave the same result: where the input has none, take "
                "the seed of the item or of the context",
            )

    def _of_input(self, name: str) -> Iterator[Hint]:
        prop = self._properties[name]
        if name in _FORMATS or prop.get("x-ui", {}).get("widget") == "hidden":
            return
        current = self._example.get(name, prop.get("default"))
        value = other_value(prop, self._defs, _OWN_SEED if name == _SEED else current)
        if value is NOTHING_ELSE:
            return
        changed = self._run(f"{name} = {_short(value)}", {**self._example, name: value}, _FIRST)
        if changed is not None and self._is_same(_Print.of(changed)):
            yield Hint(
                "input_ignored",
                f"{name} = {_short(value)} instead of {_short(current)} gave the same result: that "
                "is well if it counts only together with other inputs, or only for the time that "
                "it takes; else it is not used",
            )

    def _is_same(self, other: "_Print") -> bool:
        is_output_free = self._makes_files and not self._is_steady
        return other.files == self._first.files and (
            is_output_free or other.output == self._first.output
        )

    def _run(self, what: str, values: Mapping[str, Any], seed: int) -> LocalResult | None:
        """Run an input; None if there is no time for it, or the model does not take it."""
        if self._clock.monotonic_s() + self._last_s > self._end_s:
            self.left_out.append(what)
            return None
        self._trying(what)
        own = values.get(_SEED)
        seeds = [own if isinstance(own, int) and not isinstance(own, bool) else seed]
        try:
            checked = check_input(self._loaded.definition, values)
            [result] = run_together(self._loaded, checked, seeds, self._clock)
        except Exception:  # a made input may be one that the model rightly refuses
            return None
        self._last_s = result.run_s
        return result


@dataclass(frozen=True, slots=True)
class _Print:
    """What two equal results share."""

    output: str
    files: tuple[str, ...]

    @classmethod
    def of(cls, result: LocalResult) -> "_Print":
        """Return it."""
        return cls(
            json.dumps(result.output, sort_keys=True),
            tuple(hashlib.sha256(_content(file)).hexdigest() for file in result.files),
        )


def _content(file: Attachment) -> bytes:
    if isinstance(file, Image):
        picture = file.pil()
        return f"{picture.mode} {picture.size} ".encode() + picture.tobytes()
    return file.read()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def resident_bytes() -> int:
    """Return what this process has of the machine's memory."""
    return int(psutil.Process().memory_info().rss)
