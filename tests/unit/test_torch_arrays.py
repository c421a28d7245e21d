"""Arrays of torch under the step engine; needs torch, which Swell's environment does not have."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from swell.sdk.context import Item
from swell.sdk.step_model import Plan, Sampler, StepModel

torch = pytest.importorskip("torch")


class Painter(StepModel):
    """The same small network on numpy or on torch, whichever its arrays are of."""

    name = "test/painter"
    bucket = 2

    def prepare(self, item: Item[dict[str, Any]]) -> Plan:
        return Plan(
            sampler=Sampler(item.input["solver"], 5),
            shape=(4, 8, 8),
            words="a",
            guidance=3.0,
        )

    def encode(self, words: list[Any]) -> list[Mapping[str, Any]]:
        return [{"words": self.arrays.put(np.full(8, 0.25, np.float32))} for _ in words]

    def denoise(self, x: Any, t: Any, conditions: Mapping[str, Any]) -> Any:
        return x * 0.5 + conditions["words"][:, None, None, :]

    def decode(self, latents: Any, item: Any) -> Any:
        return self.arrays.get(latents).copy()


@pytest.mark.parametrize(
    "solver", ["flow_euler", "euler", "euler_ancestral", "dpmpp_2m", "plms", "ddim"]
)
def test_latents_on_torch_are_those_on_numpy(solver: str) -> None:
    from swell.diffusion.torch_arrays import OUT_OF_MEMORY, TorchArrays  # noqa: PLC0415 - needs torch

    host, device = Painter(), Painter()
    device.arrays = TorchArrays("cpu")
    device.out_of_memory = OUT_OF_MEMORY
    items = [Item({"solver": solver}, seed=seed) for seed in range(3)]
    for here, there in zip(host.run(items), device.run(items), strict=True):
        np.testing.assert_array_equal(here, there)


def test_a_cpu_has_nothing_to_wait_for() -> None:
    from swell.diffusion.torch_arrays import TorchArrays  # noqa: PLC0415 - needs torch

    assert TorchArrays("cpu").mark() is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_none_is_found(value: float) -> None:
    from swell.diffusion.torch_arrays import TorchArrays  # noqa: PLC0415 - needs torch

    arrays = TorchArrays("cpu")
    numbers = torch.zeros(3, 4, dtype=torch.float16)
    assert arrays.is_finite(numbers)()
    numbers[1, 2] = value
    assert not arrays.is_finite(numbers)()
