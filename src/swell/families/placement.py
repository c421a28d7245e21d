"""Where the parts of a model are while it serves: on the device, or in the host's memory. Pure.

What draws is needed in each step; text encoders, the image encoder and the autoencoder only at a
sample's beginning or end, and T5 alone is as large as many networks. Where a device has no room for
all, in this order, until what is there at one time fits:

    never    all parts are on the device
    always   all but what draws live in the host's memory, and come for their stage
    turns    so does what draws, which leaves for stages that do not fit beside it
    blocks   what draws stays away too, and comes block by block in each step

Nothing is lost by leaving: weights at home are what the device's copy was made of.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swell.weights.formats import read_header

__all__ = ["CHOICES", "DRAWS", "Placement", "group_of", "part_bytes", "place", "working_bytes"]

#: Ways that may be asked for.
CHOICES: Final = ("auto", "never", "always", "turns", "blocks")

#: What draws, with what is asked in each step.
DRAWS: Final = "what draws"

#: What reads words.
WORDS: Final = "words"

#: Assumed of a step and of decoding, beside weights: so much in any case, and so much more for a
#: picture of 1024 x 1024 px.
_BASE_BYTES: Final = 2 << 30
_PICTURE_BYTES: Final = 2 << 30


@dataclass(frozen=True, slots=True)
class Placement:
    """Which parts live where."""

    #: One of `CHOICES`, never `auto`.
    choice: str
    #: Parts whose home is the host's memory.
    at_home: frozenset[str] = frozenset()
    #: Groups of parts for which what draws leaves the device.
    apart: frozenset[str] = frozenset()
    #: Why, for people.
    reason: str = ""

    @property
    def by_blocks(self) -> bool:
        """Whether what draws comes block by block."""
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
    working_bytes: int = 0,
    is_fixed: bool = False,
) -> Placement:
    """Return which parts live where.

    Args:
        choice: One of `CHOICES`.
        sizes: What each part takes of the device, in bytes.
        network: The part that draws.
        room_bytes: What the device has; None where it is the host's memory itself.
        working_bytes: What steps and decoding need beside the parts.
        is_fixed: Whether what draws cannot leave the device once it is there.
    """
    groups: dict[str, int] = {}
    for part, size_bytes in sizes.items():
        group = group_of(part, network)
        groups[group] = groups.get(group, 0) + size_bytes
    drawing = groups.pop(DRAWS, 0)
    stages = frozenset(part for part in sizes if group_of(part, network) != DRAWS)
    room = None if room_bytes is None else room_bytes - working_bytes
    apart = frozenset(
        group for group, size_bytes in groups.items() if room is None or drawing + size_bytes > room
    )
    reason = ""
    if choice == "auto":
        choice = "never" if room is None else _first_that_fits(drawing, groups, room)
        if is_fixed and choice in ("turns", "blocks"):
            choice = "always"
        taken = drawing + sum(groups.values())
        reason = (
            f"{_gib(taken)} of weights and {_gib(working_bytes)} to work with, on a device of "
            f"{_gib(room_bytes or 0)}"
        )
    if choice == "never":
        return Placement("never", reason=reason)
    if choice == "turns":
        return Placement("turns", frozenset(sizes), apart, reason)
    return Placement(choice, stages, reason=reason)


def _first_that_fits(drawing: int, groups: Mapping[str, int], room: int) -> str:
    largest = max(groups.values(), default=0)
    needed = (
        ("never", drawing + sum(groups.values())),
        ("always", drawing + largest),
        ("turns", max(drawing, largest)),
    )
    return next((choice for choice, size_bytes in needed if size_bytes <= room), "blocks")


def working_bytes(side_px: int) -> int:
    """Return what is assumed to be needed beside weights, for pictures of so many px a side."""
    return _BASE_BYTES + int(_PICTURE_BYTES * (side_px / 1024) ** 2)


def part_bytes(files: Iterable[Path], item_bytes: int) -> int:
    """Return what the weights in safetensors files take once they are read; opens headers only.

    Args:
        files: Of one part.
        item_bytes: Of the type in which fractions are kept.

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
