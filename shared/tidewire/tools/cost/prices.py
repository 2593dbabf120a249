"""The price table: a dated TOML file with the source of each price."""

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidewire.errors import SettingsError
from tidewire.ingest.mapping.document import Document, Table

TABLE = Path(__file__).parent / "prices.toml"

KEYS = (
    "lambda-requests",
    "lambda-gb-seconds",
    "lambda-streamed-gb",
    "managed-requests",
    "managed-instance-hours",
    "managed-fee",
    "nat-hours",
    "nat-gb",
    "fargate-vcpu-hours",
    "fargate-gb-hours",
    "balancer-hours",
    "balancer-lcu-hours",
    "ipv4-hours",
    "http-api-requests",
    "eventbridge-events",
    "logs-gb",
    "egress-gb",
    "redis-commands",
    "redis-bandwidth-gb",
    "redis-storage-gb",
    "cluster-node-hours",
    "postgres-cu-hours",
    "postgres-storage-gb",
    "postgres-transfer-gb",
    "netlify-plan",
    "netlify-credits",
    "netlify-credits-of-requests",
    "netlify-credits-of-gb",
)
PLANS = "redis-plans"


@dataclass(frozen=True, slots=True)
class Price:
    """A monthly price: the first `free` units cost nothing; each step applies above its quantity."""

    unit: str
    each: float
    free: float
    steps: tuple[tuple[float, float], ...]  # (quantity above which it applies, price per unit)
    source: str

    def of(self, quantity: float) -> float:
        """Return the cost of a month's quantity; free units count towards the steps."""
        cost, above, each = 0.0, self.free, self.each
        for start, price in self.steps:
            if quantity <= start:
                break
            cost += (start - above) * each
            above, each = start, price
        return cost + max(quantity - above, 0.0) * each


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan: its price per month, and the GB of storage and bandwidth that it includes."""

    name: str
    price: float
    storage: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of one table."""

    date: str
    currency: str
    region: str
    prices: Mapping[str, Price]
    plans: tuple[Plan, ...]
    plans_source: str

    def __getitem__(self, key: str) -> Price:
        return self.prices[key]

    def source(self, key: str) -> str:
        """Return the URL that a price was taken from."""
        return self.plans_source if key == PLANS else self.prices[key].source


def load(path: Path = TABLE, *, free_tiers: bool = True) -> Prices:
    """Return the price table of a file; without `free_tiers` nothing is free.

    Raises SettingsError with the path of each key that is wrong or missing.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise SettingsError(path.name, f"cannot be read ({type(error).__name__})") from None
    except UnicodeDecodeError as error:
        raise SettingsError(path.name, f"is not UTF-8 (at byte {error.start})") from None
    document = Document(path.name, text)
    root = document.root
    date = root.value("date")
    if type(date) is not dt.date:
        root.problem("date", "must be the date of these prices: date = 2026-11-26")
    currency = _required_text(root, "currency")
    region = _required_text(root, "region")
    prices = {key: price for key in KEYS if (price := _price(root, key, free_tiers)) is not None}
    plans, plans_source = _plans(root)
    root.finish()
    document.finish()
    return Prices(str(date), currency, region, prices, plans, plans_source)


def _price(root: Table, key: str, free_tiers: bool) -> Price | None:
    table = _required_table(root, key)
    if table is None:
        return None
    each = _number(table, "price")
    per = _number(table, "per", minimum=1)
    free = _number(table, "free", default=0)
    steps = []
    above = free
    for step in table.tables("steps"):
        start, price = _number(step, "above"), _number(step, "price")
        if start <= above:
            step.problem("above", "must be more than `free`, and more than the step before")
        above = start
        steps.append((start, price / per))
        step.finish()
    unit, source = _required_text(table, "unit"), _required_text(table, "source")
    _required_text(table, "seen")
    table.finish()
    return Price(unit, each / per, free if free_tiers else 0, tuple(steps), source)


def _plans(root: Table) -> tuple[tuple[Plan, ...], str]:
    table = _required_table(root, PLANS)
    if table is None:
        return (), ""
    plans = []
    for row in table.tables("plans"):
        name = _required_text(row, "name")
        plans.append(Plan(name, _number(row, "price"), _number(row, "storage"), _number(row, "bandwidth")))
        row.finish()
    source = _required_text(table, "source")
    _required_text(table, "seen")
    table.finish()
    return tuple(plans), source


def _required_table(root: Table, name: str) -> Table | None:
    if name not in root:
        root.problem(name, "is missing")
    return root.table(name)


def _required_text(table: Table, name: str) -> str:
    if name not in table:
        table.problem(name, "is missing")
    return table.text(name, pattern=r"[ -~]{1,300}", rule="a string of one line") or ""


def _number(table: Table, key: str, *, default: float | None = None, minimum: float = 0) -> float:
    value: Any = table.value(key)
    if value is None and default is not None:
        return default
    if value is None:
        table.problem(key, "is missing")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < minimum:
        table.problem(key, f"must be a number, {minimum:g} or more")
    else:
        return float(value)
    return 1.0  # unused: `finish` raises
