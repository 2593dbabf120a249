"""`resume`: a connection that is dropped, an event that is missed, and what comes after the reconnect."""

from tidewire.client.answers import control
from tidewire.tools.doctor.delivery import NOT_SHARED, connect, gap
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Finding, fail, ok, skip
from tidewire.tools.doctor.streams import Stream

DROPPED = (
    "Something on the way drops the Last-Event-ID header: let it through to the stream function. CloudFront: origin"
    " request policy AllViewerExceptHostHeader; other fronts: docs/containers.md, In front of it"
)


async def resume(deployment: Deployment) -> Finding:
    """Drop the stream, publish, come back with the last id: exactly the missed event must come, and nothing twice."""
    live = deployment.need_live()
    cursor = live.last_event_id
    await deployment.close_stream()
    if not cursor:
        return skip("no frame had an id to come back with: see `buffering`")
    missed = await deployment.publish()
    told = await _come_back(deployment, cursor, missed)
    if told is None:
        return ok("exactly the missed event came, once, before what followed")
    if (
        told.verdict == "fail"
        and told.advice == DROPPED
        and await _come_back(deployment, cursor, missed, in_query=True) is None
    ):
        return fail(f"{told.reason}; with last_event_id= in the query it does", DROPPED)
    return told


async def _come_back(deployment: Deployment, cursor: str, missed: int, *, in_query: bool = False) -> Finding | None:
    """Return what is wrong with the stream after the cursor, None where nothing is."""
    seconds = deployment.limits.answer
    try:
        stream = await connect(deployment, cursor, in_query=in_query)
    except TimeoutError:
        return fail(f"the second stream does not answer within {seconds:g} s", "See `buffering`, and the stream's log")
    deployment.live = stream
    try:
        if await stream.find(lambda frame: frame.type == "realtime.ready", seconds) is None:
            return fail(f"the second stream is not live within {seconds:g} s", "See the log of the stream function")
        if problem := _gap(stream):
            return problem
        # What is published now comes last: whatever was to come before it has come by then.
        last = await deployment.publish()
        if await stream.find(lambda frame: deployment.number_of(frame.data) == last, seconds) is None:
            return fail(f"after the reconnect no event came within {seconds:g} s", NOT_SHARED)
        found = [number for arrival in stream.arrivals if (number := deployment.number_of(arrival.frame.data))]
    finally:
        await deployment.close_stream()
    if found == list(range(missed, last + 1)):  # on a second try, with what the first one published
        return None
    if missed not in found:
        return fail("the event that was published meanwhile never came", DROPPED)
    if min(found) < missed:
        return fail(f"{sum(number < missed for number in found)} events came again that were seen before", DROPPED)
    return fail("an event came twice, or after one that was published later", NOT_SHARED)


def _gap(stream: Stream) -> Finding | None:
    gaps = (arrival.frame for arrival in stream.arrivals if arrival.frame.type == "realtime.gap")
    return next((gap(control(frame.data or "").reason or "unknown") for frame in gaps), None)
