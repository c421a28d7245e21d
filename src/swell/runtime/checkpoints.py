"""What a sample needs to go on elsewhere, as bytes."""

from typing import Final

import msgspec

#: Its number, of this layout.
FORMAT: Final = 1


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Latents after so many steps, as little-endian float32, row-major."""

    format: int
    #: What must be the same where it goes on.
    identity: str
    #: Steps that are over.
    step: int
    x: bytes
    #: What the solver keeps of the steps before, if it looks back.
    h: bytes | None
    #: See `SampleState.is_narrowed`.
    is_narrowed: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Checkpoint).decode


def encode_checkpoint(
    identity: str, step: int, x: bytes, h: bytes | None, *, is_narrowed: bool = False
) -> bytes:
    """Return the bytes of a checkpoint. `x` and `h` are as `Checkpoint` has them."""
    return _encode(Checkpoint(FORMAT, identity, step, x, h, is_narrowed))


def decode_checkpoint(raw: bytes) -> Checkpoint:
    """Return what the bytes say; its format may be another.

    Raises:
        msgspec.MsgspecError: They are none of a checkpoint.
    """
    return _decode(raw)
