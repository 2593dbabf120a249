"""Each fault is found by its check and by no other; a healthy deployment passes."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from tidewire.tools.doctor import CHECKS, Deployment, Limits, run_checks

from tests.integration.client.proxy import Proxy
from tests.integration.doctor import faulty_proxies as proxies
from tests.integration.doctor.conftest import HEARTBEAT, LIMITS, ORIGIN, WITHOUT_STORE, findings, with_verdict
from tests.integration.proxies.conftest import Nginx
from tests.support.processes import Instance, MakeInstance
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token


async def test_a_healthy_deployment_passes_every_check(instance: Instance) -> None:
    """With the values measured."""
    found = await findings(instance.url)
    assert with_verdict(found, "skip") == ["store"]  # its address is not in this shell
    assert with_verdict(found, "ok") == WITHOUT_STORE, found
    assert found["reachability"].measured["version"] == "0.1.0"
    assert found["health"].measured["transport"] == "memory"
    assert found["ticket"].measured["url"] == f"{instance.url}/api/events"
    latency = found["latency"].measured
    assert latency["samples"] == 2
    assert 0 < float(latency["p50Ms"]) <= float(latency["p99Ms"]) <= float(latency["maxMs"])
    assert float(found["heartbeats"].measured["firstSeconds"]) <= 2 * HEARTBEAT + 1


async def test_no_other_user_receives_the_doctors_events(instance: Instance) -> None:
    def page(token: str) -> list[dict[str, Any]]:
        headers = {"accept": "application/json", "authorization": f"Bearer {token}"}
        answer = httpx.get(f"{instance.url}/api/events?from=earliest", headers=headers)
        events: list[dict[str, Any]] = answer.json()["events"]
        return events

    async with Deployment(instance.url, PUBLISH_KEY, limits=LIMITS, environ={}) as deployment:
        found = [finding async for finding in run_checks(deployment)]
    assert "fail" not in {finding.verdict for finding in found}
    assert page(user_token("somebody-else")) == []
    assert page(user_token(None)) == []
    own = page(user_token(deployment.user))
    assert {event["type"] for event in own} == {"tidewire.doctor"}
    assert len(own) == 1 + 1 + 3 + 2 + 2  # publish, long-poll, buffering, latency, resume


STREAMING = ("publish", "token", "ticket", "long-poll", "stream", "buffering", "latency", "heartbeats", "resume")


async def test_finds_an_nginx_that_buffers_even_the_headers(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx = Nginx(tmp_path, instance.port)
    monkeypatch.setenv("SSL_CERT_FILE", str(nginx.certificate))
    config = tmp_path / "nginx.conf"
    buffering = "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"
    config.write_text(config.read_text().replace("proxy_buffering off;", buffering))
    with ExitStack() as stack:
        stack.callback(nginx.stop)
        found = await findings(nginx.start().url, *STREAMING, limits=Limits(answer=1.0, heartbeat=HEARTBEAT))
    assert with_verdict(found, "fail") == ["buffering"]
    assert "not even the headers" in found["buffering"].reason
    for said in ("proxy_buffering off", "X-Accel-Buffering", "docs/containers.md", "REALTIME_STREAM_URL"):
        assert said in found["buffering"].advice
    assert found["long-poll"].verdict == "ok"
    assert with_verdict(found, "skip") == ["stream", "latency", "heartbeats", "resume"]


async def test_finds_a_proxy_that_delays_events(instance: Instance) -> None:
    limits = Limits(answer=2.0, heartbeat=HEARTBEAT, samples=1, held_back=0.1)
    async with proxies.LateProxy(instance, 0.2).open() as proxy:
        found = await findings(proxy.address, "publish", "token", "ticket", "stream", "buffering", limits=limits)
    assert with_verdict(found, "fail") == ["buffering"]
    assert "is buffered" in found["buffering"].reason
    assert float(found["buffering"].measured["usualMs"]) >= 100
    assert "proxy_buffering off" in found["buffering"].advice


@pytest.mark.parametrize(
    ("make_proxy", "failed", "said", "advised"),
    [
        (proxies.drops_last_event_id, ["resume"], "never arrives", "Last-Event-ID"),
        (
            proxies.drops_last_event_id_header,
            ["resume"],
            "with last_event_id= in the query it works",
            "Last-Event-ID",
        ),
        (proxies.StaleProxy, ["resume"], "5 events are delivered again", "Last-Event-ID"),
        (proxies.corrupts_last_event_id, ["resume"], "an unexpected gap (invalid)", "must share one log"),
        (proxies.compresses, ["buffering"], "compresses the stream (gzip)", "gzip off"),
        (proxies.blanks_heartbeats, ["heartbeats"], "none within", "REALTIME_HEARTBEAT"),
        (proxies.replaces_keys, ["wrong-key"], "a random key is accepted", "Authorization"),
        (proxies.allows_strangers, ["cors", "cors-stream"], "every origin may read", "REALTIME_ALLOWED_ORIGINS"),
        (proxies.adds_allow_origin, ["cors", "cors-stream"], "twice", "REALTIME_ALLOWED_ORIGINS"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_finds_the_changes_of_a_proxy(
    instance: Instance, make_proxy: Callable[[Instance], Proxy], failed: list[str], said: str, advised: str
) -> None:
    async with make_proxy(instance).open() as proxy:
        found = await findings(proxy.address)
    assert with_verdict(found, "fail") == failed, found
    for name in failed:
        assert said in found[name].reason
        assert advised in found[name].advice


async def test_finds_a_proxy_that_adds_its_own_token(instance: Instance) -> None:
    async with proxies.replaces_tokens(instance).open() as proxy:
        found = await findings(proxy.address, "token", "ticket", "forged-token")
    assert with_verdict(found, "fail") == ["forged-token"]
    assert "a token with a forged signature: events are returned" in found["forged-token"].reason
    assert "REALTIME_AUTH" in found["forged-token"].advice


async def test_a_check_ends_at_its_time_limit(instance: Instance) -> None:
    """And the next one follows."""

    async def hangs(_: Deployment) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    limits = Limits(answer=0.01, heartbeat=0.01)
    async with Deployment(instance.url, limits=limits) as deployment:
        found = [finding async for finding in run_checks(deployment, {"hangs": hangs, "settings": CHECKS["settings"]})]
    assert [finding.verdict for finding in found] == ["fail", "ok"]
    assert found[0].reason == "the check did not end within 0.06 s"
    assert "--timeout" in found[0].advice


@pytest.mark.parametrize(("seconds", "verdict"), [(-7_200, "fail"), (600, "fail"), (10, "warn"), (0, "ok")])
async def test_reports_the_direction_of_a_wrong_clock(instance: Instance, seconds: float, verdict: str) -> None:
    async with proxies.shifts_clock(instance, seconds).open() as proxy:
        found = (await findings(proxy.address, "clock"))["clock"]
    assert found.verdict == verdict
    assert abs(float(found.measured["skewSeconds"]) - seconds) <= 3
    if verdict != "ok":
        assert ("ahead" if seconds > 0 else "behind") in found.reason
        assert "NTP" in found.advice
        assert "REALTIME_JWT_LEEWAY" in found.advice


async def test_names_the_origin_that_is_not_allowed(instance: Instance) -> None:
    """And the variable that lacks it."""
    found = await findings(instance.url, "token", "ticket", "cors", "cors-stream", origin="https://other.example.com")
    assert with_verdict(found, "fail") == ["cors", "cors-stream"]
    assert "https://other.example.com is refused" in found["cors"].reason
    assert "Add https://other.example.com to REALTIME_ALLOWED_ORIGINS" in found["cors-stream"].advice


async def test_a_page_on_the_deployments_own_host_needs_no_permission(instance: Instance) -> None:
    assert (await findings(instance.url, "cors", origin=instance.url))["cors"].verdict == "skip"


async def test_a_ticket_with_an_unreachable_url_fails(instance: Instance) -> None:
    """The checks of streams are skipped."""
    async with proxies.bad_ticket_url(instance).open() as proxy:
        found = await findings(proxy.address, "token", "ticket", "long-poll", "stream", "resume")
    assert with_verdict(found, "fail") == ["ticket"]
    assert "its URL is http://[::1]:9/e: no" in found["ticket"].reason
    assert "REALTIME_STREAM_URL" in found["ticket"].advice
    assert with_verdict(found, "skip") == ["long-poll", "stream", "resume"]
    assert "see `ticket`" in found["stream"].reason


async def test_pages_that_are_led_elsewhere_than_tickets(instance: Instance) -> None:
    """An EventSource with a ticket gets its stream, but `realtime.js`, which requests /api/config, gets none."""
    async with proxies.bad_config_url(instance).open() as proxy:
        found = await findings(proxy.address, "token", "ticket", "stream", "page", origin=ORIGIN)
        own = await findings(proxy.address, "token", "page", origin=None)
    assert with_verdict(found, "fail") == ["page"]
    assert found["page"].reason.startswith("/api/config names http://[::1]:9/e: no")
    assert "Content-Security-Policy blocks it" in own["page"].reason
    assert found["stream"].verdict == "ok"


async def test_finds_instances_that_do_not_share_a_log(instance: Instance, make_instance: MakeInstance) -> None:
    other = make_instance(REALTIME_PUBLISH_KEYS=PUBLISH_KEY, REALTIME_JWT_SECRET=SECRET)
    async with proxies.RoundRobin(instance, other).open() as proxy:
        limits = Limits(answer=1.0, heartbeat=HEARTBEAT)
        found = await findings(proxy.address, "publish", "token", "ticket", "long-poll", limits=limits)
    assert with_verdict(found, "fail") == ["long-poll"], found
    assert "share one log: REALTIME_TRANSPORT redis or postgres" in found["long-poll"].advice


async def test_a_transport_without_a_log_is_a_warning(redis_url: str, make_instance: MakeInstance) -> None:
    instance = make_instance(
        REALTIME_TRANSPORT="redis-pubsub", REDIS_URL=redis_url, REALTIME_AUTH="none", REALTIME_HEARTBEAT="0.2s"
    )
    found = await findings(instance.url, "anonymous-publish", *STREAMING, key=None)
    assert with_verdict(found, "fail") == []
    assert with_verdict(found, "warn") == ["anonymous-publish", "long-poll", "resume"]
    assert "keeps no log" in found["resume"].reason
    assert "docs/transports.md" in found["long-poll"].advice


async def test_streams_on_another_host_are_checked_there(redis_url: str, make_instance: MakeInstance) -> None:
    shared = {
        "REALTIME_TRANSPORT": "redis",
        "REDIS_URL": redis_url,
        "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
        "REALTIME_JWT_SECRET": SECRET,
        "REALTIME_HEARTBEAT": f"{HEARTBEAT}s",
    }
    streams = make_instance(**shared)  # where the page's origin was forgotten
    api = make_instance(**shared, REALTIME_STREAM_URL=f"{streams.url}/api/events", REALTIME_ALLOWED_ORIGINS=ORIGIN)
    found = await findings(api.url)
    assert found["ticket"].measured["url"] == found["stream"].measured["url"] == f"{streams.url}/api/events"
    assert with_verdict(found, "fail") == ["cors-stream"], found
    assert with_verdict(found, "ok") == [name for name in WITHOUT_STORE if name != "cors-stream"]
