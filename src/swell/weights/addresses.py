"""Where the chunks of one manifest are, asked for many at a time, and until somebody answers."""

import random
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Protocol

from swell.core.errors import Unavailable
from swell.core.retry import RetryPolicy
from swell.weights.chunks import Manifest
from swell.weights.gather import Place
from swell.weights.growing import GivenUp

#: Addresses that are asked for at once.
PLACES: Final = 256

#: When whoever does not answer is asked again.
AGAIN: Final = RetryPolicy(base_s=0.5, cap_s=10.0, floor_s=0.1)


class Source(Protocol):
    """Who has weights that were pushed."""

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Manifest:
        """Return which files a version has, and of which chunks.

        Args:
            model: `owner/name`.
            version: Which of its versions.
            digest: What the manifest's SHA-256 must be; None to take the word of this source.

        Raises:
            NotFound: It was not pushed there.
            InvalidListing: It is not what it should be.
            PullFailed: It is not given to this worker.
            Unavailable: Nobody answers; it may be tried again.
        """
        ...

    def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]:
        """Return where chunks are; called by any thread, and may block it.

        Raises:
            PullFailed: Nobody tells.
            Unavailable: Nobody answers; it may be tried again.
        """
        ...


class Telling(Protocol):
    """Who knows where chunks are."""

    def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]: ...


class Addresses:
    """What a source tells of the chunks of one manifest.

    Args:
        source: Who knows.
        manifest: By which it knows the chunks.
        wanted: Their digests, in the order in which they will be wanted.
        stopping: Set where nobody wants them any more.
        tell: Called with an event and what is to say of it, for the log.
    """

    def __init__(
        self,
        source: Telling,
        manifest: Manifest,
        wanted: Sequence[str],
        stopping: threading.Event,
        tell: Callable[..., None],
    ) -> None:
        self._source = source
        self._manifest = manifest
        self._wanted = list(wanted)
        self._order = {digest: at for at, digest in enumerate(self._wanted)}
        self._stopping = stopping
        self._tell = tell
        self._rng = random.Random()
        self._asking = threading.Lock()
        self._known: dict[str, Place] = {}

    def place(self, digest: str) -> Place:
        """Return where a chunk is; waits until that is known.

        Raises:
            PullFailed: Nobody tells.
            GivenUp: `stopping` was set.
        """
        known = self._known.get(digest)
        if known is None:
            # One asks, for the others too.
            with self._asking:
                known = self._known.get(digest) or self._ask(digest)
        return known

    def forget(self, digest: str) -> None:
        """Ask anew the next time."""
        self._known.pop(digest, None)

    def _ask(self, digest: str) -> Place:
        at = self._order[digest] + 1
        later = (each for each in islice(self._wanted, at, None) if each not in self._known)
        asked = [digest, *islice(later, PLACES - 1)]
        places = self._until_answered(asked)
        self._known.update(zip(asked, places, strict=True))
        return places[0]

    def _until_answered(self, asked: Sequence[str]) -> list[Place]:
        failed = 0
        while not self._stopping.is_set():
            try:
                return self._source.places(self._manifest, asked)
            except Unavailable as error:
                failed += 1
                if failed == 1:
                    self._tell("weights cannot be asked for now", detail=error.detail)
            self._stopping.wait(AGAIN.delay_s(failed, self._rng))
        raise GivenUp(self._manifest.model)
