"""Judges of pictures: which of the vocabulary's things is this? Taught on real icons only.

    python judge.py WORK ../benchmarks/judge     # judge.onnx, stranger.onnx, judge.json

They never see a picture that the model drew. `judge` knows more hands than the model does: seven
sets, of which one picture in eight is held out. But it has seen most of the icons that the model
was taught, so a faithful copy is easy for it. `stranger` has seen three sets, and nothing of the
four in whose hands the model draws: what it says of the real icons of those is what a perfect copy
can score.
`benchmarks/model_quality.py` asks both which of fifty things a drawn picture shows.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as nnf
from torch import nn

from data import SETS, fetch, popular, render, vocabulary
from quantise import quantise

SETS_TOO = {
    "blob": "@iconify-json/noto-v1",
    "twemoji": "@iconify-json/twemoji",
    "emojitwo": "@iconify-json/emojione",
}
PX, CANDIDATES, BATCH, STEPS, PEAK = 64, 50, 64, 4000, 2e-3


class Judge(nn.Module):
    """Shapes: pictures (B, 3, 64, 64) in -1..1 -> scores (B, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers += [
                nn.Conv2d(before, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, 1, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * before, classes))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        seen = self.body(pictures)
        return self.head(torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1))


def gather(work: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """Pictures (N, 4, 128, 128) uint8 RGBA, concepts (N,), sets (N,), and the sets' versions."""
    pictures, concepts, hands, sets = [], [], [], []
    for hand, package in enumerate((SETS | SETS_TOO).values()):
        files = fetch(package, work / "sets")
        sets.append(f"{package} {files['package.json']['version']}")
        for concept, name in enumerate(vocabulary()):
            picture = render(files["icons.json"], name)
            if picture is not None and picture[..., 3].any():
                pictures.append(picture.transpose(2, 0, 1))
                concepts.append(concept)
                hands.append(hand)
    return (
        torch.from_numpy(np.stack(pictures)),
        torch.tensor(concepts),
        torch.tensor(hands),
        sets,
    )


def shown(rgba: torch.Tensor, random: torch.Generator | None) -> torch.Tensor:
    """What the judge sees of (B, 4, 128, 128) in 0..255; moved, tinted and blurred if `random`."""
    n = len(rgba)
    alpha = rgba[:, 3:] / 255
    front = torch.cat([rgba[:, :3] * alpha, rgba[:, 3:]], 1) / 127.5
    back = torch.full((n, 3, 1, 1), 2.0)
    if random is not None:

        def between(low: float, high: float) -> torch.Tensor:
            return low + (high - low) * torch.rand(n, generator=random)

        angle, size = between(-0.25, 0.25), between(0.9, 1.5)
        theta = torch.stack(
            [
                torch.stack([angle.cos() * size, -angle.sin() * size, between(-0.2, 0.2)], 1),
                torch.stack([angle.sin() * size, angle.cos() * size, between(-0.2, 0.2)], 1),
            ],
            1,
        )
        grid = nnf.affine_grid(theta, [n, 4, 128, 128], align_corners=False)
        front = nnf.grid_sample(front, grid, align_corners=False)
        coloured = torch.rand(n, generator=random) < 0.3
        back[coloured] = 2 * torch.rand(n, 3, 1, 1, generator=random)[coloured]
    flat = front[:, :3] + (1 - front[:, 3:] / 2) * back - 1
    flat = nnf.avg_pool2d(flat, 128 // PX)
    if random is None:
        return flat
    turned = torch.rand(n, generator=random) < 0.25
    flat[turned] = flat[turned][:, torch.randperm(3, generator=random)]
    soft = torch.rand(n, generator=random) < 0.4
    flat[soft] = nnf.interpolate(
        nnf.avg_pool2d(flat[soft], 2), scale_factor=2.0, mode="bilinear", align_corners=False
    )
    return flat + 0.08 * torch.rand(n, 1, 1, 1, generator=random) * torch.randn(
        flat.shape, generator=random
    )


def accuracy(model: nn.Module, rgba: torch.Tensor, concept: torch.Tensor, among) -> float:
    """Share that is named right, of those that show one of `among`."""
    asked = torch.isin(concept, among)
    with torch.no_grad():
        scores = torch.cat([model(shown(part.float(), None)) for part in rgba[asked].split(128)])
    return (among[scores[:, among].argmax(1)] == concept[asked]).float().mean().item()


def taught(rgba: torch.Tensor, concept: torch.Tensor, seen: torch.Tensor) -> Judge:
    """A judge of all concepts that has seen the pictures with these numbers."""
    torch.manual_seed(0)
    model = Judge(int(concept.max()) + 1).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK, STEPS, pct_start=0.15)
    random, begun = torch.Generator().manual_seed(0), time.time()
    for step in range(STEPS):
        pick = seen[torch.randint(len(seen), (BATCH,), generator=random)]
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(shown(rgba[pick].float(), random))
        loss = nnf.cross_entropy(scores.float(), concept[pick], label_smoothing=0.1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        plan.step()
        if step % 100 == 0:
            print(step, f"{loss.item():.3f}", f"{time.time() - begun:.0f} s", flush=True)
    return model.eval()


def save(model: Judge, path: Path) -> None:
    """Write a judge as int8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, PX, PX),),
            path,
            input_names=["pictures"],
            output_names=["scores"],
            opset_version=17,
            dynamo=False,
            dynamic_axes={"pictures": {0: "batch"}, "scores": {0: "batch"}},
        )
    onnx.save(quantise(onnx.load(path)), path)


def main(work: Path, to: Path, which: list[str]) -> None:
    torch.set_num_threads(1)
    rgba, concept, hand, sets = gather(work)
    classes = int(concept.max()) + 1
    among = torch.nonzero(torch.tensor(popular()))[:, 0]
    among = among[torch.linspace(0, len(among) - 1, CANDIDATES).round().long()]
    words = [names[0] for names in vocabulary().values()]
    to.mkdir(parents=True, exist_ok=True)
    file = to / "judge.json"
    facts = json.loads(file.read_text()) if file.exists() else {"scores": {}}
    facts |= {"classes": words, "candidates": among.tolist(), "sets": sets}
    scores = facts["scores"]
    if "judge" in which:
        held_out = torch.rand(len(rgba), generator=torch.Generator().manual_seed(3)) < 1 / 8
        seen = torch.nonzero(~held_out)[:, 0]
        model, everything = taught(rgba, concept, seen), torch.arange(classes)
        scores["held_out_of_50"] = accuracy(model, rgba[held_out], concept[held_out], among)
        scores["held_out_of_all"] = accuracy(model, rgba[held_out], concept[held_out], everything)
        scores["seen_of_50"] = accuracy(model, rgba[seen], concept[seen], among)
        save(model, to / "judge.onnx")
    if "stranger" in which:
        model = taught(rgba, concept, torch.nonzero(hand >= len(SETS))[:, 0])
        for number, style in enumerate(SETS):
            real = hand == number
            scores[f"stranger_of_50_{style}"] = accuracy(model, rgba[real], concept[real], among)
        save(model, to / "stranger.onnx")
    print(scores)
    file.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or ["judge", "stranger"])
