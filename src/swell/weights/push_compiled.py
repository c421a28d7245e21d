"""Push what was compiled for a version of weights, under a signature of whoever pushes.

All that this machine has compiled for the version goes up, for whichever libraries and GPU; each is
found by machines of its kind alone. What it has fetched goes up only where a key has signed it that
is trusted here, or that signs now: whoever signs answers for all of it. What lies there for the
same key is replaced: it was compiled anew, or signed by a new key.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from swell.core.clock import Clock
from swell.core.errors import InvalidRequest
from swell.weights.cache import DigestMismatch
from swell.weights.chunks import Manifest, cut
from swell.weights.compiled import HERE, CompiledCache, Kept
from swell.weights.push import Pushed, PushProgress, send
from swell.weights.signed import MOST_BYTES, Program, sign
from swell.weights.store import WeightStore

if TYPE_CHECKING:
    from swell.weights.signing import SigningKey, Trusted


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs, and for whom.

    Args:
        key: By which.
        trusted: Whose programs are signed too that this machine has fetched; None for nobody's but
            those that the same key has signed.
    """

    key: "SigningKey"
    trusted: "Trusted | None" = None


@dataclass(frozen=True, slots=True)
class PushedPrograms:
    """What became of a push of programs.

    Args:
        programs: What was signed.
        pushed: Of their chunks.
        left: What was not: nobody who is trusted here has compiled it.
    """

    programs: tuple[Program, ...]
    pushed: Pushed
    left: tuple[Kept, ...] = ()


def kept_for(manifest: Manifest, cache: CompiledCache) -> list[Kept]:
    """Return what is kept here for a version: for its weights, or some of them.

    Raises:
        NotPrivate: Others can write where it is kept, so that nobody knows who made it.
        InvalidRequest: There is nothing.
    """
    weights = {file.sha256 for file in manifest.files.values()}
    found = [each for each in cache.all() if each.key.weights and set(each.key.weights) <= weights]
    if not found:
        raise InvalidRequest(
            f"nothing that was compiled for {manifest.model}@{manifest.version} is in "
            f"{cache.folder}: have a worker of this machine load the model once, with the weights "
            "of this version, and name its folder with worker.compiled_dir"
        )
    return found


async def push_compiled(
    manifest: Manifest,
    cache: CompiledCache,
    store: WeightStore,
    signer: "Signer",
    clock: Clock,
    *,
    verify: bool = False,
    progress: Callable[[PushProgress], None] = lambda _: None,
) -> PushedPrograms:
    """Push and sign all that was compiled here for a version that was pushed.

    Args:
        manifest: Of the version.
        cache: What this machine has compiled.
        store: Where to.
        signer: Who signs.
        clock: Dates signatures.
        verify: As for `push`.
        progress: Called on the way.

    Raises:
        NotPrivate, InvalidRequest: As `kept_for`; or one is too large, or none is to be signed.
        DigestMismatch: One is not what was written down of it.
        Unavailable: The store does not take it; what has gone up stays.
    """
    own, left = _parted(kept_for(manifest, cache), signer)
    programs = [await asyncio.to_thread(_read, manifest, cache, each, clock.now()) for each in own]
    files = {each.key.digest: each.content for each in programs}
    paths = {name: cache.contents.path(file.sha256) for name, file in files.items()}
    sent = await send(
        msgspec.structs.replace(manifest, files=files),
        paths,
        store,
        verify=verify,
        clock=clock,
        tell=progress,
    )
    # Once all its chunks are there.
    for program in programs:
        await store.put_note(program, sign(program, signer.key))
    return PushedPrograms(tuple(programs), sent, tuple(left))


def _parted(kept: Sequence[Kept], signer: "Signer") -> tuple[list[Kept], list[Kept]]:
    """Return what may be signed, and what may not.

    Raises:
        InvalidRequest: Nothing may.
    """

    def may_be(origin: str) -> bool:
        is_known = signer.trusted is not None and signer.trusted.knows(origin)
        return origin in (HERE, signer.key.id) or is_known

    own = [each for each in kept if may_be(each.origin)]
    left = [each for each in kept if not may_be(each.origin)]
    if own:
        return own, left
    origins = sorted({each.origin for each in left})
    told = ", ".join(
        f"signed by {each}" if each else "compiled by nobody knows" for each in origins
    )
    raise InvalidRequest(
        f"nothing here was compiled by this machine, or by whom it trusts ({told}): have a worker "
        "compile the model with an empty worker.compiled_dir, or name the public key of whoever "
        "has signed it in worker.compiled_keys"
    )


def _read(manifest: Manifest, cache: CompiledCache, kept: Kept, now: datetime) -> Program:
    key, entry, _ = kept
    path = cache.contents.path(entry.sha256)
    if entry.size_bytes > MOST_BYTES:
        raise InvalidRequest(f"{path} is larger than a program may be, {MOST_BYTES:,} bytes")
    try:
        content = cut(path, manifest.chunk_bytes)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    if content.sha256 != entry.sha256:
        raise DigestMismatch(
            f"{path} is not what was written down of it: it was changed, and is not signed. Remove "
            "it, and have the model compiled anew"
        )
    return Program(
        model=manifest.model,
        version=manifest.version,
        manifest=manifest.digest,
        key=key,
        content=content,
        chunk_bytes=manifest.chunk_bytes,
        signed_at=now,
    )
