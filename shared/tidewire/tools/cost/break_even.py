"""The cheapest mode, and the numbers of users or events at which another mode becomes cheaper."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tidewire.tools.cost.modes import MODES, Estimate, Mode, estimate
from tidewire.tools.cost.prices import Prices
from tidewire.tools.cost.workload import LIMITS, Workload

Axis = Literal["users", "events"]
AXES: tuple[Axis, ...] = ("users", "events")
STEPS_PER_DECADE = 8  # of the search; two changes between two steps that cancel out are missed
REACH, MIN_REACH = 1_000, 1_000_000  # the search ends at this multiple of the workload, or at this number if larger

Totals = Mapping[Mode, float]


@dataclass(frozen=True, slots=True)
class Range:
    """`mode` is the cheapest from `start` users or events."""

    start: int
    mode: Mode


@dataclass(frozen=True, slots=True)
class Crossover:
    """`other` is cheaper than `mode` from `at` users or events, and at `at - 1` it is not.

    `until` is the last number at which it is cheaper, None if that is beyond the search.
    """

    mode: Mode
    other: Mode
    at: int
    until: int | None


def compare(load: Workload, prices: Prices) -> dict[Mode, Estimate]:
    """Return the estimate of each mode."""
    return {mode: estimate(mode, load, prices) for mode in MODES}


def cheapest(totals: Totals) -> Mode:
    """Return the mode with the lowest total; of equal ones, the first of MODES."""
    return min(MODES, key=lambda mode: totals[mode])


class Search:
    """The totals along one axis, from 1 to `REACH` times the workload, each computed once."""

    def __init__(self, load: Workload, prices: Prices, axis: Axis) -> None:
        self._at: Callable[[int], Workload] = load.with_users if axis == "users" else load.with_events
        self._prices = prices
        self._known: dict[int, Totals] = {}
        maximum = min(max(getattr(load, axis) * REACH, MIN_REACH), int(LIMITS[axis][1]))
        self._grid = sorted({1, maximum, *_grid(maximum)})

    def totals(self, number: int) -> Totals:
        """Return each mode's total at this number of users or events."""
        if number not in self._known:
            estimates = compare(self._at(number), self._prices)
            self._known[number] = {mode: found.total for mode, found in estimates.items()}
        return self._known[number]

    def ranges(self) -> list[Range]:
        """Return the ranges of the cheapest mode, in order; the first starts at 1."""
        found = [Range(1, self._cheapest(1))]
        for before, after in itertools.pairwise(self._grid):
            low = before
            while self._cheapest(after) != found[-1].mode:
                low = self._first(low, after, self._is_not(found[-1].mode))
                found.append(Range(low, self._cheapest(low)))
        return found

    def crossovers(self) -> list[Crossover]:
        """Return, for each pair of modes, the first interval in which the second is cheaper, if there is one."""
        pairs = [(mode, other) for mode in MODES for other in MODES if mode != other]
        return [found for mode, other in pairs if (found := self._crossover(mode, other)) is not None]

    def _cheapest(self, number: int) -> Mode:
        return cheapest(self.totals(number))

    def _is_not(self, mode: Mode) -> Callable[[int], bool]:
        return lambda number: self._cheapest(number) != mode

    def _crossover(self, mode: Mode, other: Mode) -> Crossover | None:
        def is_cheaper(number: int) -> bool:
            totals = self.totals(number)
            return totals[other] < totals[mode]

        at, before = 0, 0
        for number in self._grid:
            if not at and is_cheaper(number):
                at = self._first(before, number, is_cheaper) if before else number
            if at and not is_cheaper(number):
                return Crossover(mode, other, at, self._first(max(before, at), number, lambda n: not is_cheaper(n)) - 1)
            before = number
        return Crossover(mode, other, at, None) if at else None

    def _first(self, low: int, high: int, holds: Callable[[int], bool]) -> int:
        """Return a number in (low, high] where `holds` is true, and false just before it."""
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        return high


def _grid(maximum: int) -> set[int]:
    step = 10 ** (1 / STEPS_PER_DECADE)
    found, number = set(), 1.0
    while number < maximum:
        found.add(int(number))
        number = max(number * step, number + 1)
    return found
