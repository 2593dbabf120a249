"""A line plot over time as SVG, with the faults as bands in the background. Readable on white and on black."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.plot import COLOURS, STYLE
from chaos.faults import Struck

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 260, 64, 16, 64, 34  # px
LEGEND = 18  # px from the left edge of the plot to the first name

Point = tuple[float, float]
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Line:
    """A named series; the line is interrupted if values are missing for longer than `gap` seconds."""

    name: str
    points: Sequence[Point]
    gap: float = 5.0


def draw(
    path: Path, title: str, lines: Sequence[Line], struck: Sequence[Struck], *, seconds: float, log: bool = False
) -> None:
    """Write the plot; the vertical axis starts at 0 or, with `log`, at a power of ten."""
    values = [y for line in lines for _, y in line.points if y > 0] or [1.0]
    low, ticks = _axis(values, log)
    high = ticks[-1]

    def x(second: float) -> float:
        return LEFT + min(second / seconds, 1.0) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low) if log else value / high
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        STYLE,
        f'<text x="8" y="22" class="t">{escape(title)}</text>',
    ]
    for one in struck:
        wide = max(x(one.ended) - x(one.began), 1.5)
        body.append(
            f'<rect x="{x(one.began):.1f}" y="{TOP}" width="{wide:.1f}" height="{HEIGHT - TOP - BOTTOM}"'
            f' fill="#c2410c" fill-opacity=".22"><title>{escape(one.name)}</title></rect>'
        )
    for tick in ticks:
        body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        body.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" class="n">{tick:,g}</text>')
    step = next(step for step in (5, 10, 15, 30, 60, 120) if seconds / step <= 10)
    for second in range(0, int(seconds) + 1, step):
        label = f"{second // 60}:{second % 60:02d}"
        body.append(f'<text x="{x(second):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{label}</text>')
    at = LEFT
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        body.append(f'<path d="{_path(line, x, y)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        body.append(f'<rect x="{at}" y="38" width="12" height="3" fill="{colour}"/>')
        body.append(f'<text x="{at + LEGEND}" y="44">{escape(line.name)}</text>')
        at += LEGEND + 20 + 7 * len(line.name)
    body.append(f'<rect x="{at}" y="34" width="12" height="12" fill="#c2410c" fill-opacity=".22"/>')
    body.append(f'<text x="{at + LEGEND}" y="44">a fault</text>')
    path.write_text("\n".join([*body, "</svg>", ""]))


def _path(line: Line, x: Scale, y: Scale) -> str:
    parts: list[str] = []
    last = -math.inf
    for second, value in line.points:
        parts.append(f"{'M' if second - last > line.gap else 'L'}{x(second):.1f} {y(value):.1f}")
        last = second
    return "".join(parts)


def _axis(values: Sequence[float], log: bool) -> tuple[float, list[float]]:
    maximum = max(values)
    if log:
        first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(maximum) + 1e-9)
        return 10.0**first, [10.0**power for power in range(first, max(last, first + 1) + 1)]
    step = 10.0 ** math.floor(math.log10(maximum))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if maximum / (step * part) <= 6)
    return 0.0, [round(step * count, 9) for count in range(math.ceil(maximum / step) + 1)]
