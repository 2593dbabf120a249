"""Allowed types: every part of the system applies the same names and patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidewire.delivery.fanout import Fanout
from tidewire.delivery.ring_buffer import Ring
from tidewire.model.audience import Interest
from tidewire.model.event import Event
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.permissions import TYPE_OR_PATTERN, AllowedTypes

from tests.unit.delivery.members import Listener, record

# Few letters, so that one begins another again and again.
NAMES = st.text("ab-", min_size=1, max_size=4)
PATTERNS = st.lists(st.one_of(NAMES, st.text("ab-", max_size=3).map(lambda text: f"{text}*")), max_size=6)


def allowed(patterns: list[str], name: str) -> bool:
    """The meaning of patterns, implemented naively."""
    return any(name.startswith(p[:-1]) if p.endswith("*") else name == p for p in patterns)


@given(PATTERNS, NAMES)
def test_a_type_is_allowed_if_a_pattern_matches_it(patterns: list[str], name: str) -> None:
    types = AllowedTypes.parse(patterns)
    assert (name in types) == allowed(patterns, name)
    assert AllowedTypes.parse(types.patterns()) == types


@given(PATTERNS, st.one_of(NAMES, st.text("ab-", max_size=3).map(lambda text: f"{text}*")), NAMES)
def test_a_covered_pattern_allows_nothing_more(patterns: list[str], wanted: str, name: str) -> None:
    if AllowedTypes.parse(patterns).covers(wanted) and allowed([wanted], name):
        assert allowed(patterns, name)


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("order.a", True),
        ("order.*", True),
        ("order.a.*", True),
        ("order*", False),
        ("*", False),
        ("task", True),
        ("task*", False),
        ("tas", False),
        ("other", False),
    ],
)
def test_a_pattern_is_covered_by_a_prefix_or_its_name(pattern: str, covered: bool) -> None:
    """A key cannot issue a token for more types than it has itself."""
    assert AllowedTypes.parse(["order.*", "task"]).covers(pattern) is covered


@given(PATTERNS, NAMES, st.booleans())
async def test_predicate_partitions_and_fan_out_agree(patterns: list[str], name: str, public: bool) -> None:
    """And no event arrives twice."""
    types = AllowedTypes.parse(patterns)
    interest = Interest("u1", types.names, types.prefixes)
    event = Event("1", name, b"1", None if public else ("u1", "u2"))
    assert interest.matches(event) == allowed(patterns, name)
    scheme = Partitions(frozenset({"a", "ab"}), user_shards=2)
    needed = scheme.partitions_for(interest)
    assert len(set(needed)) == len(needed)
    if interest.matches(event):
        assert sum(partition in needed for partition, _ in scheme.route(event) if partition in needed) == 1
    listener = Listener("u1")
    listener.interest = interest
    fanout = Fanout(Ring())
    fanout.join(listener)
    fanout.broadcast(record(1, 1, type=name, users=event.user_ids))
    fanout.flush()
    assert listener.seen.data == ([1] if allowed(patterns, name) else [])
    fanout.leave(listener)
    assert fanout.snapshot()[:3] == (0, 0, 0), "no members, groups or index entries"


def test_a_prefix_reads_the_partitions_that_it_covers() -> None:
    scheme = Partitions(frozenset({"task-updated", "deploy"}))
    assert scheme.partitions_for(Interest(None, frozenset(), ("task-",))) == (ALL, "task-updated")
    assert scheme.partitions_for(Interest(None, frozenset({"deploy"}))) == ("deploy",)
    assert scheme.partitions_for(Interest(None, frozenset({"deploy"}), ("x",))) == (ALL, "deploy")


@pytest.mark.parametrize("text", ["", "a b", "a*b", "**", "*a", "a" * 129, "a" * 128 + "*", "é", "a\n"])
def test_a_malformed_pattern_is_refused(text: str) -> None:
    assert TYPE_OR_PATTERN.fullmatch(text) is None


@pytest.mark.parametrize("text", ["a", "*", "a*", "a" * 128, "a" * 127 + "*", "A.b_c-1"])
def test_a_type_or_a_prefix_is_a_pattern(text: str) -> None:
    assert TYPE_OR_PATTERN.fullmatch(text)
