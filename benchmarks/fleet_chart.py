"""Draws cost against waiting, of everybody's settings, as SVG for docs/autoscaling.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from fleet_table import SWELL, Grid
from machine import ROOT
from rivals.anchors import ANCHORS, REFERENCES
from rivals.score import Served

CHART = ROOT / "docs" / "images" / "fleet-cost.svg"

#: Okabe and Ito's colours, which people with any colour vision can tell apart, and grey.
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#f0e442",
    "#999999",
    "#bbbbbb",
    "#000000",
)
SWELLS = "#d55e00"

WIDTH, HEIGHT, LEFT, TOP, GAP = 300, 260, 46, 34, 24
#: What the axes show: waits up to an hour, cost up to four times the least; both as logarithms.
SHORTEST_S, LONGEST_S = 1.0, 3600.0
LEAST, MOST = 0.98, 4.0
WAITS_S = {1.0: "≤ 1 s", 20.0: "20 s", 300.0: "5 min", 3600.0: "1 h"}
COSTS = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0)


def across(wait_s: float) -> float:
    kept = min(max(wait_s, SHORTEST_S), LONGEST_S)
    return WIDTH * math.log(kept / SHORTEST_S) / math.log(LONGEST_S / SHORTEST_S)


def down(times: float) -> float:
    kept = min(max(times, LEAST), MOST)
    return HEIGHT * (1.0 - math.log(kept / LEAST) / math.log(MOST / LEAST))


def text(x: float, y: float, words: str, anchor: str = "middle", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(words)}</text>"
    )


def axes() -> list[str]:
    found = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>']
    for wait_s, words in WAITS_S.items():
        x = across(wait_s)
        dash = ' stroke-dasharray="4 3"' if wait_s == 20.0 else ""
        found.append(f'<path d="M{x:.1f} 0V{HEIGHT}" stroke="#ccc"{dash}/>')
        found.append(text(x, HEIGHT + 16, words))
    for times in COSTS:
        y = down(times)
        found.append(f'<path d="M0 {y:.1f}H{WIDTH}" stroke="#e5e5e5"/>')
        found.append(text(-6, y + 4, f"{times:g}", "end"))
    return found


def dots(served: Sequence[Served], colour: str, title: str, radius: float) -> list[str]:
    return [
        f'<circle cx="{across(each.p95_s):.1f}" cy="{down(each.times):.1f}" r="{radius:g}" '
        f'fill="{colour}" stroke="#fff" stroke-width="0.7">'
        f"<title>{escape(f'{title}, {each.curve}, {each.knob:g}')}: {each.times:.2f}, "
        f"{each.p95_s:.0f} s</title></circle>"
        for each in served
    ]


def panel(grid: Grid, trace: str, start_s: float, names: Sequence[str]) -> list[str]:
    found = [text(WIDTH / 2, -12, f"{trace}, cold start {start_s:g} s", weight="bold"), *axes()]
    for name, colour in zip(names, COLOURS, strict=False):
        found += dots(grid.served(name, trace, start_s), colour, name, 3)
    mine = [each for each in grid.served(SWELL, trace, start_s) if each.is_default]
    return [*found, *dots(mine, SWELLS, SWELL, 6)]


def legend(names: Sequence[str], y: float) -> list[str]:
    found, x = [], float(LEFT)
    for name, colour in [(SWELL, SWELLS), *zip(names, COLOURS, strict=False)]:
        found.append(f'<circle cx="{x:.0f}" cy="{y - 4:.0f}" r="5" fill="{colour}"/>')
        found.append(text(x + 9, y, name, "start"))
        x += 26 + 7.0 * len(name)
    return found


def draw(grid: Grid, start_s: float = 300.0) -> None:
    names = [each.name for each in (*ANCHORS, *REFERENCES) if each.name in grid.names]
    width = LEFT + len(grid.traces) * (WIDTH + GAP + LEFT)
    height = TOP + HEIGHT + 66
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        "<title>Cost over the least against the 95th percentile of waits</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, trace in enumerate(grid.traces):
        x = LEFT + number * (WIDTH + GAP + LEFT)
        inner = panel(grid, trace, start_s, names)
        lines += [f'<g transform="translate({x} {TOP})">', *inner, "</g>"]
    label = "95th percentile of waits (across) and cost over the least (up)"
    lines += [text(width / 2, TOP + HEIGHT + 34, label), *legend(names, height - 10), "</svg>"]
    CHART.parent.mkdir(exist_ok=True)
    CHART.write_text("\n".join(lines) + "\n", encoding="utf-8")
