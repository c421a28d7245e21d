"""Captions and the pictures they belong to, from the rendered icons.

    python corpus.py WORK      # writes WORK/corpus.pt, with every caption already encoded

A row says: these words, this concept, this edit. An edit is none, a new colour for the subject, a
colour behind it, a scene behind it, or another concept beside it. Pictures are made on the fly,
since there are many.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import torch

import captions
from data import popular, vocabulary
from scenes import VARIANTS, render
from text import encode

PLAIN, HUE, BACKGROUND, SCENE, PAIR = range(5)
# So many pairs are named of each concept, with popular ones, and of each popular one with others.
PARTNERS = 26, 70
COLOURS = list(captions.HUES)
BACKGROUNDS = list(captions.BACKGROUNDS)
SCENES = list(captions.SCENES)
# Black lines would vanish on these, so an ink icon is drawn in white there.
DARK = {
    (BACKGROUND, BACKGROUNDS.index("black")),
    (SCENE, SCENES.index("night")),
    (SCENE, SCENES.index("space")),
}


def phrase(word: str, rng: random.Random) -> str:
    """The word as people put it: with an article, sometimes a mood."""
    if rng.random() < 0.3:
        word = f"{rng.choice(captions.MOODS)} {word}"
    return rng.choice(captions.ARTICLES).format(word)


def compose(seed: int = 0) -> list[tuple[str, int, int, int]]:
    """Rows of (caption, concept, edit kind, edit index)."""
    rng, rows = random.Random(seed), []
    for concept, words in enumerate(vocabulary().values()):

        def word(words=words) -> str:
            return words[0] if rng.random() < 0.5 else rng.choice(words)

        def uncoloured(words=words) -> str:
            plain = [w for w in words if not set(w.split()) & set(captions.BACKGROUNDS)]
            return (
                rng.choice([words[0], *plain]) if words[0] in plain else rng.choice(plain or words)
            )

        for w in words:
            rows += [(w, concept, PLAIN, 0), (f"a {w}", concept, PLAIN, 0)]
        for _ in range(7):
            rows.append(
                (rng.choice(captions.FRAMES).format(phrase(word(), rng)), concept, PLAIN, 0)
            )
        for extra in rng.sample(captions.EXTRAS, 3):
            rows.append((f"{phrase(word(), rng)} {extra}", concept, PLAIN, 0))
        for i, colour in enumerate(COLOURS):
            rows.append((phrase(f"{colour} {uncoloured()}", rng), concept, HUE, i))
        for i, colour in enumerate(BACKGROUNDS):
            tail = rng.choice(["on a {} background", "on {}", "with a {} background"]).format(
                colour
            )
            rows.append((f"{phrase(word(), rng)} {tail}", concept, BACKGROUND, i))
        for i, scene in enumerate(SCENES):
            rows.append((f"{phrase(word(), rng)} {captions.SCENES[scene][0]}", concept, SCENE, i))
            rows.append(
                (f"{phrase(word(), rng)} {rng.choice(captions.SCENES[scene])}", concept, SCENE, i)
            )
    return rows + pairs(rng)


def pairs(rng: random.Random) -> list[tuple[str, int, int, int]]:
    """Rows of two concepts, the first on the left; most of them are of popular ones."""
    words, stars = list(vocabulary().values()), popular()
    liked = [concept for concept, star in enumerate(stars) if star]
    rows = []
    for one, names in enumerate(words):
        for other in rng.sample(liked, PARTNERS[stars[one]]):
            if other != one:
                left, right = (
                    n[0] if rng.random() < 0.7 else rng.choice(n) for n in (names, words[other])
                )
                rows.append((rng.choice(captions.PAIRS).format(left, right), one, PAIR, other))
    return rows


def to_hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in degrees, saturation and value in 0..1 of (..., 3) floats in 0..1."""
    high, low = rgb.max(-1), rgb.min(-1)
    span = np.where(high > low, high - low, 1)
    r, g, b = np.moveaxis(rgb, -1, 0)
    sector = np.where(
        high == r, (g - b) / span % 6, np.where(high == g, (b - r) / span + 2, (r - g) / span + 4)
    )
    return sector * 60, np.where(high > 0, (high - low) / np.where(high > 0, high, 1), 0), high


def to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    k = (np.array([5, 3, 1]) + (hue / 60)[..., None]) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))


def recolour(rgba: np.ndarray, hue: float, ink: bool) -> np.ndarray:
    """The icon with its main colour turned to `hue`; a grey icon is tinted, an ink one drawn in it.

    Shapes: rgba (H, W, 4) uint8 -> the same.
    """
    rgb, alpha = rgba[..., :3] / 255.0, rgba[..., 3:]
    h, s, v = to_hsv(rgb)
    if ink:
        out = to_rgb(np.full_like(h, hue), np.full_like(s, 0.8), 0.35 + 0.4 * np.ones_like(v))
        return np.concatenate([(out * 255).astype(np.uint8), alpha], -1)
    weight = s * (alpha[..., 0] / 255) * (v > 0.15)
    if weight.sum() < 0.22 * (alpha[..., 0] / 255).sum():  # a grey subject: tint what is bright
        out = to_rgb(np.full_like(h, hue), np.where(s < 0.5, 0.6 * (v > 0.25), s), v)
        return np.concatenate([(out * 255).astype(np.uint8), alpha], -1)
    histogram = np.histogram(h, 36, (0, 360), weights=weight)[0]
    smooth = sum(np.roll(histogram, i) for i in (-2, -1, 0, 1, 2))
    main = smooth.argmax() * 10 + 5
    away = (h - main + 180) % 360 - 180
    turned = np.where((np.abs(away) < 45) & (s > 0.12), (hue + away * 0.5) % 360, h)
    out = to_rgb(turned, s, v)
    return np.concatenate([(out * 255).astype(np.uint8), alpha], -1)


def half(picture: np.ndarray) -> np.ndarray:
    """(..., 128, 128, C) -> (..., 64, 64, C): means of 2x2, alpha-weighted by the caller."""
    *n, h, w, c = picture.shape
    return picture.reshape(*n, h // 2, 2, w // 2, 2, c).mean((-4, -2))


def main(work: Path) -> None:
    icons = np.load(work / "icons.npz")
    rgba, concept, style = icons["rgba"], icons["concept"], icons["style"]
    rows = compose()
    states, sentences = encode([row[0] for row in rows], work)

    def premultiplied(picture: np.ndarray) -> torch.Tensor:
        alpha = picture[..., 3:].astype(np.float32) / 255
        flat = np.concatenate([picture[..., :3] * alpha, picture[..., 3:]], -1)
        return torch.from_numpy(half(flat).round().astype(np.uint8))

    plain = torch.stack([premultiplied(p) for p in rgba])
    hues = torch.stack(
        [
            torch.stack([premultiplied(recolour(p, h, s == 3)) for h in captions.HUES.values()])
            for p, s in zip(rgba, style, strict=True)
        ]
    )
    torch.save(
        {
            "rows": rows,
            "states": torch.from_numpy(states).half(),
            "sentences": torch.from_numpy(sentences),
            "plain": plain,  # (N, 64, 64, 4) uint8, premultiplied
            "hues": hues,  # (N, 7, 64, 64, 4)
            "scenes": torch.stack(
                [
                    torch.stack([torch.from_numpy(half(render(s, v))) for v in range(VARIANTS)])
                    for s in SCENES
                ]
            ),  # (10, 3, 64, 64, 3) in 0..255
            "concept": torch.from_numpy(concept),
            "style": torch.from_numpy(style),
        },
        work / "corpus.pt",
    )
    print(len(rows), "captions of", concept.max() + 1, "concepts;", len(plain), "pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
