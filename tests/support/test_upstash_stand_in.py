"""The stand-in behaves like Upstash: tests against it prove no more than that."""

from typing import Any

import httpx
import pytest
from upstash_redis.asyncio import Redis
from upstash_redis.errors import UpstashError

from tests.support.upstash_stand_in import StandIn


@pytest.mark.parametrize("encoding", ["base64", None])
async def test_the_vendors_own_client_gets_along_with_the_stand_in(upstash: StandIn, encoding: str | None) -> None:
    client = Redis(upstash.url, upstash.token, rest_encoding="base64" if encoding else None, rest_retries=0)
    async with client:
        redis: Any = client  # its annotations differ from its results
        assert await redis.set("text", 'é "\u2028"') is True
        assert await redis.get("text") == 'é "\u2028"'
        assert await redis.get("nothing") is None
        entry = await redis.xadd("stream", "1-1", {"e": "{}"})
        assert await redis.xrange("stream") == [[entry, ["e", "{}"]]]
        assert await redis.xread({"stream": "0-0"}) == [["stream", [[entry, ["e", "{}"]]]]]
        assert await redis.xread({"stream": "1-1"}) == []
        assert await redis.eval("return {1, ARGV[1], {false}}", [], ["OK"]) == [1, "OK", [None]]
        assert await redis.pipeline().incr("n").incr("n").exec() == [1, 2]
        assert await redis.multi().incr("n").get("n").exec() == [3, "3"]
        with pytest.raises(UpstashError, match="WRONGTYPE "):
            await redis.incr("stream")
        with pytest.raises(UpstashError, match="NOSCRIPT "):
            await redis.evalsha("0" * 40)
        with pytest.raises(UpstashError, match="not available"):
            await redis.execute(["XREAD", "BLOCK", "0", "STREAMS", "stream", "$"])


async def test_the_stand_in_answers_with_the_documented_statuses(upstash: StandIn) -> None:
    good = {"authorization": f"Bearer {upstash.token}"}
    async with httpx.AsyncClient(base_url=upstash.url) as client:
        assert (await client.post("/", json=["PING"], headers=good)).json() == {"result": "PONG"}
        answers = [
            await client.post("/", json=["PING"], headers={"authorization": "Bearer other"}),
            await client.post("/pipeline", json=[["PING"]]),
            await client.request("DELETE", "/", headers=good),
            await client.post("/", content=b"{", headers=good),
            await client.post("/pipeline", json=["PING"], headers=good),
            await client.post("/", json=["NOTHING"], headers=good),
        ]
        assert [answer.status_code for answer in answers] == [401, 401, 405, 400, 400, 400]
        assert all(list(answer.json()) == ["error"] for answer in answers)
        mixed = await client.post("/pipeline", json=[["PING"], ["NOTHING"]], headers=good)
        assert mixed.status_code == 200
        assert [list(reply) for reply in mixed.json()] == [["result"], ["error"]]
