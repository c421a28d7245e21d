"""What a signature over a compiled program says, and how it is written. Pure.

A program lies as chunks beside the weights of its version, and a note tells of it:

    compiled/owner/name/VERSION/CPU/KEY.json     CPU: the kind of processor; KEY: of `CompiledKey`

The note has a statement, as the bytes that were signed, which key has signed it, and the signature.
The statement says of which version of weights it is, for which key, and the digests of the program
and its chunks. Nothing in it is looked at before the signature holds, but by a backend, which only
tells where chunks are.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from swell.core.errors import InvalidRequest
from swell.weights.chunks import ChunkedFile, Manifest, spans
from swell.weights.compiled import CompiledKey, cpu_of
from swell.weights.listing import InvalidListing, check_digest, check_identity

if TYPE_CHECKING:
    from swell.weights.signing import SigningKey, Trusted

#: So many notes of one version and CPU are looked at: a note for each library and GPU.
MOST_NOTES: Final = 64

#: Of one note; most of it are the digests of chunks, 67 bytes each and a third more as base64.
MOST_NOTE_BYTES: Final = 64 << 10

#: Of one program, whoever has signed it.
MOST_BYTES: Final = 4 << 30

#: What a decoder raises of bytes that are none of ours: of bad UTF-8 and of too deep ones too.
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

#: What its one file is called where a name is needed.
NAME: Final = "program"

#: Before the statement when it is signed, so that a signature means this and nothing else.
_DOMAIN: Final = b"swell: a compiled program, format 1\n"
_FORMAT: Final = 1

_CHUNK_BYTES: Final = range(4096, (64 << 20) + 1)


class Distrusted(Exception):
    """A note that is not believed; the text says why."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed.

    Args:
        model: `owner/name`.
        version: Which version of its weights.
        manifest: SHA-256 of that version's manifest.
        key: What the program depends on.
        content: It, and its chunks.
        chunk_bytes: Size of every chunk but the last.
        signed_at: When, for people.
        format: Changed where older readers would be wrong.
    """

    model: str
    version: str
    manifest: str
    key: CompiledKey
    content: ChunkedFile
    chunk_bytes: int
    signed_at: datetime
    format: int = _FORMAT

    @property
    def as_manifest(self) -> Manifest:
        """The same as what gathers chunks wants to have it."""
        return Manifest(self.model, self.version, self.chunk_bytes, {NAME: self.content})


class Signed(NamedTuple):
    """A program, and by which key it was signed."""

    program: Program
    by: str


class _Note(msgspec.Struct, frozen=True):
    statement: bytes
    signed_by: str
    signature: bytes


def cpu_key(processor: str) -> str:
    """Return what a kind of processor is called in keys of objects.

    Args:
        processor: As `swell.weights.compiled.processor`, or of a key, with its GPU before it.
    """
    return hashlib.sha256(cpu_of(processor).encode()).hexdigest()[:32]


def notes_folder(model: str, version: str, cpu: str) -> str:
    """Return below what the notes of a version and a kind of processor lie.

    Raises:
        InvalidRequest: One of them cannot be.
    """
    check_identity(model, version)
    if len(cpu) != 32 or not set(cpu) <= set("0123456789abcdef"):
        raise InvalidRequest(f"{cpu[:80]!r} is no kind of processor: give 32 hexadecimal digits")
    return f"compiled/{model}/{version}/{cpu}"


def note_key(program: Program) -> str:
    """Return the key of a program's note."""
    folder = notes_folder(program.model, program.version, cpu_key(program.key.processor))
    return f"{folder}/{program.key.digest}.json"


def sign(program: Program, key: "SigningKey") -> bytes:
    """Return a program's note."""
    statement = msgspec.json.encode(program)
    return msgspec.json.encode(_Note(statement, key.id, key.sign(_DOMAIN + statement)))


def parts_of(text: bytes) -> frozenset[str]:
    """Return the chunks that a note names; none where it is none. Believes nothing of it."""
    try:
        return frozenset(_checked(_program(_note(text))).content.chunks)
    except Distrusted:
        return frozenset()


def believed(text: bytes, trusted: "Trusted") -> Program:
    """Return what a note says that somebody has signed who is trusted.

    Raises:
        Distrusted: Nobody has, or it says nothing that can be.
    """
    note = _note(text)
    if not trusted.knows(note.signed_by):
        raise Distrusted(f"it was signed by the key {note.signed_by[:16]!r}, which is not trusted")
    if not trusted.holds(note.signed_by, _DOMAIN + note.statement, note.signature):
        raise Distrusted(f"its signature by {note.signed_by} does not hold: somebody changed it")
    return _checked(_program(note))


def signer(text: bytes) -> str:
    """Return which key a note says that it was signed by; it counts once `believed` has held.

    Raises:
        Distrusted: It is none.
    """
    return _note(text).signed_by


def _note(text: bytes) -> _Note:
    if len(text) > MOST_NOTE_BYTES:
        raise Distrusted(f"its note has more than {MOST_NOTE_BYTES:,} bytes")
    try:
        return msgspec.json.decode(text, type=_Note)
    except _UNREADABLE as error:
        raise Distrusted(f"its note cannot be read ({error})") from None


def _program(note: _Note) -> Program:
    try:
        return msgspec.json.decode(note.statement, type=Program)
    except _UNREADABLE as error:
        raise Distrusted(f"what was signed cannot be read ({error})") from None


def _checked(program: Program) -> Program:
    content = program.content
    try:
        check_identity(program.model, program.version)
        for digest in (program.manifest, content.sha256, *content.chunks):
            if check_digest(digest, "what was signed") != digest:
                raise Distrusted(f"{digest[:80]!r} is not the plain form of a digest")
    except InvalidListing as error:
        raise Distrusted(error.detail) from None
    if program.format != _FORMAT:
        raise Distrusted(f"it is of format {program.format}: upgrade Swell, or push it with this")
    if program.chunk_bytes not in _CHUNK_BYTES or not 0 < content.bytes <= MOST_BYTES:
        raise Distrusted(f"it would have {content.bytes:,} bytes in chunks that nobody cuts")
    if len(content.chunks) != -(-content.bytes // program.chunk_bytes):
        raise Distrusted("it has another number of chunks than it needs")
    sizes: dict[str, int] = {}
    for digest, _, size in spans(content, program.chunk_bytes):
        if sizes.setdefault(digest, size) != size:
            raise Distrusted(f"the chunk {digest} would have two sizes")
    return program


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a worker has use for.

    Args:
        model: `owner/name`.
        version: Which version of its weights.
        manifest: The digest of that version's manifest; None where it is not known.
        weights: SHA-256 of its files.
        processor: The kind of this machine's CPU.
        gpus: Names of its GPUs; None where nobody tells.
        device: What models are loaded on.
        torch: The version that is installed; None where that is not known.
    """

    model: str
    version: str
    manifest: str | None
    weights: Collection[str]
    processor: str
    gpus: Collection[str] | None
    device: str
    torch: str | None


def why_not(program: Program, wanted: Wanted) -> str:
    """Return why a signed program is of no use to a worker; empty where it may be of some.

    What a model asks for by its own key decides in the end: here is seen to it that nothing enters
    under the name of another version, and that as little as possible comes in vain.
    """
    key = program.key
    if (program.model, program.version) != (wanted.model, wanted.version):
        return f"it was signed for {program.model}@{program.version}"
    if wanted.manifest is not None and program.manifest != wanted.manifest:
        return f"it was signed for other weights of that version, manifest {program.manifest[:12]}…"
    if not key.weights or not set(key.weights) <= set(wanted.weights):
        return "it was compiled for weights that this version does not have"
    return _why_elsewhere(key, wanted)


def _why_elsewhere(key: CompiledKey, wanted: Wanted) -> str:
    if cpu_of(key.processor) != cpu_of(wanted.processor):
        return f"it was compiled on another kind of processor, {cpu_of(key.processor)}"
    if _device(key.device) != _device(wanted.device):
        return f"it was compiled for the device {key.device}"
    gpu = key.processor.removesuffix(cpu_of(key.processor))
    if gpu and wanted.gpus is not None and not any(gpu.startswith(each) for each in wanted.gpus):
        return f"it was compiled on another kind of GPU, {gpu.rstrip(', ')}"
    torch = key.libraries.get("torch")
    if torch and wanted.torch and torch.partition("+")[0] != wanted.torch.partition("+")[0]:
        return f"it was compiled by torch {torch}"
    return ""


def _device(name: str) -> tuple[str, str]:
    """Return the kind of a device, and of a GPU which one: that is within what is compiled."""
    kind, _, number = name.partition(":")
    return kind, (number or "0") if kind == "cuda" else ""
