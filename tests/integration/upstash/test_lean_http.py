"""The HTTP client of a cold start, against a server that sends the bytes of the test."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tidewire.transports import lean_http
from tidewire.transports.errors import ConnectionClosed, ConnectionLost, ProtocolError, ReadTimeout
from tidewire.transports.lean_http import LeanHttp, Response
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.contract.acts import publish
from tests.support.certificates import certify
from tests.support.processes import HOST, ROOT, inherited
from tests.support.upstash_stand_in import StandIn
from tests.support.waiting import spin

PLAIN = b"HTTP/1.1 200 OK\r\nX-One: 1\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-one: 1\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\nx-two: 2\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + PLAIN
CLOSING = b"HTTP/1.1 200 OK\r\nx-one: 1\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello"
OLD = b"HTTP/1.0 200 OK\r\nx-one: 1\r\ncontent-length: 5\r\n\r\nhello"


class Server:
    """Answers each request with the pieces of the test, one write each."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = [PLAIN]
        self.ends = False  # after the pieces
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.port = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
                self.requests.append(head + await reader.readexactly(int(length.partition(b": ")[2])))
                self.asked.set()
                for piece in self.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await spin()
                if self.ends:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    async with await asyncio.start_server(server.serve, HOST, 0, ssl=context) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        server.url = f"{'http' if context is None else 'https'}://{HOST}:{server.port}/base"
        yield server


@asynccontextmanager
async def asking(server: Server, read_timeout: float = 5.0, keepalive: float = 60.0) -> AsyncIterator[LeanHttp]:
    http = LeanHttp(server.url, read_timeout=read_timeout, keepalive=keepalive)
    try:
        yield http
    finally:
        await http.aclose()


async def test_a_request_and_its_response_byte_for_byte() -> None:
    async with serving() as server, asking(server) as http:
        answer = await http.post("/base/pipeline", {"authorization": "Bearer t"}, b'["\xc3\xa9"]')
        assert answer == Response(200, {"x-one": "1", "content-length": "5"}, b"hello")
        assert server.requests == [
            b"POST /base/pipeline HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 6\r\n" % server.port
            + b'authorization: Bearer t\r\n\r\n["\xc3\xa9"]'
        ]


@pytest.mark.parametrize(
    ("answer", "connections"),
    [(PLAIN, 1), (CHUNKED, 1), (INTERIM, 1), (CLOSING, 3), (OLD, 3)],
    ids=["plain", "chunked", "interim", "closing", "http-1.0"],
)
async def test_connections_are_reused_unless_the_server_closes(answer: bytes, connections: int) -> None:
    async with serving() as server, asking(server) as http:
        server.pieces = [answer]
        for _ in range(3):
            got = await http.post("/", {}, b"")
            assert (got.status, got.content, got.headers["x-one"]) == (200, b"hello", "1")
            assert "x-two" not in got.headers
        assert server.connections == connections


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([PLAIN, CHUNKED, INTERIM]), st.sets(st.integers(1, 120), max_size=6))
async def test_any_packets_of_a_response_are_read_alike(whole: bytes, cuts: set[int]) -> None:
    ends = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    async with serving() as server, asking(server) as http:
        server.pieces = [whole[start:end] for start, end in pairwise(ends)]
        for _ in range(2):
            assert (await http.post("/", {}, b"x"))[::2] == (200, b"hello")


@pytest.mark.parametrize("kept", [0, 10, len(PLAIN) - 1])
async def test_a_truncated_response_is_lost(kept: int) -> None:
    async with serving() as server, asking(server) as http:
        server.pieces, server.ends = [PLAIN[:kept]], True
        with pytest.raises(ConnectionLost):
            await http.post("/", {}, b"")


async def test_a_response_without_a_length_is_lost() -> None:
    """Without Content-Length, its end could be a broken connection."""
    async with serving() as server, asking(server) as http:
        server.pieces, server.ends = [b"HTTP/1.1 200 OK\r\n\r\nhello"], True
        with pytest.raises(ConnectionLost):
            await http.post("/", {}, b"")


@pytest.mark.parametrize("garbage", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", b"\x15\x03"])
async def test_a_response_that_is_not_http_is_not_quoted(garbage: bytes) -> None:
    async with serving() as server, asking(server) as http:
        server.pieces, server.ends = [garbage], True
        with pytest.raises(ProtocolError) as caught:
            await http.post("/", {}, b"")
        assert "SSH" not in str(caught.value)


async def test_an_endless_response_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_http, "MAX_BYTES", 10_000)
    async with serving() as server, asking(server) as http:
        server.pieces = [b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n", *([b"x" * 4_000] * 10)]
        with pytest.raises(ProtocolError, match="too large"):
            await http.post("/", {}, b"")


async def test_a_late_response_goes_to_no_other_request() -> None:
    async with serving() as server, asking(server, read_timeout=0.1) as http:
        server.pieces = []
        with pytest.raises(ReadTimeout):
            await http.post("/", {}, b"1")
        server.pieces = [PLAIN]
        await http.post("/", {}, b"2")
        assert server.connections == 2


async def test_a_cancelled_request_leaves_no_response_behind() -> None:
    async with serving() as server, asking(server) as http:
        server.pieces = []
        task = asyncio.create_task(http.post("/", {}, b"1"))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.pieces = [PLAIN]
        assert (await http.post("/", {}, b"2")).content == b"hello"
        assert server.connections == 2


async def test_a_connection_that_was_idle_too_long_is_not_used() -> None:
    async with serving() as server, asking(server, keepalive=0.0) as http:
        await http.post("/", {}, b"")
        await http.post("/", {}, b"")
        assert server.connections == 2


async def test_concurrent_requests_have_a_connection_each() -> None:
    async with serving() as server, asking(server) as http:
        answers = await asyncio.gather(*(http.post("/", {}, b"%d" % n) for n in range(5)))
        assert [answer.content for answer in answers] == [b"hello"] * 5
        server.pieces = []
        server.asked.clear()
        waiting = asyncio.create_task(http.post("/", {}, b""))
        await server.asked.wait()
        await http.aclose()
        with pytest.raises(ConnectionClosed):
            await waiting


async def test_closing_at_any_step_leaves_no_connection() -> None:
    async with serving() as server:
        for step in range(30):
            http = LeanHttp(server.url, read_timeout=5.0, keepalive=60.0)
            request = asyncio.create_task(http.post("/", {}, b""))
            await spin(step)
            await http.aclose()
            (result,) = await asyncio.gather(request, return_exceptions=True)
            assert isinstance(result, Response | ConnectionClosed), result
            assert http.connections == 0


async def test_a_request_after_close_opens_nothing() -> None:
    async with serving() as server, asking(server) as http:
        await http.aclose()
        with pytest.raises(ConnectionClosed):
            await http.post("/", {}, b"")
        assert server.connections == 0


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate that is not trusted yet, and a server context with it."""
    path = tmp_path / "certificate.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, certify(path))
    return path, context


async def test_the_token_goes_to_trusted_servers_only(
    certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, context = certificate
    async with serving(context) as server:
        async with asking(server) as http:
            with pytest.raises(ConnectionLost):
                await http.post("/", {"authorization": "Bearer t"}, b"")
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        async with asking(server) as http:
            assert (await http.post("/", {}, b"")).content == b"hello"


def roads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Return whether the lean client was used."""
    taken: list[bool] = []
    post = LeanHttp.post

    async def noted(self: LeanHttp, *arguments: Any) -> Response:
        taken.append(True)
        return await post(self, *arguments)

    monkeypatch.setattr(LeanHttp, "post", noted)
    return lambda: bool(taken)


async def test_behind_a_proxy_the_vendors_client_publishes(upstash: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    lean = roads(monkeypatch)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", HOST)
    log = UpstashRest(upstash.url, upstash.token)
    await publish(log, 1)
    assert not lean()
    await log.aclose()


def test_a_publish_function_starts_without_the_vendors_client(upstash: StandIn) -> None:
    publishing = (
        "from functions import publish as f\n"
        "request = {'method': 'POST', 'path': '/api/publish', 'sourceIp': '192.0.2.1'}\n"
        "event = {'version': '2.0', 'rawPath': '/api/publish', 'rawQueryString': '', 'isBase64Encoded': False,\n"
        "         'headers': {'content-type': 'application/json'}, 'requestContext': {'http': request},\n"
        '         \'body\': \'{"type": "t", "data": 1}\'}\n'
        "answer = f.handler(event, None)\n"
        "assert answer['statusCode'] == 202, answer\n"
        "import sys; print(*sys.modules)"
    )
    environment = {
        "REALTIME_TRANSPORT": "redis",
        "REALTIME_AUTH": "none",
        "UPSTASH_REDIS_REST_URL": upstash.url,
        "UPSTASH_REDIS_REST_TOKEN": upstash.token,
    }
    names = subprocess.run(
        [sys.executable, "-c", publishing],
        cwd=ROOT,
        env={**inherited(), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    loaded = {name.split(".")[0] for name in names.split()}
    assert "httptools" in loaded
    assert loaded.isdisjoint({"httpx", "upstash_redis", "redis", "certifi"})
