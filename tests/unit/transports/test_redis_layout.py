"""The log's keys in Redis, the arguments of its scripts, and what their replies mean."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tidewire.transports.redis.layout as module
from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.model.partition_schemes import Announcement
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record import Record, pack
from tidewire.model.record_page import RecordPage
from tidewire.transports.appending import FOREVER, Part, Placed
from tidewire.transports.base import Retention
from tidewire.transports.errors import CommandError
from tidewire.transports.redis.layout import (
    APPEND,
    PUBLISH,
    RANGE,
    SEEK,
    TAKE,
    Arguments,
    Layout,
    Script,
    parse_entries,
    parse_page,
    parse_position,
    publish_call,
    take_call,
    write_check,
)

EPOCH = 1_764_000_000_000
LIMITS: Arguments = [1_500, 7, 2_500]
META = "{rt:realtime.schemes}:meta"
BELL: Arguments = ["rt:=bell", "PUBLISH"]


def layout() -> Layout:
    return Layout("rt", Retention(age=1.5, events=7, idempotency_window=2.5))


def event(id: str, **more: Any) -> Event:
    return Event(id, "t", b"1", **more)


def part(number: int, partition: str, one: Event, *others: tuple[str, str]) -> Part:
    return Part(number, partition, one, f"scope-{one.id}", others)


def raw(offset: int, check: str = "0000abcd", time: int = EPOCH + 5, known: int = 0, text: type = bytes) -> list[Any]:
    """The reply for one event: bytes over TCP, str over REST."""
    texts = [str(EPOCH), str(offset), check, f"{time:013}"]
    return [*(one.encode() if text is bytes else one for one in texts), known]


def entry(offset: int, one: Event | None = None, epoch: int = EPOCH, check: str = "0000abcd") -> Any:
    """A raw entry of a stream."""
    value = check.encode() + b"%013d" % (EPOCH + offset) + pack(one or event(f"id-{offset}"))
    return b"%d-%d" % (epoch, offset), [b"e", value]


@pytest.mark.parametrize(
    ("script", "name"), [(APPEND, "append"), (PUBLISH, "publish"), (RANGE, "range"), (SEEK, "seek"), (TAKE, "take")]
)
def test_a_script_is_known_by_the_hash_of_its_file(script: Script, name: str) -> None:
    text = (Path(module.__file__).parent / "lua" / f"{name}.lua").read_text()
    assert script == Script.load(name) == Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    assert script.by_sha(["a", "b"], ["c", 1]) == ["EVALSHA", script.sha, 2, "a", "b", "c", 1]
    assert script.in_full(["a", "b"], ["c", 1]) == ["EVAL", script.text, 2, "a", "b", "c", 1]


def test_scripts_are_loaded_under_fips(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL then refuses SHA-1 for security."""
    digest = hashlib.sha1

    def sha1(data: bytes, *, usedforsecurity: bool = True) -> object:
        assert usedforsecurity is False
        return digest(data, usedforsecurity=usedforsecurity)

    monkeypatch.setattr(hashlib, "sha1", sha1)
    assert Script.load("take") == TAKE


class Cache:
    """A server that knows no script; it fails as scripted, and notes each round trip."""

    def __init__(self, *replies: list[Any]) -> None:
        self._replies = list(replies)
        self.sent: list[list[list[str | bytes | int]]] = []

    async def __call__(self, commands: Sequence[Arguments]) -> list[Any]:
        self.sent.append([list(command) for command in commands])
        return self._replies.pop(0)


async def test_a_cached_script_takes_one_round_trip() -> None:
    refused = CommandError("OOM no memory")
    send = Cache([1, refused, 3])
    assert await TAKE.run([(["a"], [1]), (["b"], []), (["c"], [])], send) == [1, refused, 3]
    assert send.sent == [[TAKE.by_sha(["a"], [1]), TAKE.by_sha(["b"], []), TAKE.by_sha(["c"], [])]]


async def test_only_calls_of_an_unknown_script_are_sent_in_full() -> None:
    unknown = CommandError("NOSCRIPT No matching script")
    send = Cache([unknown, 2, unknown], [1, 3])
    assert await TAKE.run([(["a"], [1]), (["b"], []), (["c"], [2])], send) == [1, 2, 3]
    assert send.sent[1:] == [[TAKE.in_full(["a"], [1]), TAKE.in_full(["c"], [2])]]


async def test_a_missing_reply_is_an_error() -> None:
    unknown = CommandError("NOSCRIPT No matching script")
    with pytest.raises(ValueError, match="zip"):
        await TAKE.run([(["a"], [1])], Cache([unknown], []))


def test_calls_name_their_keys_in_the_slot_of_the_prefix() -> None:
    assert take_call("rt", "key", 3, 10, 1.2345) == (["{rt}:rate:key"], [3, 10, 1_234])
    assert publish_call("rt", [("a", b"1"), ("b", b"2")]) == (["{rt}:health"], ["a", b"1", "b", b"2"])
    assert write_check("rt") == ["SET", "{rt}:health", "1", "XX"]


def test_keys_of_a_partition_share_its_slot() -> None:
    assert layout().prefix == "rt"
    assert layout().stream("all") == "rt:all"
    assert layout().keys("all:u3") == ["rt:all:u3", "{rt:all:u3}:meta"]


def test_appends_are_one_call_per_partition() -> None:
    """Only the control partition is kept for ever."""
    first, second, third = event("1"), event("2", attributes={"source": "/s"}), Event("3", SCHEMES, b"{}")
    calls = layout().append(
        "check",
        [
            part(0, "all", first, ("all:u1", "8 t 1"), ("t", "t 1")),
            part(1, "t", second),
            part(1, "all", second),
            part(2, SCHEMES, third),
        ],
    )
    assert calls.calls == [
        (
            [
                *("rt:all", "{rt:all}:meta", "rt:realtime.schemes", META),
                *("{rt:all}:id:scope-1", "{rt:all:u1}:id:8 t 1", "{rt:all:u1}:meta", "{rt:t}:id:t 1", "{rt:t}:meta"),
                "{rt:all}:id:scope-2",
            ],
            [*LIMITS, "check", *BELL, "1", pack(first), 2, "/s 2", pack(second), 0],
        ),
        (
            ["rt:t", "{rt:t}:meta", "rt:realtime.schemes", META, "{rt:t}:id:scope-2"],
            [*LIMITS, "check", *BELL, "/s 2", pack(second), 0],
        ),
        (
            ["rt:realtime.schemes", META, "rt:realtime.schemes", META, "{rt:realtime.schemes}:id:scope-3"],
            [int(FOREVER.age * 1000), FOREVER.events, 86_400_000, "check", *BELL, "3", pack(third), 0],
        ),
    ]


def test_a_cluster_rings_in_the_partitions_slot() -> None:
    cluster = Layout("rt", Retention(), sharded=True)
    assert layout().bell("a") == layout().bell("b") == "rt:=bell"
    assert cluster.bell("all:u3") == "{rt:all:u3}:bell"
    ((_, arguments),) = cluster.append("check", [part(0, "t", event("1"))]).calls
    assert arguments[4:6] == ["{rt:t}:bell", "SPUBLISH"]


@pytest.mark.parametrize("text", [bytes, str])
def test_receipts_are_in_the_order_of_the_parts(text: type) -> None:
    """Over TCP texts are bytes, over REST they are str."""
    other = ("all:u1", "8 t 2"), ("all:u2", "8 t 2")
    calls = layout().append(
        "", [part(0, "all", event("1")), part(1, "t", event("2"), *other), part(2, "all", event("3"))]
    )
    known = b"known" if text is bytes else "known"
    empty = b"" if text is bytes else ""
    there = raw(9, text=text)[:4]
    answers, registry = calls.answers(
        [[raw(1, text=text), raw(2, known=1, text=text)], [[known, empty, there]]],
    )
    assert registry is None
    assert answers == [
        Placed(Position(EPOCH, 1, "0000abcd", EPOCH + 5), False),
        {other[1]: Position(EPOCH, 9, "0000abcd", EPOCH + 5)},
        Placed(Position(EPOCH, 2, "0000abcd", EPOCH + 5), True),
    ]


@pytest.mark.parametrize("text", [bytes, str])
def test_another_registry_is_returned_beside_what_was_appended(text: type) -> None:
    """Each partition is appended to by a call of its own, and some were sent before the announcement."""
    announced = Announcement(("t",), 0, 60_000).event()
    id, fields = entry(1, announced)
    entries: list[Any] = [[id, fields]]
    reply: list[Any] = [b"schemes", b"0000cccc", entries]
    if text is str:
        entries = [[id.decode(), [field.decode() for field in fields]]]
        reply = ["schemes", "0000cccc", entries]
    calls = layout().append("", [part(0, "all", event("1")), part(1, "t", event("2")), part(2, "all", event("3"))])
    answers, registry = calls.answers([reply, [raw(4, text=text)]])
    assert answers == [None, Placed(Position(EPOCH, 4, "0000abcd", EPOCH + 5), False), None]
    assert registry is not None
    assert registry.check == "0000cccc"
    (in_use,) = [use for scheme, use in registry.in_use.items() if scheme == Partitions(frozenset({"t"}))]
    assert in_use.renewed == EPOCH + 1


def test_a_registry_leaves_out_what_is_no_announcement(caplog: pytest.LogCaptureFixture) -> None:
    calls = layout().append("", [part(0, "all", event("1"))])
    announced = Announcement(("t",), 0, 60_000).event()
    entries = [entry(1, event("other")), (b"7-2", [b"e", b"broken"]), entry(3, announced)]
    _, registry = calls.answers([[b"schemes", b"0000cccc", entries]])
    assert registry is not None
    assert Partitions(frozenset({"t"})) in registry.in_use
    assert caplog.messages[0] == "partition realtime.schemes: the entry 7-2 is not a record"


@pytest.mark.parametrize("check", [b"", "", None], ids=["bytes", "str", "none"])
def test_an_empty_registry_has_no_check(check: object) -> None:
    calls = layout().append("other", [part(0, "all", event("1"))])
    _, registry = calls.answers([[b"schemes", check, []]])
    assert registry is not None
    assert registry.check == ""
    assert not registry.announced


@pytest.mark.parametrize(
    "replies",
    [[], [[raw(1)], [raw(2)]], [[raw(1), raw(2)]], [[[b"known"]]], [[[b"known", b"", b""]]]],
    ids=["no-reply", "two-replies", "two-events", "no-place", "two-places"],
)
def test_replies_of_another_number_are_an_error(replies: list[Any]) -> None:
    calls = layout().append("", [part(0, "all", event("1"), ("t", "t 1"))])
    with pytest.raises(ValueError, match="zip"):
        calls.answers(replies)


def test_a_position_is_the_first_four_values() -> None:
    expected = Position(EPOCH, 3, "0000abcd", EPOCH + 5)
    assert parse_position(raw(3)) == expected
    assert parse_position(raw(3, text=str)[:4]) == expected


def record(offset: int, check: str = "0000abcd", epoch: int = EPOCH) -> Record:
    return Record(event(f"id-{offset}"), "all", Position(epoch, offset, check, EPOCH + offset))


def test_entries_become_records_with_their_positions() -> None:
    assert parse_entries("all", [entry(1), entry(4)]) == [record(1), record(4)]


@pytest.mark.parametrize(
    "broken",
    [
        (b"7-2", [b"e", b"0000abcd" + b"%013d" % EPOCH + b"secret"]),
        (b"7-2", [b"e", b"secret"]),
        (b"7-2", [b"e", b"0000abc\xff" + b"%013d" % EPOCH + pack(event("secret"))]),
        (b"7-", [b"e", b"0000abcd" + b"%013d" % EPOCH + pack(event("secret"))]),
    ],
    ids=["event", "short", "check", "id"],
)
def test_an_unreadable_entry_is_left_out(broken: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log names it, but does not quote it."""
    with caplog.at_level(logging.ERROR):
        assert parse_entries("all", [entry(1), broken, entry(3)]) == [record(1), record(3)]
    (line,) = caplog.messages
    assert line == f"partition all: the entry {broken[0].decode()} is not a record"


def test_contiguous_entries_are_a_page_in_stored_form() -> None:
    page = parse_page("all", [entry(8), entry(9), entry(10)])
    assert isinstance(page, RecordPage)
    assert (page.partition, page.epoch, page.first) == ("all", EPOCH, 8)
    assert list(page) == [record(8), record(9), record(10)]
    assert isinstance(parse_page("all", [entry(1)]), RecordPage)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [entry(8), entry(10)],
        [entry(8), (b"%d-9" % EPOCH, [b"e", b"broken"]), entry(10)],
        [entry(8), entry(9, epoch=EPOCH + 1)],
        [entry(9), entry(9)],
    ],
    ids=["none", "hole", "unreadable", "epochs", "twice"],
)
def test_other_entries_are_parsed_one_by_one(entries: Any) -> None:
    page = parse_page("all", entries)
    assert not isinstance(page, RecordPage)
    assert page == parse_entries("all", entries)
