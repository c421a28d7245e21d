"""Are the four pictures of one prompt visibly different?

`swell/icons` draws 25 plain names four times each, with neighbouring seeds as in a task with a
`count` of 4: as it does by default, and as it did before the seed chose a backdrop and a side
(`vary` off, style `fluent`). The judge of `model_quality.py` gives each picture 337 scores;
their similarity is the cosine of the scores of two pictures, less the mean of each.

Value: mean similarity of two pictures of one prompt by default, over the same before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import PIL.Image

from machine import report
from model_quality import PX, Judge
from swell.model import Item
from swell.zoo.icons import Icons

COUNT, EVERY = 4, 2


def similarity(judge: Judge, pictures: Sequence[PIL.Image.Image]) -> float:
    """Mean cosine of two different pictures."""
    small = [one.convert("RGB").resize((PX, PX), PIL.Image.Resampling.BOX) for one in pictures]
    seen = np.stack([np.asarray(one, np.float32) for one in small]).transpose(0, 3, 1, 2)
    scores = judge.scores(seen / 127.5 - 1)
    scores -= scores.mean(1, keepdims=True)
    scores /= np.linalg.norm(scores, axis=1, keepdims=True)
    cosines = scores @ scores.T
    return float(cosines[np.triu_indices(len(pictures), 1)].mean())


def four(model: Icons, prompt: str, **asked: object) -> list[PIL.Image.Image]:
    """Pictures of one task, at 128 px."""
    given = Icons.Input(prompt=prompt, size=128, seed=1, **asked)  # type: ignore[arg-type]
    return [each.pil() for each in model.run([Item(given, index=n) for n in range(COUNT)])]


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model, judge = Icons(threads=1), Judge()
    model.load("cpu")
    names = judge.names[::EVERY]
    now, before, right = [], [], 0
    for place, name in enumerate(names):
        pictures = four(model, name)
        now.append(similarity(judge, pictures))
        before.append(similarity(judge, four(model, name, vary=False, style="fluent")))
        right += sum(seen == place * EVERY for seen in judge(pictures))
    detail = {
        "prompts": len(names),
        "similarity": round(float(np.mean(now)), 4),
        "similarity_before": round(float(np.mean(before)), 4),
        "recognised": round(right / (COUNT * len(names)), 4),
        "most_alike": sorted(zip(np.round(now, 3).tolist(), names, strict=True))[-5:],
    }
    report(detail["similarity"] / detail["similarity_before"], detail)


if __name__ == "__main__":
    main()
