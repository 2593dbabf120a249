"""HTTP dialects of clients, proxies and libraries: old and unusual syntax."""

import gzip
import json
import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.server.peers import ALIVE, EVENTS, LIVE, Peer, memory, peer, stream
from tests.support.api import Api, check, problem_of, receipts_of
from tests.support.processes import HOST, ROOT, Instance, MakeInstance, StartInstance, free_port, inherited, wait_until
from tests.unit.ingest.webhooks import example
from tests.unit.ingest.webhooks.signers import SIGNERS

EVENT = b'{"type": "note", "data": 1}'
MIB = 1024 * 1024
UPGRADES = {
    "curl": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    "Java": b"connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\nupgrade: h2c\r\n",
    "WebSocket": b"connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n",
}


@pytest.fixture(scope="session")
def instance(start_instance: StartInstance) -> Instance:
    """One in memory, with sources of webhooks, whose streams end after half a second."""
    settings = {**example.SETTINGS, "REALTIME_STREAM_SECONDS": "500ms"}
    return start_instance(settings)


@pytest.fixture
def api(instance: Instance) -> Iterator[Api]:
    api = Api(instance)
    yield api
    api.close()


def post(path: str, headers: bytes, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n".encode()
    return head + headers + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("whole", [True, False], ids=["in one write", "the body later"])
@pytest.mark.parametrize("headers", UPGRADES.values(), ids=UPGRADES)
def test_an_offer_to_upgrade_is_ignored(instance: Instance, headers: bytes, whole: bool) -> None:
    """The body was taken for the other protocol's, and lost: 400 (RFC 9110 section 7.8: the offer may be ignored)."""
    request = post("/api/publish", headers, EVENT)
    with peer(instance) as one:
        one.send(request) if whole else one.send(request[:-15], request[-15:-5], request[-5:])
        answer = one.answer()
        assert answer.status == 202, answer
        assert "upgrade" not in answer.headers
        one.send(LIVE)
        assert one.answer().body == ALIVE


def test_an_upgrade_with_chunks_pipelined_and_closing(instance: Instance) -> None:
    head = b"POST /api/publish HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n" + UPGRADES["curl"]
    chunked = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT)
    last = post("/api/publish", b"connection: upgrade, close\r\nupgrade: h2c\r\n", EVENT)
    with peer(instance) as one:
        one.send(chunked + LIVE + chunked + last)
        assert [one.answer().status for _ in range(4)] == [202, 200, 202, 202]
        assert one.rest() == b""


def test_a_webhook_that_offers_an_upgrade_is_taken(instance: Instance) -> None:
    """Its signature covers the body: without that it was a 401."""
    body = (example.PAYLOADS / "github" / "deployment_status.json").read_bytes()
    signer = SIGNERS["github"]
    signed = signer.sign(body, signer.secrets[0], "delivery-upgrade", int(time.time()))
    lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in signed.items())
    with peer(instance) as one:
        event = b"x-github-event: deployment_status\r\n"
        one.send(post("/api/webhooks/github", lines + event + UPGRADES["Java"], body))
        assert one.answer().status == 202


def test_connect_is_refused(instance: Instance) -> None:
    with peer(instance) as one:
        one.send(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n")
        answer = one.answer()
        assert answer.status in (400, 501)
        check(answer.json(), "Problem")
        assert one.rest() == b""


def test_a_stream_over_http_1_0_has_no_chunks(instance: Instance) -> None:
    """It ends with the connection: HTTP/1.0 has no other way (nginx's proxy_pass is one by default)."""
    with peer(instance) as one:
        one.send(EVENTS.replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = one.rest().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body.startswith(b"retry: ")
    assert body.endswith(b'event: realtime.closing\ndata: {"reason":"max-age"}\n\n')


@pytest.mark.parametrize("path", ["/api/health/live", "/", "/api/events?x=1"])
def test_an_answer_over_http_1_0_has_its_length(instance: Instance, path: str) -> None:
    with peer(instance) as one:
        one.send(f"GET {path} HTTP/1.0\r\naccept: application/json\r\n\r\n".encode())
        answer = one.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert "transfer-encoding" not in answer.headers
        assert len(answer.body) == int(answer.headers["content-length"])
        assert one.rest() == b""


def test_a_slow_stream_over_http_1_0_gets_everything(make_instance: MakeInstance) -> None:
    instance = make_instance()
    opened = stream(instance, head=EVENTS.replace(b"HTTP/1.1", b"HTTP/1.0"), receive_buffer=4096)
    api = Api(instance)
    for number in range(40):
        api.publish({"type": "note", "data": f"{number} " + "x" * 200_000})
    for number in range(40):
        opened.read_until(b'data: "%d xxx' % number)
    opened.close()
    api.close()


def test_two_accept_lines_are_one_list(instance: Instance) -> None:
    with peer(instance) as one:
        one.send(EVENTS.replace(b"\r\n\r\n", b"\r\naccept: application/json\r\n\r\n"))
        assert b"text/event-stream" in one.read_until(b"\r\n\r\n")
    with peer(instance) as one:
        one.send(EVENTS.replace(b"text/event-stream", b"text/html\r\naccept: application/json"))
        assert one.answer().headers["content-type"] == "application/json"


TWICE = {
    "content-encoding": "gzip",
    "idempotency-key": "other",
    "authorization": "Bearer other",
}


@pytest.mark.parametrize("name", TWICE)
def test_a_header_with_one_value_stands_once(api: Api, name: str) -> None:
    """A proxy and the process could each read another one."""
    headers = [(name, "first"), (name, TWICE[name])]
    response = api.http.post("/api/publish", content=EVENT, headers=headers)
    assert name in problem_of(response, 400)["detail"]


def test_two_last_event_ids_are_refused(api: Api) -> None:
    headers = [("last-event-id", "a"), ("last-event-id", "b")]
    assert "last-event-id" in problem_of(api.http.get("/api/events", headers=headers), 400)["detail"]


CONTENT_TYPES = {
    "application/json; charset=utf-8": 202,
    'application/json;Charset="UTF-8"': 202,
    "Application/JSON;": 202,
    "application/json; profile=x": 202,
    "application/json; version=2; charset=utf8": 202,
    "application/json; charset=latin1": 415,
    "application/json; version=2; charset=utf-16": 415,
    "text/plain; charset=utf-8": 415,
}


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_only_the_charset_of_a_media_type_matters(api: Api, content_type: str) -> None:
    assert api.post(EVENT, content_type).status_code == CONTENT_TYPES[content_type]


GZIP = {"content-encoding": "gzip"}


def test_a_gzip_body_is_decompressed(api: Api) -> None:
    assert receipts_of(api.post(gzip.compress(EVENT), headers=GZIP))
    assert receipts_of(api.post(EVENT, headers={"content-encoding": "identity"}))


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_another_coding_is_415(api: Api, coding: str) -> None:
    response = api.post(EVENT, headers={"content-encoding": coding})
    assert "Content-Encoding" in problem_of(response, 415)["detail"]
    assert response.headers["accept-encoding"] == "gzip"


WRONG = {
    "plain": EVENT,
    "cut off": gzip.compress(EVENT)[:-4],
    "nothing": b"",
    "a wrong check": gzip.compress(EVENT)[:-8] + b"\0" * 8,
    "two members": gzip.compress(EVENT) * 2,
    "more behind it": gzip.compress(EVENT) + b"x",
    "zlib": zlib.compress(EVENT),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_a_body_that_is_not_gzip_is_400(api: Api, body: bytes) -> None:
    assert "gzip" in problem_of(api.post(body, headers=GZIP), 400)["detail"]


def test_a_gzip_bomb_is_not_unpacked(make_instance: MakeInstance) -> None:
    """A fifth of a MiB that would be 200 of them."""
    instance = make_instance()
    api = Api(instance)
    bomb = gzip.compress(b" " * (200 * MIB), 9)
    assert len(bomb) < MIB / 4
    api.publish({"type": "note", "data": "x" * 200_000})
    before = memory(instance)
    for _ in range(5):
        problem_of(api.post(bomb, headers=GZIP), 413)
    assert memory(instance) - before < 16 * 1024
    api.close()


@pytest.mark.parametrize("right", [True, False])
def test_a_gzip_webhook_is_signed_as_it_was_sent(api: Api, right: bool) -> None:
    """No provider that is known compresses; a sender of one's own may, and signs the bytes that it sends."""
    body = (example.PAYLOADS / "github" / "deployment_status.json").read_bytes()
    sent, signer = gzip.compress(body), SIGNERS["github"]
    signed = signer.sign(sent if right else body, signer.secrets[0], f"delivery-{right}", int(time.time()))
    headers = {**signed, **GZIP, "x-github-event": "deployment_status", "content-type": "application/json"}
    response = api.http.post("/api/webhooks/github", content=sent, headers=headers)
    assert response.status_code == (202 if right else 401), response.text


CONTEXTS = [
    "[" * 100_000,
    '{"deadline":' + "[" * 5_000 + "]" * 5_000 + "}",
    '{"x":' * 3_000 + "1" + "}" * 3_000,
    *(
        f'{{"deadline": {value}}}'
        for value in (
            *("NaN", "Infinity", "-Infinity", "true", "null", '"1"', "{}", "[1]", "-1", "0", "1"),
            *("1e400", "1e300", "1" + "0" * 400, '"nan"', '"inf"'),
        )
    ),
    "",
    "null",
    "1",
    "\xff",
    '{"Deadline": 1}',
]


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda text: ascii(text[:30]))
def test_a_malformed_lambda_context_is_ignored(api: Api, context: str) -> None:
    """Deep nesting was a 500, and so was a number of four hundred digits."""
    with api.http.stream(
        "GET", "/api/events", headers=[(b"x-amzn-lambda-context", context.encode("latin-1")[:60_000])]
    ) as response:
        assert response.status_code == 200
        assert b"".join(response.iter_raw()).endswith(b'{"reason":"max-age"}\n\n')
    assert "Traceback" not in api.instance.log()


def test_an_ipv6_address_is_listened_on(tmp_path: "os.PathLike[str]") -> None:
    port = free_port()
    environment = {**inherited(), "HOST": "::1", "PORT": str(port), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "functions.local"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(f"Tidewire on http://[::1]:{port} ")
            response = httpx.get(f"http://[::1]:{port}/api/health/live")
            assert response.content == ALIVE
            process.terminate()
            assert process.wait(15) == 0
        finally:
            process.kill()  # a failed assertion would wait for its end


@pytest.mark.parametrize("module", ["functions.local", "functions.stream"])
def test_an_address_that_cannot_be_had_is_one_line(instance: Instance, module: str) -> None:
    for settings, line_start in (
        ({"PORT": str(instance.port)}, f"tidewire: PORT: {instance.port} is in use on {HOST}: "),
        ({"HOST": "192.0.2.1", "PORT": "0"}, "tidewire: HOST: this machine cannot listen on that address"),
        ({"HOST": "no.such.host.invalid", "PORT": "0"}, "tidewire: HOST: this machine cannot listen on that address"),
    ):
        environment = {**inherited(), "HOST": HOST, **settings}
        command = [sys.executable, "-m", module]
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert ended.returncode == 2
        *_, line = ended.stderr.splitlines()
        assert "Traceback" not in ended.stderr
        assert line.startswith(line_start)


def test_sigterm_refuses_connections_and_answers_what_it_has(make_instance: MakeInstance) -> None:
    """A stream that is requested on a connection with a response under way gets the documented 503."""
    instance = make_instance()
    poll = f"GET /api/events?wait=20 HTTP/1.1\r\nhost: {HOST}\r\naccept: application/json\r\n\r\n".encode()
    api = Api(instance)
    with peer(instance) as idle, peer(instance) as busy:
        idle.send(LIVE)
        assert idle.answer().body == ALIVE
        busy.send(poll + EVENTS + LIVE)
        wait_until(lambda: 'realtime_subscribers{state="live"} 1.0' in api.http.get("/api/metrics").text, 15)
        api.close()
        instance.terminate()
        page, refused, last = busy.answer(), busy.answer(), busy.answer()
        assert (page.status, json.loads(page.body)["events"]) == (200, [])
        refused.assert_unavailable()
        assert (last.body, last.headers["connection"]) == (ALIVE, "close")
        assert busy.rest() == b""
        assert idle.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, instance.port)).close()
    assert instance.wait() == 0


def test_a_body_on_its_way_at_sigterm_is_still_taken(make_instance: MakeInstance) -> None:
    instance = make_instance()
    request = post("/api/publish", b"", EVENT)
    with peer(instance) as one:
        one.send(request[:-10])
        wait_until(lambda: is_read(instance), 15)
        instance.terminate()
        wait_until(lambda: not accepts(instance), 15)
        one.send(request[-10:])
        answer = one.answer()
        assert (answer.status, answer.headers["connection"]) == (202, "close")
        assert one.rest() == b""
    assert instance.wait() == 0


def is_read(instance: Instance) -> bool:
    """Whether another peer, which connected later, is answered."""
    with peer(instance) as other:
        other.send(LIVE)
        return other.answer().body == ALIVE


def accepts(instance: Instance) -> bool:
    try:
        Peer(instance).close()
    except ConnectionRefusedError:
        return False
    return True
