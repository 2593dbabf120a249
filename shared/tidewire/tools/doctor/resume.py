"""`resume`: whether a reconnect delivers exactly the event missed meanwhile."""

from tidewire.client.responses import control
from tidewire.tools.doctor.delivery import NOT_SHARED, connect, gap
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Finding, fail, ok, skip
from tidewire.tools.doctor.streams import Stream

DROPPED = (
    "A proxy in front drops the Last-Event-ID header: forward it to the stream function. CloudFront: origin request"
    " policy AllViewerExceptHostHeader; other proxies: docs/containers.md, Proxies and load balancers"
)


async def resume(deployment: Deployment) -> Finding:
    """Close the stream, publish, reconnect with the last id: exactly the missed event must arrive, once."""
    live = deployment.need_live()
    cursor = live.last_event_id
    await deployment.close_stream()
    if not cursor:
        return skip("no frame had an id to resume from: see `buffering`")
    missed = await deployment.publish()
    problem = await _reconnect(deployment, cursor, missed)
    if problem is None:
        return ok("exactly the missed event arrived, once and in order")
    if (
        problem.verdict == "fail"
        and problem.advice == DROPPED
        and await _reconnect(deployment, cursor, missed, in_query=True) is None
    ):
        return fail(f"{problem.reason}; with last_event_id= in the query it works", DROPPED)
    return problem


async def _reconnect(deployment: Deployment, cursor: str, missed: int, *, in_query: bool = False) -> Finding | None:
    """Return the problem of the stream after the cursor, None if it has none."""
    seconds = deployment.limits.answer
    try:
        stream = await connect(deployment, cursor, in_query=in_query)
    except TimeoutError:
        return fail(
            f"the second stream does not respond within {seconds:g} s",
            "See `buffering`, and the log of the stream function",
        )
    deployment.live = stream
    try:
        if await stream.find(lambda frame: frame.type == "realtime.ready", seconds) is None:
            return fail(f"the second stream is not live within {seconds:g} s", "See the log of the stream function")
        if problem := _gap(stream):
            return problem
        # The last event: when it arrives, all events before it have arrived too.
        last = await deployment.publish()
        if await stream.find(lambda frame: deployment.number_of(frame.data) == last, seconds) is None:
            return fail(f"no event arrives within {seconds:g} s after the reconnect", NOT_SHARED)
        found = [number for arrival in stream.arrivals if (number := deployment.number_of(arrival.frame.data))]
    finally:
        await deployment.close_stream()
    if found == list(range(missed, last + 1)):  # on a second try, including the event of the first
        return None
    if missed not in found:
        return fail("the missed event never arrives", DROPPED)
    if min(found) < missed:
        return fail(f"{sum(number < missed for number in found)} events are delivered again", DROPPED)
    return fail("an event is delivered twice, or out of order", NOT_SHARED)


def _gap(stream: Stream) -> Finding | None:
    gaps = (arrival.frame for arrival in stream.arrivals if arrival.frame.type == "realtime.gap")
    return next((gap(control(frame.data or "").reason or "unknown") for frame in gaps), None)
