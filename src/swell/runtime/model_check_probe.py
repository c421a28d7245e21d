"""More runs of a working model, for the hints of `swell models check`.

The same input and seed should give the same result, alone and in a batch; another seed should give
another one. Each run is compared with that of the example.
"""

import contextlib
import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from swell.core.clock import Clock
from swell.runtime.local_run import Loaded, LocalResult, check_input, run_together
from swell.runtime.model_lint import Hint, Times, hints_of_times
from swell.sdk.media import Attachment, Image

#: Suffixes of files that may be pickles.
_PICKLED: Final = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib")

_SEED: Final = "seed"
_FIRST, _SECOND = 1, 2


class Opened:
    """Records which files that may be pickles are opened while it is entered."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._is_recording = False
        # An audit hook cannot be removed, so this is for a short process.
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = arguments[0] if event == "open" and self._is_recording else None
        if isinstance(path, str) and path.lower().endswith(_PICKLED):
            self._paths.add(path)

    def __enter__(self) -> None:
        self._is_recording = True

    def __exit__(self, *_: object) -> None:
        self._is_recording = False

    def pickles(self, declared: Sequence[Path]) -> list[Path]:
        """Return the pickles among the opened and the declared files."""
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
        # The opcode PROTO, and the protocols with it.
        return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5
    return False


class Probe:
    """Runs a model again, with the same seed and another one.

    Args:
        loaded: The model.
        example: Its input.
        result: The result of that, with seed 1.
        together: The same in a batch of two; None if it takes none.
        times: Measurements so far.
        clock: The time.
        trying: Called with a description of each run before it.
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
        self._first = _digests(result)
        self._makes_files = bool(result.files)
        self._together = together
        #: Whether the output without its files is always the same; it may contain durations.
        self._is_steady = True
        self._times = times
        self._clock = clock
        self._end_s = 0.0
        self._last_s = result.run_s
        self._has_seed = _SEED in loaded.definition.input_schema.get("properties", {})
        #: Runs for which there was no time.
        self.left_out: list[str] = []

    def hints(self, limit_s: float) -> Iterator[Hint]:
        """Yield hints as they are found."""
        self._end_s = self._clock.monotonic_s() + limit_s
        again = self._run("the same again", _FIRST)
        again_s = None if again is None else again.run_s
        yield from hints_of_times(msgspec.structs.replace(self._times, again_s=again_s))
        if again is None:
            return
        self._is_steady = _digests(again)[0] == self._first[0]
        if not self._is_same(again):
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

    def _of_seed(self) -> Iterator[Hint]:
        if self._example.get(_SEED) is not None:
            return
        other = self._run("another seed", _SECOND)
        if other is None:
            return
        is_drawn = not self._is_same(other)
        if is_drawn and not self._has_seed:
            yield Hint(
                "no_seed",
                "its results depend on the seed, and no input sets it: add "
                "seed: Annotated[int | None, ui.seed()] = None",
            )
        elif not is_drawn and self._has_seed and self._makes_files:
            yield Hint(
                "seed_not_drawn",
                "two tasks without a seed gave the same result: where the input has none, take "
                "the seed of the item or of the context",
            )

    def _is_same(self, result: LocalResult) -> bool:
        (output, files), (first_output, first_files) = _digests(result), self._first
        is_output_free = self._makes_files and not self._is_steady
        return files == first_files and (is_output_free or output == first_output)

    def _run(self, what: str, seed: int) -> LocalResult | None:
        """Run the example; return None if there is no time, or the run fails."""
        if self._clock.monotonic_s() + self._last_s > self._end_s:
            self.left_out.append(what)
            return None
        self._trying(what)
        own = self._example.get(_SEED)
        seeds = [own if isinstance(own, int) and not isinstance(own, bool) else seed]
        try:
            checked = check_input(self._loaded.definition, self._example)
            [result] = run_together(self._loaded, checked, seeds, self._clock)
        except Exception:  # of an author's code
            return None
        self._last_s = result.run_s
        return result


def _digests(result: LocalResult) -> tuple[str, list[str]]:
    """Return the output and the digests of files, which equal results share."""
    files = [hashlib.sha256(_content(file)).hexdigest() for file in result.files]
    return json.dumps(result.output, sort_keys=True), files


def _content(file: Attachment) -> bytes:
    if isinstance(file, Image):
        picture = file.pil()
        return f"{picture.mode} {picture.size} ".encode() + picture.tobytes()
    return file.read()


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(psutil.Process().memory_info().rss)
