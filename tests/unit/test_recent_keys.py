"""What is remembered of the past: for so long, so much of it, and a repetition does not make it younger."""

from tidewire.primitives.recent_keys import RecentKeys

from tests.clocks import Clock


def test_the_number_of_keys_is_bounded() -> None:
    """The oldest keys are removed first."""
    seen = RecentKeys(60.0, maximum=3)
    assert [seen.add(("all", str(n))) for n in range(5)] == [True] * 5
    assert [seen.knows([("all", str(n))]) for n in range(5)] == [False, False, True, True, True]


def test_a_key_expires_after_the_window() -> None:
    """Adding it again does not extend it."""
    clock = Clock()
    seen = RecentKeys(10.0, clock=clock)
    assert seen.add("x")
    clock.advance(9.0)
    assert not seen.add("x")
    clock.advance(1.0)
    assert not seen.knows(["x"])
    assert seen.add("x")


def test_keys_are_added_together_or_not_at_all() -> None:
    seen = RecentKeys(60.0)
    assert seen.add_all(["a", "b"])
    assert not seen.add_all(["b", "c"])
    assert not seen.knows(["c"])


def test_long_keys_take_no_more_memory_than_short_ones() -> None:
    """A source of CloudEvents is part of a key, and may be as long as a request: 10,000 of them were gigabytes."""
    seen = RecentKeys(60.0, max_bytes=1_000_000)
    for number in range(100):
        assert seen.add(("all", f"{number} " + "x" * 100_000))
    known = [seen.knows([("all", f"{number} " + "x" * 100_000)]) for number in range(100)]
    assert known == [False] * 91 + [True] * 9
    for number in range(4_000):
        seen.add(("all", str(number)))
    assert seen.knows([("all", "3000")])
