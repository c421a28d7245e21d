"""A sheet of pictures by the files that ship: prompts across, styles down, one seed for all.

python look.py SHEET.webp [--prompts "cat;a blue cat"] [--styles noto,ink] [--size 128]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from PIL import Image, ImageDraw

from swell.models.icons import STYLES, Icons
from swell.sdk.context import Item

PROMPTS = (
    "cat;dog;a red fox in the snow;panda;lion;penguin;unicorn;dragon;pizza;hamburger;apple;"
    "birthday cake;house;castle;tree;sun;rain;heart;rocket in space;car;train;boat;airplane;robot;"
    "ghost;guitar;crown;flower;smiling face;a blue cat;a kitten;puppy;purple heart;owl at night;"
    "frog on a yellow background;a green dragon"
)


def main() -> None:
    parse = argparse.ArgumentParser()
    parse.add_argument("sheet", type=Path)
    parse.add_argument("--prompts", default=PROMPTS)
    parse.add_argument("--styles", default=",".join(STYLES))
    parse.add_argument("--size", type=int, default=128, choices=[128, 512])
    parse.add_argument("--cell", type=int, default=96)
    parse.add_argument("--across", type=int, default=18)
    parse.add_argument("--seed", type=int, default=4)
    parse.add_argument("--steps", type=int, default=Icons.Input.model_fields["steps"].default)
    parse.add_argument(
        "--guidance", type=float, default=Icons.Input.model_fields["guidance"].default
    )
    parse.add_argument("--threads", type=int, default=1)
    args = parse.parse_args()
    prompts, styles = [p.strip() for p in args.prompts.split(";")], args.styles.split(",")
    model = Icons(args.threads)
    model.load("cpu")
    cell, bands = args.cell, -(-len(prompts) // args.across)
    tall = 12 + cell * len(styles)
    sheet = Image.new("RGB", (cell * min(args.across, len(prompts)), tall * bands), "white")
    pen, spent = ImageDraw.Draw(sheet), 0.0
    for i, prompt in enumerate(prompts):
        x, y = i % args.across * cell, i // args.across * tall
        pen.text((x + 2, y), prompt[: cell // 6], fill="black")
        items = [
            Item(
                Icons.Input(
                    prompt=prompt,
                    style=s,
                    steps=args.steps,
                    guidance=args.guidance,
                    size=args.size,
                    seed=args.seed,
                )
            )
            for s in styles
        ]
        begin = time.perf_counter()
        pictures = model.run(items)
        spent += time.perf_counter() - begin
        for j, picture in enumerate(pictures):
            shown = picture.pil().resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(shown, (x, y + 12 + j * cell))
    sheet.save(args.sheet, quality=82)
    print(f"{spent / len(prompts) / len(styles):.3f} s a picture in batches of {len(styles)}")


if __name__ == "__main__":
    main()
