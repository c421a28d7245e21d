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
from torch.nn import functional as nnf

from captions import BACKGROUNDS
from codec import Codec
from corpus import BACKGROUND, DARK, HUE, PAIR, PLAIN, SCENE, half
from data import popular

STYLE_SLOTS = 10
INK = 3
# The start was trained on more sets; ours sit where they sat.
SLOT = torch.tensor([0, 3, 4, 5])
STYLE_GAIN, SENTENCE_GAIN = 4.0, 384**0.5
SHARE = {PLAIN: 0.42, HUE: 0.10, BACKGROUND: 0.06, SCENE: 0.10, PAIR: 0.32}


def build() -> UNet2DConditionModel:
    """19.9 M parameters on an 8x8 and a 4x4 grid. Source: diffusers, stock blocks."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=48,
        out_channels=48,
        layers_per_block=1,
        block_out_channels=(192, 256),
        down_block_types=("SimpleCrossAttnDownBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",) * 2,
        cross_attention_dim=384,
        attention_head_dim=64,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=384 + STYLE_SLOTS,
        resnet_time_scale_shift="scale_shift",
    )


def condition(sentence: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Sentence (B, 384) and style (B,), -1 for none -> (B, 394)."""
    hot = nnf.one_hot(SLOT[style.clamp(min=0)], STYLE_SLOTS) * (style >= 0)[:, None]
    return torch.cat([sentence * SENTENCE_GAIN, hot * STYLE_GAIN], 1)


class Corpus:
    """Batches of (latents, states, sentence, style), made on the fly."""

    def __init__(self, work: Path, codec: Codec, held_out: int = 24, seed: int = 0) -> None:
        data = torch.load(work / "corpus.pt", weights_only=True)
        self.codec, self.random = codec, torch.Generator().manual_seed(seed)
        self.states, self.sentences = data["states"], data["sentences"]
        self.plain, self.hues, self.scenes = data["plain"], data["hues"], data["scenes"]
        self.concept, self.style = data["concept"], data["style"]
        self.icon = torch.full((int(self.concept.max()) + 1, int(self.style.max()) + 1), -1)
        self.icon[self.concept.long(), self.style.long()] = torch.arange(len(self.plain))
        self.small = torch.from_numpy(half(self.plain.float().numpy()))
        self.row_concept = torch.tensor([r[1] for r in data["rows"]])
        self.row_kind = torch.tensor([r[2] for r in data["rows"]])
        self.row_edit = torch.tensor([r[3] for r in data["rows"]])
        order = torch.randperm(len(self.plain), generator=torch.Generator().manual_seed(1))
        self.held_out, self.seen = order[:held_out], order[held_out:]
        stars = torch.tensor(popular())
        self.weight = 1.0 + 2.0 * stars[self.concept[self.seen].long()]
        self.rows = {
            (kind, c): torch.nonzero((self.row_kind == kind) & (self.row_concept == c))[:, 0]
            for kind in SHARE
            for c in range(int(self.concept.max()) + 1)
        }
        # Only pairs of what people type first: each small icon is as much to learn as a large one.
        liked = stars[self.row_concept] & stars[self.row_edit.clamp(max=len(stars) - 1)]
        for c in range(int(self.concept.max()) + 1):
            pairs = self.rows[PAIR, c]
            self.rows[PAIR, c] = pairs[liked[pairs]]
        self.paint = torch.tensor(
            [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in BACKGROUNDS.values()]
        ).float()

    def pick(self, n: int, among: torch.Tensor) -> torch.Tensor:
        return among[torch.randint(len(among), (n,), generator=self.random)]

    def captions(self, kind: int, concept: int) -> torch.Tensor:
        """Rows of a kind; plain ones where a concept has none of it."""
        rows = self.rows[kind, concept]
        return rows if len(rows) else self.rows[PLAIN, concept]

    def front(self, icon: int, kind: int, edit: int) -> torch.Tensor:
        """(64, 64, 4), premultiplied: the subject, in another colour, or with another beside it."""
        if kind == HUE:
            return self.hues[icon, edit].float()
        if kind != PAIR:
            return self.plain[icon].float()
        both = torch.zeros(64, 64, 4)
        both[16:48, :32] = self.small[icon]
        both[16:48, 32:] = self.small[self.icon[edit, int(self.style[icon])]]
        return both

    def pictures(self, icons: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(B, 3, 64, 64) in [-1, 1]."""
        out = torch.empty(len(icons), 64, 64, 3)
        for i, (icon, row) in enumerate(zip(icons.tolist(), rows.tolist(), strict=True)):
            kind, edit = int(self.row_kind[row]), int(self.row_edit[row])
            front = self.front(icon, kind, edit)
            if (kind, edit) in DARK and int(self.style[icon]) == INK:
                alpha = front[..., 3:]
                front = torch.cat([alpha - 0.9 * front[..., :3], alpha], -1)
            back = torch.tensor(255.0)
            if kind == BACKGROUND:
                back = self.paint[edit]
            elif kind == SCENE:
                back = self.scenes[
                    edit, int(torch.randint(len(self.scenes[edit]), (1,), generator=self.random))
                ]
            out[i] = front[..., :3] + (1 - front[..., 3:] / 255) * back
        return out.permute(0, 3, 1, 2) / 127.5 - 1

    def batch(self, n: int) -> tuple[torch.Tensor, ...]:
        icons = self.seen[torch.multinomial(self.weight, n, True, generator=self.random)]
        kinds = torch.multinomial(
            torch.tensor(list(SHARE.values())), n, True, generator=self.random
        )
        rows = torch.stack(
            [
                self.pick(1, self.captions(int(k), int(self.concept[i])))[0]
                for k, i in zip(kinds, icons, strict=True)
            ]
        )
        style = self.style[icons].clone()
        style[torch.rand(n, generator=self.random) < 0.1] = -1
        states, sentence = self.states[rows].float(), self.sentences[rows].clone()
        blank = torch.rand(n, generator=self.random) < 0.1
        states[blank], sentence[blank] = 0, 0
        return self.codec.encode(self.pictures(icons, rows)), states, sentence, style

    def fixed(self, icons: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One plain caption for each icon, always the same."""
        rows = torch.stack([self.rows[PLAIN, int(self.concept[i])][0] for i in icons])
        return (
            self.codec.encode(self.pictures(icons, rows)),
            self.states[rows].float(),
            self.sentences[rows],
            self.style[icons],
        )


def times(n: int, random: torch.Generator) -> torch.Tensor:
    """1 is pure noise. More weight on the noisy side, where the words decide."""
    return torch.sigmoid(0.4 + 1.1 * torch.randn(n, generator=random))


def loss_of(model, z, states, sentence, style, t, noise) -> torch.Tensor:
    """Flow matching: x_t = (1 - t) z + t noise, and the model says noise - z. arXiv 2210.02747."""
    at = t[:, None, None, None]
    said = model(
        (1 - at) * z + at * noise,
        t * 1000,
        encoder_hidden_states=states,
        class_labels=condition(sentence, style),
    ).sample
    return nnf.mse_loss(said.float(), noise - z)


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


def floats(path: Path) -> dict[str, torch.Tensor]:
    return {k: v.float() for k, v in load_file(path).items()}


class Trainer:
    """The network, its running average, and where it stands."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        codec = Codec()
        codec.load_state_dict(floats(args.start / "codec.safetensors"))
        # Another seed after each resume, or the same batches would come again.
        self.corpus = Corpus(
            args.work, codec.requires_grad_(False), args.held_out, int(time.time())
        )
        self.model = build()
        self.model.load_state_dict(floats(args.start / "unet_ema_fp16.safetensors"))
        self.model.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.02, fused=True
        )
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.begin, self.step, self.seen, self.log = time.time(), 0, 0, []
        if args.resume:
            last = torch.load(args.work / "last.pt", weights_only=True)
            self.model.load_state_dict(last["model"])
            self.optimiser.load_state_dict(last["optimiser"])
            self.average, self.log = last["average"], last["log"]
            self.begin, self.step, self.seen = last["begin"], last["step"], last["seen"]

    def learn(self, rate_now: float) -> None:
        """One step on one batch."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate_now
        data = self.corpus.batch(self.args.batch)
        noise, t = torch.randn_like(data[0]), times(self.args.batch, self.corpus.random)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(self.model, *data, t, noise)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        keep = min(0.9985, (1 + self.step) / (10 + self.step))
        now = list(self.model.state_dict().values())
        torch._foreach_lerp_(list(self.average.values()), now, 1 - keep)
        self.step, self.seen = self.step + 1, self.seen + self.args.batch

    def report(self) -> None:
        """Measure the average, and save all that is needed to go on."""
        work: Path = self.args.work
        here = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        row = {
            "at": round(time.time() - self.begin),
            "samples": self.seen,
            "loss": round(evaluate(self.model, self.corpus, self.corpus.seen[:96]), 4),
        }
        if len(self.corpus.held_out):
            row["held_out"] = round(evaluate(self.model, self.corpus, self.corpus.held_out, 12), 4)
        self.model.load_state_dict(here)
        self.log.append(row)
        print(json.dumps(row), flush=True)
        state = {"model": here, "optimiser": self.optimiser.state_dict(), "average": self.average}
        state |= {"begin": self.begin, "step": self.step, "seen": self.seen, "log": self.log}
        torch.save(state, work / "last.part")
        (work / "last.part").rename(work / "last.pt")
        halves = {k: v.half().contiguous() for k, v in self.average.items()}
        save_file(halves, work / "unet.safetensors")
        (work / "curve.json").write_text(json.dumps(self.log))

    def run(self, end: float) -> None:
        """Train until `end`, in seconds since 1970."""
        reported = time.time()
        try:
            while (now := time.time()) < end:
                if self.args.pause.exists():
                    time.sleep(1)
                    continue
                share = (now - self.begin) / (end - self.begin)
                self.learn(rate(share, self.step, self.args.peak))
                if time.time() - reported > 150:
                    self.report()
                    reported = time.time()
        finally:
            self.report()


def main() -> None:
    parse = argparse.ArgumentParser()
    parse.add_argument("work", type=Path)
    parse.add_argument("--start", type=Path, required=True, help="folder with the start's files")
    parse.add_argument("--until", required=True, help="HH:MM of today, local time")
    parse.add_argument("--pause", type=Path, default=Path("/tmp/swell-measure"))
    parse.add_argument("--resume", action="store_true")
    parse.add_argument("--batch", type=int, default=32)
    parse.add_argument("--peak", type=float, default=6e-4)
    parse.add_argument("--held-out", type=int, default=24, help="pictures that it never sees")
    parse.add_argument("--threads", type=int, default=2)
    args = parse.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(int(time.time()))
    hour, minute = map(int, args.until.split(":"))
    end = datetime.now().astimezone().replace(hour=hour, minute=minute, second=0)
    Trainer(args).run(end.timestamp())


if __name__ == "__main__":
    main()
