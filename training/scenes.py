"""Backgrounds drawn from a few shapes: what "in the snow" or "at night" puts behind an icon."""

from __future__ import annotations

import io

import numpy as np
import resvg_py
from PIL import Image

SIZE_PX = 128
VARIANTS = 3


def sky(top: str, bottom: str) -> str:
    stops = f'<stop offset="0" stop-color="{top}"/><stop offset="1" stop-color="{bottom}"/>'
    return (
        f'<defs><linearGradient id="g" x1="0" y1="0" x2="0" y2="1">{stops}</linearGradient></defs>'
        '<rect width="128" height="128" fill="url(#g)"/>'
    )


def ground(colour: str, top: int = 92, wave: int = 8) -> str:
    return f'<path d="M0 {top} Q32 {top - wave} 64 {top} T128 {top} V128 H0 Z" fill="{colour}"/>'


def dots(random: np.random.Generator, n: int, colour: str, radius: float, bottom: int = 128) -> str:
    spots = random.uniform((0, 0), (128, bottom), (n, 2))
    sizes = radius * random.uniform(0.6, 1.4, n)
    return "".join(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{r:.1f}" fill="{colour}"/>'
        for (x, y), r in zip(spots, sizes, strict=True)
    )


def draw(name: str, random: np.random.Generator) -> str:  # noqa: C901 - one case a scene
    """The SVG body of one scene."""
    match name:
        case "snow":
            return sky("#a9cbe8", "#dcecf8") + ground("#ffffff") + dots(random, 22, "#ffffff", 2.6)
        case "night":
            return (
                sky("#0d1440", "#2b3a80")
                + dots(random, 20, "#fff6c8", 1.5)
                + ground("#141a3a", 104)
            )
        case "space":
            planet = f'<circle cx="{random.integers(14, 114)}" cy="18" r="11" fill="#8d6bd1"/>'
            return sky("#05060f", "#1a1038") + dots(random, 34, "#ffffff", 1.4) + planet
        case "beach":
            return sky("#7fd0f5", "#d6f1fb") + ground("#2a9bd0", 74, 2) + ground("#f3dca2", 98)
        case "meadow":
            flowers = "".join(
                f'<circle cx="{x:.0f}" cy="{y:.0f}" r="2.4" fill="#ffe45c"/>'
                for x, y in random.uniform((0, 102), (128, 128), (10, 2))
            )
            return sky("#8fd2f7", "#e2f5fd") + ground("#6fbf4b", 88) + flowers
        case "sunset":
            sun = '<circle cx="64" cy="92" r="40" fill="#ffd76a"/>'
            return sky("#5b3a8c", "#ff8a4c") + sun + ground("#4a2b52", 104, 4)
        case "rain":
            drops = random.uniform((0, 0), (128, 128), (30, 2))
            lines = "".join(
                f'<path d="M{x:.0f} {y:.0f} l-4 11" stroke="#b8d4ee" stroke-width="2"/>'
                for x, y in drops
            )
            return sky("#5d7187", "#93a8ba") + lines
        case "water":
            bubbles = dots(random, 16, "#bfeaf7", 3.4)
            return sky("#2fb3da", "#0b4f8f") + bubbles + ground("#c9b27a", 116, 5)
        case "desert":
            return (
                sky("#f9d99a", "#fdf0cf") + ground("#e0a95a", 84, 12) + ground("#cf8f45", 108, -8)
            )
        case "city":
            blocks = "".join(
                f'<rect x="{x}" y="{random.integers(14, 62)}" width="17" height="128" fill="{c}"/>'
                for x, c in zip(
                    range(0, 128, 18), ["#7d8ca6", "#93a2bb", "#6b7a95"] * 3, strict=False
                )
            )
            return sky("#bcdcf2", "#eaf4fb") + blocks + ground("#565c66", 112, 0)
    raise ValueError(name)


def render(name: str, variant: int) -> np.ndarray:
    """One scene, always the same for a variant: (128, 128, 3) uint8 sRGB."""
    body = draw(name, np.random.default_rng(1000 + variant))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128">{body}</svg>'
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE_PX, height=SIZE_PX))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
