"""Delivery: `long-poll`, `stream`, `buffering`, `latency`, `heartbeats`. The last three share one stream."""

import asyncio
import contextlib
import math
from collections.abc import Sequence

import httpx

from tidewire.client.decoder import Frame
from tidewire.client.responses import detail_of
from tidewire.tools.doctor.credentials import new_ticket
from tidewire.tools.doctor.deployment import Deployment, bearer, refused
from tidewire.tools.doctor.findings import Decided, Finding, fail, milliseconds, ok, public, skip, unreachable, warn
from tidewire.tools.doctor.streams import Arrival, Stream, now, open_stream

MAX_WAIT = 20.0  # seconds; the protocol's maximum
HEAD_START = 0.1  # seconds from the start of a long poll to the publication of its event
ATTEMPTS = 3  # events of the buffering check: a tail over REST that must poll is slow before the first of them
SLOW_MS = 1_000.0  # of the 99th percentile

NOT_SHARED = (
    "All instances and functions must share one log: REALTIME_TRANSPORT redis or postgres, the same store, and the same"
    " REALTIME_PREFIX, REALTIME_PARTITIONS and REALTIME_USER_SHARDS (docs/configuration.md)"
)
CUT = "Check the time-outs of the proxy in front: it must allow a minute of silence on a stream (docs/containers.md)"
HELD_BACK = (
    "A proxy in front buffers the response. nginx: proxy_buffering off and gzip off for the stream's path"
    " (examples/nginx.conf), and do not ignore X-Accel-Buffering. Others: docs/containers.md, Proxies and load"
    " balancers. HTTP APIs of API Gateway and rewrites of Netlify do not stream: set REALTIME_STREAM_URL to the stream"
    " function's own URL (docs/deploy.md)"
)


async def long_poll(deployment: Deployment) -> Finding:
    """Publish while a page waits: publishers and readers must share a log, and clients must be able to poll."""
    cursor = (await deployment.page()).cursor
    wait = min(MAX_WAIT, deployment.limits.answer)
    waiting = asyncio.create_task(deployment.page(cursor, wait))
    try:
        await asyncio.sleep(HEAD_START)
        number = await deployment.publish()
        published = now()
        page = await waiting
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    took = milliseconds(max(now() - published, 0.0))
    if page.gap is not None:
        return gap(page.gap.reason)
    if number not in deployment.numbers(page):
        return fail(f"a published event cannot be read within {wait:g} s", NOT_SHARED)
    deployment.polls = True
    return ok(f"the event arrived {took:g} ms after its receipt", waitedMs=took)


async def stream(deployment: Deployment) -> Finding:
    """Open a stream, with a ticket as an EventSource does if the deployment issues tickets."""
    deployment.need_subscriber()
    began = now()
    try:
        deployment.live = await connect(deployment)
    except TimeoutError:
        await deployment.page()  # if this fails too, the stream is not the problem
        deployment.held_back = True
        return skip("pages work, but not even the headers of a stream arrive: see `buffering`")
    took = milliseconds(now() - began)
    response = deployment.live.response
    kind = response.headers.get("content-type", "of no type")
    if not kind.startswith("text/event-stream"):
        await deployment.close_stream()
        return fail(f"the response is {kind}", "Check that /api/events is routed to the stream function")
    where = public(httpx.URL(deployment.stream_url))
    return ok(f"{where} responds after {took:g} ms", url=where, headMs=took, http=response.http_version)


async def buffering(deployment: Deployment) -> Finding:
    """Publish while the stream is open: each event must arrive at once, not seconds later or at the end."""
    finding = await _watch(deployment)
    if finding.verdict == "fail" and not finding.measured:  # the stream is unreadable, so no later check can use it
        await deployment.close_stream()
    return finding


async def _watch(deployment: Deployment) -> Finding:
    if deployment.held_back:
        seconds = deployment.limits.answer
        return fail(f"not even the headers of the stream arrive within {seconds:g} s", HELD_BACK)
    live = deployment.need_live()
    if problem := _altered(live.response.headers):
        return problem
    limit = deployment.limits.answer
    if await live.find(_is_ready, limit) is None:
        return fail(f"the first frames of the stream do not arrive within {limit:g} s", HELD_BACK)
    delays = []
    for _ in range(ATTEMPTS):
        number = await deployment.publish()
        published = now()
        arrival = await _arrival(deployment, live, number)
        if arrival is None:
            return _missing(deployment, live, limit)
        delays.append(max(arrival.at - published, 0.0))
    usual = sorted(delays)[len(delays) // 2]
    measured = {"usualMs": milliseconds(usual), "slowestMs": milliseconds(max(delays))}
    if usual > deployment.limits.held_back:
        return fail(
            f"events arrive {usual:.1f} s after their publication: the stream is buffered", HELD_BACK, **measured
        )
    return ok(f"each of {ATTEMPTS} events arrived at once", **measured)


def _altered(headers: httpx.Headers) -> Finding | None:
    """Return the finding for a response that a proxy changed, None if none did."""
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        advice = (
            "Switch compression off for the stream's path (nginx: gzip off; CloudFront: Compress"
            " objects automatically off; docs/containers.md, Proxies and load balancers)"
        )
        return fail(f"a proxy compresses the stream ({encoding}), which delays events", advice)
    if "content-length" in headers:
        return fail("the stream has a Content-Length: a proxy buffers it to its end", HELD_BACK)
    return None


def _missing(deployment: Deployment, live: Stream, limit: float) -> Finding:
    if live.end is not None:
        return fail(f"the stream ended before the event arrived: {live.end}", CUT)
    if deployment.polls:
        return fail(
            f"no event arrives on the stream within {limit:g} s, although a long poll receives it at once", HELD_BACK
        )
    return fail(f"no event arrives on the stream within {limit:g} s", NOT_SHARED)


async def latency(deployment: Deployment) -> Finding:
    """Measure from the publish request to the frame, one event at a time."""
    live, limits = deployment.need_live(), deployment.limits
    delays: list[float] = []
    cut, deadline = "", now() + 2 * limits.answer
    while len(delays) < limits.samples and now() < deadline:
        began = now()
        try:
            number = await deployment.publish()
        except Decided as decided:
            if not delays:
                raise
            cut = f"; {decided.finding.reason}"
            break
        arrival = await _arrival(deployment, live, number)
        if arrival is None:
            return _missing(deployment, live, limits.answer)
        delays.append(milliseconds(arrival.at - began))
    delays.sort()
    measured = {"samples": len(delays), "p50Ms": _rank(delays, 0.5), "p99Ms": _rank(delays, 0.99), "maxMs": delays[-1]}
    summary = "p50 {p50Ms:g} ms, p99 {p99Ms:g} ms, max {maxMs:g} ms from publish to delivery, {samples} events".format(
        **measured
    )
    if measured["p99Ms"] > SLOW_MS:
        advice = (
            "Check the distance to the store and cold starts; for a store over REST, whether its doorbell is heard"
            " (docs/transports.md)"
            " (docs/transports.md)"
        )
        return warn(summary + cut, advice, **measured)
    return ok(summary + cut, **measured)


async def heartbeats(deployment: Deployment) -> Finding:
    """Wait for a heartbeat after `realtime.ready`: a frame with an id only."""
    live = deployment.need_live()
    beat = deployment.limits.heartbeat
    seconds = 2 * beat + min(beat, 1.0)  # clients treat two missing heartbeats, plus the delay, as a lost connection
    ready = next((index for index, arrival in enumerate(live.arrivals) if _is_ready(arrival.frame)), 0)
    arrival = await live.find(lambda frame: frame.data is None, seconds, after=ready)
    if arrival is not None:
        after = arrival.at - live.arrivals[ready].at
        return ok(f"the first arrived after {after:.1f} s", firstSeconds=round(after, 1))
    if live.end is not None:
        return fail(f"the stream ended before the first one: {live.end}", CUT)
    advice = "If the deployment's REALTIME_HEARTBEAT is longer, set --heartbeat to it. " + HELD_BACK
    return fail(f"none within {seconds:g} s", advice)


def gap(reason: str) -> Finding:
    """Return the finding for a gap, which must not follow a fresh cursor."""
    if reason == "no-log":
        advice = "If clients must not miss events, use a transport with a log (docs/transports.md)"
        return warn("the transport keeps no log: each reconnect is a gap, and clients must reload", advice)
    return fail(f"an unexpected gap ({reason}): no event can be lost here", NOT_SHARED)


async def connect(deployment: Deployment, cursor: str = "", *, in_query: bool = False) -> Stream:
    """Open a stream after the cursor. Raises TimeoutError if its headers do not arrive, and Decided."""
    query, headers = deployment.subscription(), {}
    if deployment.gives_tickets:
        query["ticket"] = await new_ticket(deployment)
    else:
        headers = bearer(deployment.subscriber)
    if cursor and in_query:
        query["last_event_id"] = cursor
    elif cursor:
        headers["last-event-id"] = cursor
    url = deployment.stream_url
    try:
        response = await open_stream(deployment.http, url, query, headers, deployment.limits.answer)
        if response.status_code == 200:
            return Stream(response, cursor)
        async with contextlib.aclosing(response):
            detail = await detail_of(response)
    except httpx.RequestError as error:
        raise Decided(unreachable(httpx.URL(url), error)) from None
    if response.status_code == 429:
        advice = "Try again later, or raise REALTIME_MAX_CONNECTIONS or REALTIME_MAX_USER_CONNECTIONS"
        raise Decided(warn(f"no stream: {detail}", advice))
    raise Decided(fail(f"no stream: {detail}", refused(response.status_code)))


def _is_ready(frame: Frame) -> bool:
    return frame.type == "realtime.ready"


async def _arrival(deployment: Deployment, live: Stream, number: int) -> Arrival | None:
    return await live.find(lambda frame: deployment.number_of(frame.data) == number, deployment.limits.answer)


def _rank(ordered: Sequence[float], share: float) -> float:
    """Return the percentile `share` of ordered values (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
