"""A monthly bill: quantities by price, summed before free tiers apply."""

from collections.abc import Mapping
from dataclasses import dataclass

from tidewire.tools.cost.prices import Plan, Prices

GB = 1e9  # bytes

TITLES: Mapping[str, str] = {
    "lambda-requests": "Lambda: requests",
    "lambda-gb-seconds": "Lambda: memory while it runs",
    "lambda-streamed-gb": "Lambda: streamed beyond 6 MB an answer",
    "managed-requests": "Managed Instances: requests",
    "managed-instance-hours": "Managed Instances: instances",
    "managed-fee": "Managed Instances: management fee",
    "nat-hours": "NAT gateway: hours",
    "nat-gb": "NAT gateway: data",
    "fargate-vcpu-hours": "Fargate: vCPU",
    "fargate-gb-hours": "Fargate: memory",
    "balancer-hours": "Load balancer: hours",
    "balancer-lcu-hours": "Load balancer: capacity",
    "ipv4-hours": "Public IPv4 addresses",
    "http-api-requests": "API Gateway: HTTP API requests",
    "eventbridge-events": "EventBridge: events",
    "logs-gb": "CloudWatch: logs",
    "egress-gb": "AWS: data out to the internet",
    "redis-commands": "Upstash: commands",
    "redis-bandwidth-gb": "Upstash: bandwidth",
    "redis-storage-gb": "Upstash: storage",
    "cluster-node-hours": "ElastiCache: cluster nodes",
    "postgres-cu-hours": "Neon: compute",
    "postgres-storage-gb": "Neon: storage",
    "postgres-transfer-gb": "Neon: data out",
    "netlify-plan": "Netlify: Pro plan",
    "netlify-credits": "Netlify: credits",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a bill; `key` names its price in the table."""

    key: str
    title: str
    quantity: float
    unit: str
    cost: float


class Bill:
    """Collects quantities, and returns lines in the order of `TITLES`."""

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self._quantities: dict[str, float] = {}
        self._plan: Plan | None = None
        self.notes: list[str] = []

    def add(self, key: str, quantity: float) -> None:
        """Add units to the quantity of a price."""
        self._quantities[key] = self._quantities.get(key, 0.0) + quantity

    def cost(self, *keys: str) -> float:
        """Return the cost of the quantities of these prices so far."""
        return sum(self.prices[key].of(self._quantities.get(key, 0.0)) for key in keys)

    def take_plan(self, plan: Plan, *instead_of: str) -> None:
        """Charge a plan's fixed price instead of these prices."""
        self._plan = plan
        for key in instead_of:
            self._quantities.pop(key, None)

    def note(self, text: str) -> None:
        """Add a note below the lines."""
        self.notes.append(text)

    def lines(self) -> tuple[Line, ...]:
        """Return a line for each price with a quantity."""
        lines = []
        for key, title in TITLES.items():
            if quantity := self._quantities.get(key):
                price = self.prices[key]
                lines.append(Line(key, title, quantity, price.unit, price.of(quantity)))
        if self._plan is not None:
            lines.append(Line("redis-plans", f"Upstash: {self._plan.name}", 1, "months", self._plan.price))
        return tuple(lines)
