"""What a reader sees of one metric: a column of the table and, where it says more than numbers, a plot."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class View:
    """One metric of all cases and contestants."""

    metric: str
    title: str  # with its unit
    digits: int = 1
    plot: bool = False
    log: bool = False  # a logarithmic axis, where the contestants are a magnitude apart

    def text(self, value: float) -> str:
        """The value as the table shows it."""
        return f"{value:,.{self.digits}f}"
