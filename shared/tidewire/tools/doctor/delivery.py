"""How events come: `long-poll`, `stream`, `buffering`, `latency`, `heartbeats`. The last three look at one stream."""

import asyncio
import contextlib
import math
from collections.abc import Sequence

import httpx

from tidewire.client.answers import detail_of
from tidewire.client.decoder import Frame
from tidewire.tools.doctor.credentials import new_ticket
from tidewire.tools.doctor.deployment import Deployment, bearer, refused
from tidewire.tools.doctor.faults import place, unreachable
from tidewire.tools.doctor.findings import Decided, Finding, fail, milliseconds, ok, skip, warn
from tidewire.tools.doctor.streams import Arrival, Stream, now, open_stream

LONGEST_POLL = 20.0  # seconds; the protocol's
HEAD_START = 0.1  # seconds that a long poll is under way before the event that it waits for is published
TRIED = 3  # events of the buffering check: the log may be polled less often before the first of them
SLOW_MS = 1_000.0  # of the slowest of a hundred

NOT_SHARED = (
    "All instances and functions must share one log: REALTIME_TRANSPORT redis or postgres, the same store, and the same"
    " REALTIME_PREFIX, REALTIME_PARTITIONS and REALTIME_USER_SHARDS (docs/configuration.md)"
)
CUT = "See the time-outs of what is in front: it must let a stream be silent for a minute (docs/containers.md)"
HELD_BACK = (
    "Something in front keeps the answer. nginx: proxy_buffering off and gzip off for the stream's path"
    " (examples/nginx.conf), and do not ignore X-Accel-Buffering. Others: docs/containers.md, In front of it. HTTP APIs"
    " of API Gateway and rewrites of Netlify do not stream: name the stream function's own URL in REALTIME_STREAM_URL"
    " (docs/deploy.md)"
)


async def long_poll(deployment: Deployment) -> Finding:
    """Publish while a page waits: what is published can be read where streams are, also by who cannot stream."""
    cursor = (await deployment.page()).cursor
    wait = min(LONGEST_POLL, deployment.limits.answer)
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
        return fail(f"what is published cannot be read within {wait:g} s", NOT_SHARED)
    deployment.polls = True
    return ok(f"the event came {took:g} ms after its receipt", waitedMs=took)


async def stream(deployment: Deployment) -> Finding:
    """Open a stream, as an EventSource does where tickets are given."""
    deployment.need_subscriber()
    began = now()
    try:
        deployment.live = await connect(deployment)
    except TimeoutError:
        await deployment.page()  # where this does not answer either, it is not the stream
        deployment.held_back = True
        return skip("a page is answered, and of a stream nothing comes: see `buffering`")
    took = milliseconds(now() - began)
    response = deployment.live.response
    kind = response.headers.get("content-type", "of no type")
    if not kind.startswith("text/event-stream"):
        await deployment.close_stream()
        return fail(f"the answer is {kind}", "See that /api/events leads to the stream function, and not to a page")
    where = place(httpx.URL(deployment.stream_url))
    return ok(f"{where} answers after {took:g} ms", url=where, headMs=took, http=response.http_version)


async def buffering(deployment: Deployment) -> Finding:
    """Publish while the stream is open: each event must come as it happens, and not at the end or after seconds."""
    found = await _watch(deployment)
    if found.verdict == "fail" and not found.measured:  # nothing of it can be read: to wait for more would be in vain
        await deployment.close_stream()
    return found


async def _watch(deployment: Deployment) -> Finding:
    if deployment.held_back:
        seconds = deployment.limits.answer
        return fail(f"nothing of the stream comes within {seconds:g} s, not even its head", HELD_BACK)
    live = deployment.need_live()
    if problem := _altered(live.response.headers):
        return problem
    limit = deployment.limits.answer
    if await live.find(_is_ready, limit) is None:
        return fail(f"the stream's first frames do not come within {limit:g} s", HELD_BACK)
    taken = []
    for _ in range(TRIED):
        number = await deployment.publish()
        published = now()
        arrival = await _arrival(deployment, live, number)
        if arrival is None:
            return _missing(deployment, live, limit)
        taken.append(max(arrival.at - published, 0.0))
    usual = sorted(taken)[len(taken) // 2]
    measured = {"usualMs": milliseconds(usual), "slowestMs": milliseconds(max(taken))}
    if usual > deployment.limits.held_back:
        return fail(f"events come {usual:.1f} s after they are published: they are held back", HELD_BACK, **measured)
    return ok(f"each of {TRIED} events came as it was published", **measured)


def _altered(headers: httpx.Headers) -> Finding | None:
    """Return what is wrong with an answer that was changed on its way; frames in it may not even be readable."""
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        advice = (
            "Streams say no-transform: switch compression off for their path (nginx: gzip off; CloudFront: Compress"
            " objects automatically off; docs/containers.md, In front of it)"
        )
        return fail(
            f"the stream is compressed on its way ({encoding}): a compressor keeps events until it has enough", advice
        )
    if "content-length" in headers:
        return fail("the stream has a Content-Length: something read it to an end before it passed it on", HELD_BACK)
    return None


def _missing(deployment: Deployment, live: Stream, limit: float) -> Finding:
    if live.end is not None:
        return fail(f"the stream ended before the event came: {live.end}", CUT)
    if deployment.polls:
        return fail(
            f"an event that a long poll brings at once does not come by the stream within {limit:g} s", HELD_BACK
        )
    return fail(f"no event came by the stream within {limit:g} s", NOT_SHARED)


async def latency(deployment: Deployment) -> Finding:
    """Publish one event after the other, each once the one before has come; from the request to the frame."""
    live, limits = deployment.need_live(), deployment.limits
    taken: list[float] = []
    cut, deadline = "", now() + 2 * limits.answer
    while len(taken) < limits.samples and now() < deadline:
        began = now()
        try:
            number = await deployment.publish()
        except Decided as decided:
            if not taken:
                raise
            cut = f"; {decided.finding.reason}"
            break
        arrival = await _arrival(deployment, live, number)
        if arrival is None:
            return _missing(deployment, live, limits.answer)
        taken.append(milliseconds(arrival.at - began))
    taken.sort()
    measured = {"samples": len(taken), "p50Ms": _rank(taken, 0.5), "p99Ms": _rank(taken, 0.99), "maxMs": taken[-1]}
    told = "p50 {p50Ms:g} ms, p99 {p99Ms:g} ms, max {maxMs:g} ms from publish to delivery, {samples} events".format(
        **measured
    )
    if measured["p99Ms"] > SLOW_MS:
        advice = (
            "See how far the store is, and cold starts; where it is read over REST, REALTIME_POLL_MIN and _MAX"
            " (docs/transports.md)"
        )
        return warn(told + cut, advice, **measured)
    return ok(told + cut, **measured)


async def heartbeats(deployment: Deployment) -> Finding:
    """Wait for a heartbeat: a frame with an id only, after `realtime.ready`."""
    live = deployment.need_live()
    beat = deployment.limits.heartbeat
    seconds = 2 * beat + min(beat, 1.0)  # clients take a connection for dead after two, and some time on the way
    ready = next((place for place, arrival in enumerate(live.arrivals) if _is_ready(arrival.frame)), 0)
    arrival = await live.find(lambda frame: frame.data is None, seconds, after=ready)
    if arrival is not None:
        after = arrival.at - live.arrivals[ready].at
        return ok(f"the first came after {after:.1f} s", firstSeconds=round(after, 1))
    if live.end is not None:
        return fail(f"the stream ended before one came: {live.end}", CUT)
    advice = "If the deployment's REALTIME_HEARTBEAT is longer, give it as --heartbeat. " + HELD_BACK
    return fail(f"none within {seconds:g} s", advice)


def gap(reason: str) -> Finding:
    """Return what it means that a gap was told, right after a cursor was given out."""
    if reason == "no-log":
        advice = "Where events must not be missed, use a transport with a log (docs/transports.md)"
        return warn("the transport keeps no log: each reconnect is told as a gap, and clients must reload", advice)
    return fail(f"a gap was told ({reason}) where nothing can be lost", NOT_SHARED)


async def connect(deployment: Deployment, cursor: str = "", *, in_query: bool = False) -> Stream:
    """Open a stream after the cursor. Raises TimeoutError where its head does not come, and Decided."""
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
        advice = "Ask again later, or raise REALTIME_MAX_CONNECTIONS or REALTIME_MAX_USER_CONNECTIONS"
        raise Decided(warn(f"no stream: {detail}", advice))
    raise Decided(fail(f"no stream: {detail}", refused(response.status_code)))


def _is_ready(frame: Frame) -> bool:
    return frame.type == "realtime.ready"


async def _arrival(deployment: Deployment, live: Stream, number: int) -> Arrival | None:
    return await live.find(lambda frame: deployment.number_of(frame.data) == number, deployment.limits.answer)


def _rank(ordered: Sequence[float], share: float) -> float:
    """Return the value that this share of all does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
