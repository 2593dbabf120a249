"""A subscription under failures, in virtual time, against a scripted server."""

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest
from tidewire.client import Event, Gap
from tidewire.client.retry import CLOSING_JITTER
from tidewire.client.subscription import BLOCKED_AFTER, FIRST_BYTE, STREAM_AGAIN
from tidewire.errors import Forbidden, InvalidRequest, SubscriptionStopped, TidewireError, Unauthorized

from tests.integration.client.scripted import (
    SILENCE,
    Server,
    cloudevent,
    control,
    event,
    page,
    position,
    problem,
    ready,
    stream,
    take,
)
from tests.integration.client.test_retry import jwt
from tests.support.clocks import pass_time, virtual_time


def names(items: list[Event | Gap]) -> list[str]:
    """The names of events and the reasons of gaps."""
    return [item.data if isinstance(item, Event) else f"gap: {item.reason}" for item in items]


@virtual_time
async def test_a_broken_stream_is_resumed_without_duplicates() -> None:
    server = Server(
        stream(b"retry: 0\n\n", event("1", "a"), ready("1", 1), event("2", "b"), b"id: 3\n\n", b"id: 4\ndata: {"),
        httpx.ConnectError("refused"),
        stream(b"retry: 0\n\n", event("4", "c"), ready("4", 1), SILENCE),
    )
    async with server.subscribe(start="earliest") as subscription:
        items = await take(subscription, 3)
        assert names(items) == ["a", "b", "c"]
        assert [isinstance(item, Event) and item.replayed for item in items] == [True, False, True]
        assert subscription.cursor == "4"
    assert [position(request) for request in server.requests] == [(None, "earliest"), ("3", None), ("3", None)]
    assert [state.reason for state in server.waits] == ["lost", "lost"]
    assert server.states[-1].name == "closed"


@virtual_time
async def test_an_event_has_its_data_and_its_cursor() -> None:
    head = (
        b'{"specversion":"1.0","id":"7","source":"s","type":"a.b","time":"2026-01-01T00:00:00Z","traceparent":"00-1",'
    )
    whole = head + b'"data":{"n": 1.0}}'
    server = Server(stream(b"id: 9\ndata: " + whole + b"\n\n", SILENCE))
    async with server.subscribe(types=["a.b", "c"], user_id="u 1", token="tok") as subscription:
        [item] = await take(subscription, 1)
    assert item == Event("7", "a.b", '{"n": 1.0}', "9", "2026-01-01T00:00:00Z", "s", {"traceparent": "00-1"}, True)
    [request] = server.requests
    assert dict(request.url.params) == {"format": "cloudevents", "types": "a.b,c", "userId": "u 1", "from": "now"}
    assert request.headers["authorization"] == "Bearer tok"


@virtual_time
async def test_a_gap_is_an_item_and_a_cut_before_it_does_not_hide_it() -> None:
    server = Server(
        stream(b"retry: 0\nid: 5\n\n"),  # primed, and cut before the gap is announced
        stream(
            b"retry: 0\nid: 5\n\n", control("gap", "5", reason="trimmed", recovered=False), event("6", "f"), SILENCE
        ),
    )
    async with server.subscribe(cursor="1") as subscription:
        assert names(await take(subscription, 2)) == ["gap: trimmed", "f"]
    assert [position(request) for request in server.requests] == [("1", None), ("1", None)]


@virtual_time
async def test_a_silent_stream_is_dead_after_two_heartbeats() -> None:
    server = Server(
        stream(ready("1"), 14.0, b"id: 2\n\n", 31.0, b"id: 3\n\n", SILENCE),
        stream(event("4", "d"), SILENCE),
    )
    async with server.subscribe() as subscription:
        await take(subscription, 1)
    assert [state.reason for state in server.waits] == ["silent"]
    assert server.at[1] - (14 + 31) == pytest.approx(32 + server.waits[0].delay)
    assert position(server.requests[1]) == ("3", None)


@virtual_time
async def test_backs_off_while_the_server_is_unavailable() -> None:
    """The delays grow, and respect the server's own minimum."""
    server = Server(
        stream(b"retry: 3000\n\n"),
        problem(503, "away", {"retry-after": "20"}),
        problem(500),
        problem(404),
        stream(event("1", "a"), SILENCE),
    )
    async with server.subscribe() as subscription:
        await take(subscription, 1)
    first, second, third, fourth = server.waits
    assert 3 <= first.delay <= 4
    assert 20 <= second.delay <= 22
    assert (second.reason, second.detail) == ("refused", "503: away")
    assert 3 <= third.delay <= 7
    assert 3 <= fourth.delay <= 11
    assert server.at[-1] == pytest.approx(sum(wait.delay for wait in server.waits))


@virtual_time
async def test_reconnects_at_once_after_an_orderly_end() -> None:
    """With a little jitter, so that the clients of an instance do not reconnect together."""
    server = Server(
        stream(b"retry: 2000\n\n", ready("1"), 6.0, control("closing", reason="max-age")),
        stream(b"retry: 2000\n\n", ready("1"), 1.0, control("closing", reason="draining")),
        stream(event("2", "b"), SILENCE),
    )
    async with server.subscribe() as subscription:
        await take(subscription, 1)
    steady, short = server.waits
    assert (steady.reason, short.reason) == ("max-age", "draining")
    assert 0 <= steady.delay <= CLOSING_JITTER
    assert short.delay >= 2, "a server that answers and dies is not hammered"
    assert position(server.requests[2]) == ("1", None)


@pytest.mark.parametrize(
    ("status", "error"),
    [(204, SubscriptionStopped), (400, InvalidRequest), (401, Unauthorized), (403, Forbidden)],
)
def test_a_final_response_ends_it_with_the_servers_detail(status: int, error: type[TidewireError]) -> None:
    @virtual_time
    async def run() -> None:
        server = Server(problem(status, "because of this"), stream(event("1", "a")))
        with pytest.raises(error, match="204" if status == 204 else f"{status}: because of this"):
            await anext(server.subscribe(token="t"))
        assert len(server.requests) == 1
        assert server.states[-1].name == "closed"

    run()


@virtual_time
async def test_a_token_function_is_called_once_more_after_a_401() -> None:
    tokens = iter(["old", "new", "newer", "newest"])
    server = Server(problem(401), stream(ready("1"), 1.0), problem(401), problem(401, "no more"), stream())
    subscription = server.subscribe(token=lambda: next(tokens))
    with pytest.raises(Unauthorized, match="no more"):
        await anext(subscription)
    assert [request.headers["authorization"] for request in server.requests] == [
        f"Bearer {token}" for token in ("old", "new", "newer", "newest")
    ]


@virtual_time
async def test_a_token_that_is_not_valid_yet_is_sent_again() -> None:
    """The clock of the issuer is ahead: the next token would be early too, so the first one is kept."""
    tokens = iter(["early", "next"])
    early = problem(401, "it is not valid yet", headers={"retry-after": "7"})
    server = Server(early, early, stream(event("1", "a"), SILENCE))
    async with server.subscribe(token=lambda: next(tokens)) as subscription:
        assert names(await take(subscription, 1)) == ["a"]
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer early"] * 3
    assert [wait.detail for wait in server.waits] == ["401: it is not valid yet"] * 2
    assert all(later - sooner >= 7 for sooner, later in zip(server.at, server.at[1:], strict=False))


@virtual_time
async def test_a_token_that_ends_while_it_waits_is_replaced() -> None:
    tokens = iter(["early", "next"])
    early = problem(401, headers={"retry-after": "7"})
    server = Server(early, problem(401), stream(event("1", "a"), SILENCE))
    async with server.subscribe(token=lambda: next(tokens)) as subscription:
        await take(subscription, 1)
    assert [request.headers["authorization"] for request in server.requests][-1] == "Bearer next"


@virtual_time
async def test_a_token_that_a_header_cannot_carry_is_an_error() -> None:
    """And not a loop of attempts."""
    server = Server()
    with pytest.raises(Unauthorized, match="a header cannot carry"):
        await anext(server.subscribe(token="a\nb: c"))
    assert server.requests == []


@virtual_time
async def test_renews_its_token_while_the_old_stream_delivers() -> None:
    """The new connection resumes after the last event of the old one."""
    first, second = jwt({"exp": time.time() + 100, "n": 1}), jwt({"exp": time.time() + 9_000, "n": 2})
    tokens = iter([first, second])
    called: list[float] = []

    async def token() -> str:
        called.append(asyncio.get_running_loop().time())
        if len(called) > 1:
            await pass_time(3)
        return next(tokens)

    def beats() -> Iterator[bytes | float]:
        yield ready("0")
        yield 0.5  # no event in the very moment of the switch: the script would not send it again
        for n in range(1, 200):
            yield 1.0
            yield event(str(n), str(n))

    server = Server(stream(*beats()), stream(event("83", "83"), SILENCE))
    async with server.subscribe(token=token) as subscription:
        items = await take(subscription, 83)
    assert names(items) == [str(n) for n in range(1, 84)], "nothing lost and nothing doubled"
    assert called == [0, pytest.approx(80, abs=1)]
    assert server.at[1] == pytest.approx(83, abs=1), "no wait, and the old stream delivered until then"
    assert server.requests[1].headers["authorization"] == f"Bearer {second}"
    assert server.waits == []


@virtual_time
async def test_renews_its_token_when_the_server_announces_expiry() -> None:
    tokens = iter(["opaque-1", "opaque-2"])
    server = Server(
        stream(ready("1"), control("expiring", seconds=30), SILENCE),
        stream(event("2", "b"), SILENCE),
    )
    async with server.subscribe(token=lambda: next(tokens)) as subscription:
        assert names(await take(subscription, 1)) == ["b"]
    assert server.at == [0, pytest.approx(24, abs=0.1)], "in time, and yet no loop where tokens live for less"
    assert server.requests[1].headers["authorization"] == "Bearer opaque-2"


@virtual_time
async def test_a_failed_renewal_keeps_the_valid_token() -> None:
    calls = 0

    def token() -> str:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("the application's server is unavailable")
        return "opaque"

    server = Server(stream(ready("1"), control("expiring", seconds=30), 30.0, event("2", "b"), SILENCE))
    async with server.subscribe(token=token) as subscription:
        assert names(await take(subscription, 1)) == ["b"]
    assert (calls, len(server.requests)) == (2, 1)


@virtual_time
async def test_polls_if_only_pages_get_through() -> None:
    server = Server(
        stream(SILENCE),  # a proxy that buffers
        page(cloudevent("a"), cloudevent("b"), cursor="2", gap="trimmed"),
        page(cursor="3"),
        page(cloudevent("c"), cursor="4"),
        lambda: stream(SILENCE),
    )
    async with server.subscribe(cursor="1") as subscription:
        items = await take(subscription, 4)
        assert names(items) == ["gap: trimmed", "a", "b", "c"]
        assert [item.cursor for item in items] == ["1", "1", "2", "4"], (
            "a caller that stops within a page reads it again"
        )
    [wait] = server.waits
    assert (wait.reason, wait.mode) == ("silent", "poll")
    assert server.at[1] == pytest.approx(FIRST_BYTE + wait.delay)
    pages = server.requests[1:]
    assert [request.headers["accept"] for request in pages] == ["application/json"] * 3
    assert [(position(request)[0], request.url.params["wait"]) for request in pages] == [
        ("1", "0"),
        ("2", "0"),
        ("3", "20"),
    ]
    assert [state.mode for state in server.states if state.name == "live"] == ["poll"]


@virtual_time
async def test_after_a_while_of_pages_a_stream_is_tried_again() -> None:
    refused = [httpx.ReadError("cut")] * BLOCKED_AFTER
    quiet = [page(cursor="1") for _ in range(1_000)]
    server = Server(*refused, *quiet)
    subscription = server.subscribe()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * STREAM_AGAIN):
            await anext(subscription)
    kinds = [request.headers["accept"] for request in server.requests]
    again = kinds.index("text/event-stream", BLOCKED_AFTER)
    assert set(kinds[BLOCKED_AFTER:again]) == {"application/json"}
    assert server.at[again] - server.at[BLOCKED_AFTER] == pytest.approx(STREAM_AGAIN, abs=4)


@virtual_time
async def test_an_immediate_page_causes_no_tight_loop() -> None:
    server = Server(
        stream(SILENCE), page(cursor="1"), *(page(cursor="1") for _ in range(5)), page(cloudevent("a"), cursor="2")
    )
    async with server.subscribe() as subscription:
        await take(subscription, 1)
    gaps = [later - earlier for earlier, later in zip(server.at[2:], server.at[3:], strict=False)]
    assert all(2 <= gap <= 3 for gap in gaps), gaps


@virtual_time
async def test_streams_again_when_polling_fails_too() -> None:
    """The server is down then, and not only its streams."""
    server = Server(
        *[httpx.ConnectError("refused")] * (BLOCKED_AFTER + 1),
        stream(event("1", "a"), SILENCE),
    )
    async with server.subscribe() as subscription:
        await take(subscription, 1)
    assert [request.headers["accept"] for request in server.requests] == [
        *["text/event-stream"] * BLOCKED_AFTER,
        "application/json",
        "text/event-stream",
    ]


@virtual_time
async def test_a_login_page_of_a_network_is_waited_out() -> None:
    server = Server(httpx.Response(200, html="<h1>Welcome"), stream(event("1", "a"), SILENCE))
    async with server.subscribe() as subscription:
        await take(subscription, 1)
    assert "text/html" in server.waits[0].detail


@virtual_time
async def test_the_end_of_the_subscription_ends_its_connection() -> None:
    answer = stream(event("1", "a"), SILENCE)
    server = Server(answer)
    async with server.subscribe() as subscription:
        await take(subscription, 1)
    assert answer.is_closed
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


@pytest.mark.parametrize("url", ["", "tidewire.test/api/events", "ftp://tidewire.test/", "http:///api/events"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    from tidewire.client import subscribe

    with pytest.raises(ValueError, match="url must be"):
        subscribe(url)
