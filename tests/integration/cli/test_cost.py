"""`tidewire cost`: lines, totals, the cheapest mode, break-even points; and errors for impossible numbers."""

import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tidewire.tools.cost.modes import MODES
from tidewire.tools.cost.workload import LIMITS, Workload

from tests.integration.cli.running import run
from tests.integration.cost.tables import SHIPPED, written

MANY = ("--users", "1000", "--events", "1000000")


@functools.cache
def estimated(*arguments: str) -> dict[str, Any]:
    ran = run("cost", *arguments, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("\n") == 1
    answer: dict[str, Any] = json.loads(ran.out)
    return answer


def row(text: str, name: str) -> str:
    """The row with this title."""
    return next(line for line in text.splitlines() if line.startswith(f"  {name} "))


def test_shows_lines_totals_and_break_even_points() -> None:
    ran = run("cost", *MANY, "--mode", "container")
    assert (ran.code, ran.err) == (0, "")
    assert f"container: USD per month, at the prices of {SHIPPED.date} for us-east-1" in ran.out
    answer = estimated(*MANY, "--mode", "container")
    bill, modes, users, events, last = ran.out.split("\n\n")
    for line in answer["lines"]:
        assert f"  {line['cost']:,.2f}" in row(bill, line["title"])
    assert f"  {answer['total']:,.2f}" in row(bill, "total")
    for mode in MODES:
        assert f"  {answer['totals'][mode]:,.2f}" in row(modes, mode)
    assert row(modes, answer["cheapest"]).endswith("cheapest")
    assert "users, with 1,000,000 events" in users
    assert "events, with 1,000 users" in events
    starts = [f"{stretch['mode']} from {stretch['start']:,}" for stretch in answer["tips"]["users"]["cheapest"]]
    assert f"cheapest   {', '.join(starts)}" in ran.out
    assert last.startswith("Check the prices")


def test_on_a_terminal_the_same_is_shown_in_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run("cost", *MANY)
    monkeypatch.setattr("tidewire.tools.cli.cost.is_terminal", lambda: True)
    drawn = run("cost", *MANY, settings={"COLUMNS": "200"})
    assert (drawn.code, drawn.err) == (0, "")
    assert "│" in drawn.out
    cells = [" ".join(re.sub(r"[^ -~]", " ", line).split()) for line in drawn.out.splitlines()]
    assert [cell for cell in cells if cell] == [" ".join(line.split()) for line in plain.out.splitlines() if line]


def test_json_has_prices_sources_workload_and_break_even() -> None:
    answer = estimated(*MANY)
    assert answer["prices"] == {"date": SHIPPED.date, "currency": "USD", "region": "us-east-1"}
    assert answer["mode"] == answer["cheapest"] == min(answer["totals"], key=answer["totals"].get)
    assert answer["total"] == answer["totals"][answer["mode"]] == pytest.approx(sum(x["cost"] for x in answer["lines"]))
    assert all(line["source"].startswith("https://") for line in answer["lines"])
    assert (answer["workload"]["users"], answer["workload"]["delivered"]) == (1_000, 1_000)
    (first, second, *_) = answer["tips"]["users"]["cheapest"]
    assert estimated("--users", str(second["start"] - 1), *MANY[2:], "--delivered", "1000")["cheapest"] == first["mode"]
    assert estimated("--users", str(second["start"]), *MANY[2:], "--delivered", "1000")["cheapest"] == second["mode"]


def test_every_option_reaches_the_workload() -> None:
    usual = Workload(0, 0)
    changed = {field: getattr(usual, field) + 1 for field in LIMITS if field not in ("users", "events", "delivered")}
    options = [part for field, value in changed.items() for part in (f"--{field.replace('_', '-')}", f"{value:g}")]
    flags = ("--rate-limited", "--bus", "--netlify", "--transport", "postgres", "--delivered", "7.5")
    workload = estimated(*MANY, *options, *flags)["workload"]
    assert workload == {
        **changed,
        "users": 1_000,
        "events": 1_000_000,
        "delivered": 7.5,
        "transport": "postgres",
        "rate_limited": True,
        "bus": True,
        "netlify": True,
    }


def test_without_the_free_tier_nothing_is_free() -> None:
    assert estimated(*MANY, "--no-free-tier")["total"] > estimated(*MANY)["total"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--events", "1"), "Missing option '--users'"),
        (("--users", "-1", "--events", "1"), "'--users': must be a whole number from 0 to 100,000,000"),
        (("--users", "1.5", "--events", "1"), "'--users': must be a whole number from 0 to 100,000,000"),
        (("--users", "1", "--events", "many"), "'--events': must be a whole number from 0 to 100,000,000,000"),
        ((*MANY, "--hours", "731"), "'--hours': must be a number from 0 to 730"),
        ((*MANY, "--hours", "nan"), "'--hours': must be a number from 0 to 730"),
        ((*MANY, "--poll-every", "inf"), "'--poll-every': must be a number from 0 to 3,600"),
        ((*MANY, "--sessions", "0"), "'--sessions': must be a whole number from 1 to 10,000"),
        ((*MANY, "--stream-seconds", "901"), "'--stream-seconds': must be a number from 10 to 900"),
        ((*MANY, "--shards", "4097"), "'--shards': must be a whole number from 0 to 256"),
        ((*MANY, "--delivered", "1000001"), "--delivered: must be at most --events, 1,000,000"),
        ((*MANY, "--poll-every", "0.5"), "--poll-every: must be at least 1, added to --poll-wait"),
        (
            (*MANY, "--batch", "100", "--event-bytes", "200000"),
            "--batch: must be at most 5: a request has at most 1 MiB",
        ),
        ((*MANY, "--mode", "server"), "'server' is not one of 'lambda', 'managed', 'container', 'poll'"),
        (
            (*MANY, "--transport", "kafka"),
            "'kafka' is not one of 'redis-tcp', 'upstash-rest', 'redis-cluster', 'postgres'",
        ),
        ((*MANY, "--region", "eu-central-1"), "--region: must be us-east-1, the region of the prices"),
    ],
)
def test_an_error_names_the_option_and_its_limits(arguments: tuple[str, ...], problem: str) -> None:
    ran = run("cost", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert problem in ran.err


def test_uses_a_custom_price_table(tmp_path: Path) -> None:
    """Or refuses it with the path of the wrong key."""
    region = ('region = "us-east-1"', 'region = "eu-central-1"')
    ours = str(written(tmp_path, region, ("price = 0.0000133334", "price = 1")))
    answer = estimated(*MANY, "--mode", "lambda", "--prices", ours, "--region", "eu-central-1")
    assert answer["prices"]["region"] == "eu-central-1"
    assert answer["total"] > 1_000_000
    wrong = str(written(tmp_path, ("price = 0.0000133334", "cost = 1")))
    ran = run("cost", *MANY, "--prices", wrong)
    assert (ran.code, ran.out) == (2, "")
    assert "tidewire: ours.toml: lambda-gb-seconds.price is missing" in ran.err
    assert "ours.toml: lambda-gb-seconds.cost is unknown" in ran.err
    ran = run("cost", *MANY, "--prices", str(tmp_path / "none.toml"))
    assert (ran.code, ran.err) == (2, "tidewire: none.toml: cannot be read (FileNotFoundError)\n")


def test_the_bundle_has_no_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tidewire.tools.cli.cost", raising=False)
    monkeypatch.setitem(sys.modules, "tidewire.tools.cost.modes", None)
    ran = run("cost", *MANY)
    assert (ran.code, ran.err) == (
        2,
        "tidewire: the bundle has no prices: run `tidewire cost` in the project's folder\n",
    )


def test_an_empty_workload_has_a_cost() -> None:
    answer = estimated("--users", "0", "--events", "0")
    assert answer["total"] == 0
    assert answer["totals"]["container"] > 0
