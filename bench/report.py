"""The report: tables in README.md, and plots beside the results."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from bench import capacity, plot
from bench.goals import GOALS
from bench.samples import Results, Spread
from bench.views import View

SCALING = Path("docs/scaling.md")


def render(found: dict[str, Results], modules: dict[str, ModuleType], folder: Path, readme: Path | None) -> None:
    """Draw the plots into `folder`; write the tables between the marks of `readme`, or print them without one."""
    sections = {"goals": _goals(found), "machine": _machine(found)}
    for name, results in found.items():
        plots = [path for view in modules[name].VIEWS if view.plot and (path := _plot(results, view, folder))]
        images = [f"![{path.stem}](results/{path.name})" for path in plots]
        sections[name] = "\n".join([*_table(results, modules[name].VIEWS), "", *images, *_notes(results)])
    if readme is None:
        print("\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items()))
        return
    readme.write_text(fill(readme.read_text(), sections))
    SCALING.write_text(fill(SCALING.read_text(), capacity.sections(found)))


def fill(text: str, sections: Mapping[str, str]) -> str:
    """Return a page with the sections between their marks."""
    for name, section in sections.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        escaped = section.strip().replace("\\", "\\\\")
        text = re.sub(pattern, rf"\1\n{escaped}\n\n\2", text, flags=re.DOTALL)
    return text


def _goals(found: dict[str, Results]) -> str:
    lines = ["| | goal | stretch | measured (lowest to highest) | |", "|---|--:|--:|--:|---|"]
    for goal in GOALS:
        sign = "≥" if goal.at_least else "≤"
        spread = goal.found(found)
        if spread is None:
            lines.append(f"| {goal.text} | {sign} {goal.goal:,g} | {sign} {goal.stretch:,g} | not measured | |")
            continue
        digits = 0 if spread.median >= 1000 else 2
        measured = f"**{spread.median:,.{digits}f}** ({spread.low:,.{digits}f} to {spread.high:,.{digits}f})"
        verdict = goal.verdict(spread.median)
        lines.append(f"| {goal.text} | {sign} {goal.goal:,g} | {sign} {goal.stretch:,g} | {measured} | {verdict} |")
    return "\n".join(lines)


def _machine(found: dict[str, Results]) -> str:
    if not found:
        return "Nothing measured yet."
    lines = ["| measurement | at (commit) | runs | minutes | stolen |", "|---|---|--:|--:|--:|"]
    for name, results in found.items():
        a = results.about
        minutes = f"{a['seconds'] / 60:.0f}"
        lines.append(f"| {name} | {a['began']} ({a['commit']}) | {a['runs']} | {minutes} | {a['stolen_percent']} % |")
    kinds = {
        f"{a['cpu']}, {a['cores']} cores, {a['memory_gib']} GiB, Linux {a['kernel']}, TCP {a['tcp']}"
        for a in (results.about for results in found.values())
    }
    versions = {f"{name} {version}" for r in found.values() for name, version in r.about["versions"].items()}
    return "\n".join([*sorted(kinds), "", ", ".join(sorted(versions)), "", *lines])


def _table(results: Results, views: list[View]) -> Iterator[str]:
    """Yield a block per metric: a row per case, a column per contestant, each cell a median with its spread."""
    who = results.who()
    yield "| | " + " | ".join(who) + " |"
    yield "|---|" + "--:|" * len(who)
    for view in views:
        rows = []
        for case in results.cases():
            spreads = [results.spread(case, name, view.metric) for name in who]
            if any(spreads):
                rows.append(f"| {case} | " + " | ".join(_cell(view, spread) for spread in spreads) + " |")
        if rows:
            yield f"| *{view.title}* |" + " |" * len(who)
            yield from rows


def _cell(view: View, spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"**{view.text(spread.median)}** ({view.text(spread.low)} to {view.text(spread.high)})"


def _notes(results: Results) -> Iterator[str]:
    if results.failures:
        yield ""
        yield "Failed runs, not counted:"
        yield ""
        yield from (f"- {failure.splitlines()[0]}" for failure in results.failures)


def _plot(results: Results, view: View, folder: Path) -> Path | None:
    groups = []
    for case in results.cases():
        rows = [plot.Row(who, list(results.values(case, who, view.metric).values())) for who in results.who()]
        if rows := [row for row in rows if row.values]:
            groups.append(plot.Group(case, rows))
    if not groups:
        return None
    path = folder / f"{results.name}-{view.metric.replace('_', '-')}.svg"
    plot.draw(path, view.title, groups, log=view.log, digits=view.digits)
    return path
