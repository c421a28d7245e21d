"""A compiled program that was signed: from where it was pushed into this machine's cache of them.

It comes as weights do, its chunks side by side and each compared with its digest, taken up again
where it was broken off, and within the cache's budget. It enters the cache when the whole has the
digest that was signed.
"""

import contextlib
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, Protocol

from swell.core.clock import Clock
from swell.weights.addresses import Addresses, Source
from swell.weights.chunks import Manifest
from swell.weights.compiled import CompiledCache
from swell.weights.fetch import Wisher
from swell.weights.gather import Gathering, Place, Terms
from swell.weights.growing import GivenUp, Growing
from swell.weights.listing import Entry
from swell.weights.signed import NAME, Program, Signed

#: A program that another process fetches is looked at so often, in seconds.
_LOOK_S: Final = 0.1


class ProgramSource(Source, Protocol):
    """Who has programs that were pushed, beside weights."""

    async def notes(self, model: str, version: str, cpu: str) -> list[bytes]:
        """Return what was signed for a version and a kind of processor.

        Raises:
            PullFailed: It is not given to this worker.
            Unavailable: Nobody answers; it may be tried again.
        """
        ...

    def program_places(self, program: Program, digests: Sequence[str]) -> list[Place]:
        """Return where chunks of a program are; called by any thread, and may block it.

        Raises:
            PullFailed: Nobody tells.
            Unavailable: Nobody answers; it may be tried again.
        """
        ...


def bring(
    signed: Signed,
    cache: CompiledCache,
    source: ProgramSource,
    clock: Clock,
    stopping: threading.Event,
    terms: Terms | None,
    wisher: Wisher,
) -> None:
    """Have a program in the cache under its key; blocks.

    Args:
        signed: Which, and by whom; the signature was found to hold.
        cache: Where to.
        source: Who knows where its chunks are.
        clock: For time-outs.
        stopping: Set where nobody wants it any more.
        terms: How servers are treated.
        wisher: Who hears of it, and which others he wants, which make no room for it.

    Raises:
        PullFailed: It cannot be had; what has come is kept.
        DigestMismatch: It is not what was signed.
        CacheFull, CacheUnusable: The disk does not take it.
        NotPrivate: Somebody else can write to the cache.
        GivenUp: `stopping` was set.
    """
    cache.check_private()
    program = signed.program
    contents, manifest = cache.contents, program.as_manifest
    entry, part = Entry(program.content.sha256, program.content.bytes), manifest.file_key(NAME)
    with contextlib.ExitStack() as held:
        while not _locked(contents.locked, (entry.sha256, part), held):
            if stopping.wait(_LOOK_S):
                raise GivenUp(program.model)
        # Somebody may have fetched it before the lock was had.
        if not contents.has(entry):
            needed = max(entry.size_bytes - contents.begun_bytes(part), 0)
            contents.make_room(needed, {*wisher.sparing, entry.sha256, part})
            growing = Growing(contents, manifest, NAME, stopping, check=_anything)
            held.callback(growing.close)
            addresses = Addresses(
                _Places(program, source), manifest, list(manifest.chunks), stopping, wisher.tell
            )
            Gathering(
                [(NAME, growing)],
                manifest,
                addresses,
                clock,
                stopping=stopping,
                terms=terms,
                moved=wisher.moved,
            ).run()
            growing.keep()
        # What this machine has compiled itself meanwhile is not replaced.
        if not cache.has(program.key):
            cache.note(program.key, entry, signed.by)


def _locked(
    lock: Callable[..., contextlib.AbstractContextManager[None]],
    keys: Collection[str],
    held: contextlib.ExitStack,
) -> bool:
    with contextlib.ExitStack() as taken:
        try:
            for key in keys:
                taken.enter_context(lock(key, wait=False))
        except BlockingIOError:
            return False
        held.push(taken.pop_all())
    return True


def _anything(name: str, path: Path) -> None:
    """A program is of no format that could be looked at; its digest was signed."""


class _Places:
    """A source that is asked for the chunks of one program."""

    def __init__(self, program: Program, source: ProgramSource) -> None:
        self._program = program
        self._source = source

    def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]:
        return self._source.program_places(self._program, digests)
