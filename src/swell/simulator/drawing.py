"""Draws a simulation as text for a terminal and as SVG."""

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from swell.simulator.runs import Chart

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"

_WIDTH, _HEIGHT, _LEFT, _GAP = 720, 110, 64, 34
#: Okabe and Ito's palette, which is safe for colour blindness.
_COLOURS: Final = ("#0072b2", "#009e73", "#d55e00")


def bars(values: Sequence[float]) -> str:
    """Return one line of block characters, scaled to the largest value."""
    most = max(values, default=0.0)
    if most <= 0:
        return _BLOCKS[0] * len(values)
    last = len(_BLOCKS) - 1
    return "".join(
        _BLOCKS[0 if value <= 0 else max(1, round(value / most * last))] for value in values
    )


def svg(title: str, chart: Chart, seconds: float) -> str:
    """Return an SVG of demand, workers and waits over time.

    Args:
        title: Title of the picture.
        chart: The values.
        seconds: Duration of the simulation.
    """
    panels: list[tuple[str, Sequence[float], Sequence[float] | None]] = [
        ("demand, per second", chart.demand_per_s, None),
        ("workers (dashed: with those that start)", chart.ready, chart.alive),
        ("wait, in seconds", chart.wait_s, None),
    ]
    height = 40 + len(panels) * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 16} {height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    for place, (name, values, dashed) in enumerate(panels):
        top = 40 + place * (_HEIGHT + _GAP)
        most = max([*values, *(dashed or ()), 1e-9])
        parts += [
            f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" '
            'stroke="#888"/>',
            f'<text x="{_LEFT + 6}" y="{top + 15}" fill="#555">{escape(name)}</text>',
            f'<text x="{_LEFT - 6}" y="{top + 11}" text-anchor="end">{most:.3g}</text>',
            f'<text x="{_LEFT - 6}" y="{top + _HEIGHT}" text-anchor="end">0</text>',
        ]
        if dashed is not None:
            parts.append(_line(dashed, most, top, _COLOURS[place], ' stroke-dasharray="4 3"'))
        parts.append(_line(values, most, top, _COLOURS[place], ""))
    parts.append(
        f'<text x="{_LEFT + _WIDTH}" y="{height - 20}" text-anchor="end">'
        f"{seconds / 3600:.3g} h</text></svg>"
    )
    return "\n".join(parts) + "\n"


def _line(values: Sequence[float], most: float, top: int, colour: str, more: str) -> str:
    step = _WIDTH / max(1, len(values) - 1)
    points = " ".join(
        f"{_LEFT + place * step:.1f},{top + _HEIGHT * (1 - value / most):.1f}"
        for place, value in enumerate(values)
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}"{more}/>'
