"""What each way to run streams costs a month."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tidewire.tools.cost import commands, store
from tidewire.tools.cost.bill import GB, Bill, Line
from tidewire.tools.cost.prices import Prices
from tidewire.tools.cost.workload import MONTH_HOURS, MONTH_SECONDS, Workload

Mode = Literal["lambda", "managed", "container", "poll"]
MODES: tuple[Mode, ...] = ("lambda", "managed", "container", "poll")

HEARTBEAT_SECONDS, HEARTBEAT_BYTES = 15.0, 100
OPENING_BYTES = 1_000  # of a stream's answer before its first event: headers, retry, ready
FRAME_BYTES = 120  # of an event on a stream besides its data
PAGE_BYTES = 700  # of a page without events: headers, cursor
ITEM_BYTES = 130  # of an event on a page besides its data
PAGE_EVENTS = 500  # of one page, at most
RECEIPT_BYTES = 150  # of a publication's answer, an event; its headers are as a page's
FREE_STREAMED_BYTES = 6e6  # of each answer that Lambda streams

INVOCATION_LOG_BYTES = 300  # that Lambda writes itself: START, END, REPORT
REQUEST_LOG_BYTES = 250  # a request's or stream's line of ours
LAG_LOG_BYTES, LAG_SECONDS = 300, 60.0  # the tail's lag, a line a minute of a stream function

HTTP_API_BYTES = 512 * 1024  # of one billed request
BUS_BYTES = 64 * 1024  # of one billed event
LAMBDA_ENVIRONMENTS = 10  # at once: the quota of concurrent executions that a new account often has
MANAGED_LEAST = 3  # instances, one a zone: AWS's default
MANAGED_STREAMS = 1_600  # at once in one environment: the most of Lambda's PerExecutionEnvironmentMaxConcurrency
TASK_VCPU, TASK_GB = 0.5, 1.0  # of a container
BALANCER_ADDRESSES = 2
NEW_CONNECTIONS, ACTIVE_CONNECTIONS, BALANCED_GB = 25, 3_000, 1.0  # of one LCU: a second, at once, an hour
DELIVERIES_A_VCPU = 20_000  # a second: a quarter of what was measured, for all else that a process does


@dataclass(frozen=True, slots=True)
class Estimate:
    """A month of one mode, line by line."""

    mode: Mode
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def total(self) -> float:
        """The sum of the lines."""
        return math.fsum(line.cost for line in self.lines)


def estimate(mode: Mode, load: Workload, prices: Prices) -> Estimate:
    """Return what a month costs in this mode."""
    bill = Bill(prices)
    _WAYS[mode](bill, load)
    _add_bus(bill, load)
    if load.netlify:
        _add_netlify(bill, load, _polls(load) if mode == "poll" else 0.0)
    return Estimate(mode, bill.lines(), tuple(bill.notes))


def _add_lambda(bill: Bill, load: Workload) -> None:
    """Each open stream is an environment of its own, with a tail of its own, until its end."""
    opened = load.users * load.sessions * load.streams_a_session
    seconds = opened * load.stream_seconds
    heard = commands.heard_by_one(load)
    asked = seconds * commands.following(load, heard) + opened * commands.opening_alone(load)
    missed = heard.records * commands.RECONNECT_SECONDS
    if load.transport != "postgres":
        asked += opened * commands.pages(missed)
    streamed = _streamed(load, opened, seconds)
    bill.add("lambda-requests", opened)
    bill.add("lambda-gb-seconds", seconds * _gb(load))
    bill.add("lambda-streamed-gb", max(streamed - opened * FREE_STREAMED_BYTES, 0) / GB)
    bill.add("egress-gb", streamed / GB)
    bill.add("logs-gb", _stream_logs(load, opened) / GB)
    _add_publish_function(bill, load)
    store.charge(bill, load, asked, seconds * heard.records + opened * missed, load.connected_at_peak)
    _note_environments(bill, load.connected_at_peak)


def _add_managed(bill: Bill, load: Workload) -> None:
    """Few instances, each with one process of many streams; publishers use functions."""
    count = _processes(load, MANAGED_LEAST, min(load.streams, MANAGED_STREAMS), 1.0)
    opened = load.users * load.sessions * load.streams_a_session
    streamed = _streamed(load, opened, opened * load.stream_seconds)
    asked, records = _shared_reading(load, count, opened)
    bill.add("managed-requests", opened)
    bill.add("managed-instance-hours", count * MONTH_HOURS)
    bill.add("managed-fee", bill.cost("managed-instance-hours"))
    bill.add("nat-hours", MONTH_HOURS)
    bill.add("nat-gb", store.bytes_moved(load, asked, records) / GB)
    bill.add("egress-gb", streamed / GB)
    bill.add("logs-gb", _stream_logs(load, opened) / GB)
    _add_publish_function(bill, load)
    store.charge(bill, load, asked, records, count)
    bill.note(f"{count:,} instances, all month; what streaming from them costs a GB was not found, and is left out")


def _add_container(bill: Bill, load: Workload) -> None:
    """Few processes of many streams, which take publications too, behind a load balancer."""
    count = _processes(load, load.processes, load.streams, TASK_VCPU)
    opened = float(load.users * load.sessions) if load.hours else 0.0
    streamed = _streamed(load, opened, load.users * load.hours * 3600)
    answered = _receipts(load)
    asked, records = _shared_reading(load, count, opened)
    bill.add("fargate-vcpu-hours", count * TASK_VCPU * MONTH_HOURS)
    bill.add("fargate-gb-hours", count * TASK_GB * MONTH_HOURS)
    bill.add("balancer-hours", MONTH_HOURS)
    taken = load.events * load.event_bytes
    units = max(
        (opened + load.requests) / MONTH_SECONDS / NEW_CONNECTIONS,
        load.connected / ACTIVE_CONNECTIONS,
        (streamed + answered + taken) / GB / MONTH_HOURS / BALANCED_GB,
    )
    bill.add("balancer-lcu-hours", units * MONTH_HOURS)
    bill.add("ipv4-hours", (count + BALANCER_ADDRESSES) * MONTH_HOURS)
    bill.add("egress-gb", (streamed + answered) / GB)
    bill.add("logs-gb", (opened + load.requests) * REQUEST_LOG_BYTES / GB)
    store.charge(bill, load, asked, records, count)
    bill.note(f"{count:,} tasks of {TASK_VCPU:g} vCPU and {TASK_GB:g} GB, all month")


def _add_poll(bill: Bill, load: Workload) -> None:
    """Functions behind the HTTP API that answer with a page each time, and hold nothing open but for the wait."""
    polls = _polls(load)
    between = load.poll_every + load.poll_wait
    waited = load.users * load.hours * 3600 * load.poll_wait / between
    heard = commands.heard_by_one(load)
    asked = polls * commands.polling(load)
    if load.transport != "postgres":
        asked += polls * commands.pages(heard.records * between)
    seconds = waited + polls * load.request_ms / 1000
    answered = polls * PAGE_BYTES + load.users * load.sent * (load.event_bytes + ITEM_BYTES)
    bill.add("lambda-requests", polls)
    bill.add("lambda-gb-seconds", seconds * _gb(load))
    bill.add("http-api-requests", polls)
    bill.add("egress-gb", answered / GB)
    bill.add("logs-gb", polls * (INVOCATION_LOG_BYTES + REQUEST_LOG_BYTES) / GB)
    _add_publish_function(bill, load)
    at_once = load.connected_at_peak * min((load.poll_wait + load.request_ms / 1000) / between, 1.0)
    store.charge(bill, load, asked, load.users * load.hours * 3600 * heard.records, at_once)
    _note_environments(bill, at_once)
    bill.note(f"an event is seen up to {load.poll_every:g} s late" if load.poll_every else "an event is seen at once")


_WAYS: Mapping[Mode, Callable[[Bill, Workload], None]] = {
    "lambda": _add_lambda,
    "managed": _add_managed,
    "container": _add_container,
    "poll": _add_poll,
}


def _add_publish_function(bill: Bill, load: Workload) -> None:
    """POST /api/publish behind an HTTP API, one short function a request."""
    size = math.ceil(load.batch * load.event_bytes / HTTP_API_BYTES)
    bill.add("http-api-requests", load.requests * size)
    bill.add("lambda-requests", load.requests)
    bill.add("lambda-gb-seconds", load.requests * load.request_ms / 1000 * _gb(load))
    bill.add("logs-gb", load.requests * (INVOCATION_LOG_BYTES + REQUEST_LOG_BYTES) / GB)
    bill.add("egress-gb", _receipts(load) / GB)


def _add_bus(bill: Bill, load: Workload) -> None:
    """Each event through EventBridge, which invokes `receive` with it."""
    if not load.bus:
        return
    bill.add("eventbridge-events", load.events * math.ceil(load.event_bytes / BUS_BYTES))
    bill.add("lambda-requests", load.events)
    bill.add("lambda-gb-seconds", load.events * load.request_ms / 1000 * _gb(load))
    bill.add("logs-gb", load.events * INVOCATION_LOG_BYTES / GB)


def _add_netlify(bill: Bill, load: Workload, polls: float) -> None:
    """The Pro plan, and the credits of what comes through its rewrites."""
    answered = _receipts(load)
    if polls:
        answered += polls * PAGE_BYTES + load.users * load.sent * (load.event_bytes + ITEM_BYTES)
    bill.add("netlify-plan", 1)
    credits = bill.prices["netlify-credits-of-requests"].of(load.requests + polls)
    bill.add("netlify-credits", credits + bill.prices["netlify-credits-of-gb"].of(answered / GB))


def _note_environments(bill: Bill, at_once: float) -> None:
    if at_once > LAMBDA_ENVIRONMENTS:
        bill.note(
            f"{at_once:,.0f} environments of the stream function at once in the busiest hour: ask AWS for as many"
            " concurrent executions, of which a new account often has 10 (docs/deploy.md)"
        )


def _processes(load: Workload, minimum: int, streams: int, vcpus: float) -> int:
    """Return how many processes the busiest hour needs, by its streams and by its deliveries."""
    deliveries = load.users * load.sent / MONTH_SECONDS * load.peak
    by_deliveries = math.ceil(deliveries / (DELIVERIES_A_VCPU * vcpus))
    return max(minimum, math.ceil(load.connected_at_peak / streams), by_deliveries)


def _shared_reading(load: Workload, count: int, opened: float) -> tuple[float, float]:
    """Return the commands and the records of so many processes, each of which follows the log while it has anyone."""
    seconds = count * MONTH_SECONDS * -math.expm1(-load.connected / count)
    heard = commands.heard_by_all(load)
    asked = seconds * commands.following(load, heard) + opened * commands.opening_among_others(load)
    return asked, seconds * heard.records


def _polls(load: Workload) -> float:
    """Return the polls of a month; an event ends a wait, and a full page has another one after it."""
    polls = load.users * load.hours * 3600 / (load.poll_every + load.poll_wait)
    return polls + load.users * load.sent / (1 if load.poll_wait else PAGE_EVENTS)


def _streamed(load: Workload, opened: float, seconds: float) -> float:
    """Return the bytes of a month's streams."""
    events = load.users * load.sent * (load.event_bytes + FRAME_BYTES)
    return opened * OPENING_BYTES + seconds / HEARTBEAT_SECONDS * HEARTBEAT_BYTES + events


def _stream_logs(load: Workload, opened: float) -> float:
    lags = load.stream_seconds / LAG_SECONDS * LAG_LOG_BYTES
    return opened * (INVOCATION_LOG_BYTES + REQUEST_LOG_BYTES + lags)


def _receipts(load: Workload) -> float:
    return load.requests * PAGE_BYTES + load.events * RECEIPT_BYTES


def _gb(load: Workload) -> float:
    return load.memory / 1024
