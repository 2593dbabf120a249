"""Counters and histograms: labels in order, cumulative buckets, no negative values."""

import pytest
from tidewire.primitives.counters import Counter, Histogram


def test_a_counter_keeps_each_set_of_label_values_apart() -> None:
    counter = Counter("c", "help", ("source", "verdict"))
    counter.add("github", "accepted")
    counter.add("github", "accepted", by=2)
    counter.add("github", "bad-signature")
    assert counter.values == {("github", "accepted"): 3, ("github", "bad-signature"): 1}
    assert counter.value("stripe", "accepted") == 0


def test_a_counter_without_labels_starts_at_zero() -> None:
    assert Counter("c", "help").values == {(): 0}


def test_a_counter_refuses_another_number_of_labels_than_it_has() -> None:
    with pytest.raises(AssertionError, match="source"):
        Counter("c", "help", ("source",)).add()


def test_buckets_are_cumulative_and_include_their_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.05, 0.5, 7.0):
        histogram.observe(value)
    assert list(histogram.buckets()) == [("0.1", 2), ("1.0", 3), ("+Inf", 4)]
    assert histogram.count == 4
    assert histogram.sum == pytest.approx(7.65)


def test_a_clock_that_is_behind_makes_no_negative_sum() -> None:
    histogram = Histogram()
    histogram.observe(-3.0)
    assert histogram.sum == 0.0
    assert histogram.count == 1


def test_the_worst_value_is_returned_once() -> None:
    histogram = Histogram()
    for value in (0.2, 7.0, 0.1):
        histogram.observe(value)
    assert [histogram.take_worst(), histogram.take_worst()] == [7.0, 0.0]
    assert histogram.count == 3
