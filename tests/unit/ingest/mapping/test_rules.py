"""A rule makes an event of a payload, or an error that contains nothing of the payload; it never guesses."""

import json

import pytest
from tidewire.errors import InvalidRequest, MappingError
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.mapping.rules import derived_id, map_payload
from tidewire.model.event import Event

from tests.unit.ingest.mapping.rules import ID, event, events, rules

TASK = json.dumps({"task": {"id": 7, "state": "done", "owners": ["u1", 42]}, "actor": {"id": 9, "name": None}})


def test_the_defaults_of_a_rule() -> None:
    """Everyone receives the whole payload, under the delivery's own id."""
    assert event('type = "task-updated"', f" {TASK}\n") == Event(ID, "task-updated", TASK.encode(), None)


def test_every_field_can_come_from_the_payload() -> None:
    keys = """
        type = {from = "join('.', ['task', task.state])"}
        userIds = "task.owners"
        data = "{id: task.id, by: actor.name}"
        id = "join('-', ['task', to_string(task.id)])"
    """
    assert event(keys, TASK) == Event("task-7", "task.done", b'{"id":7,"by":null}', ("u1", "42"))


@pytest.mark.parametrize(
    ("when", "counts"),
    [
        ("task.state == 'done'", True),
        ("task.state == 'open'", False),
        ("task.nothing", False),
        ("actor.name", False),
        ("`0`", True),  # only false, null and what is empty is false in JMESPath
        ("`[]`", False),
        ("`{}`", False),
        ("''", False),
        ("`false`", False),
        ("task.id > `6`", True),
        ("task.id > `7`", False),
        ("header('X-Kind') == 'task'", True),
        ("header('x-kind') == 'task' && task.id == `7`", True),
        ("header('x-other')", False),
        ("contains(task.owners, 'u1')", True),
    ],
)
def test_only_a_matching_rule_makes_an_event(when: str, counts: bool) -> None:
    assert bool(events(f'type = "t"\nwhen = "{when}"', TASK, {"x-kind": "task"})) is counts


@pytest.mark.parametrize(
    ("expression", "users"),
    [
        ("task.owners", ("u1", "42")),
        ("task.owners[0]", ("u1",)),
        ("actor.id", ("9",)),
        ("[actor.id, actor.id, task.owners[0]]", ("9", "u1")),
    ],
)
def test_a_user_or_a_list_of_users_is_the_audience(expression: str, users: tuple[str, ...]) -> None:
    assert event(f'type = "t"\nuserIds = "{expression}"', TASK).user_ids == users


@pytest.mark.parametrize(
    "expression",
    ["actor.name", "actor.nothing", "`[]`", "[actor.name]", "task", "`1.0`", "`true`", "task.owners[?@ == 'x']", "''"],
)
def test_an_audience_that_is_not_found_never_becomes_everyone(expression: str) -> None:
    with pytest.raises(MappingError, match=r"realtime\.toml: events\[0\]\.userIds: "):
        events(f'type = "t"\nuserIds = "{expression}"', TASK)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("""type = {from = "task.nothing"}""", "type: finds nothing in the payload"),
        ("""type = {from = "task"}""", "type: must find a string or a whole number"),
        ("""type = {from = "'two words'"}""", "type: must be 1 to 128 characters of A-Z a-z 0-9 . _ -"),
        ("""type = {from = "'open'"}""", "type: must not be 'open': an EventSource takes it for its own event"),
        ("""type = {from = "'realtime.gap'"}""", "type: must not start with 'realtime.': these names are reserved"),
        ("""type = "t"\nid = "actor.name" """, "id: finds nothing in the payload"),
        ("""type = "t"\nid = "'two words'" """, "id: must be 1 to 256 visible ASCII characters (no spaces)"),
        ("""type = "t"\ndata = "actor.name" """, "data: finds nothing in the payload"),
        ("""type = "t"\ndata = "not_null(actor.name)" """, "data: finds nothing in the payload"),
        ("""type = "t"\nuserIds = "['a', 'b\\u0000']" """, "userIds: must be 1 to 256 characters without control"),
        (
            """type = "t"\nwhen = "starts_with(actor.id, 'x')" """,
            "when: cannot be computed: starts_with() takes string, not number",
        ),
        (
            """type = "t"\nwhen = "task.id < task.state" """,
            "when: cannot be computed: it compares or sorts values of different types",
        ),
        ("""type = "t"\ndata = "{s: sum([`1e308`, `1e308`])}" """, "data: cannot be computed: a number is too large"),
        ("""type = "t"\ndata = "{s: to_number('nan')}" """, "data: cannot be computed: a number is too large"),
        (
            """type = "t"\nid = "task.owners[::0]" """,
            "id: cannot be computed: a function does not accept this value",
        ),
    ],
)
def test_an_error_names_the_key_and_nothing_of_the_payload(keys: str, problem: str) -> None:
    with pytest.raises(MappingError) as caught:
        events(keys, TASK)
    assert caught.value.detail.startswith(f"The payload does not fit realtime.toml: events[0].{problem}")


def test_an_error_does_not_contain_the_value() -> None:
    with pytest.raises(MappingError) as caught:
        events('type = "t"\ndata = "length(secret)"', '{"secret": 5550123}')
    assert "5550123" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_event_above_its_limit_is_refused() -> None:
    with pytest.raises(MappingError, match="data: has more than 256 KiB"):
        events('type = "t"', json.dumps("x" * 262_143))
    assert len(event('type = "t"', json.dumps("x" * 262_142)).data) == 262_144


@pytest.mark.parametrize("body", ["", "{", '{"a": 1, "a": 2}', "NaN", b"\xff", b"\xef\xbb\xbf{}", "1 2"])
def test_ambiguous_json_is_not_a_payload(body: str | bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        events('type = "t"', body)
    assert not isinstance(caught.value, MappingError)


SEVERAL = """
[[events]]
type = "all"

[[events]]
type = "never"
when = "nothing"

[[events]]
type = "named"
id = "to_string(n)"

[[events]]
type = "third"
"""


def test_each_matching_rule_makes_an_event_with_its_own_id() -> None:
    """A retry of the delivery makes the same ids."""
    for _ in range(2):
        made = map_payload(rules(SEVERAL), Payload(b'{"n": 1}'), "d", {"source": "/webhooks/x"})
        assert [(event.id, event.type) for event in made] == [("d", "all"), ("1", "named"), ("d~3", "third")]
        assert {event.key for event in made} == {"all /webhooks/x d", "named /webhooks/x 1", "third /webhooks/x d~3"}


def test_two_events_with_one_id_are_refused() -> None:
    """The log would drop the second as a duplicate."""
    with pytest.raises(MappingError, match=r"events\[2\]\.id: finds the id of another"):
        map_payload(rules(SEVERAL), Payload(b'{"n": "d"}'), "d", {})


def test_one_failing_rule_stops_all_events() -> None:
    with pytest.raises(MappingError, match=r"events\[2\]"):
        map_payload(rules(SEVERAL), Payload(b'{"n": "a b"}'), "d", {})


def test_derived_ids_of_long_ids_stay_apart_and_within_the_limit() -> None:
    longest = ["x" * 255 + last for last in "ab"]
    derived = {derived_id(id, place) for id in longest for place in range(3)}
    assert len(derived) == 6
    assert max(map(len, derived)) == 256
