"""docs/cost.md: its table is that of the model. (tests/repository/docs runs its examples.)"""

import re
from dataclasses import replace

from tidewire.tools.cost import commands
from tidewire.tools.cost.modes import MODES, estimate
from tidewire.tools.cost.workload import Workload

from tests.integration.cost.tables import SHIPPED
from tests.support.processes import ROOT

DOCUMENT = (ROOT / "docs" / "cost.md").read_text()


def test_the_day_of_the_prices_is_the_table_s() -> None:
    text = " ".join(DOCUMENT.split())
    assert f"collected on {SHIPPED.date}, in US dollars, for AWS's {SHIPPED.region}" in text


def test_the_table_of_commands_is_the_model_s() -> None:
    tcp, rest = Workload(1, 1), Workload(1, 1, transport="upstash-rest")
    tcp_shards, rest_shards = replace(tcp, shards=64), replace(rest, shards=64)
    tcp_waits, rest_waits = replace(tcp, poll_wait=20), replace(rest, poll_wait=20)
    own = commands.opening_among_others(tcp_shards)
    rows = {
        "the only stream of a process opens": (
            f"{commands.opening_alone(tcp)}; with user shards {commands.opening_alone(tcp_shards)};",
            f"{commands.opening_alone(rest)}",
        ),
        "one stream more opens": (
            f"{commands.opening_among_others(tcp)}; with a user shard of its own {own}",
            f"{commands.opening_among_others(rest)}; {commands.opening_among_others(rest_shards)}",
        ),
        "a poll that does not wait": (
            f"{commands.polling(tcp)}; with user shards {commands.polling(tcp_shards)}",
            f"{commands.polling(rest)}",
        ),
        "a poll that waits": (
            f"{commands.polling(tcp_waits) - commands.polling(tcp)} more",
            f"{commands.polling(rest_waits) - commands.polling(rest)} more",
        ),
        "a process with subscribers": ("180 an hour", "60 an hour"),
        "a replay": (f"1 per page of {commands.PAGE} records", "the same"),
    }
    for name, cells in rows.items():
        row = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| {name}"))
        _, _, *shown, _ = [cell.strip() for cell in row.split("|")]
        for cell, starts in zip(shown, cells, strict=True):
            assert cell.startswith(starts), row
    assert "| 1; at most 14,400 an hour |" in DOCUMENT
    assert "| 60, and 1 for each event that comes alone |" in (ROOT / "docs" / "transports.md").read_text()


def test_the_table_of_the_deployment_guide_is_the_model_s() -> None:
    """The monthly cost by users and mode, in whole dollars, with a thousand events per user."""
    guide = (ROOT / "docs" / "deploy.md").read_text()
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", guide, re.MULTILINE)
    assert len(rows) == 5
    for users, *shown in rows:
        count = int(users.replace(",", ""))
        load = Workload(count, count * 1_000)
        assert [f"{estimate(mode, load, SHIPPED).total:,.0f}" for mode in MODES] == shown, users
