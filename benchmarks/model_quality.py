"""Does `swell/icons` draw what one asked for, quickly, and from few bytes?

A judge that was taught on real icons of seven sets, and never saw a drawn one (training/judge.py),
says which of fifty things each picture shows: the vocabulary's plain names of fifty that people
type first, as prompts, at the default settings and one core. What it says of real icons that were
held out from it, and of those that it has seen, is in the details, as is the score of each style.

The judge has seen most icons of the sets that the model repeats. So a stranger is asked too, who
was taught on three other sets: what it recognises of the real icons of a style is the most that
copies of them can be expected to reach.

The drawn icons resemble those of the training set, which the model repeats closely, so this does
not measure anything new. Of `ink` the stranger says nothing: it names 9 % of the drawn icons and
10 % of the real ones.

`--sheet` draws 48 prompts in 4 styles, with one seed, for eyes: things, animals, food, faces with
feelings, things in a colour, two things together, words that training never had, and phrases in
Spanish and Portuguese, which `swell/translate` brings into English.

Value: share of pictures that the judge recognises. Fails if a picture takes more than a second, its
words included, or the weights more than 40 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from machine import quiet, report, say
from swell.models.icons import STYLES, Icons
from swell.sdk.context import Item
from swell_models.translate import Translator

JUDGE = Path(__file__).with_name("judge")
PX = 64
SEEDS = (1, 2, 3, 4)
MOST_S, MOST_BYTES = 1.0, 40e6
PROMPTS = (
    *("house", "rocket", "guitar", "castle", "car", "crown", "sailboat", "birthday cake"),
    *("cat", "dog", "lion", "penguin", "unicorn", "dragon", "butterfly", "owl"),
    *("pizza", "hamburger", "strawberry", "ice cream", "donut", "cup of coffee"),
    *("happy face", "sad face", "angry face", "crying face", "laughing face", "scared face"),
    *("a blue cat", "purple heart", "a green dragon", "a red car", "yellow bird", "pink elephant"),
    *("cat and dog", "apple and banana", "sun and moon", "robot with a flower"),
    *("hound dog", "jalopy", "mansion", "grin"),
    *("un gato en la nieve", "corazón rojo", "una cara triste"),
    *("um leão feliz", "foguete no espaço", "bolo de aniversário"),
)


class Judge:
    """Says which of its candidates a picture shows.

    Args:
        name: `judge`, or `stranger`, who has seen nothing of the sets that the model repeats.
    """

    def __init__(self, name: str = "judge") -> None:
        self.facts = json.loads((JUDGE / "judge.json").read_text())
        self.candidates = np.array(self.facts["candidates"])
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            JUDGE / f"{name}.onnx", options, ["CPUExecutionProvider"]
        )

    @property
    def names(self) -> list[str]:
        """The candidates, as one would type them."""
        return [self.facts["classes"][number] for number in self.candidates]

    def __call__(self, pictures: Sequence[PIL.Image.Image]) -> list[int]:
        """Places of what it sees among the candidates."""
        small = [one.convert("RGB").resize((PX, PX), PIL.Image.Resampling.BOX) for one in pictures]
        seen = np.stack([np.asarray(one, np.float32) for one in small]).transpose(0, 3, 1, 2)
        return self.scores(seen / 127.5 - 1)[:, self.candidates].argmax(1).tolist()

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """What it says of all that it knows. Shapes: (B, 3, 64, 64) in -1..1 -> (B, 337)."""
        return self._session.run(None, {"pictures": pictures})[0]


def drawn(model: Icons, prompt: str, style: str, seed: int, size: int = 512) -> PIL.Image.Image:
    asked = Icons.Input(prompt=prompt, style=style, seed=seed, size=size)
    [picture] = model.run([Item(asked)])
    return picture.pil()


def weight_bytes() -> int:
    return sum(path.stat().st_size for path in map(Path, Icons.files))


def all_drawn(
    model: Icons, names: Sequence[str], style: str, seeds: Sequence[int]
) -> list[list[PIL.Image.Image]]:
    """Pictures of each name, at 512 px."""
    return [[drawn(model, name, style, seed) for seed in seeds] for name in names]


def score(judge: Judge, drawings: Sequence[Sequence[PIL.Image.Image]]) -> tuple[float, list[str]]:
    """The share of drawings of each name that is recognised, and what the others were taken for."""
    right, wrong = 0, []
    for place, pictures in enumerate(drawings):
        for seen in judge(pictures):
            right += seen == place
            if seen != place:
                wrong.append(f"{judge.names[place]}: {judge.names[seen]}")
    return right / sum(map(len, drawings)), wrong


def by_style(model: Icons, judges: Sequence[Judge], seeds: Sequence[int]) -> list[dict[str, float]]:
    """What each judge recognises in each style."""
    found: list[dict[str, float]] = [{} for _ in judges]
    for style in STYLES:
        drawings = all_drawn(model, judges[0].names, style, seeds)
        for judge, shares in zip(judges, found, strict=True):
            shares[style] = round(score(judge, drawings)[0], 3)
    return found


def seconds_per_picture(model: Icons, names: Sequence[str], count: int = 12) -> list[float]:
    """Each with words that it has not seen before."""
    took = []
    for number in range(count):
        begun = time.perf_counter()
        drawn(model, f"{names[number]} number {number}", "fluent", number)
        took.append(time.perf_counter() - begun)
    return took


def sheet(model: Icons, path: Path, seed: int, cell: int = 96, across: int = 12) -> None:
    """Prompts across, styles down."""
    translate = Translator()
    font = PIL.ImageFont.load_default(9)
    tall = 13 + cell * len(STYLES)
    bands = -(-len(PROMPTS) // across)
    page = PIL.Image.new("RGB", (cell * across, tall * bands), "white")
    pen = PIL.ImageDraw.Draw(page)
    for number, prompt in enumerate(PROMPTS):
        left, top = number % across * cell, number // across * tall
        # The font has no letters with accents.
        label = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
        pen.text((left + 2, top), label, fill="black", font=font)
        for row, style in enumerate(STYLES):
            picture = drawn(model, translate(prompt).text, style, seed, size=128)
            shown = picture.resize((cell, cell), PIL.Image.Resampling.LANCZOS)
            page.paste(shown, (left, top + 13 + row * cell))
    page.save(path, quality=80)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--sheet", type=Path, help="also draw the sheet, as a WebP file")
    parse.add_argument("--seed", type=int, default=4, help="of the sheet")
    parse.add_argument("--quick", action="store_true", help="one seed, one style")
    args = parse.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model, judge, stranger = Icons(threads=1), Judge(), Judge("stranger")
    default = Icons.Input.model_fields
    model.load("cpu")
    drawn(model, "warm", "fluent", 0)
    with quiet():
        took = seconds_per_picture(model, judge.names)
        seeds = SEEDS[:1] if args.quick else SEEDS
        value, wrong = score(judge, all_drawn(model, judge.names, default["style"].default, seeds))
        say(f"{value:.3f} recognised, {median(took):.3f} s a picture")
        styles = [{}, {}] if args.quick else by_style(model, (judge, stranger), SEEDS[:2])
    if args.sheet:
        sheet(model, args.sheet, args.seed)
    size = weight_bytes()
    detail = {
        "steps": default["steps"].default,
        "guidance": default["guidance"].default,
        "pictures": len(judge.names) * len(seeds),
        "by_style": styles[0],
        "real_icons_held_out": round(judge.facts["scores"]["held_out_of_50"], 3),
        "real_icons_seen": round(judge.facts["scores"]["seen_of_50"], 3),
        "by_a_stranger": styles[1],
        "real_icons_by_a_stranger": {
            style: round(judge.facts["scores"][f"stranger_of_50_{style}"], 3) for style in STYLES
        },
        "taken_for_others": sorted(set(wrong)),
        "picture_s": round(median(took), 3),
        "slowest_picture_s": round(max(took), 3),
        "weights_mb": round(size / 1e6, 1),
    }
    report(value, detail, ok=max(took) <= MOST_S and size <= MOST_BYTES)


if __name__ == "__main__":
    main()
