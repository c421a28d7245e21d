"""LoRAs on tensors of torch; needs torch, which Swell's own environment does not have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_painter import Layers, layers, lora_file, weights
from swell.sdk.media import LoRA
from swell.weights.lora_weights import AdaptedWeights

torch = pytest.importorskip("torch")

from swell.weights.torch_lora import TorchAdaptedWeights  # noqa: E402


def tensors(dtype: Any = torch.float32) -> dict[str, Any]:
    return {name: torch.from_numpy(each).to(dtype) for name, each in weights().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


LORAS = [LoRA(lora_file(layers(1)), scale=0.7), LoRA(lora_file(layers(2, rank=3), "peft"))]


def test_torch_adds_what_numpy_adds() -> None:
    there, here = tensors(), weights()
    TorchAdaptedWeights(there).apply(LORAS)
    AdaptedWeights(here).apply(LORAS)
    for name, each in here.items():
        np.testing.assert_allclose(there[name].numpy(), each, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("has_base", [True, False])
def test_weights_come_back_bit_for_bit(dtype: Any, has_base: bool) -> None:
    mine, before = tensors(dtype), tensors(dtype)
    adapted = TorchAdaptedWeights(mine, base=tensors(dtype) if has_base else None)
    adapted.apply(LORAS[:1])
    first = {name: each.clone() for name, each in mine.items()}
    assert not same(first, before)
    adapted.apply(LORAS)
    adapted.apply(LORAS[:1])
    assert same(mine, first)
    adapted.apply(())
    assert same(mine, before)


def test_the_parameters_of_a_module_are_changed_where_they_are() -> None:
    module = torch.nn.ModuleDict({"mix": torch.nn.Conv2d(8, 8, 1)})
    before = module["mix"].weight.detach().clone()
    adapted = TorchAdaptedWeights(dict(module.named_parameters()))
    adapted.apply([LoRA(lora_file(layers(3, only=("mix",))))])
    assert not torch.equal(module["mix"].weight, before)
    assert module["mix"].weight.requires_grad
    adapted.apply(())
    assert torch.equal(module["mix"].weight, before)


# --- against what others make of the same file ---------------------------------------------------


def modules() -> Any:
    """The painter's layers as modules of torch, with its weights."""
    nn = torch.nn
    made = nn.Module()
    for name, shape in {n: w.shape for n, w in weights().items() if n.endswith("weight")}.items():
        at = made
        *path, last = name.removesuffix(".weight").split(".")
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        layer = (
            nn.Linear(shape[1], shape[0], bias=False)
            if len(shape) == 2
            else nn.Conv2d(shape[1], shape[0], shape[2:], bias=False)
        )
        layer.weight.data = torch.from_numpy(weights()[name])
        at.add_module(last, layer)
    return made


def test_peft_fuses_to_the_same_weights(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    # Stars stand for nothing here: PEFT wants the names of layers.
    names = [name for name, module in modules().named_modules() if hasattr(module, "weight")]
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=names, init_lora_weights=False)
    theirs = peft.get_peft_model(modules(), config)
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    mine = tensors()
    # The alpha is in PEFT's configuration, not in its file: alpha / rank becomes the scale.
    lora = LoRA(tmp_path / "adapter_model.safetensors", scale=6 / 3)
    TorchAdaptedWeights(mine).apply([lora])
    fused = dict(theirs.merge_and_unload().named_parameters())
    assert len(fused) == 11
    for name, weight in fused.items():
        assert not torch.equal(weight, tensors()[name])
        np.testing.assert_allclose(mine[name].numpy(), weight.detach().numpy(), rtol=0, atol=1e-6)


def unet() -> Any:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def of_unet(model: Any, rank: int) -> Layers:
    """Changes of the linear layers of attention and of the convolutions."""
    made: dict[str, Any] = {}
    rng = np.random.default_rng(1)
    for name, weight in model.named_parameters():
        layer = name.removesuffix(".weight")
        if weight.ndim > 1 and layer.endswith(("to_q", "to_out.0", "conv1", "proj_in")):
            up = rng.standard_normal((weight.shape[0], rank)).astype(np.float32) * np.float32(0.1)
            down = rng.standard_normal((rank, *weight.shape[1:])).astype(np.float32)
            made[layer] = (up, down, 2.0)
    return made


@pytest.mark.parametrize("style", ["kohya", "peft"])
def test_diffusers_fuses_to_the_same_weights(style: str) -> None:
    pytest.importorskip("peft")
    safetensors = pytest.importorskip("safetensors.torch")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Mixin  # noqa: PLC0415

    theirs, ours = unet(), unet()
    made = of_unet(theirs, rank=4)
    assert len(made) >= 8
    prefix = "lora_unet_" if style == "kohya" else "unet."
    data = lora_file(made, style, prefix=prefix)
    state, alphas = Mixin.lora_state_dict(safetensors.load(data))
    Mixin.load_lora_into_unet(state, network_alphas=alphas, unet=theirs, adapter_name="a")
    theirs.fuse_lora(lora_scale=0.7)
    theirs.unload_lora()
    mine = dict(ours.named_parameters())
    TorchAdaptedWeights(mine).apply([LoRA(data, scale=0.7)])
    changed = 0
    for name, weight in theirs.named_parameters():
        changed += not torch.equal(weight, unet().get_parameter(name))
        np.testing.assert_allclose(
            mine[name].detach().numpy(), weight.detach().numpy(), rtol=0, atol=1e-6
        )
    assert changed == len(made)


def test_alphas_that_diffusers_writes_down_are_found(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    theirs, ours = unet(), unet()
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_k"],
        alpha_pattern={"to_k": 1},
        init_lora_weights=False,
    )
    theirs.add_adapter(config, adapter_name="a")
    theirs.save_lora_adapter(tmp_path, adapter_name="a", weight_name="a.safetensors")
    theirs.fuse_lora()
    theirs.unload_lora()
    mine = dict(ours.named_parameters())
    assert TorchAdaptedWeights(mine).apply([LoRA(tmp_path / "a.safetensors")]) > 3
    for name, weight in theirs.named_parameters():
        np.testing.assert_allclose(
            mine[name].detach().numpy(), weight.detach().numpy(), rtol=0, atol=1e-6
        )
