"""LoRAs on weights, and off again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_painter import SHAPES, layers, lora_file, packed, weights
from swell.sdk.media import LoRA, combined
from swell.weights import lora_weights
from swell.weights.lora import Change, WrongLora, read_lora
from swell.weights.lora_weights import AdaptedWeights

#: Of every layer, of some, of one; in both ways of naming, and in half precision.
FILES = [
    lora_file(layers(1)),
    lora_file(layers(2, rank=3), "peft"),
    lora_file(layers(3, only=("mix", "conv_out")), kind="F16"),
    lora_file(layers(4, only=("mix",)), "peft", kind="BF16"),
]

SCALES = st.sampled_from([1.0, 0.5, -0.7, 0.0])
SETS = st.lists(st.builds(LoRA, st.sampled_from(FILES), scale=SCALES), max_size=4)


def bits(arrays: dict[str, Any]) -> dict[str, bytes]:
    return {name: each.tobytes() for name, each in arrays.items()}


def fresh(loras: list[LoRA], kind: Any = np.float32) -> dict[str, bytes]:
    """What weights are with these on, of a model that never had others."""
    mine = {name: each.astype(kind) for name, each in weights().items()}
    AdaptedWeights(mine).apply(loras)
    return bits(mine)


@pytest.mark.slow
@given(st.lists(SETS, max_size=5), st.sampled_from([np.float16, np.float32]), st.booleans())
def test_weights_depend_on_the_set_alone_and_come_back_bit_for_bit(
    sets: list[list[LoRA]], kind: Any, has_base: bool
) -> None:
    mine = {name: each.astype(kind) for name, each in weights().items()}
    before = bits(mine)
    base = {name: each.copy() for name, each in mine.items()} if has_base else None
    adapted = AdaptedWeights(mine, base=base)
    for loras in sets:
        adapted.apply(loras)
        assert bits(mine) == fresh(loras, kind)
        assert bits(mine) == fresh(loras[::-1], kind), "the order means nothing"
    adapted.apply(())
    assert bits(mine) == before


def test_several_add_up_at_their_scales() -> None:
    mine, base = weights(), weights()
    loras = [LoRA(FILES[0], scale=0.5), LoRA(FILES[1], scale=-2.0)]
    AdaptedWeights(mine).apply(loras)
    expected = {name: each.astype(np.float64) for name, each in base.items()}
    for seed, rank, scale in ((1, 2, 0.5), (2, 3, -2.0)):
        for layer, (up, down, alpha) in layers(seed, rank=rank).items():
            assert alpha is not None
            change = scale * alpha / rank * up.astype(np.float64) @ down.reshape(rank, -1)
            expected[f"{layer}.weight"] += change.reshape(SHAPES[f"{layer}.weight"])
    for name, each in mine.items():
        np.testing.assert_allclose(each, expected[name], rtol=0, atol=1e-5)


def test_only_weights_that_differ_are_written() -> None:
    adapted = AdaptedWeights(weights())
    assert adapted.apply([LoRA(FILES[0])]) == 11
    assert adapted.apply([LoRA(FILES[0])]) == 0
    assert adapted.apply([LoRA(FILES[0]), LoRA(FILES[3])]) == 1
    assert adapted.apply([LoRA(FILES[3])]) == 11
    assert adapted.apply([LoRA(FILES[3], scale=0.5)]) == 1
    assert adapted.apply(()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        packed({"no.lora_A.weight": np.ones((2, 8)), "no.lora_B.weight": np.ones((8, 2))}),
        packed({"conv_in.weight": np.ones(3)}),
        b"nothing",
    ],
)
def test_a_wrong_lora_changes_nothing(wrong: bytes) -> None:
    mine = weights()
    adapted = AdaptedWeights(mine)
    adapted.apply([LoRA(FILES[2])])
    for use in (adapted.apply, adapted.check):
        with pytest.raises(WrongLora):
            use([LoRA(FILES[0]), LoRA(wrong)])
    assert bits(mine) == fresh([LoRA(FILES[2])])


class Fragile(AdaptedWeights):
    """Breaks while it writes one weight."""

    breaks = ""

    def _add(self, weight: Any, base: Any, parts: Any) -> None:
        if weight.shape == SHAPES.get(self.breaks):
            weight[...] = np.nan
            raise MemoryError("on purpose")
        super()._add(weight, base, parts)


@pytest.mark.parametrize("then", [[], [LoRA(FILES[0])], [LoRA(FILES[2]), LoRA(FILES[3])]])
def test_whoever_breaks_off_half_way_is_set_right_by_the_next(then: list[LoRA]) -> None:
    mine = weights()
    adapted = Fragile(mine)
    adapted.apply([LoRA(FILES[2])])
    adapted.breaks = "blocks.0.ff.net_in.weight"
    with pytest.raises(MemoryError):
        adapted.apply([LoRA(FILES[0])])
    adapted.breaks = ""
    adapted.apply(then)
    assert bits(mine) == fresh(then)


def test_a_model_that_was_loaded_again_has_none_on() -> None:
    first, second = weights(), weights()
    adapted = AdaptedWeights(first)
    adapted.apply([LoRA(FILES[0])])
    adapted.moved(second)
    assert bits(second) == bits(weights())
    adapted.apply([LoRA(FILES[0])])
    assert bits(second) == bits(first)


def test_weights_that_are_no_floats_are_left_alone() -> None:
    mine = {"mix.weight": np.zeros((8, 8), np.int8)}
    with pytest.raises(WrongLora, match="no layer"):
        AdaptedWeights(mine).apply([LoRA(FILES[3])])


# --- sets ----------------------------------------------------------------------------------------


def test_a_set_has_one_order_and_each_content_once(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(FILES[0])
    one, two = LoRA(path, scale=0.3), LoRA(FILES[1], scale=1.0)
    again = LoRA(FILES[0], scale=0.5)
    assert combined([one, two, again]) == combined([again, two, one])
    assert {lora.scale for lora in combined([one, two, again])} == {0.8, 1.0}
    assert combined([LoRA(path, scale=0.5), LoRA(FILES[0], scale=-0.5)]) == ()
    assert LoRA(path) == LoRA(str(path)) == LoRA(FILES[0])
    assert hash(LoRA(path)) == hash(LoRA(FILES[0]))
    assert LoRA(path) != LoRA(path, scale=0.5)
    assert LoRA(path) != "a"
    assert LoRA(path).read() == LoRA(FILES[0]).read() == FILES[0]


# --- memory --------------------------------------------------------------------------------------


def test_the_latest_loras_stay_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def reading(source: Path | bytes, name: str) -> dict[str, Change]:
        read.append(source)
        return read_lora(source, name)

    monkeypatch.setattr(lora_weights, "read_lora", reading)
    monkeypatch.setattr(lora_weights, "MOST_LOADED", 2)
    loras = [LoRA(file) for file in FILES[:3]]
    adapted = AdaptedWeights(weights())
    for number in (0, 1, 0, 2, 0, 1):
        adapted.apply([loras[number]])
    assert read == [FILES[0], FILES[1], FILES[2], FILES[1]]
