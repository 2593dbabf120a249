"""A dot plot as SVG: a row per contestant, a dot per run, a bar at the median. Readable on white and on black."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median

WIDTH, LEFT, RIGHT, TOP, ROW, GAP = 760, 190, 90, 46, 22, 16  # px
COLOURS = ("#0b7285", "#c2410c", "#6d28d9", "#4d7c0f")  # ours is the first; distinguishable with colour blindness
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #777 }
.t { font-size: 14px; font-weight: 600 }
.n { text-anchor: end }
line { stroke: #8885 }
</style>"""


@dataclass(frozen=True, slots=True)
class Row:
    """All runs of one contestant in one case."""

    who: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Group:
    """One case."""

    title: str
    rows: Sequence[Row]


def draw(path: Path, title: str, groups: Sequence[Group], *, log: bool, digits: int) -> None:
    """Write the plot, groups from top to bottom; the axis starts at 0 or, with `log`, at a power of ten."""
    values = [value for group in groups for row in group.rows for value in row.values]
    names = list(dict.fromkeys(row.who for group in groups for row in group.rows))
    low, high, ticks = _axis(values, log)

    def x(value: float) -> float:
        share = math.log10(max(value, low) / low) / math.log10(high / low) if log else value / high
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    body: list[str] = []
    y = TOP
    for group in groups:
        body.append(f'<text x="8" y="{y + 12}" class="t" style="font-size:12px">{escape(group.title)}</text>')
        y += 8
        for row in group.rows:
            y += ROW
            body += _row(row, x, y, COLOURS[names.index(row.who) % len(COLOURS)], digits)
        y += GAP
    height = y + 26
    grid = [f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP - 6}" y2="{height - 24}"/>' for t in ticks]
    labels = [f"{int(t) if t == int(t) else t:,}" for t in ticks]
    grid += [
        f'<text x="{x(t):.1f}" y="{height - 8}" text-anchor="middle">{text}</text>'
        for t, text in zip(ticks, labels, strict=True)
    ]
    box = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    text = f'<text x="8" y="22" class="t">{escape(title)}</text>'
    path.write_text("\n".join([head, STYLE, text, *grid, *body, "</svg>", ""]))


def _row(row: Row, x: Callable[[float], float], y: int, colour: str, digits: int) -> list[str]:
    middle = median(row.values)
    dots = [f'<circle cx="{x(v):.1f}" cy="{y - 4}" r="3.5" fill="{colour}" fill-opacity=".45"/>' for v in row.values]
    return [
        f'<text x="{LEFT - 10}" y="{y}" class="n">{escape(row.who)}</text>',
        *dots,
        f'<rect x="{x(middle) - 1.5:.1f}" y="{y - 12}" width="3" height="16" fill="{colour}"/>',
        f'<text x="{WIDTH - 8}" y="{y}" class="n">{middle:,.{digits}f}</text>',
    ]


def _axis(values: Sequence[float], log: bool) -> tuple[float, float, list[float]]:
    maximum = max([*values, 1e-9])
    if log:
        minimum = min([value for value in values if value > 0] or [maximum])
        first, last = math.floor(math.log10(minimum)), math.ceil(math.log10(maximum) + 1e-9)
        return 10.0**first, 10.0**last, [10.0**power for power in range(first, last + 1)]
    step = 10.0 ** math.floor(math.log10(maximum))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if maximum / (step * part) <= 6)
    count = math.ceil(maximum / step)
    return 0.0, count * step, [round(step * i, 9) for i in range(count + 1)]
