"""How long it takes until events flow again: every scenario of tests/faults, with the time-outs of a deployment."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chaos.report import RECOVERY, about, write
from tests.faults.rigs import PostgresRig, RedisRig, Rig, UpstashRig
from tests.faults.scenarios import SCENARIOS, Scenario, half_open_connections, play
from tests.postgres_server import start_postgres

RUNS = 5
SLOW_RUNS = 3  # of a half-open connection, at once: they wait for a time-out, and compute nothing

KINDS: dict[str, type[Rig]] = {"Redis, TCP": RedisRig, "Redis, REST": UpstashRig, "Postgres": PostgresRig}


async def measure(say: Callable[[str], None]) -> None:
    """Play all, and keep the times."""
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemark-recovery-")))

        async def once(name: str, scenario: Scenario, number: int) -> None:
            own = folder / f"{len(rows)}-{number}-{name}-{id(scenario)}"
            await asyncio.to_thread(own.mkdir)
            with ExitStack() as servers:
                rig = await asyncio.to_thread(_rig, name, own, servers)
                async with rig:
                    outcome = await play(scenario, rig)
            row = {"kind": name, "scenario": scenario.name, "gaps": list(outcome.gaps), "refused": outcome.refused}
            rows.append({**row, "published": outcome.published_after, "delivered": outcome.delivered_after})
            say(f"  {name}, {scenario.name}: {outcome.published_after:.2f} s, {outcome.delivered_after:.2f} s")

        for scenario in SCENARIOS:
            for name, kind in KINDS.items():
                if not issubclass(kind, scenario.rigs):
                    continue
                if scenario.strike is not half_open_connections:
                    for number in range(RUNS):
                        await once(name, scenario, number)
        waits = [s for s in SCENARIOS if s.strike is half_open_connections]
        await asyncio.gather(*(once(name, s, n) for s in waits for name in KINDS for n in range(SLOW_RUNS)))
    order: Sequence[str] = [scenario.name for scenario in SCENARIOS]
    rows.sort(key=lambda row: order.index(row["scenario"]))
    write(RECOVERY, {"about": about(), "kinds": {name: kind.__name__ for name, kind in KINDS.items()}, "rows": rows})


def _rig(name: str, folder: Path, servers: ExitStack) -> Rig:
    kind = KINDS[name]
    if kind is not PostgresRig:
        return kind(folder, impatient=False)
    return PostgresRig(folder, start_postgres(servers, folder), impatient=False)
