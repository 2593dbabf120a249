"""What an operator should change in the servers of a `REDIS_URL`: the doctor's view of Redis, Sentinel and Cluster."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

from tidewire.transports.base import Inspection, Role, StoreNode, StoreProblem
from tidewire.transports.errors import CommandError, StoreError
from tidewire.transports.redis.address import Address, Servers
from tidewire.transports.redis.topology import SLOTS, Answer, ask_all, call, find_servers, number, pairs

BEHIND_BYTES = 1 << 20  # of a replica that is worth a warning
BEHIND_SECONDS = 10  # a replica reports once per second
CLOCK_SECONDS = 1.0  # nodes of a cluster: as `from=` and changes of the partition scheme tolerate
SENTINELS = 3  # the vendor's minimum: https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/

_CHECK_NODE = "Check that it runs, and that the network and its ACL let this machine in"
_REPLICA = "Add or repair a replica: until then nothing replaces the primary if it is lost"
_CLOCKS = "Synchronize the nodes' clocks (NTP): reads `from` a time and changes of the partition scheme rely on them"


async def inspect_redis(url: str) -> Inspection:
    """Ask every server of the URL. Raises SettingsError if the seeds are not of the kind that it names."""
    servers = Servers.parse(url)
    nodes: list[StoreNode] = []
    problems: list[StoreProblem] = []
    if servers.kind == "sentinel":
        nodes, problems = await _inspect_sentinels(servers)
    try:
        answers = await ask_all(await find_servers(servers))
    except StoreError as error:
        what = {"single": "Redis", "cluster": "no node of the cluster", "sentinel": "no sentinel"}[servers.kind]
        return Inspection(nodes, [*problems, StoreProblem(f"{what} answers: {error}", _CHECK_NODE, is_severe=True)])
    if servers.kind == "cluster":
        problems += _cluster(answers)
        nodes += _cluster_nodes(answers)
    else:
        (answer,) = answers
        problems += _primary(answer, needs_replica=servers.kind == "sentinel")
        role: Role = "replica" if answer.info.get("role") == "slave" else "primary"
        nodes += [StoreNode(answer.server.name, role, not answer.failure), *answer.replicas]
    for answer in answers:
        problems += _persistence(answer)
    return Inspection(nodes, problems)


def _primary(answer: Answer, *, needs_replica: bool) -> Iterator[StoreProblem]:
    """Yield the problems of a server that must be a primary."""
    name = answer.server.name
    if answer.failure:
        yield StoreProblem(f"the primary {name} does not answer: {answer.failure}", _CHECK_NODE, is_severe=True)
        return
    if answer.info.get("role") == "slave":
        remedy = "Name the primary in REDIS_URL, or the sentinels: redis+sentinel://…"
        yield StoreProblem(f"{name} is a replica, which refuses appends", remedy, is_severe=True)
        return
    if needs_replica and not any(replica.is_available for replica in answer.replicas):
        yield StoreProblem(f"the primary {name} has no connected replica", _REPLICA)
    yield from _lag(answer)


def _lag(answer: Answer) -> Iterator[StoreProblem]:
    for replica in answer.replicas:
        size, seconds = replica.behind or (0, 0)
        if not replica.is_available or size > BEHIND_BYTES or seconds > BEHIND_SECONDS:
            state = "" if replica.is_available else ", and still copies all data"
            yield StoreProblem(
                f"the replica {replica.name} of {answer.server.name} is {size:,} bytes and {seconds} s behind{state}",
                "Check its network and load: promoted now, it would lose the newest events",
            )


def _persistence(answer: Answer) -> Iterator[StoreProblem]:
    if answer.info.get("aof_enabled") == "0" and answer.settings.get("save") == "":
        yield StoreProblem(
            f"{answer.server.name} keeps nothing on disk: a restart loses the log, and subscribers get a gap",
            "Set appendonly to yes (docs/transports.md)",
        )


def _cluster(answers: Sequence[Answer]) -> Iterator[StoreProblem]:
    """Yield the problems of a cluster's nodes, the severe ones first."""
    owned = sum(answer.server.slots for answer in answers)
    if owned < SLOTS:
        yield StoreProblem(
            f"{SLOTS - owned:,} of {SLOTS:,} slots have no owner",
            "Run redis-cli --cluster fix HOST:PORT, or restart the node that owned them",
            is_severe=True,
        )
    owners = [answer for answer in answers if answer.server.role == "primary" and answer.server.slots]
    replicas = [answer for answer in answers if answer.server.role == "replica"]
    for answer in owners:
        yield from _primary(answer, needs_replica=False)
    for answer in answers:
        if answer not in owners and (answer.failure or answer.server.has_failed):
            why = answer.failure or "the other nodes report that it has failed"
            yield StoreProblem(f"the {answer.server.role} {answer.server.name} does not answer: {why}", _CHECK_NODE)
    copied = {
        answer.server.primary
        for answer in replicas
        if not answer.failure and answer.info.get("master_link_status", "up") == "up"
    }
    for answer in owners:
        if answer.server.name not in copied and not answer.failure:
            yield StoreProblem(f"the primary {answer.server.name} has no connected replica", _REPLICA)
    old = [answer.server.name for answer in answers if 0 < number(answer.info.get("redis_version")) < 7]
    if old:
        yield StoreProblem(
            f"{', '.join(old)}: older than Redis 7, without sharded channels: events arrive up to half a second late",
            "Upgrade every node to Redis 7 or newer, or Valkey",
        )
    strict = [answer for answer in owners if answer.settings.get("cluster-require-full-coverage") == "yes"]
    if strict:
        yield StoreProblem(
            f"cluster-require-full-coverage is yes on {len(strict)} of {len(owners)} primaries: while one primary is"
            " away, all refuse",
            "Set cluster-require-full-coverage to no, so that the partitions of the other nodes stay available",
        )
    yield from _clocks(answers)


def _clocks(answers: Sequence[Answer]) -> Iterator[StoreProblem]:
    """Yield a problem if two clocks certainly differ by more than the log tolerates."""
    difference, ahead, behind = max(
        (
            (one.ahead[0] - other.ahead[1], one.server.name, other.server.name)
            for one, other in permutations(answers, 2)
            if one.ahead is not None and other.ahead is not None
        ),
        default=(0.0, "", ""),
    )
    if difference > CLOCK_SECONDS:
        yield StoreProblem(f"the clock of {ahead} is at least {difference:.1f} s ahead of {behind}'s", _CLOCKS)


def _cluster_nodes(answers: Sequence[Answer]) -> Iterator[StoreNode]:
    behind: Mapping[str, tuple[int, int] | None] = {
        replica.name: replica.behind for answer in answers for replica in answer.replicas
    }
    for answer in answers:
        is_available = not (answer.failure or answer.server.has_failed)
        yield StoreNode(answer.server.name, answer.server.role, is_available, behind=behind.get(answer.server.name))


async def _inspect_sentinels(servers: Servers) -> tuple[list[StoreNode], list[StoreProblem]]:
    found = await asyncio.gather(*(_ask_sentinel(seed, servers.service) for seed in servers.seeds))
    nodes: list[StoreNode] = []
    problems: list[StoreProblem] = []
    named: dict[str, list[str]] = {}
    known = 0
    for seed, (state, problem) in zip(servers.seeds, found, strict=True):
        name = seed.name
        nodes.append(StoreNode(name, "sentinel", bool(state)))
        if problem is not None:
            problems.append(problem)
        if state:
            named.setdefault(f"{state['ip']}:{state['port']}", []).append(name)
            known = max(known, 1 + number(state.get("num-other-sentinels")))
    if len(named) > 1:
        views = "; ".join(f"{', '.join(sentinels)}: {primary}" for primary, sentinels in named.items())
        remedy = "Wait for a failover to end; else check the network between the sentinels"
        problems.append(StoreProblem(f"the sentinels name different primaries ({views})", remedy, is_severe=True))
    if 0 < known < SENTINELS:
        remedy = f"Run {SENTINELS} or more, on machines that fail independently"
        problems.append(StoreProblem(f"there are only {known} sentinels: a lost one prevents a failover", remedy))
    return nodes, problems


async def _ask_sentinel(seed: Address, service: str) -> tuple[Mapping[str, str], StoreProblem | None]:
    """Return what a sentinel knows of the primary, and what is wrong with that."""
    name = seed.name
    try:
        state, quorum = await call(seed, [["SENTINEL", "MASTER", service], ["SENTINEL", "CKQUORUM", service]])
    except StoreError as error:
        return {}, StoreProblem(f"the sentinel {name} does not answer: {error}", _CHECK_NODE)
    if isinstance(state, CommandError):
        remedy = "Name the service in REDIS_URL as `sentinel monitor` does, and check the sentinel's ACL"
        return {}, StoreProblem(f"the sentinel {name} does not know the service: {state}", remedy, is_severe=True)
    if isinstance(quorum, CommandError):
        remedy = "Restart the sentinels that are away: a lost primary is not replaced without a quorum and a majority"
        return dict(pairs(state)), StoreProblem(f"the sentinel {name} counts no quorum: {quorum}", remedy)
    return dict(pairs(state)), None
