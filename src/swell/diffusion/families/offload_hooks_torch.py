"""Networks whose home is the host's memory, and which come to the device to compute.

A visitor's weights lie in one block of host memory, pinned where a GPU is. Coming is one copy of
that block; leaving costs nothing, since the block was never given up. Whatever changes weights must
do so at home, or it is lost with the device's copy.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from swell.weights.torch_tensors import TorchHostCopy

#: A U-Net's block that is in no list of blocks.
_ALONE: Final = "mid_block"


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return all weights and buffers of a network, by name."""
    return dict([*module.named_parameters(), *module.named_buffers()])


def put(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Have a network compute with other tensors; its parameters stay the same objects."""
    for name, value in tensors_of(module).items():
        value.data = tensors[name]


class OffloadHook:
    """A network, or a block of one, that is at home.

    Args:
        module: It; its weights are moved into one block of the host's memory.
        device: Where it computes.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module
        self.is_here = False
        self._device = str(device)
        self._home = TorchHostCopy.of(
            {name: value.data for name, value in tensors_of(module).items()}
        )
        self.leave()

    @property
    def size_bytes(self) -> int:
        """What it takes of the host, and of the device while it is there."""
        return int(self._home.size_bytes)

    def come(self) -> None:
        """Be on the device."""
        if not self.is_here:
            put(self.module, self._home.swap_in(self._device))
            self.is_here = True

    def leave(self) -> None:
        """Be at home."""
        put(self.module, self._home.on(torch.from_numpy(self._home.block)))
        self.is_here = False


def blocks_of(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks that a network runs through, one after another, by name."""
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            for number, block in enumerate(child):
                yield f"{name}.{number}", block
        elif name == _ALONE:
            yield name, child


def come_block_by_block(network: nn.Module, device: torch.device) -> dict[str, OffloadHook]:
    """Have each block of a network come for its part of a step; what is in none stays there.

    Args:
        network: Its weights are anywhere.
        device: Where it computes.

    Returns:
        The blocks, by name.
    """
    found = {name: OffloadHook(block, device) for name, block in blocks_of(network)}
    for visitor in found.values():
        visitor.module.register_forward_pre_hook(_coming(visitor))
        # Also where the block fails, so that its weights are at home again.
        visitor.module.register_forward_hook(_leaving(visitor), always_call=True)
    inside = {id(value) for each in found.values() for value in tensors_of(each.module).values()}
    for value in tensors_of(network).values():
        if id(value) not in inside:
            value.data = value.data.to(device)
    return found


def _coming(visitor: OffloadHook) -> Any:
    def hook(module: nn.Module, inputs: Any) -> None:
        visitor.come()

    return hook


def _leaving(visitor: OffloadHook) -> Any:
    def hook(module: nn.Module, inputs: Any, found: Any) -> None:
        visitor.leave()

    return hook
