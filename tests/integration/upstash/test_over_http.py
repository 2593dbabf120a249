"""Instances on Upstash's REST API, also together with instances on the same log over TCP."""

import asyncio
import json
import subprocess
import sys
from typing import Any

from tests.support.clients import event, follow, get, metrics, publish, read_page, receipts
from tests.support.instance_settings import FAST_POLLS, on_redis, on_rest
from tests.support.processes import ROOT, MakeInstance, RedisServer, inherited
from tests.support.upstash_stand_in import Fault, StandIn

CALL = """
import json, sys
from functions.publish import handler
for body in sys.argv[1:]:
    print(json.dumps(handler({
        "version": "2.0", "rawPath": "/api/publish", "rawQueryString": "", "isBase64Encoded": False, "body": body,
        "headers": {"content-type": "application/json"},
        "requestContext": {"http": {"method": "POST", "path": "/api/publish", "sourceIp": "::1"}, "stage": "$default"},
    }, None)))
"""


def over_both(upstash: StandIn, redis: RedisServer) -> dict[str, str]:
    """Settings with both REST and TCP."""
    rest = {"UPSTASH_REDIS_REST_URL": upstash.url, "UPSTASH_REDIS_REST_TOKEN": upstash.token}
    return {"REALTIME_TRANSPORT": "redis", "REALTIME_AUTH": "none", "REDIS_URL": redis.url, **rest}


async def test_two_instances_over_rest_deliver_each_event_once(upstash: StandIn, make_instance: MakeInstance) -> None:
    """A client resumes at the other instance."""
    first, second = [await asyncio.to_thread(make_instance, **on_rest(upstash, **FAST_POLLS)) for _ in range(2)]
    async with follow(first) as here, follow(second) as there:
        names = [f"event-{number}" for number in range(20)]
        for number, name in enumerate(names):
            receipts(await publish((first, second)[number % 2], event(name)))
        await here.has(*names)
        await there.has(*names)
    receipts(await publish(first, event("missed")))
    async with follow(second, last_event_id=here.cursor) as again:
        receipts(await publish(first, event("live")))
        await again.has("missed", "live")
        assert again.seen.gaps == []


async def test_a_refusal_becomes_a_503_with_its_retry_after(upstash: StandIn, make_instance: MakeInstance) -> None:
    """The response holds no secret."""
    instance = await asyncio.to_thread(make_instance, **on_rest(upstash))
    upstash.faults.append(Fault(429, {"retry-after": "17"}))
    answer = await publish(instance, event("refused"))
    answer.assert_unavailable()
    assert 16 <= int(answer.headers["retry-after"]) <= 17
    ready = await get(instance, "/api/health/ready")
    assert ready.status == 503
    for text in (answer.body.decode(), ready.body.decode(), instance.log()):
        assert upstash.token not in text
        assert str(upstash.port) not in text


async def test_a_plain_poll_over_rest_starts_no_tail(upstash: StandIn, make_instance: MakeInstance) -> None:
    instance = await asyncio.to_thread(make_instance, **on_rest(upstash, **FAST_POLLS))
    receipts(await publish(instance, event("kept")))
    page = await read_page(instance, **{"from": "earliest"})
    assert [found["data"]["name"] for found in page["events"]] == ["kept"]
    for _ in range(20):
        await read_page(instance, last_event_id=page["cursor"])
    assert upstash.commands["XREAD"] == 0


async def test_functions_use_rest_and_instances_use_tcp(
    redis_server: RedisServer, upstash: StandIn, make_instance: MakeInstance
) -> None:
    """REST and TCP are both configured."""
    settings = over_both(upstash, redis_server)
    instance = await asyncio.to_thread(make_instance, **settings)
    async with follow(instance) as here:
        receipts(await publish(instance, event("over-TCP")))
        await here.has("over-TCP")
        assert upstash.requests == []
        answers = await asyncio.to_thread(call_function, settings, event("one"), event("two"), event("one"))
        assert [answer["statusCode"] for answer in answers] == [202, 202, 202]
        assert [json.loads(answer["body"])["events"][0]["duplicate"] for answer in answers] == [False, False, True]
        await here.has("over-TCP", "one", "two")
    assert upstash.commands.keys() <= {"EVALSHA", "EVAL"}
    assert upstash.connections == 1, "an invocation uses the connection of the one before"


async def test_tcp_and_rest_share_one_log(
    redis_server: RedisServer, upstash: StandIn, make_instance: MakeInstance
) -> None:
    tcp = on_redis(redis_server)
    one, other = (
        await asyncio.to_thread(make_instance, **tcp),
        await asyncio.to_thread(make_instance, **on_rest(upstash, **FAST_POLLS)),
    )
    async with follow(one) as here, follow(other) as there:
        receipts(await publish(one, event("a")))
        await there.has("a")
        receipts(await publish(other, event("b")))
        await here.has("a", "b")
        await there.has("a", "b")
    async with follow(one, last_event_id=there.cursor) as again:
        receipts(await publish(other, event("c")))
        await again.has("c")
        assert again.seen.gaps == []


async def test_streams_stay_open_while_rest_is_unavailable(upstash: StandIn, make_instance: MakeInstance) -> None:
    """Health reports that the tail reconnects."""
    instance = await asyncio.to_thread(make_instance, **on_rest(upstash, **FAST_POLLS))
    async with follow(instance) as here:
        await asyncio.to_thread(upstash.stop)
        asked: list[float] = []
        while not asked or asked[-1] != 0:
            asked.append((await metrics(instance))["realtime_tail_running"])
        await asyncio.to_thread(upstash.resume)
        while (await publish(instance, event("back"))).status != 202:
            pass
        await here.has("back")
        assert here.is_open()
        assert here.seen.gaps == []


def call_function(settings: dict[str, str], *events: dict[str, object]) -> list[dict[str, Any]]:
    """Invoke functions.publish as Lambda does, one event after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", CALL, *map(json.dumps, events)],
        cwd=ROOT,
        env={**inherited(), **settings, "AWS_LAMBDA_FUNCTION_NAME": "publish"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]
