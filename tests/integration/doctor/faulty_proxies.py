"""Faulty proxies between the doctor and a deployment, each with one fault."""

import asyncio
import itertools
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate

from tests.integration.client.proxy import Proxy
from tests.support.processes import HOST, Instance
from tests.support.tokens import PUBLISH_KEY, user_token

READ_BYTES = 64 * 1024
NEVER = (b"(?!)", b"")  # matches nothing


class AlteringProxy(Proxy):
    """Replaces a pattern in requests or responses. In the body of a stream it must keep the length."""

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
        """Forward requests with the replacement."""
        while data := await reader.read(READ_BYTES):
            writer.write(re.sub(self._request[0], self._request[1], data))
            await writer.drain()

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward responses with the replacement."""
        while data := await reader.read(READ_BYTES):
            writer.write(re.sub(self._answer[0], self._answer[1], data))
            await writer.drain()


class RoundRobin(Proxy):
    """A load balancer that sends each connection to the next instance."""

    def __init__(self, *instances: Instance) -> None:
        super().__init__(instances[0])
        self._instances = itertools.cycle(instances)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.instance = next(self._instances)
        await super()._serve(reader, writer)


class StaleProxy(AlteringProxy):
    """Resets clients to their first cursor."""

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward responses, and remember their first id."""
        while data := await reader.read(READ_BYTES):
            if first := self._request == NEVER and re.search(rb"\nid: (\S+)", data):
                self._request = (rb"(last-event-id: )[^\r]+", rb"\g<1>" + first[1])
            writer.write(data)
            await writer.drain()


class LateProxy(Proxy):
    """A proxy that flushes its buffer periodically: events are late, but not lost."""

    def __init__(self, instance: Instance, seconds: float) -> None:
        super().__init__(instance)
        self._seconds = seconds

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward streams in batches, and other responses at once."""
        streams = False
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
            streams = streams or b"content-type: text/event-stream" in data
            await asyncio.sleep(self._seconds if streams else 0)


def shifts_clock(instance: Instance, seconds: float) -> AlteringProxy:
    """Shifts the Date header by a number of seconds."""
    date = formatdate(time.time() + seconds, usegmt=True).encode()
    return AlteringProxy(instance, answer=(rb"(?<=\r\ndate: )[^\r]+", date))


def drops_last_event_id(instance: Instance) -> AlteringProxy:
    """Drops the last event id from the headers and the query."""
    return AlteringProxy(instance, request=(rb"last-event-id: [^\r]+\r\n|&last_event_id=[^& ]+", b""))


def corrupts_last_event_id(instance: Instance) -> AlteringProxy:
    """Corrupts the last event id."""
    return AlteringProxy(instance, request=(rb"(last-event-id: )[^\r]+", rb"\1spoilt"))


def drops_last_event_id_header(instance: Instance) -> AlteringProxy:
    """Drops the last event id from the headers only."""
    return AlteringProxy(instance, request=(rb"last-event-id: [^\r]+\r\n", b""))


def bad_ticket_url(instance: Instance) -> AlteringProxy:
    """Replaces the stream URL of tickets with an unreachable one."""
    return AlteringProxy(instance, answer=(rb'"url":"/api/events"', b'"url":"//[::1]:9/e"'))


def bad_config_url(instance: Instance) -> AlteringProxy:
    """Replaces the stream URL of /api/config with an unreachable one."""
    return AlteringProxy(instance, answer=(rb'"streamUrl":"/api/events"', b'"streamUrl":"//[::1]:9/e"'))


def blocks_operations(instance: Instance) -> AlteringProxy:
    """Blocks health and metrics."""
    return AlteringProxy(instance, request=(rb"GET /api/(health|metrics)", b"GET /api/none"))


def replaces_keys(instance: Instance) -> AlteringProxy:
    """Replaces every key with a valid one."""
    known = f"Bearer {PUBLISH_KEY}\r\n".encode()
    return AlteringProxy(instance, request=(rb"Bearer [0-9a-f]{64}\r\n", known))


def adds_allow_origin(instance: Instance) -> AlteringProxy:
    """Adds a header that allows every origin to each response."""
    return AlteringProxy(instance, answer=(rb"\r\nvary: ", b"\r\naccess-control-allow-origin: *\r\nvary: "))


def allows_strangers(instance: Instance) -> AlteringProxy:
    """Allows the origins that the server refuses."""
    wanted = rb"\r\nvary: Origin\r\n(?!access-control-allow-origin)"
    return AlteringProxy(instance, answer=(wanted, b"\r\naccess-control-allow-origin: *\r\nvary: Origin\r\n"))


def replaces_tokens(instance: Instance) -> AlteringProxy:
    """Replaces every token with a valid one."""
    return AlteringProxy(instance, request=(rb"Bearer eyJ[^\r]+", f"Bearer {user_token('u1')}".encode()))


def compresses(instance: Instance) -> AlteringProxy:
    """Declares streams as compressed."""
    return AlteringProxy(
        instance, answer=(rb"\r\ncontent-type: text/event-stream", rb"\r\ncontent-encoding: gzip\g<0>")
    )


def blanks_heartbeats(instance: Instance) -> AlteringProxy:
    """Forwards frames with data, and blanks the others."""
    return AlteringProxy(instance, answer=(rb"\r\nid: (?=\S+\n\n)", b"\r\n:   "))


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that is not Tidewire: responds with the body, or the whole response, that `answer` returns."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        response = answer(head)
        if not response.startswith(b"HTTP/1.1 "):
            response = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(response) + response
        writer.write(response.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0, ssl=tls)
    try:
        yield f"{'http' if tls is None else 'https'}://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
