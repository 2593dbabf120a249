"""A stand-in for Upstash's REST API over the Redis that REDIS_URL names: a JSON command in, the reply as JSON out.

Enough for a publisher: POST / (one command), /pipeline and /multi-exec (several), base64 replies where asked for.
"""

import base64
import os
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

redis = Redis.from_url(os.environ["REDIS_URL"], protocol=2)
redis.response_callbacks.clear()  # replies as Redis sends them


def as_json(reply: Any, encoded: bool) -> Any:
    """The reply in JSON's types; "OK" is never encoded, as upstash.com does it."""
    if isinstance(reply, list):
        return [as_json(item, encoded) for item in reply]
    if isinstance(reply, bytes):
        return base64.b64encode(reply).decode() if encoded and reply != b"OK" else reply.decode()
    return reply


async def run(command: list[Any], encoded: bool) -> dict[str, Any]:
    try:
        reply = await redis.execute_command(*map(str, command))  # type: ignore[no-untyped-call]  # redis-py leaves it so
        return {"result": as_json(reply, encoded)}
    except ResponseError as error:
        code = f"{error.status_code} " if error.status_code else ""  # redis-py takes it from the text that Redis sent
        return {"error": code + str(error)}


async def one(request: Request) -> JSONResponse:
    answer = await run(await request.json(), request.headers.get("upstash-encoding") == "base64")
    return JSONResponse(answer, status_code=400 if "error" in answer else 200)


async def several(request: Request) -> JSONResponse:
    encoded = request.headers.get("upstash-encoding") == "base64"
    return JSONResponse([await run(command, encoded) for command in await request.json()])


app = Starlette(
    routes=[
        Route("/", one, methods=["POST"]),
        Route("/pipeline", several, methods=["POST"]),
        Route("/multi-exec", several, methods=["POST"]),
    ]
)
