"""Properties of every estimate: more never costs less, and the search finds real crossovers."""

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tidewire.tools.cost.break_even import AXES, Axis, Search, cheapest, compare
from tidewire.tools.cost.commands import copies
from tidewire.tools.cost.modes import MODES, Mode, estimate
from tidewire.tools.cost.workload import LIMITS, TRANSPORTS, Workload

from tests.integration.cost.tables import SHIPPED

EXAMPLES = 50
SEARCHED = 5  # each computes some hundred estimates
ROUNDING = 1e-9  # of sums in another order


def workloads(maximum: float = math.inf) -> st.SearchStrategy[Workload]:
    """Any workload within the limits, with at most `maximum` users and events."""

    def whole(field: str) -> st.SearchStrategy[int]:
        minimum, greatest = LIMITS[field]
        return st.integers(int(minimum), int(min(greatest, maximum) if field in AXES else greatest))

    def number(field: str) -> st.SearchStrategy[float]:
        minimum, greatest = LIMITS[field]
        return st.floats(minimum, greatest) | st.integers(math.ceil(minimum), int(greatest))

    usual = Workload(0, 0)
    fields = {
        field: whole(field) if field in AXES or isinstance(getattr(usual, field), int) else number(field)
        for field in LIMITS
    }
    flags = {name: st.booleans() for name in ("rate_limited", "bus", "netlify")}
    # The command line allows at most one poll per second.
    fields["poll_every"] = st.floats(1, LIMITS["poll_every"][1])
    return st.builds(Workload, transport=st.sampled_from(TRANSPORTS), **fields, **flags)


modes = st.sampled_from(MODES)


def at_least(more: float, less: float) -> bool:
    """Whether `more >= less`, except for rounding."""
    return more >= less * (1 - ROUNDING) - ROUNDING


@settings(max_examples=EXAMPLES)
@given(workloads(), modes, st.integers(0, 1_000_000), st.integers(0, 1_000_000_000))
def test_more_users_or_more_events_never_cost_less(load: Workload, mode: Mode, users: int, events: int) -> None:
    """Except that an event for so many shards that it is stored once costs less than one with a few copies."""
    total = estimate(mode, load, SHIPPED).total
    more = load.with_users(load.users + users)
    if copies(more, more.audience) >= copies(load, load.audience):
        assert at_least(estimate(mode, more, SHIPPED).total, total)
    assert at_least(estimate(mode, replace(load, events=load.events + events), SHIPPED).total, total)
    assert at_least(estimate(mode, load.with_events(load.events + events), SHIPPED).total, total)


@settings(max_examples=EXAMPLES)
@given(workloads())
def test_totals_are_sums_and_the_cheapest_is_the_minimum(load: Workload) -> None:
    found = compare(load, SHIPPED)
    for one in found.values():
        assert one.total == math.fsum(line.cost for line in one.lines)
        assert all(math.isfinite(line.cost) and line.cost >= 0 and line.quantity > 0 for line in one.lines)
        assert len({line.key for line in one.lines}) == len(one.lines), "what is free is taken off once"
    totals = {mode: one.total for mode, one in found.items()}
    assert totals[cheapest(totals)] == min(totals.values())


@settings(max_examples=SEARCHED)
@given(workloads(maximum=100_000), st.sampled_from(AXES))
def test_a_crossover_is_the_first_number_that_is_cheaper(load: Workload, axis: Axis) -> None:
    """Just before a change of the cheapest mode, another one is the cheapest."""
    search = Search(load, SHIPPED, axis)

    def totals(number: int) -> dict[Mode, float]:
        at = load.with_users(number) if axis == "users" else load.with_events(number)
        return {mode: found.total for mode, found in compare(at, SHIPPED).items()}

    first, *changes = search.ranges()
    assert (first.start, first.mode) == (1, cheapest(totals(1)))
    before = first
    for change in changes:
        assert change.start > before.start
        assert cheapest(totals(change.start)) == change.mode
        assert cheapest(totals(change.start - 1)) == before.mode != change.mode
        before = change
    for found in search.crossovers():
        assert totals(found.at)[found.other] < totals(found.at)[found.mode]
        if found.at > 1:
            assert totals(found.at - 1)[found.other] >= totals(found.at - 1)[found.mode]
        if found.until is not None:
            assert found.until >= found.at
            assert totals(found.until)[found.other] < totals(found.until)[found.mode]
            assert totals(found.until + 1)[found.other] >= totals(found.until + 1)[found.mode]
