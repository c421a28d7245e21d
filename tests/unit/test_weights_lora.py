"""What LoRAs add, from the names and numbers of their files."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_painter import SHAPES, layers, lora_file, packed
from swell.weights.lora import Change, LayerNames, WrongLora, add, check_lora, joined, read_lora

NAMES = LayerNames(SHAPES)


def placed(data: bytes) -> dict[str, Change]:
    return NAMES.place(read_lora(data, "a"), "a")


def whole(change: Change, scale: float = 1.0) -> np.ndarray:
    """What a change adds, in double precision."""
    up, down = change.up.astype(np.float64), change.down.astype(np.float64)
    return scale * change.factor * (up @ down)


# --- names and numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "prefix"),
    [
        ("kohya", "lora_unet_"),
        ("kohya", "lora_transformer_"),
        ("peft", "base_model.model."),
        ("peft", "base_model.model.unet."),
        ("peft", "transformer."),
        ("peft", "diffusion_model."),
        ("peft", "model.diffusion_model."),
    ],
)
def test_both_ways_of_naming_say_the_same(style: str, prefix: str) -> None:
    made = layers(1)
    found = placed(lora_file(made, style, prefix=prefix))
    assert found.keys() == {name for name, shape in SHAPES.items() if len(shape) > 1}
    for layer, (up, down, alpha) in made.items():
        assert alpha is not None
        rank = down.shape[0]
        expected = alpha / rank * up.astype(np.float64) @ down.reshape(rank, -1)
        np.testing.assert_allclose(whole(found[f"{layer}.weight"]), expected, rtol=1e-6, atol=1e-7)


def test_a_file_on_the_disk_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    data = lora_file(layers(1))
    path = tmp_path / "a"
    path.write_bytes(data)
    check_lora(path, "a")
    there, here = read_lora(path, "a"), read_lora(data, "a")
    assert there.keys() == here.keys()
    for layer in there:
        np.testing.assert_array_equal(there[layer].up, here[layer].up)
        np.testing.assert_array_equal(there[layer].down, here[layer].down)
        assert there[layer].factor == here[layer].factor


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision_is_read_as_the_numbers_that_it_stands_for(kind: str) -> None:
    values = np.array([[1.5, -2.0, 0.25]], np.float32)
    data = packed({"mix.lora_A.weight": values, "mix.lora_B.weight": values.T}, kind)
    change = read_lora(data, "a")["mix"]
    np.testing.assert_array_equal(change.down, values)
    assert change.up.dtype == change.down.dtype == np.float32


def test_without_an_alpha_the_scale_is_all() -> None:
    pair = {"a.lora_A.weight": np.ones((4, 3)), "a.lora_B.weight": np.ones((2, 4))}
    assert read_lora(packed(pair), "a")["a"].factor == 1.0
    assert read_lora(packed({**pair, "a.alpha": np.array(2.0)}), "a")["a"].factor == 0.5
    assert read_lora(packed({**pair, "a.alpha": np.array([2.0])}), "a")["a"].factor == 0.5


@pytest.mark.parametrize(
    ("told", "factor"),
    [
        ({"unet.lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8}, 2.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"down.to_q": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"o_q": 2}}, 2.0),
        ({"text_encoder.lora_alpha": 8}, 1.0),
        ([1], 1.0),
    ],
)
def test_alphas_in_the_metadata_count(told: Any, factor: float) -> None:
    pair = {
        "unet.down.to_q.lora_A.weight": np.ones((4, 3)),
        "unet.down.to_q.lora_B.weight": np.ones((2, 4)),
    }
    data = packed(pair, metadata={"lora_adapter_metadata": json.dumps(told)})
    assert read_lora(data, "a")["unet.down.to_q"].factor == factor


def test_a_regular_expression_of_a_stranger_is_not_run() -> None:
    pair = {"a.lora_A.weight": np.ones((4, 3)), "a.lora_B.weight": np.ones((2, 4))}
    told = {"lora_alpha": 8, "alpha_pattern": {"(a+)+$": 2}}
    data = packed(pair, metadata={"lora_adapter_metadata": json.dumps(told)})
    with pytest.raises(WrongLora, match="is not read"):
        read_lora(data, "a")


def test_a_linear_layer_and_a_convolution_of_one_place_do_the_same() -> None:
    up, down = np.ones((8, 2)), np.ones((2, 8))
    linear = {"mix.lora_A.weight": down, "mix.lora_B.weight": up}
    conv = {"mix.lora_A.weight": down[..., None, None], "mix.lora_B.weight": up[..., None, None]}
    q = {f"blocks.0.to_q{name[3:]}": each for name, each in conv.items()}
    for tensors in (linear, conv, q):
        placed(packed(tensors))


# --- what is refused -----------------------------------------------------------------------------

PAIR = {"mix.lora_A.weight": np.ones((2, 8)), "mix.lora_B.weight": np.ones((8, 2))}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"conv_in.weight": np.ones(3)}, "is no LoRA: it holds 'conv_in.weight'"),
        ({}, "holds no tensors"),
        ({**PAIR, "mix.dora_scale": np.ones(8)}, "is DoRA"),
        ({**PAIR, "mix.lora_magnitude_vector": np.ones(8)}, "is DoRA"),
        ({"mix.hada_w1_a": np.ones((2, 2))}, "is LoHa"),
        ({"mix.lokr_w1": np.ones((2, 2))}, "is LoKr"),
        ({**PAIR, "mix.lora_mid.weight": np.ones((2, 2, 3, 3))}, "three matrices"),
        ({**PAIR, "norm.diff_b": np.ones(8)}, "a whole difference"),
        ({**PAIR, "mix.lora_B.bias": np.ones(8)}, "with biases"),
        ({"mix.lora_A.weight": np.ones((2, 8))}, r"has no up \(B\)"),
        ({"mix.alpha": np.array(1.0)}, r"has no down \(A\)"),
        ({**PAIR, "mix.lora_up.weight": np.ones((8, 2))}, "stands twice"),
        ({**PAIR, "mix.lora_B.weight": np.ones((8, 3))}, "do not fit each other"),
        ({**PAIR, "mix.lora_A.weight": np.ones(2)}, "no matrices"),
        ({**PAIR, "mix.lora_A.weight": np.ones((2, 0))}, "no matrices"),
        ({**PAIR, "mix.alpha": np.ones(2)}, "not one number"),
        ({**PAIR, "mix.alpha": np.array(math.nan)}, "not finite"),
        ({**PAIR, "mix.lora_B.weight": np.full((8, 2), math.nan)}, "what is not finite"),
        ({**PAIR, "mix.lora_A.weight": np.full((2, 8), math.inf)}, "what is not finite"),
    ],
)
def test_what_cannot_be_added_is_refused_with_what_to_do(
    tensors: dict[str, Any], told: str
) -> None:
    with pytest.raises(WrongLora, match=told) as caught:
        read_lora(packed(tensors), "style.safetensors")
    assert caught.value.detail.startswith("style.safetensors")
    assert any(word in caught.value.detail for word in ("give", "Give", "take the file", "finite"))


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"PK\x03\x04zip", b"\xff" * 99])
def test_what_is_no_safetensors_file_is_refused(data: bytes) -> None:
    with pytest.raises(WrongLora, match=r"must be a \.safetensors file"):
        check_lora(data, "a")


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"other.lora_A.weight": np.ones((2, 8)), "other.lora_B.weight": np.ones((8, 2))}, "other"),
        ({**PAIR, "mix.lora_B.weight": np.ones((9, 2))}, "9 outputs"),
        (
            {
                "conv_in.lora_A.weight": np.ones((2, 4, 9, 1)),
                "conv_in.lora_B.weight": np.ones((8, 2, 1, 1)),
            },
            "36 inputs",
        ),
        ({**PAIR, **{f"unet.{name}": each for name, each in PAIR.items()}}, "twice"),
        (
            {
                "conv_out.bias.lora_A.weight": np.ones((2, 1)),
                "conv_out.bias.lora_B.weight": [[1, 1]],
            },
            "conv_out.bias",
        ),
    ],
)
def test_a_lora_for_another_model_is_refused(tensors: dict[str, Any], told: str) -> None:
    with pytest.raises(WrongLora, match=told):
        placed(packed({name: np.asarray(each) for name, each in tensors.items()}))


def test_what_an_author_does_without_is_left_out() -> None:
    extra = {
        "lora_te_text_layers_0.lora_down.weight": np.ones((2, 8)),
        "lora_te_text_layers_0.lora_up.weight": np.ones((8, 2)),
    }
    changes = read_lora(packed({**PAIR, **extra}), "a")
    with pytest.raises(WrongLora, match="lora_te_text"):
        NAMES.place(changes, "a")
    assert set(LayerNames(SHAPES, ignore=("lora_te",)).place(changes, "a")) == {"mix.weight"}


def test_an_author_may_rename_layers() -> None:
    changes = read_lora(packed({f"unet.{name}": each for name, each in PAIR.items()}), "a")
    names = LayerNames({"mixer.weight": (8, 8)}, rename=lambda layer: layer.replace("mix", "mixer"))
    assert set(names.place(changes, "a")) == {"mixer.weight"}


def test_a_name_that_could_mean_two_layers_means_none() -> None:
    names = LayerNames({"a.b_c.weight": (8, 8), "a_b.c.weight": (8, 8)})
    pair = {"lora_unet_a_b_c.lora_down.weight": np.ones((2, 8))}
    pair["lora_unet_a_b_c.lora_up.weight"] = np.ones((8, 2))
    with pytest.raises(WrongLora, match="a_b_c"):
        names.place(read_lora(packed(pair), "a"), "a")
    dotted = {"a_b.c.lora_A.weight": np.ones((2, 8)), "a_b.c.lora_B.weight": np.ones((8, 2))}
    assert set(names.place(read_lora(packed(dotted), "a"), "a")) == {"a_b.c.weight"}


@pytest.mark.slow
@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                f"{layer}{end}"
                for layer in ("mix", "unet.mix", "lora_unet_mix")
                for end in (
                    ".lora_A.weight",
                    ".lora_B.weight",
                    ".lora_down.weight",
                    ".lora_up.weight",
                    ".alpha",
                    ".lora_A.default.weight",
                    ".bias",
                    "",
                )
            ]
        ),
        st.lists(st.integers(0, 9), max_size=5).map(lambda shape: np.ones(shape, np.float32)),
        max_size=6,
    ),
    st.binary(max_size=3),
)
def test_whatever_a_file_holds_it_is_a_lora_or_refused(tensors: dict[str, Any], end: bytes) -> None:
    try:
        changes = read_lora(packed(tensors) + end, "a")
    except WrongLora:
        return
    assert changes
    for change in changes.values():
        assert np.isfinite(whole(change)).all()


# --- sums ----------------------------------------------------------------------------------------


@st.composite
def changes(draw: st.DrawFn, rows: int, columns: int) -> Change:
    rank = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Change(
        rng.standard_normal((rows, rank)).astype(np.float32),
        rng.standard_normal((rank, columns)).astype(np.float32),
        (),
        draw(st.floats(-2, 2, width=32)),
    )


@st.composite
def sums(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[Change, float]]]:
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    parts = draw(
        st.lists(
            st.tuples(changes(rows, columns), st.floats(-2, 2, width=32)), min_size=1, max_size=4
        )
    )
    kind = draw(st.sampled_from([np.float16, np.float32]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.standard_normal((rows, columns)).astype(kind), parts


@pytest.mark.slow
@given(sums())
def test_a_weight_gets_the_sum_of_what_each_adds(
    case: tuple[np.ndarray, list[tuple[Change, float]]],
) -> None:
    base, parts = case
    before, out = base.copy(), np.empty_like(base)
    add(base, parts, out)
    np.testing.assert_array_equal(base, before)
    expected = base.astype(np.float64) + sum(whole(change, scale) for change, scale in parts)
    size = 1 + sum(np.abs(whole(change, scale)).max() for change, scale in parts)
    tolerance = (1e-3 if base.dtype == np.float16 else 1e-5) * (size + np.abs(base).max())
    np.testing.assert_allclose(out, expected, rtol=0, atol=float(tolerance))


# Blocks of 46 rows, of which 4 are computed together; and of 8 rows and a part of the columns.
@pytest.mark.parametrize("rows", [1, 7, 45, 46, 47, 184, 185, 230, 280, 1500])
@pytest.mark.parametrize("rank", [8, 100, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_weight_is_changed_block_by_block_and_whole(
    rows: int, rank: int, dtype: type
) -> None:
    rng = np.random.default_rng(3)
    base = rng.standard_normal((rows, 700)).astype(dtype)
    change = Change(
        rng.standard_normal((rows, rank)).astype(np.float32),
        rng.standard_normal((rank, 700)).astype(np.float32),
        (),
        0.5,
    )
    out = np.full_like(base, np.nan)
    add(base, [(change, 2.0)], out)
    up, down = joined([(change, 2.0)])
    np.testing.assert_allclose(out, base + up @ down, rtol=0, atol=1e-6 * rank + 1e-5)
