"""Each illness is found by the check that is there for it, and by no other; the well are found well."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from shared.doctor import CHECKS, Deployment, Finding, Limits, examine
from tests.client.line import Line
from tests.doctor import lines
from tests.doctor.conftest import HEARTBEAT, LIMITS, findings, with_verdict
from tests.functions.tokens import PUBLISH_KEY, user_token
from tests.processes import Instance


async def test_a_deployment_that_is_well_passes_every_check_and_each_says_what_it_measured(instance: Instance) -> None:
    found = await findings(instance.url)
    assert with_verdict(found, "ok") == list(CHECKS), found
    assert found["reachability"].measured["version"] == "0.1.0"
    assert found["health"].measured["transport"] == "memory"
    assert found["ticket"].measured["url"] == f"{instance.url}/api/events"
    latency = found["latency"].measured
    assert latency["samples"] == 2
    assert 0 < float(latency["p50Ms"]) <= float(latency["p99Ms"]) <= float(latency["maxMs"])
    assert float(found["heartbeats"].measured["firstSeconds"]) <= 2 * HEARTBEAT + 1


async def test_what_it_publishes_is_marked_and_nobody_else_hears_of_it(instance: Instance) -> None:
    def page(token: str) -> list[dict[str, Any]]:
        headers = {"accept": "application/json", "authorization": f"Bearer {token}"}
        answer = httpx.get(f"{instance.url}/api/events?from=earliest", headers=headers)
        events: list[dict[str, Any]] = answer.json()["events"]
        return events

    async with Deployment(instance.url, PUBLISH_KEY, limits=LIMITS, environ={}) as deployment:
        found = [finding async for finding in examine(deployment)]
    assert "fail" not in {finding.verdict for finding in found}
    assert page(user_token("somebody-else")) == []
    assert page(user_token(None)) == []
    own = page(user_token(deployment.user))
    assert {event["type"] for event in own} == {"tidemark.doctor"}
    assert len(own) == 1 + 1 + 3 + 2 + 2  # publish, long-poll, buffering, latency, resume


async def ill(line: Line, limits: Limits = LIMITS) -> dict[str, Finding]:
    async with line.open():
        return await findings(line.address, limits=limits)


async def test_a_proxy_that_buffers_is_found_where_not_even_the_head_of_a_stream_comes(instance: Instance) -> None:
    found = await ill(lines.HoldingLine(instance), Limits(answer=1.0, heartbeat=HEARTBEAT, samples=2))
    assert with_verdict(found, "fail") == ["buffering"]
    assert "not even its head" in found["buffering"].reason
    for said in ("proxy_buffering off", "X-Accel-Buffering", "docs/containers.md", "REALTIME_STREAM_URL"):
        assert said in found["buffering"].advice
    assert found["long-poll"].verdict == "ok"
    assert with_verdict(found, "skip") == ["stream", "latency", "heartbeats", "resume"]


async def test_a_proxy_that_brings_events_late_but_does_bring_them_is_found_too(instance: Instance) -> None:
    late = lines.LateLine(instance, 0.3)
    found = await ill(late, Limits(answer=2.0, heartbeat=HEARTBEAT, samples=1, held_back=0.15))
    assert with_verdict(found, "fail") == ["buffering"]
    assert "held back" in found["buffering"].reason
    assert float(found["buffering"].measured["usualMs"]) >= 150
    assert "proxy_buffering off" in found["buffering"].advice


@pytest.mark.parametrize(
    ("line", "failed", "said", "advised"),
    [
        (lines.forgets_the_place, ["resume"], "never came", "Last-Event-ID"),
        (lines.changes_the_place, ["resume"], "a gap was told (invalid)", "share one log"),
        (lines.compresses, ["buffering"], "compressed on its way (gzip)", "gzip off"),
        (lines.swallows_heartbeats, ["heartbeats"], "none within", "REALTIME_HEARTBEAT"),
        (lines.lets_every_key_in, ["wrong-key"], "made up this moment is accepted", "Authorization"),
        (lines.lets_every_origin_in, ["cors", "cors-stream"], "twice", "REALTIME_ALLOWED_ORIGINS"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_a_front_does_to_requests_and_answers_is_found_by_its_check(
    instance: Instance, line: Callable[[Instance], Line], failed: list[str], said: str, advised: str
) -> None:
    found = await ill(line(instance))
    assert with_verdict(found, "fail") == failed, found
    for name in failed:
        assert said in found[name].reason
        assert advised in found[name].advice


@pytest.mark.parametrize(("seconds", "verdict"), [(-7_200, "fail"), (600, "fail"), (10, "warn"), (0, "ok")])
async def test_a_clock_that_is_off_is_told_with_its_direction(instance: Instance, seconds: float, verdict: str) -> None:
    async with lines.clock_off_by(instance, seconds).open() as line:
        found = (await findings(line.address, "clock"))["clock"]
    assert found.verdict == verdict
    assert abs(float(found.measured["skewSeconds"]) - seconds) <= 3
    if verdict != "ok":
        assert ("ahead" if seconds > 0 else "behind") in found.reason
        assert "NTP" in found.advice
        assert "REALTIME_JWT_LEEWAY" in found.advice


async def test_an_origin_that_is_not_allowed_is_named_with_the_variable_that_lacks_it(instance: Instance) -> None:
    found = await findings(instance.url, "token", "ticket", "cors", "cors-stream", origin="https://other.example.com")
    assert with_verdict(found, "fail") == ["cors", "cors-stream"]
    assert "https://other.example.com is refused" in found["cors"].reason
    assert "Put https://other.example.com into REALTIME_ALLOWED_ORIGINS" in found["cors-stream"].advice


async def test_a_page_on_the_deployments_own_host_needs_no_permission(instance: Instance) -> None:
    assert (await findings(instance.url, "cors", origin=instance.url))["cors"].verdict == "skip"


async def test_a_ticket_that_leads_nowhere_is_told_and_no_stream_is_looked_for(instance: Instance) -> None:
    async with lines.leads_elsewhere(instance).open() as line:
        found = await findings(line.address, "token", "ticket", "long-poll", "stream", "resume")
    assert with_verdict(found, "fail") == ["ticket"]
    assert "it leads to http://[::1]:9/e: no" in found["ticket"].reason
    assert "REALTIME_STREAM_URL" in found["ticket"].advice
    assert with_verdict(found, "skip") == ["long-poll", "stream", "resume"]
    assert "see `ticket`" in found["stream"].reason
