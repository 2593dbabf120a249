"""The alert rules and the dashboard: they use existing metrics, are well formed, and fire when they should."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tidewire.delivery.hub import Hub
from tidewire.monitoring.prometheus import exposition
from tidewire.transports.memory import MemoryLog

from tests.support import servers
from tests.support.processes import ROOT

FOLDER = ROOT / "docs" / "operate"
ALERTS = FOLDER / "alerts.yml"
METRIC = re.compile(r"\brealtime_[a-z_]+\b")


def promtool(*arguments: str | Path) -> None:
    """Run promtool, which must have nothing to say against it."""
    done = subprocess.run([servers.find("promtool"), *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    """All alert rules."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard that show something."""
    found: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    """Every expression of the dashboard, with what Grafana puts in."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")


@pytest.fixture
async def exported() -> dict[str, str]:
    """The type of each sample of /api/metrics, by name."""
    async with Hub(MemoryLog()) as hub:
        families = list(text_string_to_metric_families((await exposition(hub)).decode()))
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {family.name + suffix: family.type for family in families for suffix in suffixes[family.type]}


async def test_every_metric_of_an_alert_or_a_panel_exists(exported: dict[str, str]) -> None:
    asked = {name for text in (*expressions(), *(rule["expr"] for rule in rules())) for name in METRIC.findall(text)}
    assert len(asked) > 20
    assert asked - exported.keys() == set()


async def test_every_metric_is_shown_on_the_dashboard(exported: dict[str, str]) -> None:
    shown = {name for text in expressions() for name in METRIC.findall(text)}
    wanted = {name for name, kind in exported.items() if kind != "histogram" or name.endswith("_bucket")}
    assert wanted - shown == set()


async def test_every_metric_is_explained_and_nothing_else_is(exported: dict[str, str]) -> None:
    text = (FOLDER / "README.md").read_text()
    explained = set(re.findall(r"^\| (.*?) \|", text, re.MULTILINE))
    names = {name for cell in explained for name in re.findall(r"`(realtime_[a-z_]+)", cell)}
    assert names == {
        re.sub("_(bucket|sum|count)$", "", name) if kind == "histogram" else name for name, kind in exported.items()
    }


def test_a_counter_is_read_as_a_rate_or_an_increase() -> None:
    for text in (*expressions(), *(rule["expr"] for rule in rules())):
        for name in METRIC.findall(text):
            if name.endswith(("_total", "_bucket")):
                assert re.search(rf"(rate|increase)\({name}\b", text), text


def test_every_alert_has_a_summary_and_a_severity() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_panels_have_titles_of_their_own_and_do_not_overlap() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles))
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", ALERTS)


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", file)


SERIES: dict[str, tuple[str, str]] = {
    # alert → a series that must make it fire within ten minutes, and its values a minute
    "TidewireTransportAway": ("realtime_transport_away", "1x15"),
    "TidewirePublishRefused": ("realtime_publish_refused_total", "0+5x15"),
    "TidewireOutboxFilling": ("realtime_outbox_events", "5001x15"),
    "TidewireOutboxFull": ("realtime_outbox_refused_total", "0+1x15"),
    "TidewireTailNotReading": ("realtime_tail_running", "0x15"),
    "TidewireNodeAway": ('realtime_node_up{node="10.0.0.5:6379"}', "0x15"),
    "TidewireNodeNotRead": ('realtime_node_tail_running{node="10.0.0.5:6379"}', "0x15"),
    "TidewireTailBehind": ("realtime_tail_behind_records", "1001x15"),
    "TidewireTailReconnects": ("realtime_tail_reconnects_total", "0+1x15"),
    "TidewireLoss": ('realtime_gaps_total{reason="trimmed"}', "0+1x15"),
    "TidewireDeliverySlow": ('realtime_delivery_seconds_bucket{le="+Inf"}', "0+9x30"),
    "TidewirePublishSlow": ('realtime_publish_seconds_bucket{le="+Inf"}', "0+9x30"),
    "TidewireSlowSubscribers": ("realtime_back_to_log_total", "0+99x30"),
    "TidewireWebhooksRefused": ('realtime_webhooks_total{source="github",verdict="bad-signature"}', "0+9x15"),
}

WELL_AT_1 = {"realtime_tail_running", "realtime_node_up", "realtime_node_tail_running"}


def test_every_alert_fires_only_for_its_cause(tmp_path: Path) -> None:
    assert SERIES.keys() == {rule["alert"] for rule in rules()}
    tests = []
    for rule in rules():
        name, values = SERIES[rule["alert"]]
        series = [{"series": name, "values": values}]
        if "_bucket" in name:  # most take up to 5 s
            series += [
                {"series": name.replace("+Inf", le), "values": v} for le, v in (("1.0", "0x30"), ("5.0", values))
            ]
        fires = f'count(ALERTS{{alertname="{rule["alert"]}",alertstate="firing"}})'
        tests.append(
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": fires,
                        "eval_time": "20m" if "x30" in values else "12m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                ],
            }
        )
    well = [
        {"series": name, "values": "1x15" if "running" in name or "up" in name else "0x15"}
        for name, _ in SERIES.values()
    ]
    tests.append(
        {
            "interval": "1m",
            "input_series": [*well, {"series": 'realtime_webhooks_total{verdict="accepted"}', "values": "0+99x15"}],
            "promql_expr_test": [{"expr": "count(ALERTS)", "eval_time": "12m", "exp_samples": []}],
        }
    )
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)
