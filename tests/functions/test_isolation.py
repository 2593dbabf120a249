"""No subscriber receives events for others. An absent event is proven by a later one that arrives."""

import itertools
from typing import Any

import pytest

from tests.support.api import Api, data_of, unique
from tests.support.tokens import PUBLISH_KEY, user_token


class Story:
    """Events for two users and for everyone, of one type, and those that each of the two may receive."""

    def __init__(self, api: Api) -> None:
        self.api = api.acting(key=PUBLISH_KEY)
        self.kind = unique()
        self.mine, self.theirs = unique("u"), unique("u")
        self.me = api.acting(token=user_token(self.mine))
        self.them = api.acting(token=user_token(self.theirs))

    def tell(self, label: str) -> list[dict[str, Any]]:
        """Publish one event for me, one for them, one for both, one for everyone, and the sentinel for me."""
        audiences = [
            [self.mine],
            [self.theirs],
            [self.theirs, self.mine],
            None,
            [self.theirs, unique("u")],
            [self.mine],
        ]
        names = ["mine", "theirs", "ours", "everyones", "theirs again", "sentinel"]
        return self.api.publish(
            *(
                {"type": self.kind, "data": f"{label}: {name}", "userIds": audience}
                for name, audience in zip(names, audiences, strict=True)
            )
        )

    def for_me(self, *labels: str) -> list[str]:
        """The events for this user, sorted: shards have no common order."""
        names = ["mine", "ours", "everyones", "sentinel"]
        return sorted(f"{label}: {name}" for label, name in itertools.product(labels, names))

    def replayed(self, headers: dict[str, str] | None = None, **params: str) -> list[Any]:
        """What I am sent of this story before `ready`, sorted, and that a page holds the same."""
        with self.me.stream(headers, **params) as stream:
            streamed = self._told(data_of(stream.ready()))
        page = self.me.get(headers, {name.removesuffix("_"): value for name, value in params.items()})
        assert page.status_code == 200
        assert self._told([event["data"] for event in page.json()["events"]]) == streamed
        return streamed

    @staticmethod
    def _told(data: list[Any]) -> list[Any]:
        # The log is shared: without a type, the events of other tests are included.
        return sorted(item for item in data if isinstance(item, str) and ": " in item)


LIES: list[dict[str, str]] = [
    {},
    {"x-user-id": "{theirs}", "x-forwarded-user": "{theirs}", "remote-user": "{theirs}", "user": "{theirs}"},
    {"cookie": "realtime_token={their_token}"},
    {"cookie": "userId={theirs}; sub={theirs}"},
    {"x-original-url": "/api/events?userId={theirs}", "forwarded": "for={theirs}"},
]


@pytest.mark.parametrize("lie", range(len(LIES)))
def test_a_user_receives_only_events_for_that_user(locked: Api, lie: int) -> None:
    """Live, on replay and on a page, with any query and headers."""
    story = Story(locked)
    headers = {
        name: value.format(theirs=story.theirs, their_token=user_token(story.theirs))
        for name, value in LIES[lie].items()
    }
    start = story.me.head()
    with story.me.stream(headers, types=story.kind) as stream:
        stream.ready()
        story.tell("live")
        expected = story.for_me("live")
        assert sorted(data_of([stream.next() for _ in expected])) == expected
    assert story.replayed({**headers, "last-event-id": start}, types=story.kind) == expected


def test_with_authentication_the_querys_user_is_ignored(locked: Api) -> None:
    story = Story(locked)
    start = story.me.head()
    story.tell("a")
    for name in ("userId", "user_id", "userid", "sub"):
        params = {"types": story.kind, "last_event_id": start, name: story.theirs}
        assert story.replayed(None, **params) == story.for_me("a")


@pytest.mark.parametrize("types", [None, "own", "own and others"])
def test_no_types_open_events_for_others(locked: Api, types: str | None) -> None:
    story = Story(locked)
    start = story.me.head()
    story.tell("a")
    chosen = {"own": story.kind, "own and others": f"{story.kind},x,all,rt.all,{story.theirs}"}
    params = {} if types is None else {"types": chosen[types]}
    assert story.replayed(None, last_event_id=start, **params) == story.for_me("a")


def test_from_earliest_replays_nothing_of_others(locked: Api) -> None:
    story = Story(locked)
    story.tell("a")
    story.tell("b")
    assert story.replayed(None, types=story.kind, from_="earliest") == story.for_me("a", "b")
    assert story.replayed(None, types=story.kind, from_="2026-01-01T00:00:00Z") == story.for_me("a", "b")


def test_another_users_cursor_is_only_a_position(locked: Api) -> None:
    story = Story(locked)
    start = story.me.head()
    receipts = story.tell("a")
    with story.them.stream({"last-event-id": start}, types=story.kind) as stream:
        their_cursors = [event.last_event_id for event in stream.ready()]
    story.tell("b")
    allowed = set(story.for_me("a", "b"))
    for cursor in [*their_cursors, stream.cursor]:
        heard = set(story.replayed(None, types=story.kind, last_event_id=cursor))
        assert set(story.for_me("b")) <= heard <= allowed
    for receipt in receipts:
        assert set(story.replayed(None, types=story.kind, last_event_id=receipt["cursor"])) <= allowed


def test_no_modified_cursor_opens_events_for_others(locked: Api) -> None:
    story = Story(locked)
    story.tell("a")
    with story.me.stream(types=story.kind, from_="earliest") as stream:
        cursor = stream.ready()[0].last_event_id
    story.tell("b")
    allowed = set(story.for_me("a", "b"))
    forged = {
        cursor[:at] + character + cursor[at + 1 :]
        for at in range(len(cursor))
        for character in "0Az"
        if cursor[at] != character
    }
    forged |= {cursor[:end] for end in range(1, len(cursor))} | {cursor * 2, cursor + ".0-", cursor + cursor[-12:]}
    for text in sorted(forged):
        page = story.me.page(types=story.kind, last_event_id=text)
        heard = {event["data"] for event in page["events"]}
        assert heard <= allowed, text
    assert "b: sentinel" in {event["data"] for event in story.me.page(types=story.kind, last_event_id=cursor)["events"]}


LOOKALIKES = [
    "u",
    "U",
    "u ",
    " u",
    "u,v",
    "v",
    "uu",
    "*",
    "all",
    "None",
    "null",
    "é",
    "e\u0301",
    "u\u200b",
    "\uff55",
    "0",
    "00",
]


def test_users_with_similar_names_are_different_users(locked: Api) -> None:
    suffix = unique("-")
    users = [name + suffix if name.strip() == name else name + suffix + " " for name in LOOKALIKES]
    kind = unique()
    start = locked.acting(token=user_token("reader")).head()
    publisher = locked.acting(key=PUBLISH_KEY)
    publisher.publish(*({"type": kind, "data": user, "userIds": [user]} for user in users))
    publisher.publish({"type": kind, "data": "sentinel"})
    for user in users:
        page = locked.acting(token=user_token(user)).page(types=kind, last_event_id=start)
        assert [event["data"] for event in page["events"]] == [user, "sentinel"]


def test_many_users_receive_only_their_own_events(locked: Api) -> None:
    kind = unique()
    users = [unique("u") for _ in range(12)]
    streams = [locked.acting(token=user_token(user)).stream(types=kind) for user in users]
    opened = [stream.__enter__() for stream in streams]
    for stream in opened:
        stream.ready()
    publisher = locked.acting(key=PUBLISH_KEY)
    for round in range(5):
        publisher.publish(*({"type": kind, "data": [round, user], "userIds": [user]} for user in users))
    publisher.publish({"type": kind, "data": "sentinel"})
    for user, stream in zip(users, opened, strict=True):
        arrived = [stream.next() for _ in range(6)]
        assert data_of(arrived) == [*([round, user] for round in range(5)), "sentinel"]
        assert not any(other.encode() in stream.raw for other in users if other != user)
    for opening in streams:
        opening.__exit__(None, None, None)


def test_without_authentication_the_query_selects_the_user(any_api: Api) -> None:
    kind, mine, theirs = unique(), unique("u"), unique("u")
    start = any_api.head()
    any_api.publish(
        {"type": kind, "data": "mine", "userIds": [mine]},
        {"type": kind, "data": "theirs", "userIds": [theirs]},
        {"type": kind, "data": "sentinel"},
    )
    for user, heard in ((mine, ["mine", "sentinel"]), (theirs, ["theirs", "sentinel"]), (None, ["sentinel"])):
        page = any_api.page(types=kind, last_event_id=start, **({} if user is None else {"userId": user}))
        assert [event["data"] for event in page["events"]] == heard


def test_the_audience_is_in_no_frame_page_or_receipt(locked: Api) -> None:
    story = Story(locked)
    start = story.me.head()
    receipts = story.tell("a")
    assert story.theirs not in str(receipts)
    for format in ("data", "cloudevents"):
        with story.me.stream(types=story.kind, last_event_id=start, format=format) as stream:
            stream.ready()
        page = story.me.get(params={"types": story.kind, "last_event_id": start, "format": format})
        for text in (stream.raw.decode(), page.text):
            assert "a: ours" in text
            assert story.theirs not in text
            assert story.mine not in text
