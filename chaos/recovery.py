"""Recovery times: every scenario of tests/faults, with the time-outs of a deployment."""

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chaos.report import RECOVERY, about, write
from tests.faults.rigs import PostgresRig, RedisRig, Rig, UpstashRig
from tests.faults.scenarios import SCENARIOS, Scenario, play
from tests.support.postgres_server import start_postgres

RUNS = 3

POSTGRES = "Postgres"
REDIS: dict[str, type[RedisRig]] = {"Redis, TCP": RedisRig, "Redis, REST": UpstashRig}
KINDS: dict[str, type[Rig]] = {**REDIS, POSTGRES: PostgresRig}


async def measure(say: Callable[[str], None]) -> None:
    """Run all scenarios, and store their times."""
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidewire-recovery-")))
        postgres = await asyncio.to_thread(start_postgres, stack, folder)

        async def once(name: str, scenario: Scenario, number: int) -> None:
            own = folder / f"{scenario.name.replace('/', ' ')}, {name}, {number}"
            await asyncio.to_thread(own.mkdir)
            rig = PostgresRig(own, postgres, quick=False) if name == POSTGRES else REDIS[name](own, quick=False)
            async with rig:
                outcome = await play(scenario, rig)
            row = {"kind": name, "scenario": scenario.name, "gaps": list(outcome.gaps)}
            rows.append({**row, "published": outcome.published_after, "delivered": outcome.delivered_after})
            say(f"  {name}, {scenario.name}: {outcome.published_after:.2f} s, {outcome.delivered_after:.2f} s")

        async def all_of(name: str) -> None:
            for scenario in SCENARIOS:
                for number in range(RUNS if issubclass(KINDS[name], scenario.rigs) else 0):
                    await once(name, scenario, number)

        await asyncio.gather(*map(all_of, KINDS))  # concurrently: mostly waiting
    order = [scenario.name for scenario in SCENARIOS]
    rows.sort(key=lambda row: order.index(row["scenario"]))
    write(RECOVERY, {"about": about(), "kinds": {name: kind.__name__ for name, kind in KINDS.items()}, "rows": rows})
