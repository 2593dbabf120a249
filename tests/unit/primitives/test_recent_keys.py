"""Recent keys: bounded in time, number and memory; a repetition does not extend them."""

from tidewire.primitives.recent_keys import RecentKeys

from tests.support.clocks import Clock


def test_the_number_of_keys_is_bounded() -> None:
    """The oldest keys are removed first."""
    recent = RecentKeys(60.0, maximum=3)
    assert [recent.add(("all", str(n))) for n in range(5)] == [True] * 5
    assert [recent.knows([("all", str(n))]) for n in range(5)] == [False, False, True, True, True]


def test_a_key_expires_after_the_window() -> None:
    """Adding it again does not extend it."""
    clock = Clock()
    recent = RecentKeys(10.0, clock=clock)
    assert recent.add("x")
    clock.advance(9.0)
    assert not recent.add("x")
    clock.advance(1.0)
    assert not recent.knows(["x"])
    assert recent.add("x")


def test_keys_are_added_together_or_not_at_all() -> None:
    recent = RecentKeys(60.0)
    assert recent.add_all(["a", "b"])
    assert not recent.add_all(["b", "c"])
    assert not recent.knows(["c"])


def test_long_keys_take_no_more_memory_than_short_ones() -> None:
    """A CloudEvents source is part of a key and may be as long as a request: 10,000 of them took gigabytes."""
    recent = RecentKeys(60.0, max_bytes=1_000_000)
    for number in range(100):
        assert recent.add(("all", f"{number} " + "x" * 100_000))
    known = [recent.knows([("all", f"{number} " + "x" * 100_000)]) for number in range(100)]
    assert known == [False] * 91 + [True] * 9
    for number in range(4_000):
        recent.add(("all", str(number)))
    assert recent.knows([("all", "3000")])
