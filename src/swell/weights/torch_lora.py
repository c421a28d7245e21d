"""LoRAs on weights that are tensors of torch, on any device.

    self.adapted = TorchAdaptedWeights(dict(self.network.named_parameters()))

The same sums as `swell.weights.lora`, on the device. It imports torch, so nothing imports it but
models that need torch.
"""

from collections.abc import Sequence

import torch

from swell.weights.lora import Change, joined
from swell.weights.lora_weights import AdaptedWeights


class TorchAdaptedWeights(AdaptedWeights):
    """See `AdaptedWeights`.

    Base weights are kept in host memory, pinned if there is a GPU; give `base` tensors
    on the device where there is room for both.
    """

    def _copy(self, weight: torch.Tensor) -> torch.Tensor:
        kept = torch.empty(
            weight.shape, dtype=weight.dtype, pin_memory=weight.device.type == "cuda"
        )
        return kept.copy_(weight.detach())

    def _restore(self, weight: torch.Tensor, base: torch.Tensor) -> None:
        weight.detach().copy_(base)

    def _add(
        self, weight: torch.Tensor, base: torch.Tensor, parts: Sequence[tuple[Change, float]]
    ) -> None:
        up, down = (torch.from_numpy(each).to(weight.device) for each in joined(parts))
        added = torch.matmul(up, down).reshape(weight.shape)
        added += base.to(weight.device)
        weight.detach().copy_(added)
