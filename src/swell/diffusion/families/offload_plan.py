"""Where the parts of a model are while it serves: on the device, or in the host's memory. Pure.

What draws is needed in each step; text encoders, the image encoder and the autoencoder only at a
sample's beginning or end, and T5 alone is as large as many networks. Where a device has no room for
all, the first of these ways that fits is used:

    never    all parts are on the device
    always   all parts but the network are in host memory, and are loaded for their stage
    turns    the network too: it is offloaded for stages that do not fit together with it
    blocks   the network is loaded block by block in each step

Nothing is lost by leaving: weights at home are what the device's copy was made of.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from swell.weights.formats import read_header

#: Ways that may be asked for.
CHOICES: Final = ("auto", "never", "always", "turns", "blocks")

#: The group of the network and its control net.
DRAWS: Final = "what draws"

#: What reads words.
WORDS: Final = "words"

#: Estimated memory in bytes, without weights: of any step, and of encoders.
_STEP_BYTES: Final = 1 << 28
_ENCODER_BYTES: Final = 1 << 29

#: Rows of a step that are planned for at least; larger steps shrink where memory runs out.
_ROWS: Final = 4

#: Arrays of a whole picture's features that exist at the same time during decoding.
_FEATURES: Final = 4


@dataclass(frozen=True, slots=True)
class Placement:
    """Which parts live where."""

    #: One of `CHOICES`, never `auto`.
    choice: str
    #: Parts that are kept in host memory.
    at_home: frozenset[str] = frozenset()
    #: Groups of parts for which the network is offloaded.
    apart: frozenset[str] = frozenset()
    #: Why, for people.
    reason: str = ""

    @property
    def by_blocks(self) -> bool:
        """Whether the network is loaded block by block."""
        return self.choice == "blocks"


def group_of(part: str, network: str) -> str:
    """Return with which parts a part is needed at the same time.

    Args:
        part: By its name in `model_index.json`.
        network: The same of the part that draws.
    """
    if part in (network, "controlnet"):
        return DRAWS
    return WORDS if part.startswith("text_encoder") else part


def place(
    choice: str,
    sizes: Mapping[str, int],
    network: str,
    *,
    room_bytes: int | None,
    needed_bytes: Mapping[str, int] = MappingProxyType({}),
    is_fixed: bool = False,
) -> Placement:
    """Return which parts live where.

    Args:
        choice: One of `CHOICES`.
        sizes: What each part takes of the device, in bytes.
        network: The part that draws.
        room_bytes: Free memory of the device; None on the CPU.
        needed_bytes: Memory of each group without its weights; see `working`.
        is_fixed: Whether the network cannot be offloaded.
    """
    groups: dict[str, int] = {}
    for part, size_bytes in sizes.items():
        group = group_of(part, network)
        groups[group] = groups.get(group, 0) + size_bytes
    weights = sum(groups.values())
    drawing = groups.pop(DRAWS, 0)
    stages = {group: size + needed_bytes.get(group, 0) for group, size in groups.items()}
    step = drawing + needed_bytes.get(DRAWS, 0)
    reason = ""
    if choice == "auto":
        ways = (
            ("never", weights + max(needed_bytes.values(), default=0)),
            ("always", max(step, drawing + max(stages.values(), default=0))),
            ("turns", max([step, *stages.values()])),
        )
        fitting = (way for way, size in ways if room_bytes is None or size <= room_bytes)
        choice = next(fitting, "blocks")
        if is_fixed and choice in ("turns", "blocks"):
            choice = "always"
        reason = _why(weights, needed_bytes, room_bytes or 0)
    if choice == "never":
        return Placement("never", reason=reason)
    if choice == "turns":
        apart = frozenset(
            group
            for group, size in stages.items()
            if room_bytes is None or drawing + size > room_bytes
        )
        return Placement("turns", frozenset(sizes), apart, reason)
    at_home = frozenset(part for part in sizes if group_of(part, network) != DRAWS)
    return Placement(choice, at_home, reason=reason)


def _why(weights: int, needed_bytes: Mapping[str, int], room_bytes: int) -> str:
    step, decoding = needed_bytes.get(DRAWS, 0), needed_bytes.get("vae", 0)
    return (
        f"{_gib(weights)} of weights for {_gib(room_bytes)} on the device; "
        f"estimated for a step: {_gib(step)}, for decoding: {_gib(decoding)}"
    )


def working(
    side_px: int, vae: Mapping[str, Any], item_bytes: int, row_gib: float, rows: int | None = None
) -> dict[str, int]:
    """Return the estimated memory without weights, by group of parts, in bytes.

    The autoencoder's last stage is as large as the picture, with the features of the stage before.

    Args:
        side_px: Side of a picture.
        vae: Settings of the autoencoder.
        item_bytes: Size of a number.
        row_gib: Activations of one row of a step for 1024 x 1024 px.
        rows: Rows of a step in exact mode, if the model says so.
    """
    pixels = side_px**2
    channels = [*(vae.get("block_out_channels") or ()), 256, 256][1]
    row_bytes = int(row_gib * 2**30) * pixels // 1024**2
    return {
        DRAWS: _STEP_BYTES + max(rows or 0, _ROWS) * row_bytes,
        WORDS: _ENCODER_BYTES,
        "image_encoder": _ENCODER_BYTES,
        "vae": _FEATURES * channels * pixels * item_bytes,
    }


def part_bytes(files: Iterable[Path], item_bytes: int) -> int:
    """Return what the weights in safetensors files take once they are read; opens headers only.

    Args:
        files: Of one part.
        item_bytes: Size of a floating-point number.

    Raises:
        BrokenWeights: One is not whole.
    """
    total = 0
    for path in files:
        for tensor in read_header(path).tensors:
            count = (tensor.stop - tensor.start) // tensor.item_bytes
            is_fraction = tensor.kind.startswith(("F", "BF"))
            total += count * (item_bytes if is_fraction else tensor.item_bytes)
    return total


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
