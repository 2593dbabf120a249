"""What stands between the doctor and a deployment, and is ill: each line has one illness."""

import asyncio
import itertools
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate

from tests.client.line import Line
from tests.functions.tokens import PUBLISH_KEY, user_token
from tests.processes import HOST, Instance

READ_BYTES = 64 * 1024
NEVER = (b"(?!)", b"")  # matches nothing


class AlteringLine(Line):
    """Changes what a pattern matches in requests or in answers. In the body of a stream it must not change lengths."""

    def __init__(
        self,
        instance: Instance,
        *,
        request: tuple[bytes, bytes] = NEVER,
        answer: tuple[bytes, bytes] = NEVER,
    ) -> None:
        super().__init__(instance)
        self._request, self._answer = request, answer

    async def up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry requests, changed."""
        while data := await reader.read(READ_BYTES):
            writer.write(re.sub(self._request[0], self._request[1], data))
            await writer.drain()

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry answers, changed."""
        while data := await reader.read(READ_BYTES):
            writer.write(re.sub(self._answer[0], self._answer[1], data))
            await writer.drain()


class TakesTurns(Line):
    """A balancer of two instances: each connection goes to the one after the last one's."""

    def __init__(self, *instances: Instance) -> None:
        super().__init__(instances[0])
        self._instances = itertools.cycle(instances)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.instance = next(self._instances)
        await super()._serve(reader, writer)


class StaleLine(AlteringLine):
    """Sends clients back to the first place that they were told of."""

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry answers, and remember the first id in them."""
        while data := await reader.read(READ_BYTES):
            if first := self._request == NEVER and re.search(rb"\nid: (\S+)", data):
                self._request = (rb"(last-event-id: )[^\r]+", rb"\g<1>" + first[1])
            writer.write(data)
            await writer.drain()


class LateLine(Line):
    """A proxy that empties its buffer now and then: what is streamed comes late, though none of it is lost."""

    def __init__(self, instance: Instance, seconds: float) -> None:
        super().__init__(instance)
        self._seconds = seconds

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry streams in gulps, and other answers at once."""
        streams = False
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
            streams = streams or b"content-type: text/event-stream" in data
            await asyncio.sleep(self._seconds if streams else 0)


def clock_off_by(instance: Instance, seconds: float) -> AlteringLine:
    """Answers as if the server's clock were off by so much."""
    date = formatdate(time.time() + seconds, usegmt=True).encode()
    return AlteringLine(instance, answer=(rb"(?<=\r\ndate: )[^\r]+", date))


def forgets_the_place(instance: Instance) -> AlteringLine:
    """Drops the last event's id, from the headers and from the query."""
    return AlteringLine(instance, request=(rb"last-event-id: [^\r]+\r\n|&last_event_id=[^& ]+", b""))


def changes_the_place(instance: Instance) -> AlteringLine:
    """Spoils the last event's id."""
    return AlteringLine(instance, request=(rb"(last-event-id: )[^\r]+", rb"\1spoilt"))


def takes_it_from_the_query(instance: Instance) -> AlteringLine:
    """Drops the last event's id from the headers alone."""
    return AlteringLine(instance, request=(rb"last-event-id: [^\r]+\r\n", b""))


def leads_elsewhere(instance: Instance) -> AlteringLine:
    """Has tickets name an address where nobody is."""
    return AlteringLine(instance, answer=(rb'"url":"/api/events"', b'"url":"//[::1]:9/e"'))


def leads_pages_elsewhere(instance: Instance) -> AlteringLine:
    """Has the configuration of pages name an address where nobody is."""
    return AlteringLine(instance, answer=(rb'"streamUrl":"/api/events"', b'"streamUrl":"//[::1]:9/e"'))


def keeps_operations_private(instance: Instance) -> AlteringLine:
    """Has neither health nor metrics for the outside."""
    return AlteringLine(instance, request=(rb"GET /api/(health|metrics)", b"GET /api/none"))


def lets_every_key_in(instance: Instance) -> AlteringLine:
    """Puts a key of its own in the place of any other: whoever asks is let in."""
    known = f"Bearer {PUBLISH_KEY}\r\n".encode()
    return AlteringLine(instance, request=(rb"Bearer [0-9a-f]{64}\r\n", known))


def lets_every_origin_in(instance: Instance) -> AlteringLine:
    """Allows every origin on every answer, beside what the server says."""
    return AlteringLine(instance, answer=(rb"\r\nvary: ", b"\r\naccess-control-allow-origin: *\r\nvary: "))


def lets_strangers_in(instance: Instance) -> AlteringLine:
    """Allows every origin that the server does not."""
    asked = rb"\r\nvary: Origin\r\n(?!access-control-allow-origin)"
    return AlteringLine(instance, answer=(asked, b"\r\naccess-control-allow-origin: *\r\nvary: Origin\r\n"))


def brings_its_own_token(instance: Instance) -> AlteringLine:
    """Puts a token that holds in the place of any other."""
    return AlteringLine(instance, request=(rb"Bearer eyJ[^\r]+", f"Bearer {user_token('u1')}".encode()))


def compresses(instance: Instance) -> AlteringLine:
    """Says that streams are compressed."""
    return AlteringLine(instance, answer=(rb"\r\ncontent-type: text/event-stream", rb"\r\ncontent-encoding: gzip\g<0>"))


def swallows_heartbeats(instance: Instance) -> AlteringLine:
    """Hands on what holds data, and of frames without any only their length."""
    return AlteringLine(instance, answer=(rb"\r\nid: (?=\S+\n\n)", b"\r\n:   "))


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """No Tidewire: answers each request with the body, or the whole answer, that `answer` makes of its head."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        told = answer(head)
        if not told.startswith(b"HTTP/1.1 "):
            told = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(told) + told
        writer.write(told.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0, ssl=tls)
    try:
        yield f"{'http' if tls is None else 'https'}://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
