"""The monthly cost of each mode, that is each way to run streams."""

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
OPENING_BYTES = 1_000  # of a stream before its first event: headers, retry, ready
FRAME_BYTES = 120  # of an event on a stream without its data
PAGE_BYTES = 700  # of a page without events: headers, cursor
ITEM_BYTES = 130  # of an event on a page without its data
PAGE_EVENTS = 500  # maximum of one page
RECEIPT_BYTES = 150  # of a publish response, per event; its headers are those of a page
FREE_STREAMED_BYTES = 6e6  # of each response that Lambda streams

INVOCATION_LOG_BYTES = 300  # Lambda's own lines: START, END, REPORT
REQUEST_LOG_BYTES = 250  # our line per request or stream
LAG_LOG_BYTES, LAG_SECONDS = 300, 60.0  # the tail's lag: one line per minute of a stream function

HTTP_API_BYTES = 512 * 1024  # of one billed request
BUS_BYTES = 64 * 1024  # of one billed event
LAMBDA_ENVIRONMENTS = 10  # concurrent executions: a common quota of a new account
MANAGED_MINIMUM = 3  # instances, one per zone: AWS's default
MANAGED_STREAMS = 1_600  # per environment: the maximum of Lambda's PerExecutionEnvironmentMaxConcurrency
TASK_VCPU, TASK_GB = 0.5, 1.0  # of a container
BALANCER_ADDRESSES = 2
NEW_CONNECTIONS, ACTIVE_CONNECTIONS, BALANCED_GB = 25, 3_000, 1.0  # of one LCU: new per second, concurrent, per hour
DELIVERIES_PER_VCPU = 20_000  # per second: a quarter of the measured rate, as a reserve for other work


@dataclass(frozen=True, slots=True)
class Estimate:
    """The monthly cost of one mode, line by line."""

    mode: Mode
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def total(self) -> float:
        """The sum of the lines."""
        return math.fsum(line.cost for line in self.lines)


def estimate(mode: Mode, load: Workload, prices: Prices) -> Estimate:
    """Return the monthly cost of this mode."""
    bill = Bill(prices)
    _MODES[mode](bill, load)
    _add_bus(bill, load)
    if load.netlify:
        _add_netlify(bill, load, _polls(load) if mode == "poll" else 0.0)
    return Estimate(mode, bill.lines(), tuple(bill.notes))


def _add_lambda(bill: Bill, load: Workload) -> None:
    """Add the lambda mode: each open stream has an environment and a tail of its own."""
    opened = load.users * load.sessions * load.streams_per_session
    seconds = opened * load.stream_seconds
    reading = commands.read_for_one(load)
    run = seconds * commands.following(load, reading) + opened * commands.opening_alone(load)
    missed = reading.records * commands.RECONNECT_SECONDS
    if load.transport != "postgres":
        run += opened * commands.pages(missed)
    streamed = _streamed(load, opened, seconds)
    bill.add("lambda-requests", opened)
    bill.add("lambda-gb-seconds", seconds * _gb(load))
    bill.add("lambda-streamed-gb", max(streamed - opened * FREE_STREAMED_BYTES, 0) / GB)
    bill.add("egress-gb", streamed / GB)
    bill.add("logs-gb", _stream_logs(load, opened) / GB)
    _add_publish_function(bill, load)
    store.charge(bill, load, run, seconds * reading.records + opened * missed, load.connected_at_peak)
    _note_environments(bill, load.connected_at_peak)


def _add_managed(bill: Bill, load: Workload) -> None:
    """Add the managed mode: a few instances of one process with many streams; publishers use functions."""
    count = _processes(load, MANAGED_MINIMUM, min(load.streams, MANAGED_STREAMS), 1.0)
    opened = load.users * load.sessions * load.streams_per_session
    streamed = _streamed(load, opened, opened * load.stream_seconds)
    run, records = _shared_reading(load, count, opened)
    bill.add("managed-requests", opened)
    bill.add("managed-instance-hours", count * MONTH_HOURS)
    bill.add("managed-fee", bill.cost("managed-instance-hours"))
    bill.add("nat-hours", MONTH_HOURS)
    bill.add("nat-gb", store.bytes_moved(load, run, records) / GB)
    bill.add("egress-gb", streamed / GB)
    bill.add("logs-gb", _stream_logs(load, opened) / GB)
    _add_publish_function(bill, load)
    store.charge(bill, load, run, records, count)
    bill.note(f"{count:,} instances, all month; their price per streamed GB is unknown and not included")


def _add_container(bill: Bill, load: Workload) -> None:
    """Add the container mode: a few processes with many streams, which also take publications, behind a balancer."""
    count = _processes(load, load.processes, load.streams, TASK_VCPU)
    opened = float(load.users * load.sessions) if load.hours else 0.0
    streamed = _streamed(load, opened, load.users * load.hours * 3600)
    receipts = _receipts(load)
    run, records = _shared_reading(load, count, opened)
    bill.add("fargate-vcpu-hours", count * TASK_VCPU * MONTH_HOURS)
    bill.add("fargate-gb-hours", count * TASK_GB * MONTH_HOURS)
    bill.add("balancer-hours", MONTH_HOURS)
    published = load.events * load.event_bytes
    units = max(
        (opened + load.requests) / MONTH_SECONDS / NEW_CONNECTIONS,
        load.connected / ACTIVE_CONNECTIONS,
        (streamed + receipts + published) / GB / MONTH_HOURS / BALANCED_GB,
    )
    bill.add("balancer-lcu-hours", units * MONTH_HOURS)
    bill.add("ipv4-hours", (count + BALANCER_ADDRESSES) * MONTH_HOURS)
    bill.add("egress-gb", (streamed + receipts) / GB)
    bill.add("logs-gb", (opened + load.requests) * REQUEST_LOG_BYTES / GB)
    store.charge(bill, load, run, records, count)
    bill.note(f"{count:,} tasks of {TASK_VCPU:g} vCPU and {TASK_GB:g} GB, all month")


def _add_poll(bill: Bill, load: Workload) -> None:
    """Add the poll mode: functions behind the HTTP API that return pages, and are billed while they wait."""
    polls = _polls(load)
    between = load.poll_every + load.poll_wait
    waited = load.users * load.hours * 3600 * load.poll_wait / between
    reading = commands.read_for_one(load)
    run = polls * commands.polling(load)
    if load.transport != "postgres":
        run += polls * commands.pages(reading.records * between)
    seconds = waited + polls * load.request_ms / 1000
    pages = _pages(load, polls)
    bill.add("lambda-requests", polls)
    bill.add("lambda-gb-seconds", seconds * _gb(load))
    bill.add("http-api-requests", polls)
    bill.add("egress-gb", pages / GB)
    bill.add("logs-gb", polls * (INVOCATION_LOG_BYTES + REQUEST_LOG_BYTES) / GB)
    _add_publish_function(bill, load)
    at_once = load.connected_at_peak * min((load.poll_wait + load.request_ms / 1000) / between, 1.0)
    store.charge(bill, load, run, load.users * load.hours * 3600 * reading.records, at_once)
    _note_environments(bill, at_once)
    bill.note(f"an event arrives up to {load.poll_every:g} s late" if load.poll_every else "an event arrives at once")


_MODES: Mapping[Mode, Callable[[Bill, Workload], None]] = {
    "lambda": _add_lambda,
    "managed": _add_managed,
    "container": _add_container,
    "poll": _add_poll,
}


def _add_publish_function(bill: Bill, load: Workload) -> None:
    """Add POST /api/publish behind an HTTP API: one short function call per request."""
    size = math.ceil(load.batch * load.event_bytes / HTTP_API_BYTES)
    bill.add("http-api-requests", load.requests * size)
    bill.add("lambda-requests", load.requests)
    bill.add("lambda-gb-seconds", load.requests * load.request_ms / 1000 * _gb(load))
    bill.add("logs-gb", load.requests * (INVOCATION_LOG_BYTES + REQUEST_LOG_BYTES) / GB)
    bill.add("egress-gb", _receipts(load) / GB)


def _add_bus(bill: Bill, load: Workload) -> None:
    """Add EventBridge, which invokes `receive` with each event."""
    if not load.bus:
        return
    bill.add("eventbridge-events", load.events * math.ceil(load.event_bytes / BUS_BYTES))
    bill.add("lambda-requests", load.events)
    bill.add("lambda-gb-seconds", load.events * load.request_ms / 1000 * _gb(load))
    bill.add("logs-gb", load.events * INVOCATION_LOG_BYTES / GB)


def _add_netlify(bill: Bill, load: Workload, polls: float) -> None:
    """Add Netlify: the Pro plan, and the credits of requests through its rewrites."""
    moved = _receipts(load) + (_pages(load, polls) if polls else 0.0)
    bill.add("netlify-plan", 1)
    credits = bill.prices["netlify-credits-of-requests"].of(load.requests + polls)
    bill.add("netlify-credits", credits + bill.prices["netlify-credits-of-gb"].of(moved / GB))


def _note_environments(bill: Bill, at_once: float) -> None:
    if at_once > LAMBDA_ENVIRONMENTS:
        bill.note(
            f"{at_once:,.0f} concurrent environments of the stream function in the busiest hour: request this quota of"
            f" concurrent executions from AWS; a new account often has {LAMBDA_ENVIRONMENTS} (docs/deploy.md)"
        )


def _processes(load: Workload, minimum: int, streams: int, vcpus: float) -> int:
    """Return the processes that the streams and the deliveries of the busiest hour need."""
    deliveries = load.users * load.sent / MONTH_SECONDS * load.peak
    by_deliveries = math.ceil(deliveries / (DELIVERIES_PER_VCPU * vcpus))
    return max(minimum, math.ceil(load.connected_at_peak / streams), by_deliveries)


def _shared_reading(load: Workload, count: int, opened: float) -> tuple[float, float]:
    """Return the commands and the records read of `count` processes; each follows the log while it has subscribers."""
    seconds = count * MONTH_SECONDS * -math.expm1(-load.connected / count)
    reading = commands.read_for_all(load)
    run = seconds * commands.following(load, reading) + opened * commands.opening_among_others(load)
    return run, seconds * reading.records


def _polls(load: Workload) -> float:
    """Return the polls per month; an event ends a wait, and a full page is followed by another one."""
    polls = load.users * load.hours * 3600 / (load.poll_every + load.poll_wait)
    return polls + load.users * load.sent / (1 if load.poll_wait else PAGE_EVENTS)


def _streamed(load: Workload, opened: float, seconds: float) -> float:
    """Return the bytes of the streams per month."""
    events = load.users * load.sent * (load.event_bytes + FRAME_BYTES)
    return opened * OPENING_BYTES + seconds / HEARTBEAT_SECONDS * HEARTBEAT_BYTES + events


def _stream_logs(load: Workload, opened: float) -> float:
    lags = load.stream_seconds / LAG_SECONDS * LAG_LOG_BYTES
    return opened * (INVOCATION_LOG_BYTES + REQUEST_LOG_BYTES + lags)


def _pages(load: Workload, polls: float) -> float:
    return polls * PAGE_BYTES + load.users * load.sent * (load.event_bytes + ITEM_BYTES)


def _receipts(load: Workload) -> float:
    return load.requests * PAGE_BYTES + load.events * RECEIPT_BYTES


def _gb(load: Workload) -> float:
    return load.memory / 1024
