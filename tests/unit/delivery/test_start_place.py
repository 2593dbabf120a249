"""The start of a reader: its cursor, a time or the head, and the gaps that are announced first."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pytest
from tidewire.delivery import start_place as module
from tidewire.delivery.known_schemes import KnownSchemes
from tidewire.delivery.replay import Place
from tidewire.delivery.start_place import find_place, start_of_outage
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, Start, encode
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Gap
from tidewire.transports.memory import MemoryLog

OWN = Partitions(frozenset({"a"}))
BOTH = (ALL, "a")
HEADS = Cursor({ALL: Position(7, 100, "0000000a", 9_000), "a": Position(7, 50, "0000000b", 8_000)})


class SeekLog(MemoryLog):
    """A log that answers a search with the positions that a test gives, by time and partition."""

    def __init__(self, found: Mapping[int | None, Mapping[str, Position]]) -> None:
        super().__init__()
        self.asked: list[tuple[tuple[str, ...], int | None]] = []
        self._found = found

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        self.asked.append((tuple(partitions), time))
        return Cursor({name: self._found[time][name] for name in partitions})


class ReadHeads:
    """Newer heads, and which were read."""

    def __init__(self, answer: Mapping[str, Position] = {}) -> None:
        self.asked: list[tuple[str, ...]] = []
        self._answer = answer

    async def __call__(self, partitions: Sequence[str]) -> Cursor:
        self.asked.append(tuple(partitions))
        return Cursor({name: self._answer[name] for name in partitions})


async def place_of(
    log: MemoryLog | None,
    start: Start,
    *,
    partitions: tuple[str, ...] = BOTH,
    heads: Cursor = HEADS,
    read_heads: ReadHeads | None = None,
    interest: Interest = Interest(),
) -> Place:
    schemes = KnownSchemes(log or MemoryLog(), OWN, lambda: None)
    return await find_place(log, schemes, read_heads or ReadHeads(), interest, start, partitions, heads)


def test_a_start_of_an_outage_is_the_time_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head is not known; a cursor, a time or the beginning stay what they are."""
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 1_790_000_000.1239))
    assert start_of_outage(Start()) == Start(since=1_790_000_000_123)
    for start in (Start("cursor"), Start("cursor", "earliest"), Start(since="earliest"), Start(since=5)):
        assert start_of_outage(start) is start


async def test_now_is_the_head() -> None:
    log = SeekLog({})
    place = await place_of(log, Start())
    assert place == Place(BOTH, dict(HEADS.positions), HEADS)
    assert log.asked == []


async def test_the_head_has_only_the_partitions_of_the_reader() -> None:
    """Heads of control partitions were read in the same request."""
    place = await place_of(SeekLog({}), Start(), partitions=("a",))
    assert place.positions == {"a": HEADS.positions["a"]}
    assert place.partitions == ("a",)


@pytest.mark.parametrize(("since", "time"), [("earliest", None), (5_000, 5_000), (0, 0)])
async def test_a_time_is_searched_in_the_log(since: object, time: int | None) -> None:
    found = {ALL: Position(7, 20), "a": Position(7, 30)}
    log = SeekLog({time: found})
    place = await place_of(log, Start(since=since))  # type: ignore[arg-type]  # a parameter is a str
    assert place == Place(BOTH, found, HEADS)
    assert log.asked == [(BOTH, time)]


@pytest.mark.parametrize(
    ("at", "is_past"),
    [(Position(7, 100), False), (Position(7, 101), True), (Position(8, 0), True), (Position(6, 500), False)],
)
async def test_heads_behind_the_place_are_read_again(at: Position, is_past: bool) -> None:
    """The log moved on while it was searched: past the head, the place would look like one of a lost log."""
    found = {ALL: at, "a": Position(7, 30)}
    newer = {ALL: Position(8, 105), "a": Position(7, 60)}
    read_heads = ReadHeads(newer)
    place = await place_of(SeekLog({None: found}), Start(since="earliest"), read_heads=read_heads)
    assert place.positions == found
    assert place.until == (Cursor(newer) if is_past else HEADS)
    assert read_heads.asked == ([BOTH] if is_past else [])


@pytest.mark.parametrize("text", ["nonsense", "1.0", ""])
async def test_a_cursor_that_cannot_be_read_is_a_gap_at_the_start(text: str) -> None:
    """Also one that names no partition; the gap is at the place where the reader begins."""
    found = {ALL: Position(7, 20), "a": Position(7, 30)}
    log = SeekLog({None: found})
    place = await place_of(log, Start(text), partitions=("a", ALL))
    assert place == Place(("a", ALL), found, HEADS, [Gap("invalid", "a", found["a"])])
    assert log.asked == [(("a", ALL), None)]


def cursor(*, time: int = 6_000, **offsets: int) -> str:
    return encode(
        {name.replace("_", ":"): Position(7, offset, "00000001", time) for name, offset in offsets.items()}, time
    )


async def test_a_cursor_is_the_place_in_its_partitions() -> None:
    log = SeekLog({})
    place = await place_of(log, Start(cursor(all=10, a=20)))
    assert {name: at[:2] for name, at in place.positions.items()} == {ALL: (7, 10), "a": (7, 20)}
    assert (place.partitions, place.until, place.gaps) == (BOTH, HEADS, ())
    assert log.asked == []


async def test_a_partition_missing_in_a_cursor_is_read_from_its_time() -> None:
    """The cursor was written under another scheme: what came to the partition since then may be unseen."""
    log = SeekLog({6_000: {"a": Position(7, 33)}})
    place = await place_of(log, Start(cursor(all=10)))
    assert {name: at[:2] for name, at in place.positions.items()} == {ALL: (7, 10), "a": (7, 33)}
    assert log.asked == [(("a",), 6_000)]
    assert place.gaps == ()


async def test_a_receipt_starts_the_other_partitions_at_their_head() -> None:
    """It has no time, and names the partition of one event."""
    log = SeekLog({})
    place = await place_of(log, Start(cursor(all=10, time=0)))
    assert {name: at[:2] for name, at in place.positions.items()} == {ALL: (7, 10), "a": (7, 50)}
    assert log.asked == []


async def test_a_partition_of_another_scheme_is_read_to_its_head() -> None:
    read_heads = ReadHeads({"all:u1": Position(7, 5)})
    place = await place_of(
        SeekLog({}), Start(cursor(all=10, a=20, all_u1=3)), interest=Interest("u1"), read_heads=read_heads
    )
    assert place.partitions == (*BOTH, "all:u1")
    assert {name: at[:2] for name, at in place.positions.items()} == {ALL: (7, 10), "a": (7, 20), "all:u1": (7, 3)}
    assert place.until == Cursor({**HEADS.positions, "all:u1": Position(7, 5)})
    assert read_heads.asked == [("all:u1",)]
    assert place.gaps == ()


async def test_a_partition_that_no_scheme_had_is_a_gap() -> None:
    """What it held for the reader cannot be read any more; a forged name must not create a log."""
    for interest, gaps in ((Interest(), 1), (Interest(types=frozenset({"a"})), 0)):
        place = await place_of(SeekLog({}), Start(cursor(all=10, a=20, b=3)), interest=interest)
        assert place.partitions == BOTH
        assert set(place.positions) == set(BOTH)
        assert list(place.gaps) == [Gap("trimmed", ALL, place.positions[ALL])] * gaps


@pytest.mark.parametrize(
    ("start", "has_missed"),
    [(Start(), False), (Start(since="earliest"), True), (Start(since=1), True), (Start("x"), True)],
)
async def test_without_a_log_every_start_but_now_is_a_gap(start: Start, has_missed: bool) -> None:
    place = await place_of(None, start, heads=Cursor({}))
    assert place == Place(BOTH, {}, Cursor({}), [Gap("no-log", ALL, None)] if has_missed else ())


async def test_a_log_that_is_unavailable_is_no_place() -> None:
    class Away(MemoryLog):
        async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
            raise TransportUnavailable("no answer")

    for start in (Start("nonsense"), Start(since="earliest"), Start(cursor(all=10))):
        with pytest.raises(TransportUnavailable):
            await place_of(Away(), start)
