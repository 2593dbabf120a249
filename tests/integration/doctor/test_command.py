"""`tidewire doctor` from the command line."""

import json
import re

import pytest
from tidewire.tools.doctor import CHECKS

from tests.integration.cli.running import run
from tests.integration.doctor.conftest import HEARTBEAT, ORIGIN, WITHOUT_STORE
from tests.support.processes import ROOT, Instance
from tests.support.tokens import PUBLISH_KEY

QUICK = ("--samples", "2", "--heartbeat", str(HEARTBEAT), "--origin", ORIGIN)


def test_success_is_code_0_and_one_line_per_check(instance: Instance) -> None:
    """Without any secret."""
    ran = run("doctor", *QUICK, settings={"TIDEWIRE_URL": instance.url, "TIDEWIRE_KEY": PUBLISH_KEY})
    assert (ran.code, ran.err) == (0, "")
    *shown, last = ran.out.splitlines()
    verdicts = [["skip" if name == "store" else "ok", name] for name in CHECKS]
    assert [line.split()[:2] for line in shown] == verdicts
    assert last == f"{len(WITHOUT_STORE)} ok, 1 skip"
    assert PUBLISH_KEY not in ran.out
    assert "eyJ" not in ran.out


def test_a_failed_check_is_code_1_with_advice(instance: Instance) -> None:
    ran = run("doctor", *QUICK, "--json", "--url", instance.url, settings={"TIDEWIRE_KEY": "hunter2"})
    assert (ran.code, ran.err) == (1, "")
    shown = [json.loads(line) for line in ran.out.splitlines()]
    assert [finding["check"] for finding in shown] == list(CHECKS)
    assert all(finding.keys() == {"check", "verdict", "reason", "measured", "advice"} for finding in shown)
    (failed,) = (finding for finding in shown if finding["verdict"] == "fail")
    assert failed["check"] == "publish"
    assert "REALTIME_PUBLISH_KEYS" in failed["advice"]
    assert "hunter2" not in ran.out


def test_on_a_terminal_long_texts_stay_in_their_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidewire.tools.cli.doctor.is_terminal", lambda: True)
    ran = run("doctor", "--url", "http://127.0.0.1:9", settings={"COLUMNS": "60"})
    assert ran.code == 1
    lines = ran.out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("FAIL  reachability"))
    assert lines[start + 1].startswith(" " * 25 + "> ")
    assert max(map(len, lines)) <= 60
    assert lines[-1].endswith(f"1 FAIL, {len(CHECKS) - 2} skip")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--origin", "app.example.com"], "must be an exact origin"),
        (["--origin", "https://app.example.com/"], "must be an exact origin"),
        (["--origin", "https://app.example.com:port"], "must be an exact origin"),
        (["--origin", "https://"], "must be an exact origin"),
        (["--url", "https://app.example.com:port"], "must be an http:// or https:// address"),
        (["--url", "app.example.com"], "must be an http:// or https:// address"),
        (["--timeout", "0"], "--timeout"),
        (["--samples", "0"], "--samples"),
    ],
)
def test_wrong_usage_is_code_2(arguments: list[str], problem: str) -> None:
    ran = run("doctor", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert problem in ran.err


def test_the_document_lists_the_checks_in_order() -> None:
    rows = re.findall(
        r"^\| (`[^|]+`) \|",
        (ROOT / "docs" / "cli.md").read_text().partition("## doctor")[2].partition("## ")[0],
        re.MULTILINE,
    )
    assert [name for row in rows for name in re.findall("`([^`]+)`", row)] == list(CHECKS)
