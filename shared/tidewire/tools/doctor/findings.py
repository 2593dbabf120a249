"""What a check found: a verdict with its reason, what was measured, and what to do."""

from collections.abc import Mapping
from typing import Literal

import msgspec

Verdict = Literal["ok", "warn", "fail", "skip"]
Measured = str | int | float | bool


class Finding(msgspec.Struct, frozen=True):
    """What one check found; `check` is its stable id. `advice` names what to change, and is there unless all is well.

    Names of what was measured end with their unit (`…Ms`, `…Seconds`, `…Days`) where it has one.
    """

    check: str
    verdict: Verdict
    reason: str
    measured: Mapping[str, Measured] = {}
    advice: str = ""


class Decided(Exception):
    """Ends a check from within with what it found."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.reason)
        self.finding = finding


def ok(reason: str, **measured: Measured) -> Finding:
    """Return that all is well."""
    return Finding("", "ok", reason, measured)


def warn(reason: str, advice: str, **measured: Measured) -> Finding:
    """Return that it works, and that somebody should look at it."""
    return Finding("", "warn", reason, measured, advice)


def fail(reason: str, advice: str, **measured: Measured) -> Finding:
    """Return that a promise does not hold."""
    return Finding("", "fail", reason, measured, advice)


def skip(reason: str, advice: str = "") -> Finding:
    """Return that nothing could be found out."""
    return Finding("", "skip", reason, {}, advice)


def milliseconds(seconds: float) -> float:
    """Return a time as it is told."""
    return round(seconds * 1000, 1)
