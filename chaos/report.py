"""The report: JSON in chaos/results, and plots and tables in docs/reliability.md."""

import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.process import run
from bench.session import machine
from chaos.faults import FAULTS, Struck
from chaos.phases import FULL, Outcome
from chaos.timeline import Line, draw
from tests.support.servers import find

RESULTS = Path("chaos/results")
DOCUMENT = Path("docs/reliability.md")
PLOTS = Path("docs/reliability")
RECOVERY = RESULTS / "recovery.json"

SETTLED = 0.3  # of a phase, after which memory should be flat
AFTER = 3.0  # seconds after a fault that still count as disturbed


def save(outcome: Outcome) -> None:
    """Store the result of a phase."""
    phase = outcome.phase
    found = {
        "name": phase.name,
        "about": {**about(), "seed": outcome.seed},
        "phase": {**asdict(phase), "events": phase.events, "reaches": phase.reaches},
        "done": outcome.done,
        "struck": [asdict(struck) for struck in outcome.struck],
        "faults": outcome.faults,
        "seconds": outcome.seconds,
        "memory": outcome.memory,
    }
    write(RESULTS / f"{phase.name}.json", found)


def about() -> dict[str, Any]:
    """Return the circumstances of a run: the commit, the time and the machine."""
    redis = run([find("redis"), "--version"]).decode().split("v=")[1].split()[0]
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return {**machine(), "began": began, "versions": {"python": platform.python_version(), "redis-server": redis}}


def write(path: Path, found: dict[str, Any]) -> None:
    """Write JSON with one line per list item, which keeps diffs readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    members = []
    for name, value in found.items():
        rows = isinstance(value, list) and ",\n  ".join(json.dumps(_short(row)) for row in value)
        text = f"[\n  {rows}\n ]" if rows else json.dumps(_short(value), indent=1)
        members.append(f" {json.dumps(name)}: {text}")
    path.write_text("{\n" + ",\n".join(members) + "\n}\n")


def render() -> None:
    """Write the tables into the document, and the plots beside it, from the existing results."""
    found = [json.loads(path.read_text()) for phase in FULL if (path := RESULTS / f"{phase.name}.json").exists()]
    text = DOCUMENT.read_text()
    PLOTS.mkdir(exist_ok=True)
    for one in found:
        _plot(one)
    blocks = {
        "load": _table(LOAD_HEAD, ([title, *(_cell(cell, one) for one in found)] for title, cell in LOAD_ROWS), found),
        "faults": _table(FAULT_HEAD, _fault_rows(found), found),
        "machine": _machine(found),
        "recovery": recovery_table(json.loads(RECOVERY.read_text())) if RECOVERY.exists() else "",
    }
    for name, block in blocks.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{mark}{block}\n{end}{after}"
    DOCUMENT.write_text(text)


def recovery_table(found: dict[str, Any]) -> str:
    """Return the table of recovery times: a row per fault, a column per transport."""
    kinds = found["kinds"]
    lines = [f"| fault | {' | '.join(kinds)} | result |", "|---" * (len(kinds) + 2) + "|"]
    for name in dict.fromkeys(row["scenario"] for row in found["rows"]):
        cells, result = [], "nothing lost"
        for kind in kinds:
            rows = [row for row in found["rows"] if (row["scenario"], row["kind"]) == (name, kind)]
            if any(row["gaps"] for row in rows):
                result = "gap, `epoch`"
            cells.append(
                " / ".join(_seconds([row[key] for row in rows]) for key in ("published", "delivered")) if rows else ""
            )
        lines.append(f"| {name} | {' | '.join(cells)} | {result} |")
    return "\n".join(lines)


def _seconds(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({max(values):.2f})"


def _plot(found: dict[str, Any]) -> None:
    name, phase = found["name"], found["phase"]
    struck = [Struck(**one) for one in found["struck"]]
    seconds = found["seconds"]
    lasted = max(second["s"] for second in seconds)
    latency = [
        Line(quantile, [(s["s"], s["latency_us"][quantile] / 1e3) for s in seconds if s["latency_us"]])
        for quantile in ("p50", "p99")
    ]
    title = f"{phase['title']}: ms from publish to receipt, second by second"
    draw(PLOTS / f"{name}-latency.svg", title, latency, struck, seconds=lasted, log=True)
    memory = [
        Line(who, [(sample["s"], sample[who]) for sample in found["memory"] if sample.get(who)])
        for who in ("steady instance", "other instance", "Redis")
    ]
    draw(PLOTS / f"{name}-memory.svg", f"{phase['title']}: memory, MB (PSS)", memory, struck, seconds=lasted)
    streams = [Line("streams that are live", [(s["s"], s["ready"]) for s in seconds])]
    draw(PLOTS / f"{name}-streams.svg", f"{phase['title']}: live streams", streams, struck, seconds=lasted)


def _ms(quantile: str) -> Any:
    return lambda found: f"{found['done']['latency_us'][quantile] / 1e3:,.0f}"


def _undisturbed(quantile: str) -> Any:
    """Return a cell with the median over the seconds without a recent fault."""

    def cell(found: dict[str, Any]) -> str:
        values = [
            second["latency_us"][quantile] / 1e3
            for second in found["seconds"]
            if second["latency_us"]
            and not any(one["began"] - 1 <= second["s"] <= one["ended"] + AFTER for one in found["struck"])
        ]
        return f"{median(values):,.1f}" if values else "-"

    return cell


def _growth(who: str) -> Any:
    """Return a cell with the growth in MB per minute, by least squares, without the start."""

    def cell(found: dict[str, Any]) -> str:
        end = found["memory"][-1]["s"]
        points = [(m["s"] / 60, m[who]) for m in found["memory"] if m["s"] >= SETTLED * end and m.get(who)]
        if len(points) < 3:
            return "-"
        mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
        return f"{slope:+.2f} ({min(y for _, y in points):.0f} to {max(y for _, y in points):.0f} MB)"

    return cell


def _cell(cell: str | Callable[[dict[str, Any]], str], found: dict[str, Any]) -> str:
    if not isinstance(cell, str):
        return cell(found)
    return f"{found['done'][cell]:,}" if cell in found["done"] else "not counted"


LOAD_HEAD = ""
FAULT_HEAD = "fault"
LOAD_ROWS: list[tuple[str, str | Callable[[dict[str, Any]], str]]] = [
    ("connections", lambda found: f"{found['phase']['connections']:,}"),
    ("events published", "published"),
    ("events a minute", lambda found: f"{found['phase']['a_minute']:,}"),
    ("each event reaches", lambda found: found["phase"]["reaches"]),
    ("deliveries", "deliveries"),
    ("duration, s", lambda found: f"{found['phase']['seconds']}"),
    ("**faults injected**", lambda found: f"**{len(found['struck'])}**"),
    ("**events lost**", "lost"),
    ("**events delivered twice**", "duplicated"),
    ("**events out of the log's order**", "reordered"),
    ("gaps announced", "gaps"),
    ("events delivered to another user", "misdelivered"),
    ("events that nobody published", "foreign"),
    ("positions at which two connections saw different events", "disagreed"),
    ("connections lost and resumed", "lost_connections"),
    ("reconnections refused, then retried", "refused"),
    ("POSTs refused or lost, and sent again", "publish_retries"),
    ("POSTs given up", "publish_errors"),
    ("deliveries out of the order of publishing, because a POST was resent and appended later", "overtaken"),
    ("streams live at the end", "ready"),
    ("phases that timed out", "timed_out"),
    ("ms from publish to receipt: p50 of all", _ms("p50")),
    ("p90", _ms("p90")),
    ("p99", _ms("p99")),
    ("p99.9", _ms("p999")),
    ("maximum", _ms("max")),
    ("p50 of a second without a fault, median", _undisturbed("p50")),
    ("p99 of a second without a fault, median", _undisturbed("p99")),
    ("steady instance: MB a minute", _growth("steady instance")),
    ("Redis: MB a minute", _growth("Redis")),
]


def _fault_rows(found: Sequence[dict[str, Any]]) -> Iterable[list[str]]:
    for fault in FAULTS:
        yield [fault.name, *(str(one["faults"].get(fault.name, 0)) for one in found)]


def _table(head: str, rows: Iterable[Sequence[str]], found: Sequence[dict[str, Any]]) -> str:
    lines = [f"| {head} | {' | '.join(one['phase']['title'] for one in found)} |", "|---" * (len(found) + 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _machine(found: Sequence[dict[str, Any]]) -> str:
    runs = [(one["phase"]["title"], one["about"], f"{one['name']} --seed {one['about']['seed']}") for one in found]
    if RECOVERY.exists():
        runs.append(("recovery times", json.loads(RECOVERY.read_text())["about"], "recovery"))
    return "\n".join(
        f"- {title}: {about['began']}, commit {about['commit']}, {about['cores']} cores ({about['cpu']}),"
        f" {about['memory_gib']} GiB, Linux {about['kernel']}, Python {about['versions']['python']},"
        f" redis-server {about['versions']['redis-server']}; `scripts/chaos {arguments}`"
        for title, about, arguments in runs
    )


def _short(value: Any) -> Any:
    """Round floats to three decimals."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value
