"""Train the picture model: flow matching in the codec's latents, on the words of the corpus.

    python train.py WORK --start START --until 18:15

The learning rate follows the wall clock, not a step count: it is high, then falls to zero at
``--until``, so that a slow or busy machine still ends with a finished model. While the file
``--pause`` exists, training sleeps. WORK/last.pt holds everything needed to go on (``--resume``).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import datetime
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from captions import BACKGROUNDS
from codec import Codec
from corpus import BACKGROUND, HUE, PLAIN, SCENE

STYLE_SLOTS = 10
# The start was trained on more sets; ours sit where they sat.
SLOT = torch.tensor([0, 3, 4, 5])
STYLE_GAIN, SENTENCE_GAIN = 4.0, 384**0.5
SHARE = {PLAIN: 0.64, HUE: 0.14, BACKGROUND: 0.08, SCENE: 0.14}


def build() -> UNet2DConditionModel:
    """19.9 M parameters on an 8x8 and a 4x4 grid. Source: diffusers, stock blocks."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=48, out_channels=48, layers_per_block=1, block_out_channels=(192, 256),
        down_block_types=("SimpleCrossAttnDownBlock2D",) * 2, mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",) * 2, cross_attention_dim=384, attention_head_dim=64,
        class_embed_type="projection", projection_class_embeddings_input_dim=384 + STYLE_SLOTS,
        resnet_time_scale_shift="scale_shift",
    )


def condition(sentence: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Sentence (B, 384) and style (B,), -1 for none -> (B, 394)."""
    hot = F.one_hot(SLOT[style.clamp(min=0)], STYLE_SLOTS) * (style >= 0)[:, None]
    return torch.cat([sentence * SENTENCE_GAIN, hot * STYLE_GAIN], 1)


class Corpus:
    """Batches of (latents, states, sentence, style), made on the fly."""

    def __init__(self, work: Path, codec: Codec, held_out: int = 24, seed: int = 0) -> None:
        data = torch.load(work / "corpus.pt", weights_only=True)
        self.codec, self.random = codec, torch.Generator().manual_seed(seed)
        self.__dict__.update({k: data[k] for k in ("states", "sentences", "plain", "hues", "scenes", "concept", "style")})
        self.row_concept = torch.tensor([r[1] for r in data["rows"]])
        self.row_kind = torch.tensor([r[2] for r in data["rows"]])
        self.row_edit = torch.tensor([r[3] for r in data["rows"]])
        self.words = [r[0] for r in data["rows"]]
        order = torch.randperm(len(self.plain), generator=torch.Generator().manual_seed(1))
        self.held_out, self.seen = order[:held_out], order[held_out:]
        self.rows = {(kind, c): torch.nonzero((self.row_kind == kind) & (self.row_concept == c))[:, 0]
                     for kind in SHARE for c in range(int(self.concept.max()) + 1)}
        self.paint = torch.tensor([[int(c[i:i + 2], 16) for i in (1, 3, 5)] for c in BACKGROUNDS.values()]).float()

    def pick(self, n: int, among: torch.Tensor) -> int:
        return among[torch.randint(len(among), (n,), generator=self.random)]

    def pictures(self, icons: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(B, 3, 64, 64) in [-1, 1]."""
        out = torch.empty(len(icons), 64, 64, 3)
        for i, (icon, row) in enumerate(zip(icons.tolist(), rows.tolist())):
            kind, edit = int(self.row_kind[row]), int(self.row_edit[row])
            front = (self.hues[icon, edit] if kind == HUE else self.plain[icon]).float()
            back = torch.tensor(255.0)
            if kind == BACKGROUND:
                back = self.paint[edit]
            elif kind == SCENE:
                back = self.scenes[edit, int(torch.randint(len(self.scenes[edit]), (1,), generator=self.random))]
            out[i] = front[..., :3] + (1 - front[..., 3:] / 255) * back
        return out.permute(0, 3, 1, 2) / 127.5 - 1

    def batch(self, n: int) -> tuple[torch.Tensor, ...]:
        icons = self.pick(n, self.seen)
        kinds = torch.multinomial(torch.tensor(list(SHARE.values())), n, True, generator=self.random)
        rows = torch.stack([self.pick(1, self.rows[int(k), int(self.concept[i])])[0] for k, i in zip(kinds, icons)])
        style = self.style[icons].clone()
        style[torch.rand(n, generator=self.random) < 0.1] = -1
        states, sentence = self.states[rows].float(), self.sentences[rows].clone()
        blank = torch.rand(n, generator=self.random) < 0.1
        states[blank], sentence[blank] = 0, 0
        return self.codec.encode(self.pictures(icons, rows)), states, sentence, style

    def fixed(self, icons: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One plain caption for each icon, always the same."""
        rows = torch.stack([self.rows[PLAIN, int(self.concept[i])][0] for i in icons])
        return self.codec.encode(self.pictures(icons, rows)), self.states[rows].float(), self.sentences[rows], self.style[icons]


def times(n: int, random: torch.Generator) -> torch.Tensor:
    """1 is pure noise. More weight on the noisy side, where the words decide."""
    return torch.sigmoid(0.4 + 1.1 * torch.randn(n, generator=random))


def loss_of(model, z, states, sentence, style, t, noise) -> torch.Tensor:
    """Flow matching: x_t = (1 - t) z + t noise, and the model says noise - z. arXiv 2210.02747."""
    at = t[:, None, None, None]
    said = model((1 - at) * z + at * noise, t * 1000, encoder_hidden_states=states,
                 class_labels=condition(sentence, style)).sample
    return F.mse_loss(said.float(), noise - z)


@torch.no_grad()
def evaluate(model, corpus: Corpus, icons: torch.Tensor, draws: int = 4) -> float:
    random = torch.Generator().manual_seed(7)
    data, total = corpus.fixed(icons), 0.0
    for _ in range(draws):
        noise = torch.randn(data[0].shape, generator=random)
        with torch.autocast("cpu", torch.bfloat16):
            total += loss_of(model, *data, times(len(icons), random), noise).item() / draws
    return total


def rate(progress: float, step: int, peak: float, flat: float = 0.3) -> float:
    """Warm-up by steps, then flat, then a cosine to zero, by share of the time."""
    fall = min(max((progress - flat) / (1 - flat), 0), 1)
    return peak * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * fall))


def main() -> None:
    parse = argparse.ArgumentParser()
    parse.add_argument("work", type=Path)
    parse.add_argument("--start", type=Path, help="folder with codec.safetensors and unet_ema_fp16.safetensors")
    parse.add_argument("--until", required=True, help="HH:MM, UTC")
    parse.add_argument("--pause", type=Path, default=Path("/tmp/swell-measure"))
    parse.add_argument("--resume", action="store_true")
    parse.add_argument("--compile", action="store_true")
    parse.add_argument("--batch", type=int, default=32)
    parse.add_argument("--peak", type=float, default=6e-4)
    parse.add_argument("--threads", type=int, default=2)
    parse.add_argument("--steps", type=int, default=10**9)
    args = parse.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(int(time.time()))
    end = datetime.now().astimezone().replace(hour=int(args.until[:2]), minute=int(args.until[3:]), second=0).timestamp()

    codec = Codec()
    codec.load_state_dict({k: v.float() for k, v in load_file(args.start / "codec.safetensors").items()})
    codec.requires_grad_(False)
    corpus = Corpus(args.work, codec, seed=int(time.time()))
    model = build()
    model.load_state_dict({k: v.float() for k, v in load_file(args.start / "unet_ema_fp16.safetensors").items()})
    model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    begin, step, seen, log = time.time(), 0, 0, []
    if args.resume:
        last = torch.load(args.work / "last.pt", weights_only=True)
        model.load_state_dict(last["model"])
        optimiser.load_state_dict(last["optimiser"])
        average, begin, step, seen, log = (last[k] for k in ("average", "begin", "step", "seen", "log"))
    run = torch.compile(model) if args.compile else model

    def report() -> None:
        here = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(average)
        row = {"at": round(time.time() - begin), "samples": seen, "loss": round(evaluate(model, corpus, corpus.seen[:96]), 4),
               "held_out": round(evaluate(model, corpus, corpus.held_out, 12), 4)}
        model.load_state_dict(here)
        log.append(row)
        print(json.dumps(row), f"{speed:.0f} images/s", f"train {recent:.4f}", flush=True)
        state = {"model": here, "optimiser": optimiser.state_dict(), "average": average, "begin": begin,
                 "step": step, "seen": seen, "log": log}
        torch.save(state, args.work / "last.part")
        (args.work / "last.part").rename(args.work / "last.pt")
        save_file({k: v.half().contiguous() for k, v in average.items()}, args.work / "unet.safetensors")
        (args.work / "curve.json").write_text(json.dumps(log))

    speed, recent, since, reported = 0.0, 1.0, time.time(), time.time() - 100
    try:
        while (now := time.time()) < end and step < args.steps:
            while args.pause.exists():
                time.sleep(1)
            for group in optimiser.param_groups:
                group["lr"] = rate((now - begin) / (end - begin), step, args.peak)
            z, states, sentence, style = corpus.batch(args.batch)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(run, z, states, sentence, style, times(len(z), corpus.random), torch.randn_like(z))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            keep = min(0.9985, (1 + step) / (10 + step))
            current = model.state_dict()
            torch._foreach_lerp_(list(average.values()), list(current.values()), 1 - keep)
            step, seen, recent = step + 1, seen + len(z), 0.98 * recent + 0.02 * loss.item()
            if step % 20 == 0:
                speed, since = 20 * args.batch / (time.time() - since), time.time()
            if time.time() - reported > 150:
                report()
                reported = since = time.time()
    finally:
        report()


if __name__ == "__main__":
    main()
