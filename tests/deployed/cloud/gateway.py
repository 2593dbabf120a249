"""An HTTP API of API Gateway: exact routes to functions, events of payload format 2.0, and its limits.

Read in the developer guide: "Routes for HTTP APIs", "Lambda proxy integrations for HTTP APIs", "Quotas". A custom
domain's API mapping does not change the path that the function is given.
"""

import asyncio
import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.deployed.cloud.environment import Function, InvocationError
from tests.deployed.cloud.web import MAX_INVOCATION_BYTES, Receive, Scope, Send, Whole, body_of, chunks, event_of, plain
from tests.integration.lambda_runtime.runtime_api import Invocation

MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_HEAD_BYTES = 10_240  # of the request line and the headers
MAX_SECONDS = 30.0

NOT_FOUND = plain(404, '{"message":"Not Found"}')
TOO_LARGE = plain(413, '{"message":"Request Entity Too Large"}')
FAILED = plain(500, '{"message":"Internal Server Error"}')
TOO_LATE = plain(503, '{"message":"Service Unavailable"}')


class Route(NamedTuple):
    """A route and its function; `function` is None if the API may not invoke it."""

    key: str
    function: Function | None
    seconds: float

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The parameters of the path, if the route matches this request."""
        wanted, _, pattern = self.key.partition(" ")
        if wanted not in (method, "ANY"):
            return None
        parts = re.split(r"\{(\w+)\}", pattern)
        names = parts[1::2]
        expression = "".join(re.escape(part) if place % 2 == 0 else "([^/]+)" for place, part in enumerate(parts))
        found = re.fullmatch(expression, path)
        return None if found is None else dict(zip(names, found.groups(), strict=True))


class HttpApi:
    """The app of one HTTP API; `mapping` is the path at which a custom domain has it, such as /pr-7."""

    def __init__(self, domain: str, routes: Sequence[Route], mapping: str = "") -> None:
        self._domain = domain
        self._routes = routes
        self._mapping = mapping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(scope, await body_of(receive))
        await answer._replace(headers=[*answer.headers, ("apigw-requestid", "id")]).send(send)

    async def _answer(self, scope: Scope, body: bytes) -> Whole:
        path = scope["path"].removeprefix(self._mapping)
        found = [
            (route, parameters)
            for route in self._routes
            if (parameters := route.match(scope["method"], path)) is not None
        ]
        if not found:
            return NOT_FOUND
        head = len(scope["path"]) + len(scope["query_string"]) + sum(len(n) + len(v) for n, v in scope["headers"])
        if head > MAX_HEAD_BYTES:
            return plain(431, '{"message":"Request Header Fields Too Large"}')
        route, parameters = min(found, key=lambda one: len(one[1]))
        event = event_of(scope, body, self._domain, route.key, parameters)
        if len(body) > MAX_BODY_BYTES or len(json.dumps(event)) > MAX_INVOCATION_BYTES:
            return TOO_LARGE
        if route.function is None:
            return FAILED
        try:
            async with asyncio.timeout(min(route.seconds, MAX_SECONDS)):
                invocation = await asyncio.to_thread(route.function.invoke, event)
                text = b"".join([chunk async for chunk in chunks(invocation)])
        except TimeoutError:
            return TOO_LATE
        except InvocationError as error:
            return TOO_LATE if error.status == 429 else FAILED
        return _whole(invocation, text)


def _whole(invocation: Invocation, text: bytes) -> Whole:
    """The answer that a function's JSON stands for."""
    if invocation.failed or len(text) > MAX_INVOCATION_BYTES:
        return FAILED
    try:
        answer: Mapping[str, Any] = json.loads(text)
        status = int(answer["statusCode"])
    except (ValueError, KeyError, TypeError):
        return FAILED
    body = answer.get("body") or ""
    content = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
    headers = [(name.lower(), str(value)) for name, value in (answer.get("headers") or {}).items()]
    cookies = [("set-cookie", cookie) for cookie in answer.get("cookies") or ()]
    return Whole(status, [*headers, *cookies], content)
