"""Starlette + sse-starlette as documented: a bounded queue for each subscriber, a generator that reads it."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

QUEUE = 1_000  # events that one subscriber may be behind before it is dropped

queues: set[asyncio.Queue[ServerSentEvent]] = set()
numbers = count(1)


async def events(request: Request) -> EventSourceResponse:
    # Subscribed before the response starts, so that a client which read the headers misses nothing.
    queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue(QUEUE)
    queues.add(queue)

    async def stream() -> AsyncIterator[ServerSentEvent]:
        try:
            while True:
                yield await queue.get()
        finally:
            queues.discard(queue)

    return EventSourceResponse(stream(), ping=15)


async def publish(request: Request) -> Response:
    event = ServerSentEvent((await request.body()).decode(), event="bench", id=str(next(numbers)))
    for queue in list(queues):
        try:
            queue.put_nowait(event)
        except asyncio.QueueFull:
            queues.discard(queue)
    return Response(status_code=202)


app = Starlette(routes=[Route("/events", events), Route("/publish", publish, methods=["POST"])])
