"""A function URL: every path and method to one function; its response is streamed if the URL's mode is so."""

import asyncio
import json

from tests.deployed.cloud.environment import Function, InvocationError
from tests.deployed.cloud.web import (
    MAX_INVOCATION_BYTES,
    Receive,
    Scope,
    Send,
    Whole,
    body_of,
    chunks,
    event_of,
    plain,
    prelude,
    start,
)


class BrokenOffError(Exception):
    """The function ended before its answer did: so does the connection."""


class FunctionUrl:
    """The app of one function URL; `function` is None where not everyone may invoke it."""

    def __init__(self, domain: str, function: Function | None, *, streams: bool) -> None:
        self._domain = domain
        self._function = function
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._function is None:
            await plain(403, '{"Message":"Forbidden"}').send(send)
            return
        event = event_of(scope, await body_of(receive), self._domain, "$default", {})
        if len(json.dumps(event)) > MAX_INVOCATION_BYTES:
            await plain(413, '{"Message":"Request must be smaller than 6291456 bytes"}').send(send)
            return
        try:
            invocation = await asyncio.to_thread(self._function.invoke, event)
        except InvocationError as error:
            status = error.status if error.status == 429 else 502
            await plain(status, '{"Message":"Rate Exceeded."}' if status == 429 else "Internal Server Error").send(send)
            return
        answer = chunks(invocation)
        head, rest = await prelude(answer)
        try:
            meta = json.loads(head)
            status = int(meta["statusCode"])
            headers = [(name, value) for name, value in meta["headers"].items() if name.lower() != "date"]  # is its own
        except (ValueError, KeyError, TypeError):
            await plain(502, "Internal Server Error").send(send)
            return
        headers += [("set-cookie", cookie) for cookie in meta.get("cookies", ())]
        if not self._streams:  # the whole answer is collected first
            body = rest + b"".join([chunk async for chunk in answer])
            await Whole(status, headers, body).send(send)
            return
        await start(send, status, [(name, value) for name, value in headers if name.lower() != "content-length"])
        await send({"type": "http.response.body", "body": rest, "more_body": True})
        async for chunk in answer:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if invocation.failed:
            raise BrokenOffError
        await send({"type": "http.response.body", "body": b"", "more_body": False})
