"""The cost of the log: commands, bandwidth and storage on Upstash, nodes of ElastiCache, or compute on Neon."""

import math

from tidewire.tools.cost import commands
from tidewire.tools.cost.bill import GB, Bill
from tidewire.tools.cost.workload import MONTH_HOURS, MONTH_SECONDS, Workload

RECORD_BYTES = 125  # of a record without its data: check, time, type, id
STORED_BYTES = 350  # of a stored record without its data: the same, the key of its id, and Redis' overhead
COMMAND_BYTES = 300  # of a command and its reply without records
COMMANDS_PER_SECOND = 10_000  # the limit of Upstash's plans
CONNECTIONS = 104  # of Neon's smallest compute (docs/transports.md), 0.25 CU
SMALLEST_CU, LARGEST_CU = 0.25, 16
CONNECTIONS_PER_PROCESS = 5
NODE_GB = 6.38 * 2**30 / GB * 0.75  # of data in a cache.m7g.large: ElastiCache reserves a quarter of its memory
AWAKE_SECONDS = 300  # until Neon suspends the compute after the last query

PAY_AS_YOU_GO = ("redis-commands", "redis-bandwidth-gb", "redis-storage-gb")


def charge(bill: Bill, load: Workload, reading: float, records: float, processes: float) -> None:
    """Add the cost of the log for a number of reading commands, records read, and concurrent processes."""
    appended = load.events * commands.copies(load, load.audience)
    stored = appended * min(load.retention_hours / MONTH_HOURS, 1.0) * (load.event_bytes + STORED_BYTES) / GB
    total = reading + commands.publishing(load)
    moved = bytes_moved(load, total, records) / GB
    if load.transport == "postgres":
        _charge_postgres(bill, load, processes, stored, moved)
        return
    if load.transport == "redis-cluster":
        _charge_cluster(bill, load, stored)
        return
    bill.add("redis-commands", total)
    bill.add("redis-bandwidth-gb", moved)
    bill.add("redis-storage-gb", stored)
    fitting = [plan for plan in bill.prices.plans if plan.storage >= stored and plan.bandwidth >= moved]
    plan = min(fitting, key=lambda plan: plan.price, default=None)
    if plan is not None and plan.price < bill.cost(*PAY_AS_YOU_GO):
        bill.take_plan(plan, *PAY_AS_YOU_GO)
        bill.note(
            f"{total:,.0f} commands, {moved:,.1f} GB of bandwidth and {stored:,.2f} GB of data fit Upstash's plan"
        )
    if total * load.peak / MONTH_SECONDS > COMMANDS_PER_SECOND:
        bill.note(f"the busiest hour exceeds {COMMANDS_PER_SECOND:,} commands per second, the limit of Upstash's plans")


def bytes_moved(load: Workload, commands_run: float, records: float) -> float:
    """Return the bytes to and from the store: of commands, records appended and records read."""
    appended = load.events * commands.copies(load, load.audience)
    return commands_run * COMMAND_BYTES + (appended + records) * (load.event_bytes + RECORD_BYTES)


def _charge_cluster(bill: Bill, load: Workload, stored: float) -> None:
    """Add the nodes of the cluster, which bill no commands."""
    bill.add("cluster-node-hours", load.nodes * MONTH_HOURS)
    room = max(load.nodes // 2, 1) * NODE_GB
    if stored > room:
        bill.note(f"not possible: {stored:,.1f} GB of data exceed the {room:,.1f} GB of the cluster's primaries")


def _charge_postgres(bill: Bill, load: Workload, processes: float, stored: float, moved: float) -> None:
    """Add the cost on Neon: a listening connection keeps the compute awake, and a publication for five minutes."""
    connections = processes * CONNECTIONS_PER_PROCESS
    size = SMALLEST_CU * max(1, math.ceil(connections / CONNECTIONS))
    awake = -math.expm1(-load.connected - load.requests / MONTH_SECONDS * AWAKE_SECONDS)
    bill.add("postgres-cu-hours", size * MONTH_HOURS * awake)
    bill.add("postgres-storage-gb", stored)
    bill.add("postgres-transfer-gb", moved)
    if size > LARGEST_CU:
        bill.note(
            f"not possible: {connections:,.0f} connections to Postgres in the busiest hour exceed the limit of Neon's"
            f" largest compute, {LARGEST_CU} CU"
        )
