"""Results: samples of single runs, medians, and ratios of pairs from the same round."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """The values of the contestant `who` for `case` in round `run`."""

    case: str
    who: str
    run: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with minimum, maximum and count."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of one or more values."""
        return cls(median(values), min(values), max(values), len(values))


@dataclass(slots=True)
class Results:
    """The samples of one benchmark, and the circumstances of the measurement."""

    name: str
    about: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def cases(self) -> list[str]:
        """Return the cases in the order of their first sample."""
        return list(dict.fromkeys(sample.case for sample in self.samples))

    def who(self) -> list[str]:
        """Return the contestants in the order of their first sample."""
        return list(dict.fromkeys(sample.who for sample in self.samples))

    def values(self, case: str, who: str, metric: str) -> dict[int, float]:
        """Return the values by round."""
        return {s.run: s.values[metric] for s in self.samples if (s.case, s.who) == (case, who) and metric in s.values}

    def spread(self, case: str, who: str, metric: str) -> Spread | None:
        """Return the spread over all rounds, None without samples."""
        values = list(self.values(case, who, metric).values())
        return Spread.of(values) if values else None

    def ratio(self, metric: str, ours: tuple[str, str], theirs: tuple[str, str]) -> Spread | None:
        """Return ours divided by theirs, round by round; both are (case, who).

        A disturbance of a shared machine slows both of a pair.
        """
        a, b = self.values(*ours, metric), self.values(*theirs, metric)
        pairs = [a[run] / b[run] for run in a.keys() & b.keys() if b[run]]
        return Spread.of(pairs) if pairs else None

    def save(self, folder: Path) -> Path:
        """Write <folder>/<name>.json and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        rows = [json.dumps(asdict(sample), ensure_ascii=False) for sample in self.samples]
        about = {"name": self.name, "about": self.about, "failures": self.failures}
        head = json.dumps(about, indent=1, ensure_ascii=False)
        # One line per sample keeps diffs readable.
        path.write_text(head[:-2] + ',\n "samples": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n")
        return path

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Return the results that `save` wrote."""
        raw = json.loads(path.read_text())
        return cls(raw["name"], raw["about"], [Sample(**row) for row in raw["samples"]], raw["failures"])


def load_all(folder: Path, names: Iterable[str]) -> dict[str, Results]:
    """Return the existing results."""
    return {name: Results.load(path) for name in names if (path := folder / f"{name}.json").exists()}
