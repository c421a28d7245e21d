"""Teach the decoder our own icons, and to draw cleanly from latents that are not quite right.

    python decoder.py WORK --start START --until 15:20       # writes WORK/decoder.safetensors

The encoder is a fixed matrix and stays. What the picture network says is blurred and blotched where
it is unsure, so the decoder sees such latents: what the network makes of a picture with noise, in
one step (x_0 = x_t - t v), for the picture as it was. Loss: differences of pixels, and of each
pixel from its neighbours, which keeps edges sharp.
"""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from safetensors.torch import save_file

import captions
from codec import Codec
from corpus import BACKGROUND as BACKGROUND_KIND
from corpus import BACKGROUNDS, DARK, SCENE, SCENES, half, recolour
from scenes import VARIANTS, render
from text import encode
from train import INK, build, condition, floats

LATEST = 0.55


class Pictures:
    """Batches: large (B, 3, 128, 128), small (B, 3, 64, 64), captions, style (B,)."""

    def __init__(self, work: Path) -> None:
        icons = np.load(work / "icons.npz")
        self.rgba, self.style = icons["rgba"], icons["style"]
        self.concept = icons["concept"]
        self.by_place = {
            (int(c), int(s)): i
            for i, (c, s) in enumerate(zip(self.concept, self.style, strict=True))
        }
        self.hues = list(captions.HUES.items())
        self.paint = [
            [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            for colour in captions.BACKGROUNDS.values()
        ]
        self.scenes = {s: [render(s, v) for v in range(VARIANTS)] for s in SCENES}
        from data import vocabulary

        self.words = [names[0] for names in vocabulary().values()]
        self.random = np.random.default_rng(int(time.time()))

    def one(self) -> tuple[np.ndarray, str, int]:
        random = self.random
        icon = int(random.integers(len(self.rgba)))
        style, word = int(self.style[icon]), self.words[self.concept[icon]]
        front, back = self.rgba[icon], np.full(3, 255.0)
        kind = random.random()
        if kind < 0.2:
            name, hue = self.hues[random.integers(len(self.hues))]
            front, word = recolour(front, hue, style == INK), f"{name} {word}"
        elif kind < 0.3:
            edit = int(random.integers(len(self.paint)))
            back, word = np.array(self.paint[edit], float), f"{word} on {BACKGROUNDS[edit]}"
            front = white(front) if style == INK and (BACKGROUND_KIND, edit) in DARK else front
        elif kind < 0.45:
            edit = int(random.integers(len(SCENES)))
            drawn = self.scenes[SCENES[edit]]
            back, word = (
                drawn[random.integers(len(drawn))],
                f"{word} {captions.SCENES[SCENES[edit]][0]}",
            )
            front = white(front) if style == INK and (SCENE, edit) in DARK else front
        elif kind < 0.55:
            other = int(random.integers(len(self.words)))
            if (place := self.by_place.get((other, style))) is not None:
                front = beside(front, self.rgba[place])
                word = f"{word} and {self.words[other]}"
        alpha = front[..., 3:] / 255.0
        return front[..., :3] * alpha + back * (1 - alpha), word, style

    def batch(self, n: int) -> tuple[torch.Tensor, torch.Tensor, list[str], torch.Tensor]:
        rows = [self.one() for _ in range(n)]
        large = np.stack([row[0] for row in rows]).astype(np.float32)
        small = half(large)
        as_network = [torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (large, small)]
        return *as_network, [row[1] for row in rows], torch.tensor([row[2] for row in rows])


def white(rgba: np.ndarray) -> np.ndarray:
    """Black lines turned, as training does on what is dark."""
    return np.concatenate([(255 - 0.9 * rgba[..., :3]).astype(np.uint8), rgba[..., 3:]], -1)


def beside(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Both at half their size on one picture; transparent where neither is."""
    both = np.zeros_like(one)
    for place, rgba in enumerate((one, other)):
        alpha = rgba[..., 3:].astype(np.float32)
        solid = half(np.concatenate([rgba[..., :3] * alpha / 255, alpha], -1))
        colour = solid[..., :3] * 255 / np.maximum(solid[..., 3:], 1)
        both[32:96, 64 * place : 64 * place + 64] = np.concatenate(
            [colour.clip(0, 255), solid[..., 3:]], -1
        ).round()
    return both


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def loss_of(drawn: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
    sharp = sum((a - b).abs().mean() for a, b in zip(edges(drawn), edges(large), strict=True))
    return (drawn - large).abs().mean() + 2 * nnf.mse_loss(drawn, large) + sharp


class Teacher:
    """The picture network, which makes latents that are nearly right."""

    def __init__(self, work: Path) -> None:
        self.work, self.unet, self.read = work, build().eval(), 0.0
        self.texts: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def refresh(self) -> None:
        path = self.work / "unet.safetensors"
        if (at := path.stat().st_mtime) != self.read:
            self.unet.load_state_dict(floats(path))
            self.unet.to(memory_format=torch.channels_last)
            self.read = at

    def words(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        if new := [text for text in dict.fromkeys(texts) if text not in self.texts]:
            states, sentences = encode(new, self.work)
            self.texts.update(zip(new, zip(states, sentences, strict=True), strict=True))
        found = [self.texts[text] for text in texts]
        return tuple(torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))

    @torch.no_grad()
    def nearly(self, z: torch.Tensor, texts: list[str], style: torch.Tensor) -> torch.Tensor:
        states, sentences = self.words(texts)
        t = LATEST * torch.rand(len(z))
        at = t[:, None, None, None]
        x = (1 - at) * z + at * torch.randn_like(z)
        with torch.autocast("cpu", torch.bfloat16):
            said = self.unet(
                x,
                t * 1000,
                encoder_hidden_states=states,
                class_labels=condition(sentences, style),
            ).sample
        return x - at * said.float()


class Learner:
    """The decoder, its running average, and where it stands."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.codec = Codec()
        self.codec.load_state_dict(floats(args.start / "codec.safetensors"))
        self.codec.to(memory_format=torch.channels_last)
        fixed = {"mean", "basis", "scale"}
        state = self.codec.state_dict()
        self.average = {k: v.clone() for k, v in state.items() if k not in fixed}
        self.optimiser = torch.optim.AdamW(
            self.codec.parameters(), weight_decay=0.01, betas=(0.9, 0.98)
        )
        self.pictures, self.teacher = Pictures(args.work), Teacher(args.work)
        self.step, self.seen = 0, []

    def learn(self, share: float) -> None:
        """One step, `share` of the time being over."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.args.peak * min(1, (self.step + 1) / 50) * (1 - share)
        large, small, texts, style = self.pictures.batch(self.args.batch)
        z = self.teacher.nearly(self.codec.encode(small), texts, style)
        with torch.autocast("cpu", torch.bfloat16):
            drawn = self.codec.decode(z).float()
        loss = loss_of(drawn, large)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
        self.optimiser.step()
        keep = min(0.998, (1 + self.step) / (10 + self.step))
        for key, value in self.average.items():
            value.lerp_(self.codec.state_dict()[key], 1 - keep)
        self.step += 1
        self.seen.append((loss.item(), nnf.mse_loss(drawn.clamp(-1, 1), large).item()))

    def save(self) -> None:
        """Say how it goes, and keep the average."""
        mean = np.mean(self.seen[-200:], 0)
        psnr = 10 * np.log10(4 / mean[1])
        print(self.step, f"{mean[0]:.4f}", f"{psnr:.2f} dB", flush=True)
        state = self.codec.state_dict() | self.average
        part = self.args.work / "decoder.part"
        save_file({k: v.contiguous() for k, v in state.items()}, part)
        part.rename(self.args.work / "decoder.safetensors")

    def run(self, end: float) -> None:
        """Learn until `end`, in seconds since 1970; the rate falls to zero by then."""
        begin = reported = time.time()
        while (now := time.time()) < end:
            if self.args.pause.exists():
                time.sleep(1)
                continue
            if self.step % 300 == 0:
                self.teacher.refresh()
            self.learn((now - begin) / (end - begin))
            if now - reported > 150:
                reported = now
                self.save()
        self.save()


def main() -> None:
    parse = argparse.ArgumentParser()
    parse.add_argument("work", type=Path)
    parse.add_argument("--start", type=Path, required=True)
    parse.add_argument("--until", required=True, help="HH:MM of today, local time")
    parse.add_argument("--pause", type=Path, default=Path("/tmp/swell-measure"))
    parse.add_argument("--batch", type=int, default=16)
    parse.add_argument("--peak", type=float, default=8e-4)
    parse.add_argument("--threads", type=int, default=1)
    args = parse.parse_args()
    torch.set_num_threads(args.threads)
    hour, minute = map(int, args.until.split(":"))
    end = datetime.now().astimezone().replace(hour=hour, minute=minute, second=0)
    Learner(args).run(end.timestamp())


if __name__ == "__main__":
    main()
