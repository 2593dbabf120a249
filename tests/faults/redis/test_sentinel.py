"""Sentinel replaces the primary: killed, by plan, silent, or cut off from the sentinels."""

import asyncio
import time
from pathlib import Path

import pytest
from tidewire.errors import SettingsError
from tidewire.transports.redis.sentinel import INTERVAL
from tidewire.transports.redis.server_info import check_server

from tests.support.clients import event, follow, get, publish, publish_all, publish_until_accepted, reasons, receipts
from tests.support.processes import Instance, MakeInstance
from tests.support.redis_node import Access
from tests.support.redis_records import read_log
from tests.support.sentinel import MakeSentinels, SentinelGroup

DOCUMENTED = "+sentinel|get-master-addr-by-name +sentinel|master"
RECOVERY = 10.0
"""Seconds from the fault until a publish is accepted: the sentinels notice (1 s), elect (1 to 2 s) and promote; the
rest is for a busy machine."""


async def on_sentinel(group: SentinelGroup, make_instance: MakeInstance, **more: str) -> Instance:
    settings = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": group.url, "REALTIME_AUTH": "none", **more}
    return await asyncio.to_thread(make_instance, **settings)


@pytest.fixture
async def group(make_sentinels: MakeSentinels) -> SentinelGroup:
    return await asyncio.to_thread(make_sentinels, replicas=1)


async def test_a_killed_primary_is_replaced(group: SentinelGroup, make_instance: MakeInstance) -> None:
    """While none is up, publishers get 503 and readiness says so; then everything continues at the new one."""
    instance = await on_sentinel(group, make_instance)
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        await asyncio.to_thread(lambda: group.primary.write("SET", "copied", "1", copies=1))
        former = await asyncio.to_thread(group.kill_primary)
        began = time.monotonic()
        (await publish(instance, event("during"))).assert_unavailable()
        assert (await get(instance, "/api/health/ready")).status == 503
        await publish_until_accepted(instance, event("during"))
        assert time.monotonic() - began < RECOVERY
        await live.has("before", "during")
        new = await asyncio.to_thread(group.wait_for_failover, former)
        await publish_all(instance, ["after"])
        await live.has("before", "during", "after")
        assert live.seen.gaps == []
        assert [stored.event["id"] for stored in (await read_log(new))["all"]] == ["before", "during", "after"]
        assert (await get(instance, "/api/health/ready")).status == 200


async def test_a_planned_failover_is_followed(group: SentinelGroup, make_instance: MakeInstance) -> None:
    """The old primary accepts writes until it is demoted: the instance leaves it as soon as the sentinels say so."""
    instance = await on_sentinel(group, make_instance)
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        await asyncio.to_thread(lambda: group.primary.write("SET", "copied", "1", copies=1))
        new = await asyncio.to_thread(group.failover)
        await asyncio.sleep(INTERVAL + 0.5)
        await publish_all(instance, ["one", "two"])
        await live.has("before", "one", "two")
        assert live.seen.gaps == []
        assert [stored.event["id"] for stored in (await read_log(new))["all"]] == ["before", "one", "two"]


async def test_a_silent_primary_is_left(group: SentinelGroup, make_instance: MakeInstance) -> None:
    """Its connections stay open, and a stream without publishers has a read that waits for half a minute."""
    instance = await on_sentinel(group, make_instance)
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        former = await asyncio.to_thread(lambda: group.primary)
        await asyncio.to_thread(lambda: former.write("SET", "copied", "1", copies=1))
        await asyncio.to_thread(former.pause)
        began = time.monotonic()
        new = await asyncio.to_thread(group.wait_for_failover, former)
        elsewhere = await on_sentinel(group, make_instance)
        await publish_until_accepted(elsewhere, event("after"))
        await live.has("before", "after")
        assert time.monotonic() - began < RECOVERY
        receipts(await publish(instance, event("here")))
        await asyncio.to_thread(former.resume)  # it still takes itself for the primary
        receipts(await publish(instance, event("resumed")))
        await live.has("before", "after", "here", "resumed")
        assert live.seen.gaps == []
        assert [stored.event["id"] for stored in (await read_log(new))["all"]][1:] == ["after", "here", "resumed"]


async def test_what_a_failover_discards_is_a_gap(group: SentinelGroup, make_instance: MakeInstance) -> None:
    """The old primary acknowledged an event that no replica had: who received it, and who resumes after it, is told."""
    instance = await on_sentinel(group, make_instance)
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        former, (replica,) = group.primary, group.replicas
        await asyncio.to_thread(lambda: former.write("SET", "copied", "1", copies=1))
        await asyncio.to_thread(replica.pause)
        former.call("CLIENT", "KILL", "TYPE", "replica")  # or the replica would find the event in its socket
        await publish_all(instance, ["lost"])
        await live.has("before", "lost")
        cursor = live.cursor
        await asyncio.to_thread(former.kill)
        await asyncio.to_thread(replica.resume)
        await publish_until_accepted(instance, event("after"))
        await live.seen.until(lambda: "after" in live.names)
        assert live.seen.gaps != []
        async with follow(instance, last_event_id=cursor) as resumed:
            await resumed.seen.until(lambda: resumed.seen.gaps != [])
            await resumed.seen.until(lambda: "after" in resumed.names)


async def test_without_sentinels_work_goes_on(group: SentinelGroup, make_instance: MakeInstance) -> None:
    """Open connections need none, and new ones lead to the last known primary."""
    instance = await on_sentinel(group, make_instance)
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        for sentinel in group.sentinels:
            await asyncio.to_thread(sentinel.kill)
        receipts(await publish(instance, event("one")))
        connections = [asyncio.create_task(publish(instance, event(f"many-{n}"))) for n in range(10)]
        for answer in await asyncio.gather(*connections):
            receipts(answer)
        async with follow(instance):
            pass
        assert (await get(instance, "/api/health/ready")).status == 200
        sent = {"before", "one", *(f"many-{n}" for n in range(10))}
        await live.seen.until(lambda: sent == set(live.names))
        assert len(live.names) == len(sent)
        other = await on_sentinel(group, make_instance)  # knows no primary
        (await publish(other, event("nowhere"))).assert_unavailable()
        assert "no sentinel answers" in await reasons(other)


async def test_a_sentinel_that_is_down_or_silent(group: SentinelGroup, make_instance: MakeInstance) -> None:
    """The first of the URL refuses connections, the second is silent: the third answers alone, within the time-out."""
    await asyncio.to_thread(group.sentinels[0].kill)
    await asyncio.to_thread(group.sentinels[1].pause)
    instance = await on_sentinel(group, make_instance)
    began = time.monotonic()
    receipts(await publish(instance, event("one")))
    assert time.monotonic() - began < 2.0
    await asyncio.to_thread(group.sentinels[1].resume)


async def test_a_sentinel_that_was_cut_off_is_outvoted(group: SentinelGroup, make_instance: MakeInstance) -> None:
    """It names the old primary, which still takes writes. The others have a newer configuration."""
    stale = group.sentinels[0]
    former = group.primary
    await asyncio.to_thread(stale.pause)
    new = await asyncio.to_thread(group.failover)
    instance = await on_sentinel(group, make_instance)
    await asyncio.to_thread(stale.resume)
    receipts(await publish(instance, event("one")))
    assert [stored.event["id"] for stored in (await read_log(new))["all"]] == ["one"]
    assert new is not former


async def test_the_start_checks_what_the_sentinels_say(group: SentinelGroup) -> None:
    assert await check_server(group.url, None, None) == []
    with pytest.raises(SettingsError, match="that the sentinels do not know"):
        await check_server(group.url.replace("/tide", "/other"), None, None)
    await asyncio.to_thread(group.kill_primary)
    (warning,) = await check_server(group.url, None, None)
    assert "cannot reach the primary" in warning
    for sentinel in group.sentinels:
        await asyncio.to_thread(sentinel.kill)
    assert await check_server(group.url, None, None) == []


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=pytest.mark.full)], ids=["plain", "tls"])
async def test_sentinels_have_other_credentials(
    make_sentinels: MakeSentinels, make_instance: MakeInstance, tmp_path: Path, tls: bool
) -> None:
    data, theirs = Access("ann", "p@ss"), Access("watcher", "s,cret/", permissions=DOCUMENTED)
    if tls:
        data = Access.over_tls(tmp_path, user="ann", password="p@ss", client_certificates=True)
        theirs = Access("watcher", "s,cret/", certificate=data.certificate, client_certificates=True)
    group = await asyncio.to_thread(make_sentinels, replicas=1, access=data, sentinel_access=theirs)
    instance = await on_sentinel(group, make_instance)
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        await asyncio.to_thread(group.failover)
        await asyncio.sleep(INTERVAL + 0.5)
        await publish_all(instance, ["after"])
        await live.seen.until(lambda: "after" in live.names)
    assert "cret" not in instance.log()
    assert "p@ss" not in instance.log()
