"""A real model of talking faces for the app `sing`: MuseTalk 1.5, on a GPU.

Zhang et al., "MuseTalk: Real-Time High-Fidelity Video Dubbing via Spatio-Temporal Sampling" (arXiv
2410.10122). In the latent space of a VAE, with z the latents of the face and z' those of the face
whose lower half is black, one pass of a UNet fills the half in, without noise or steps:

    z_t = UNet([z', z], t = 0, c_t + p),     frame_t = decode(z_t)

with c_t what Whisper's encoder hears in 200 ms around the frame, all its layers, and p sines.

Source: github.com/TMElyralab/MuseTalk at 0a89dec, `scripts/inference.py` and what that calls; the
layout of the weights is that of its `download_weights.sh`. In two things this is not the same:
where the face is comes from `swell/faces` and not from DWPose and S3FD, and the new half is blended
in with a soft ellipse and not by face-parse-bisent. Latents are the VAE's likeliest, not drawn.

It was never run with the real weights or on a GPU: tests run it with tiny random networks.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
from pydantic import BaseModel, ConfigDict, Field

import swell
from swell import ui
from swell.core.errors import InvalidModel

__all__ = ["FILES", "Face", "MuseTalk", "Networks", "mouth_box"]

#: Beside this file, or linked there: the folder `models` that `download_weights.sh` makes.
WEIGHTS: Final = Path(__file__).with_name("models")
FILES: Final = (
    "musetalkV15/unet.pth",
    "musetalkV15/musetalk.json",
    "sd-vae/config.json",
    "sd-vae/diffusion_pytorch_model.bin",
    "whisper/config.json",
    "whisper/pytorch_model.bin",
    "whisper/preprocessor_config.json",
)
#: The face is looked at in so many px a side.
SIDE_PX: Final = 256
#: Whisper hears 16,000 samples a second, 30 s at once, and says something 50 times a second.
RATE_HZ, HEARD_S, SAID_HZ = 16_000, 30, 50
FPS: Final = 25
#: A frame is made of what is said in so many fiftieths before and after it.
BEFORE, SPAN = 4, 10
LONGEST_S: Final = 30.0
#: Below the chin, in px of the picture.
MARGIN_PX: Final = 10
MOST_PX: Final = 1280

Box = tuple[int, int, int, int]


class Face(BaseModel):
    """A face as `swell/faces` finds it, in px from the upper left corner."""

    model_config = ConfigDict(extra="ignore")
    box: list[float]
    landmarks: dict[str, list[float]]


def mouth_box(face: Face, width: int, height: int) -> Box:
    """Return what MuseTalk looks at: left, top, right, bottom, in whole px.

    From the chin up, and as far above the middle of the nose's back as the chin is below it, so
    that the black lower half begins there.
    """
    left, _, right, bottom = face.box
    eyes = (face.landmarks["left_eye"][1] + face.landmarks["right_eye"][1]) / 2
    # The third of the four points of the nose's back; the last is its tip.
    back = eyes + 2 / 3 * (face.landmarks["nose"][1] - eyes)
    top = max(0.0, back - (bottom - back))
    low = min(height, bottom + MARGIN_PX)
    return max(0, int(left)), int(top), min(width, math.ceil(right)), int(low)


class Networks:
    """The three networks, and one video's way through them.

    Args:
        unet: A `UNet2DConditionModel` of diffusers: 8 channels in, 4 out, 384 for each word.
        vae: An `AutoencoderKL`.
        whisper: A `WhisperModel`, whose encoder listens.
        listens: A `WhisperFeatureExtractor`.
    """

    def __init__(self, unet: Any, vae: Any, whisper: Any, listens: Any) -> None:
        self._unet, self._vae, self._whisper, self._listens = unet, vae, whisper, listens

    def heard(self, sound: np.ndarray) -> Any:
        """Return what is said in each frame. Shapes: (N,) -> (frames, 50, 384)."""
        import torch  # noqa: PLC0415 - only workers with a GPU have it

        parts = []
        for at in range(0, len(sound), HEARD_S * RATE_HZ):
            part = sound[at : at + HEARD_S * RATE_HZ]
            mel = self._listens(part, sampling_rate=RATE_HZ, return_tensors="pt").input_features
            mel = mel.to(self._unet.device, self._unet.dtype)
            layers = self._whisper.encoder(mel, output_hidden_states=True).hidden_states
            parts.append(torch.stack(layers, dim=2)[0])
        said = torch.cat(parts)[: len(sound) * SAID_HZ // RATE_HZ]
        silence = torch.zeros_like(said[:1])
        said = torch.cat([silence.repeat(BEFORE, 1, 1), said, silence.repeat(3 * BEFORE, 1, 1)])
        frames, each = len(sound) * FPS // RATE_HZ, SAID_HZ // FPS
        spans = [said[at * each : at * each + SPAN].flatten(0, 1) for at in range(frames)]
        words = torch.stack(spans) if spans else said.new_zeros((0, SPAN * said.shape[1], 384))
        return words + _sines(words)

    def seen(self, face: np.ndarray) -> Any:
        """Return the latents of a face, its lower half black, and whole.

        Shapes: (256, 256, 3) uint8 sRGB -> (1, 8, 32, 32).
        """
        import torch  # noqa: PLC0415 - only workers with a GPU have it

        pixels = torch.from_numpy(np.ascontiguousarray(face)).permute(2, 0, 1)[None].float() / 255
        half = pixels.clone()
        half[:, :, SIDE_PX // 2 :] = 0
        both = (torch.cat([half, pixels]) * 2 - 1).to(self._vae.device, self._vae.dtype)
        latents = self._vae.encode(both).latent_dist.mode() * self._vae.config.scaling_factor
        return latents.flatten(0, 1)[None]

    def faces(self, latents: Any, words: Any) -> np.ndarray:
        """Return faces that speak. Shapes: (1, 8, 32, 32), (B, 50, 384) -> (B, 256, 256, 3)."""
        import torch  # noqa: PLC0415 - only workers with a GPU have it

        many = latents.repeat(len(words), 1, 1, 1)
        start = torch.zeros(1, device=many.device, dtype=torch.long)
        made = self._unet(many, start, encoder_hidden_states=words).sample
        pixels = self._vae.decode(made / self._vae.config.scaling_factor).sample
        whole = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        found: np.ndarray = whole.permute(0, 2, 3, 1).cpu().numpy()
        return found


def _sines(words: Any) -> Any:
    """Return where each word stands, as sines. Shapes: (frames, 50, 384) -> (50, 384)."""
    import torch  # noqa: PLC0415 - only workers with a GPU have it

    count, size = words.shape[-2:]
    place = torch.arange(count, device=words.device)[:, None]
    pace = torch.exp(torch.arange(0, size, 2, device=words.device) * (-math.log(10_000) / size))
    sines = torch.zeros(count, size, device=words.device)
    sines[:, 0::2], sines[:, 1::2] = torch.sin(place * pace), torch.cos(place * pace)
    return sines.to(words.dtype)


def blended(picture: PIL.Image.Image, face: PIL.Image.Image, box: Box) -> np.ndarray:
    """Return the picture with the lower half of a face in its place, its edges soft."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    mask = PIL.Image.new("L", (width, height))
    PIL.ImageDraw.Draw(mask).ellipse((0.06 * width, 0.1 * height, 0.94 * width, 0.99 * height), 255)
    mask.paste(0, (0, 0, width, height // 2))
    mask = mask.filter(PIL.ImageFilter.GaussianBlur(0.04 * width))
    whole = picture.copy()
    whole.paste(face.resize((width, height), PIL.Image.Resampling.LANCZOS), (left, top), mask)
    return np.asarray(whole)


class MuseTalk(swell.Model):
    """Have a face say, or sing, what a sound says: MuseTalk 1.5.

    Lips follow the sound in any language; head and eyes stay as they are in the picture. It needs a
    GPU, and weights that Swell does not bring: README.md of this folder says how they are fetched.

    | | |
    |---|---|
    | code | rewritten here from MuseTalk's, MIT, (c) 2024 Tencent Music Entertainment Group |
    | weights of MuseTalk | "available for any purpose, even commercially", its README says |
    | other weights | sd-vae-ft-mse, MIT; whisper-tiny, Apache-2.0, as their pages say |
    | not run | with the real weights, or on a GPU: no figure of time or memory is known here |

    Use it with pictures of people who agreed to it, and say that a machine made the video.
    """

    name = "sing/musetalk"
    licence = (
        "code MIT; weights of MuseTalk free for any purpose, sd-vae-ft-mse MIT, whisper Apache-2.0"
    )
    credits = """
    [MuseTalk](https://github.com/TMElyralab/MuseTalk) by Tencent Music Entertainment's Lyra Lab.
    """
    Output = swell.Video
    #: Frames that the UNet makes at once.
    together = 8

    class Input(BaseModel):
        """A face, and what it is to say."""

        model_config = ConfigDict(extra="forbid")
        image: Annotated[swell.Image, swell.Within(40_000_000), Field(title="Picture"), ui.image()]
        faces: Annotated[list[Face], Field(max_length=1000)]
        sound: swell.Audio | None = None
        format: Annotated[str, Field(pattern="^(webm|mp4)$", title="File")] = "webm"

    def load(self, device: str) -> None:
        """Read the weights onto a device.

        Raises:
            InvalidModel: They are not there.
        """
        lacking = [name for name in FILES if not (WEIGHTS / name).is_file()]
        if lacking:
            raise InvalidModel(
                f"{self.name} has no weights: {', '.join(lacking)} "
                f"{'is' if len(lacking) == 1 else 'are'} not in {WEIGHTS}. Fetch them with "
                "download_weights.sh of github.com/TMElyralab/MuseTalk, and link its folder "
                "`models` there; on a machine without a GPU serve animate.py instead"
            )
        import json  # noqa: PLC0415

        import torch  # noqa: PLC0415 - see above
        from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: PLC0415
        from transformers import WhisperFeatureExtractor, WhisperModel  # noqa: PLC0415

        kind = torch.float32 if device == "cpu" else torch.float16
        unet = UNet2DConditionModel(
            **json.loads((WEIGHTS / "musetalkV15" / "musetalk.json").read_text())
        )
        unet.load_state_dict(
            torch.load(WEIGHTS / "musetalkV15" / "unet.pth", "cpu", weights_only=True)
        )
        vae = AutoencoderKL.from_pretrained(WEIGHTS / "sd-vae", use_safetensors=False)
        whisper = WhisperModel.from_pretrained(WEIGHTS / "whisper")
        self.networks = Networks(
            *(each.to(device, kind).eval().requires_grad_(False) for each in (unet, vae, whisper)),
            WhisperFeatureExtractor.from_pretrained(WEIGHTS / "whisper"),
        )

    def run(self, items: list[swell.Item[Any]]) -> list[swell.Video | Exception]:
        """Make each video by itself."""
        return [self._one(item) for item in items]

    def _one(self, item: swell.Item[Any]) -> swell.Video | Exception:
        from film import filmed, heard  # noqa: PLC0415 - needs PyAV, which only this needs

        asked = item.input
        if asked.sound is None or not asked.faces:
            return swell.Reject("Give a picture of one face from the front, and a sound.")
        data = asked.sound.read()
        try:
            sound = heard(data, RATE_HZ, LONGEST_S)
        except ValueError as error:
            return swell.Reject(f"The sound cannot be used: {error}.")
        frames = self.frames(item, sound)
        made = filmed(frames, data, asked.format, LONGEST_S)
        if item.cancelled:
            return swell.Cancelled()
        return swell.Video(made, content_type=f"video/{asked.format}", name=f"clip.{asked.format}")

    def frames(self, item: swell.Item[Any], sound: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the frames of a video; none once the task is cancelled.

        Shapes: sound (N,) in -1..1 -> (H, W, 3) uint8 sRGB, with even sides.
        """
        import torch  # noqa: PLC0415 - only workers with a GPU have it

        picture = item.input.image.pil().convert("RGB")
        scale = min(1.0, MOST_PX / max(picture.size))
        size = tuple(max(2, round(side * scale) // 2 * 2) for side in picture.size)
        by = (size[0] / picture.width, size[1] / picture.height)
        picture = picture.resize(size, PIL.Image.Resampling.LANCZOS)
        found = item.input.faces[0]
        face = Face(
            box=[edge * by[at % 2] for at, edge in enumerate(found.box)],
            landmarks={n: [x * by[0], y * by[1]] for n, (x, y) in found.landmarks.items()},
        )
        box = mouth_box(face, *size)
        small = picture.crop(box).resize((SIDE_PX, SIDE_PX), PIL.Image.Resampling.LANCZOS)
        with torch.inference_mode():
            words, latents = self.networks.heard(sound), self.networks.seen(np.asarray(small))
            for at in range(0, len(words), self.together):
                if item.cancelled:
                    return
                for made in self.networks.faces(latents, words[at : at + self.together]):
                    yield blended(picture, PIL.Image.fromarray(made), box)
                item.progress(min(len(words), at + self.together), len(words))
