"""What the log costs: commands, bytes and storage on Upstash, or compute on Neon."""

import math

from tidewire.tools.cost import commands
from tidewire.tools.cost.bill import GB, Bill
from tidewire.tools.cost.workload import MONTH_HOURS, MONTH_SECONDS, Workload

RECORD_BYTES = 125  # of a record besides its data: check, time, type, id
KEPT_BYTES = 350  # of a record in the store besides its data: the same, the key of its id, and what Redis adds
COMMAND_BYTES = 300  # of a command and its reply besides records
COMMANDS_A_SECOND = 10_000  # that Upstash's plans run
CONNECTIONS = 104  # of Neon's smallest compute (docs/transports.md), 0.25 CU; a process holds five
SMALLEST_CU, LARGEST_CU = 0.25, 16
CONNECTIONS_A_PROCESS = 5
AWAKE_SECONDS = 300  # for which Neon's compute stays up after the last query

PAY_AS_YOU_GO = ("redis-commands", "redis-bandwidth-gb", "redis-storage-gb")


def charge(bill: Bill, load: Workload, asked: float, records: float, processes: float) -> None:
    """Add what the log costs with so many commands besides the publications', records read, and processes at once."""
    held = load.events * commands.copies(load, load.audience)
    kept = held * min(load.retention_hours / MONTH_HOURS, 1.0) * (load.event_bytes + KEPT_BYTES) / GB
    total = asked + commands.publishing(load)
    moved = bytes_moved(load, total, records) / GB
    if load.transport == "postgres":
        _charge_postgres(bill, load, processes, kept, moved)
        return
    bill.add("redis-commands", total)
    bill.add("redis-bandwidth-gb", moved)
    bill.add("redis-storage-gb", kept)
    fitting = [plan for plan in bill.prices.plans if plan.storage >= kept and plan.bandwidth >= moved]
    plan = min(fitting, key=lambda plan: plan.price, default=None)
    if plan is not None and plan.price < bill.cost(*PAY_AS_YOU_GO):
        bill.take_plan(plan, *PAY_AS_YOU_GO)
        bill.note(f"{total:,.0f} commands, {moved:,.1f} GB of bandwidth and {kept:,.2f} GB of data fit Upstash's plan")
    if total * load.peak / MONTH_SECONDS > COMMANDS_A_SECOND:
        bill.note(
            f"more than the {COMMANDS_A_SECOND:,} commands a second that Upstash's plans run, in the busiest hour"
        )


def bytes_moved(load: Workload, asked: float, records: float) -> float:
    """Return the bytes to and from the store: of commands, of records appended, and of records read."""
    appended = load.events * commands.copies(load, load.audience)
    return asked * COMMAND_BYTES + (appended + records) * (load.event_bytes + RECORD_BYTES)


def _charge_postgres(bill: Bill, load: Workload, processes: float, kept: float, moved: float) -> None:
    """A connection that listens keeps the compute awake, and each publication for five minutes."""
    size = SMALLEST_CU * max(1, math.ceil(processes * CONNECTIONS_A_PROCESS / CONNECTIONS))
    awake = -math.expm1(-load.connected - load.requests / MONTH_SECONDS * AWAKE_SECONDS)
    bill.add("postgres-cu-hours", size * MONTH_HOURS * awake)
    bill.add("postgres-storage-gb", kept)
    bill.add("postgres-transfer-gb", moved)
    if size > LARGEST_CU:
        bill.note(
            f"{processes * CONNECTIONS_A_PROCESS:,.0f} connections to Postgres in the busiest hour are more than Neon's"
            f" {LARGEST_CU} CU take: this does not work"
        )
