"""How the report shows a metric: a block of the table, and optionally a plot."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class View:
    """One metric, for all cases and contestants."""

    metric: str
    title: str  # with its unit
    digits: int = 1
    plot: bool = False
    log: bool = False  # a logarithmic axis, if the contestants differ by orders of magnitude

    def text(self, value: float) -> str:
        """Return the text of a value in the table."""
        return f"{value:,.{self.digits}f}"
