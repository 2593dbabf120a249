"""Which mode is the cheapest, and at how many users or events another one becomes it: searched, not guessed."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tidewire.tools.cost.modes import MODES, Estimate, Mode, estimate
from tidewire.tools.cost.prices import Prices
from tidewire.tools.cost.workload import LIMITS, Workload

Axis = Literal["users", "events"]
AXES: tuple[Axis, ...] = ("users", "events")
STEPS_A_DECADE = 8  # looked at; between two of them one change is found, not two that undo each other
REACH, LEAST_REACH = 1_000, 1_000_000  # times as many as there are, and so many at least

Totals = Mapping[Mode, float]


@dataclass(frozen=True, slots=True)
class Stretch:
    """From so many users or events on, this mode is the cheapest."""

    start: int
    mode: Mode


@dataclass(frozen=True, slots=True)
class Tip:
    """From so many users or events on, `other` is cheaper than `mode`, and at one fewer it is not.

    `until` is the last place at which it still is; None where that is beyond the search.
    """

    mode: Mode
    other: Mode
    at: int
    until: int | None


def compare(load: Workload, prices: Prices) -> dict[Mode, Estimate]:
    """Return the estimate of each mode."""
    return {mode: estimate(mode, load, prices) for mode in MODES}


def cheapest(totals: Totals) -> Mode:
    """Return the mode of the least total; of equal ones, the first of MODES."""
    return min(MODES, key=lambda mode: totals[mode])


class Search:
    """The totals along one axis, from 1 to a thousand times as many as there are, each reckoned once."""

    def __init__(self, load: Workload, prices: Prices, axis: Axis) -> None:
        self._at: Callable[[int], Workload] = load.with_users if axis == "users" else load.with_events
        self._prices = prices
        self._known: dict[int, Totals] = {}
        maximum = min(max(getattr(load, axis) * REACH, LEAST_REACH), int(LIMITS[axis][1]))
        self._grid = sorted({1, maximum, *_grid(maximum)})

    def totals(self, number: int) -> Totals:
        """Return each mode's total at so many users or events."""
        if number not in self._known:
            estimates = compare(self._at(number), self._prices)
            self._known[number] = {mode: found.total for mode, found in estimates.items()}
        return self._known[number]

    def stretches(self) -> list[Stretch]:
        """Return which mode is the cheapest from where on; the first stretch starts at 1."""
        found = [Stretch(1, self._cheapest(1))]
        for before, after in itertools.pairwise(self._grid):
            low = before
            while self._cheapest(after) != found[-1].mode:
                low = self._first(low, after, self._is_not(found[-1].mode))
                found.append(Stretch(low, self._cheapest(low)))
        return found

    def tips(self) -> list[Tip]:
        """Return, for each two modes, from where to where the second is cheaper for the first time, if it ever is."""
        pairs = [(mode, other) for mode in MODES for other in MODES if mode != other]
        return [tip for mode, other in pairs if (tip := self._tip(mode, other)) is not None]

    def _cheapest(self, number: int) -> Mode:
        return cheapest(self.totals(number))

    def _is_not(self, mode: Mode) -> Callable[[int], bool]:
        return lambda number: self._cheapest(number) != mode

    def _tip(self, mode: Mode, other: Mode) -> Tip | None:
        def is_cheaper(number: int) -> bool:
            totals = self.totals(number)
            return totals[other] < totals[mode]

        at, before = 0, 0
        for number in self._grid:
            if not at and is_cheaper(number):
                at = self._first(before, number, is_cheaper) if before else number
            if at and not is_cheaper(number):
                return Tip(mode, other, at, self._first(max(before, at), number, lambda n: not is_cheaper(n)) - 1)
            before = number
        return Tip(mode, other, at, None) if at else None

    def _first(self, low: int, high: int, holds: Callable[[int], bool]) -> int:
        """Return a place in (low, high] where it holds and just before which it does not."""
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        return high


def _grid(maximum: int) -> set[int]:
    step = 10 ** (1 / STEPS_A_DECADE)
    found, number = set(), 1.0
    while number < maximum:
        found.add(int(number))
        number = max(number * step, number + 1)
    return found
