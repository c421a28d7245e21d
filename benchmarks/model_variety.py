"""Are the four pictures of one prompt visibly different?

`swell/icons` draws 25 plain names four times each, with neighbouring seeds as in a task with a
`count` of 4: as it does by default, and as it did before the seed chose a backdrop and a side
(`vary` off, style `fluent`). The judge of `model_quality.py` gives each picture 337 scores;
their similarity is the cosine of the scores of two pictures, less the mean of each.

What a newcomer gets is measured too: `swell/picture` paints these pictures. Now its default is the
style `varied`; before, the web app chose `starlight` for all of them. Every fourth prompt is
painted.

The judge learned from icons, not from paintings: what it recognises of these says little.

Value: mean similarity of two pictures of one prompt by default, over the same before; the larger
of the two.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import PIL.Image

from machine import report
from model_quality import PX, Judge
from swell.models.icons import Icons
from swell.sdk.context import Item
from swell.sdk.media import Image
from swell.sdk.pipeline import load_pipelines
from swell_models.paint import Paint

COUNT, EVERY = 4, 2
#: The style that `swell/picture` painted all pictures in before, in the web app.
BEFORE = "starlight"


def similarity(judge: Judge, pictures: Sequence[PIL.Image.Image]) -> float:
    """Mean cosine of two different pictures."""
    small = [one.convert("RGB").resize((PX, PX), PIL.Image.Resampling.BOX) for one in pictures]
    seen = np.stack([np.asarray(one, np.float32) for one in small]).transpose(0, 3, 1, 2)
    scores = judge.scores(seen / 127.5 - 1)
    scores -= scores.mean(1, keepdims=True)
    scores /= np.linalg.norm(scores, axis=1, keepdims=True)
    cosines = scores @ scores.T
    return float(cosines[np.triu_indices(len(pictures), 1)].mean())


def four(model: Icons, prompt: str, **asked: object) -> list[Image]:
    """Pictures of one task."""
    given = Icons.Input(prompt=prompt, seed=1, **asked)  # type: ignore[arg-type]
    return model.run([Item(given, index=n) for n in range(COUNT)])


def pil(pictures: Sequence[Image]) -> list[PIL.Image.Image]:
    return [each.pil() for each in pictures]


def painted(model: Paint, pictures: Sequence[Image], style: str) -> list[PIL.Image.Image]:
    """The same, painted as the stage of `swell/picture` does; their seeds are those of `four`."""
    asked = [Paint.Input(image=each, style=style, size=512) for each in pictures]
    made = model.run([Item(each, seed=1 + n) for n, each in enumerate(asked)])
    return pil([each for each in made if isinstance(each, Image)])


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model, paint, judge = Icons(threads=1), Paint(threads=1), Judge()
    model.load("cpu")
    paint.load("cpu")
    [pipeline] = load_pipelines("swell/picture")
    default = pipeline.input_schema["properties"]["art"]["default"]
    names = judge.names[::EVERY]
    now, before, right = [], [], 0
    now_painted, before_painted, right_painted, right_before = [], [], 0, 0
    for place, name in enumerate(names):
        pictures = four(model, name, size=128)
        now.append(similarity(judge, pil(pictures)))
        before.append(
            similarity(judge, pil(four(model, name, size=128, vary=False, style="fluent")))
        )
        right += sum(seen == place * EVERY for seen in judge(pil(pictures)))
        if place % 4:
            continue
        pictures = four(model, name)
        varied = painted(paint, pictures, default)
        now_painted.append(similarity(judge, varied))
        alike = painted(paint, pictures, BEFORE)
        before_painted.append(similarity(judge, alike))
        right_painted += sum(seen == place * EVERY for seen in judge(varied))
        right_before += sum(seen == place * EVERY for seen in judge(alike))
    ratios = {
        "swell/icons": float(np.mean(now) / np.mean(before)),
        "swell/picture": float(np.mean(now_painted) / np.mean(before_painted)),
    }
    detail = {
        "prompts": len(names),
        "ratios": {model: round(ratio, 4) for model, ratio in ratios.items()},
        "similarity": round(float(np.mean(now)), 4),
        "similarity_before": round(float(np.mean(before)), 4),
        "similarity_painted": round(float(np.mean(now_painted)), 4),
        "similarity_painted_before": round(float(np.mean(before_painted)), 4),
        "recognised": round(right / (COUNT * len(names)), 4),
        "recognised_painted": round(right_painted / (COUNT * len(now_painted)), 4),
        "recognised_painted_before": round(right_before / (COUNT * len(now_painted)), 4),
        "most_alike": sorted(zip(np.round(now, 3).tolist(), names, strict=True))[-5:],
    }
    report(max(ratios.values()), detail)


if __name__ == "__main__":
    main()
