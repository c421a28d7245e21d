"""Tensors of torch; needs torch, which Swell's own environment does not have."""

from pathlib import Path

import numpy as np
import pytest
from weights_harness import safetensors

from swell.weights.fast_file_reader import Reading

torch = pytest.importorskip("torch")

from swell.weights.torch_tensors import TorchHostCopy, load_torch  # noqa: E402

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3, 1),
    "scalar": np.array(7, np.int32),
    "none": np.zeros((0, 4), np.float32),
    "flags": np.array([True, False, True]),
}


@pytest.fixture(params=[8, 1])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    made = tmp_path / "model.safetensors"
    made.write_bytes(safetensors(ARRAYS, request.param))
    return made


@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_tensors_are_what_was_written(path: Path, mode: int) -> None:
    path.chmod(mode)
    for found in (load_torch(path), load_torch(Reading(path).start())):
        assert list(found) == list(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name].numpy(), array)


def test_types_that_numpy_lacks_have_their_own(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({"one": np.array([0x3F80], np.uint16)}))
    found = load_torch(path)["one"]
    assert found.dtype == torch.bfloat16
    assert found.item() == 1.0


def test_weights_become_those_of_a_module_without_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    path.write_bytes(safetensors(arrays))
    with torch.device("meta"):
        layer = torch.nn.Linear(3, 2)
    found = load_torch(path)
    layer.load_state_dict(found, assign=True)
    assert layer.weight.data_ptr() == found["weight"].data_ptr()
    assert layer(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]


def test_what_was_swapped_out_comes_back(path: Path) -> None:
    copy, there = TorchHostCopy.load(path, "cpu")
    again = TorchHostCopy.of(there)
    for back in (there, copy.swap_in(), again.swap_in()):
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(back[name].numpy(), array)


def test_changed_tensors_are_kept_wherever_they_are(path: Path) -> None:
    copy, there = TorchHostCopy.load(path, "cpu")
    there["w"] = (there["w"] + 1).t().contiguous().t()
    copy.keep(there)
    np.testing.assert_array_equal(copy.swap_in()["w"].numpy(), ARRAYS["w"] + 1)
