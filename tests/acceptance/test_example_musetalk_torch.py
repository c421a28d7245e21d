"""The adapter of MuseTalk in the examples, with tiny random networks in place of its weights."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest

import swell
from example_apps import EXAMPLES
from swell.core.errors import InvalidModel

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

FACE = {
    "box": [60.0, 40.0, 140.0, 160.0],
    "landmarks": {
        "left_eye": [80.0, 80.0],
        "right_eye": [120.0, 80.0],
        "nose": [100.0, 104.0],
        "mouth_left": [85.0, 130.0],
        "mouth_right": [115.0, 130.0],
    },
}


@pytest.fixture
def musetalk(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES / "sing"))
    import musetalk  # noqa: PLC0415 - the app's own folder

    return musetalk


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights in MuseTalk's layout: networks of its shapes at their seams, tiny within."""
    torch.manual_seed(0)
    shape = {
        "in_channels": 8,
        "out_channels": 4,
        "sample_size": 32,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 384,
        "attention_head_dim": 8,
    }
    unet = diffusers.UNet2DConditionModel(**shape)
    (tmp_path / "musetalkV15").mkdir()
    torch.save(unet.state_dict(), tmp_path / "musetalkV15" / "unet.pth")
    (tmp_path / "musetalkV15" / "musetalk.json").write_text(json.dumps(shape))
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    vae.save_pretrained(tmp_path / "sd-vae", safe_serialization=False)
    config = transformers.WhisperConfig(
        d_model=384,
        encoder_layers=4,
        decoder_layers=1,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    )
    whisper = transformers.WhisperModel(config)
    (tmp_path / "whisper").mkdir()
    config.save_pretrained(tmp_path / "whisper")
    torch.save(whisper.state_dict(), tmp_path / "whisper" / "pytorch_model.bin")
    transformers.WhisperFeatureExtractor().save_pretrained(tmp_path / "whisper")
    return tmp_path


def item(musetalk: Any) -> Any:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    asked = musetalk.MuseTalk.Input(image=swell.Image(PIL.Image.fromarray(pixels)), faces=[FACE])
    told: list[tuple[int, int]] = []
    return SimpleNamespace(
        input=asked, cancelled=False, told=told, progress=lambda *each: told.append(each)
    )


def test_a_second_of_sound_becomes_25_frames_whose_lower_face_is_new(
    musetalk: Any, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(musetalk, "WEIGHTS", weights)
    model, asked = musetalk.MuseTalk(), item(musetalk)
    model.load("cpu")
    sound = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    frames = list(model.frames(asked, sound))
    assert len(frames) == 25
    assert asked.told[-1] == (25, 25)
    before = np.asarray(asked.input.image.pil())
    for frame in frames:
        assert frame.shape == (200, 200, 3)
        changed = (frame != before).any(-1)
        assert changed[120:150, 80:120].mean() > 0.9
        assert not changed[:80].any()
        assert not changed[:, :55].any()
    assert (frames[0] != frames[20]).any(), "what is heard changes nothing"
    again = list(model.frames(item(musetalk), sound))
    assert all((a == b).all() for a, b in zip(frames, again, strict=True))
    asked.cancelled = True
    assert list(model.frames(asked, sound)) == []


def test_the_black_half_begins_as_far_above_the_noses_back_as_the_chin_is_below(
    musetalk: Any,
) -> None:
    box = musetalk.mouth_box(musetalk.Face(**FACE), 200, 200)
    assert box == (60, 32, 140, 170)
    assert musetalk.mouth_box(musetalk.Face(**FACE), 130, 165) == (60, 32, 130, 165)


def test_what_is_heard_in_a_frame_is_200_ms_around_it_by_all_layers(
    musetalk: Any, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(musetalk, "WEIGHTS", weights)
    model = musetalk.MuseTalk()
    model.load("cpu")
    with torch.inference_mode():
        words = model.networks.heard(np.zeros(31 * 16_000, np.float32))
    assert words.shape == (31 * 25, 50, 384)


def test_weights_that_are_not_there_are_named(
    musetalk: Any, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights / "musetalkV15" / "unet.pth").unlink()
    monkeypatch.setattr(musetalk, "WEIGHTS", weights)
    with pytest.raises(InvalidModel, match=r"musetalkV15/unet\.pth is not in"):
        musetalk.MuseTalk().load("cpu")
