"""The arithmetic of each mode, calculated by hand, with a price of 1 for everything."""

import math
from dataclasses import replace

import pytest
from tidewire.tools.cost import commands
from tidewire.tools.cost.bill import TITLES
from tidewire.tools.cost.modes import MODES, Estimate, Mode, estimate
from tidewire.tools.cost.prices import Plan
from tidewire.tools.cost.workload import TRANSPORTS, Workload

from tests.integration.cost.tables import ONES, SHIPPED

# Two users, each in one session of ten minutes; ten events, of which each user is sent five.
SMALL = Workload(users=2, events=10, delivered=5, hours=1 / 6, sessions=1, event_bytes=300)


def counted(mode: Mode, load: Workload) -> dict[str, float]:
    """The quantity of each line."""
    found = estimate(mode, load, ONES)
    assert all(line.cost == line.quantity for line in found.lines)
    return {line.key: line.quantity for line in found.lines}


def test_a_lambda_stream_is_billed_until_its_end() -> None:
    lines = counted("lambda", SMALL)
    # 600 s are two streams of 300 s, and half a stream more that runs on after its client has left.
    assert lines["lambda-requests"] == 2 * 2.5 + 10, "streams and publications"
    assert lines["lambda-gb-seconds"] == pytest.approx(2 * 2.5 * 300 * 0.5 + 10 * 0.050 * 0.5)
    assert lines["http-api-requests"] == 10
    # 1,500 s of heartbeats every 15 s, five openings, ten events sent; ten receipts in ten answers.
    streamed = 1_500 / 15 * 100 + 5 * 1_000 + 10 * (300 + 120)
    assert lines["egress-gb"] == pytest.approx((streamed + 10 * (700 + 150)) / 1e9)
    assert "lambda-streamed-gb" not in lines, "no answer is longer than 6 MB"
    # Each opening writes three lines of Lambda's and ours, and five of the tail's lag.
    assert lines["logs-gb"] == pytest.approx((5 * (550 + 5 * 300) + 10 * 550) / 1e9)


def test_on_lambda_each_stream_reads_the_log_for_itself() -> None:
    # 1,500 s of streams: 50 blocking reads of 30 s, 25 reads of the heads, 5 openings of 7 commands, 10 publications,
    # and few arrivals.
    assert counted("lambda", SMALL)["redis-commands"] == pytest.approx(50 + 25 + 5 * 7 + 10, abs=0.1)
    rest = replace(SMALL, transport="upstash-rest")
    assert counted("lambda", rest)["redis-commands"] == pytest.approx(25 + 5 * 4 + 10, abs=0.1)


def test_a_short_session_is_one_stream() -> None:
    """And no hours are no stream."""
    assert counted("lambda", replace(SMALL, hours=1 / 60))["lambda-requests"] == 2 * 1 + 10
    assert counted("lambda", replace(SMALL, hours=0))["lambda-requests"] == 10


def test_managed_instances_are_at_least_three_with_a_fee() -> None:
    lines = counted("managed", SMALL)
    assert lines["managed-instance-hours"] == 3 * 730
    assert lines["managed-fee"] == 3 * 730, "a share of what they cost, which is one an hour here"
    assert lines["managed-requests"] == 5
    assert lines["lambda-requests"] == 10, "publications are still functions"
    by_price = {line.key: line.cost for line in estimate("managed", SMALL, SHIPPED).lines}
    assert by_price["managed-fee"] == pytest.approx(0.15 * 3 * 730 * 0.0816)


@pytest.mark.parametrize(
    ("mode", "users", "key", "count"),
    [
        # All connected all month: as many streams at once as users, never more.
        ("managed", 4_800, "managed-instance-hours", 3 * 730),
        ("managed", 4_801, "managed-instance-hours", 4 * 730),
        ("container", 8_000, "fargate-gb-hours", 2 * 730),
        ("container", 8_001, "fargate-gb-hours", 3 * 730),
    ],
)
def test_processes_cover_the_streams_of_the_busiest_hour(mode: Mode, users: int, key: str, count: float) -> None:
    load = Workload(users, 0, hours=730, peak=5, streams=4_000)
    assert counted(mode, load)[key] == count


def test_processes_cover_the_deliveries_of_the_busiest_hour() -> None:
    # 1,000 users are sent 65.7 million events each: 25,000 per second, and five times that at the peak.
    load = Workload(1_000, 65_700_000, 65_700_000, hours=1, peak=5)
    assert counted("container", load)["fargate-gb-hours"] == 13 * 730


def test_a_container_takes_publications_behind_a_balancer() -> None:
    lines = counted("container", SMALL)
    assert lines["fargate-vcpu-hours"] == 2 * 0.5 * 730
    assert lines["balancer-hours"] == 730
    assert lines["ipv4-hours"] == (2 + 2) * 730
    assert not lines.keys() & {"lambda-requests", "http-api-requests"}
    # LCUs by connections at once: 2 users for a sixth of an hour each are 1/3 / 730 on average, of 3,000.
    by_active = 1 / 3 / 730 / 3_000 * 730
    by_new = (2 + 10) / 2_628_000 / 25 * 730
    assert lines["balancer-lcu-hours"] == pytest.approx(max(by_active, by_new))


def test_containers_share_reads_and_idle_without_users() -> None:
    # All users all month: two processes, each with 120 reads and 60 reads of heads per hour, for any number of streams.
    load = Workload(5_000, 0, hours=730, sessions=1, peak=1)
    reads = counted("container", load)["redis-commands"] - 5_000 * 1
    assert reads == pytest.approx(2 * (120 + 60) * 730, rel=1e-6)
    assert "redis-commands" not in counted("container", Workload(5_000, 0, hours=0))


def test_polls_are_short_functions_whose_waits_are_billed() -> None:
    lines = counted("poll", SMALL)
    # 1,200 s at 10 s, and ten events on pages of at most 500.
    polls = 120 + 10 / 500
    assert lines["lambda-requests"] == pytest.approx(polls + 10)
    assert lines["http-api-requests"] == pytest.approx(polls + 10)
    assert lines["lambda-gb-seconds"] == pytest.approx((polls + 10) * 0.050 * 0.5)
    assert lines["redis-commands"] == pytest.approx(polls * 2 + 10, abs=0.1), "the heads of `all` and of revocations"
    waiting = counted("poll", replace(SMALL, poll_every=0, poll_wait=20))
    polls = 1_200 / 20 + 10
    assert waiting["lambda-requests"] == pytest.approx(polls + 10)
    assert waiting["lambda-gb-seconds"] == pytest.approx((1_200 + (polls + 10) * 0.050) * 0.5)


def test_user_shards_cost_publishers_and_save_readers() -> None:
    # A million events for one of a thousand users each, in batches of ten.
    load = Workload(1_000, 1_000_000, 1_000, batch=10)
    shards = replace(load, shards=500)
    assert commands.publishing(load) == 100_000
    assert commands.publishing(shards) == 1_000_000
    assert commands.read_for_one(shards).records == pytest.approx(commands.read_for_one(load).records / 500)
    assert commands.read_for_one(shards).arrivals == pytest.approx(commands.read_for_one(load).arrivals / 50)
    assert commands.read_for_all(shards) == commands.read_for_all(load)
    stored = counted("container", shards)["redis-storage-gb"]
    assert stored == pytest.approx(1_000_000 * 24 / 730 * (300 + 350) / 1e9), "one copy each"
    wide = replace(shards, delivered=10_000)
    assert counted("container", wide)["redis-storage-gb"] == pytest.approx(10 * stored), "one in each of ten shards"


def test_the_bus_bills_events_invocations_and_commands() -> None:
    load = replace(SMALL, batch=10, event_bytes=100_000)
    before, lines = counted("container", load), counted("container", replace(load, bus=True))
    assert lines["eventbridge-events"] == 20, "of 64 KB"
    assert lines["lambda-requests"] == 10
    assert lines["redis-commands"] == pytest.approx(before["redis-commands"] - 1 + 10, abs=0.1)


def test_a_request_of_the_http_api_is_512_kb() -> None:
    assert counted("lambda", replace(SMALL, batch=10, event_bytes=60_000))["http-api-requests"] == 2


def test_netlify_is_a_plan_and_credits() -> None:
    prices = replace(SHIPPED, prices={**SHIPPED.prices, "netlify-credits": replace(SHIPPED["netlify-credits"], free=0)})
    load = Workload(0, 1_000_000, 0, netlify=True)
    lines = {line.key: line for line in estimate("lambda", load, prices).lines}
    assert lines["netlify-plan"].cost == 20
    # A million requests are 200 credits, and 0.85 GB of receipts 17; 1,000 credits are 20 dollars.
    assert lines["netlify-credits"].quantity == pytest.approx(200 + 0.85 * 20)
    assert lines["netlify-credits"].cost == pytest.approx(217 * 0.02)
    assert estimate("poll", replace(load, users=10), prices).total > estimate("poll", load, prices).total


def test_a_fixed_plan_is_used_if_it_fits_and_costs_less() -> None:
    plans = (Plan("small", 5, storage=0.001, bandwidth=1_000), Plan("large", 9, storage=1, bandwidth=1_000))
    prices = replace(ONES, plans=plans)
    few, many = Workload(0, 4, 0), Workload(0, 1_000_000, 0)
    assert {line.key for line in estimate("lambda", few, prices).lines} >= {"redis-commands", "redis-storage-gb"}
    found = estimate("lambda", many, prices)
    assert [(line.title, line.cost) for line in found.lines if line.key == "redis-plans"] == [("Upstash: large", 9)]
    assert "1,000,000 commands" in found.notes[0]
    assert not {line.key for line in found.lines} & {"redis-commands", "redis-bandwidth-gb", "redis-storage-gb"}


def test_postgres_is_awake_while_users_are_connected() -> None:
    """And its size follows the number of connections."""
    busy = Workload(100, 0, hours=730, sessions=1, peak=1, transport="postgres")
    assert counted("container", busy)["postgres-cu-hours"] == pytest.approx(0.25 * 730)
    # Each stream on Lambda is a process of five connections: 500, of 104 a quarter CU.
    assert counted("lambda", busy)["postgres-cu-hours"] == pytest.approx(5 * 0.25 * 730)
    assert not counted("container", busy).keys() & {"redis-commands", "redis-bandwidth-gb"}
    assert "postgres-cu-hours" not in counted("container", replace(busy, hours=0))
    crowd = estimate("lambda", replace(busy, users=10_000), SHIPPED)
    assert any("not possible" in note for note in crowd.notes)


def test_what_does_not_fit_a_platform_s_limits_is_noted() -> None:
    crowd = Workload(10_000, 1_000, 1)
    assert "2,192 concurrent environments of the stream function" in estimate("lambda", crowd, SHIPPED).notes[-1]
    waiting = replace(crowd, poll_every=0, poll_wait=20)
    assert "2,192 concurrent environments" in estimate("poll", waiting, SHIPPED).notes[-2]
    assert estimate("poll", waiting, SHIPPED).notes[-1] == "an event arrives at once"
    flood = Workload(1_000, 10_000_000_000, 0)
    assert any("10,000 commands per second" in note for note in estimate("poll", flood, SHIPPED).notes)
    assert estimate("poll", crowd, SHIPPED).notes[-1] == "an event arrives up to 10 s late"


def test_every_line_has_a_title_a_unit_and_a_price() -> None:
    seen: set[str] = set()
    for transport in TRANSPORTS:
        for mode in MODES:
            load = Workload(
                50_000, 900_000_000, 900_000, transport=transport, bus=True, netlify=True, event_bytes=200_000
            )
            found: Estimate = estimate(mode, load, SHIPPED)
            assert found.total == math.fsum(line.cost for line in found.lines)
            assert all(line.title and line.unit and math.isfinite(line.cost) for line in found.lines)
            seen |= {line.key for line in found.lines}
    assert {*TITLES, "redis-plans"} - seen <= {"redis-plans"}
