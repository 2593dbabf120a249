"""Warnings of retry loops: the first at once, then at a limited rate."""

import logging

import pytest
from tidewire.primitives.throttled_log import KINDS, SECONDS, ThrottledLog

from tests.support.clocks import Clock


def test_a_warning_that_repeats_is_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    throttled = ThrottledLog(logging.getLogger("tidewire.trial"), clock)
    for _ in range(3_310):
        throttled.warn("tail lost: CROSSSLOT")
    throttled.warn("tail lost: OOM")
    clock.advance(SECONDS)
    throttled.warn("tail lost: CROSSSLOT")
    assert caplog.messages == [
        "tail lost: CROSSSLOT",
        "tail lost: OOM",
        "tail lost: CROSSSLOT (3309 times more since the last such line)",
    ]


def test_an_exception_that_repeats_is_one_traceback_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A failing loop wrote a traceback per attempt; another kind of failure is one more line."""
    clock = Clock()
    throttled = ThrottledLog(logging.getLogger("tidewire.trial"), clock)

    def fail(error: Exception) -> None:
        try:
            raise error
        except Exception:  # noqa: BLE001 - `exception` logs it
            throttled.exception("tail failed")

    for _ in range(300):
        fail(ValueError("a"))
    fail(KeyError("b"))
    clock.advance(SECONDS)
    fail(ValueError("c"))
    assert caplog.messages == ["tail failed", "tail failed", "tail failed (299 times more since the last such line)"]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError, KeyError, ValueError]
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_many_different_warnings_take_bounded_memory(caplog: pytest.LogCaptureFixture) -> None:
    throttled = ThrottledLog(logging.getLogger("tidewire.trial"), Clock())
    for number in range(KINDS + 1):
        throttled.warn(f"warning {number}")
    throttled.warn("warning 0")  # was forgotten, so it is new
    assert caplog.messages[-1] == "warning 0"
    assert len(caplog.messages) == KINDS + 2
