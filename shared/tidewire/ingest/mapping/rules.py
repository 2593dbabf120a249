"""The rules of `realtime.toml`: a rule selects payloads and turns each into an event."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from tidewire.errors import MappingError
from tidewire.ingest.mapping.document import Table
from tidewire.ingest.mapping.expression import Expression
from tidewire.ingest.mapping.payload import Payload
from tidewire.model import event as event_rules
from tidewire.model.event import TYPE_PATTERN, Event, reserved
from tidewire.protocol.publish_request import MAX_EVENT_BYTES

MAX_ID_PREFIX = 240  # characters of a delivery id that a derived id repeats; longer ids are hashed

_Result = TypeVar("_Result")


class Rule(NamedTuple):
    """One table of `events`. An expression that is None means the default.

    Defaults: `when` every payload, `user_ids` everyone, `data` the whole payload, `id` the delivery's id.
    """

    where: str  # "realtime.toml: sources.github.events[0]", for errors
    when: Expression | None
    type: str | Expression
    user_ids: Expression | None
    data: Expression | None
    id: Expression | None

    def event(self, payload: Payload, id: str, attributes: Mapping[str, str]) -> Event | None:
        """Return the event that the rule makes of a payload, None if `when` does not hold. Raises MappingError.

        `id` and `attributes` are the event's unless the rule sets its own id.
        """
        if self.when is not None and not self._evaluate("when", self.when.holds, payload):
            return None
        data = payload.body
        if self.data is not None:
            data = self._required("data", self._evaluate("data", self.data.json, payload))
        event = Event(
            id if self.id is None else self._text("id", self.id, payload),
            self.type if isinstance(self.type, str) else self._text("type", self.type, payload),
            data,
            None if self.user_ids is None else self._users(self.user_ids, payload),
            attributes,
        )
        for pointer, problem in event_rules.problems(event.type, event.id, event.user_ids):
            raise self._error(pointer.split("/")[1], problem)
        if len(event.data) > MAX_EVENT_BYTES:
            limit = f"{MAX_EVENT_BYTES // 1024} KiB"
            raise self._error("data", f"has more than {limit}, the limit of an event: select less of the payload")
        return event

    def _users(self, expression: Expression, payload: Payload) -> tuple[str, ...]:
        """Return the audience. No result is an error: an event for one user must never go to everyone."""
        result = self._required("userIds", self._evaluate("userIds", expression.search, payload))
        users = result if isinstance(result, list) else [result]
        ids = dict.fromkeys(_identifier(user) for user in users)
        if None in ids:
            raise self._error("userIds", "must find a user id or a list of user ids: strings or whole numbers")
        return tuple(id for id in ids if id is not None)

    def _text(self, key: str, expression: Expression, payload: Payload) -> str:
        text = _identifier(self._required(key, self._evaluate(key, expression.search, payload)))
        if text is None:
            raise self._error(key, "must find a string or a whole number")
        return text

    def _required(self, key: str, value: _Result | None) -> _Result:
        if value is None:
            raise self._error(key, "finds nothing in the payload")
        return value

    def _evaluate(self, key: str, search: Callable[[Payload], _Result], payload: Payload) -> _Result:
        try:
            return search(payload)
        except MappingError as error:
            raise self._error(key, error.detail) from None

    def _error(self, key: str, problem: str) -> MappingError:
        return MappingError(f"The payload does not fit {self.where}.{key}: {problem}")


def read_rules(tables: Sequence[Table]) -> tuple[Rule, ...]:
    """Return the rules of these tables, in order. Problems are recorded in their document, whose `finish` raises."""
    rules = []
    for table in tables:
        rules.append(
            Rule(
                where=table.where,
                when=_expression(table, "when"),
                type=_type(table),
                user_ids=_expression(table, "userIds"),
                data=_expression(table, "data"),
                id=_expression(table, "id"),
            )
        )
        table.finish()
    return tuple(rules)


def map_payload(rules: Sequence[Rule], payload: Payload, id: str, attributes: Mapping[str, str]) -> list[Event]:
    """Return one event per rule that matches the payload, in the order of the rules.

    `id` is the delivery's: the first event has it, the n-th has `<id>~n`, so that a retry makes the same ids.
    Raises MappingError if one rule fails; then no event is made at all.
    """
    events: list[Event] = []
    for rule in rules:
        event = rule.event(payload, derived_id(id, len(events)), attributes)
        if event is None:
            continue
        if any(event.id == other.id for other in events):
            # The log appends an id once: the second event would be lost in silence.
            raise MappingError(f"The payload does not fit {rule.where}.id: finds the id of another of its events")
        events.append(event)
    return events


def derived_id(id: str, index: int) -> str:
    """Return the id of a delivery's event number `index` (from 0) whose rule sets no id."""
    if index == 0 or not id:
        return id
    prefix = id if len(id) <= MAX_ID_PREFIX else hashlib.sha256(id.encode()).hexdigest()
    return f"{prefix}~{index + 1}"


def _type(table: Table) -> str | Expression:
    """Read `type = "task-updated"`, or `type = {from = "<expression>"}`."""
    if isinstance(table.value("type"), dict):
        computed = table.table("type")
        assert computed is not None
        if "from" not in computed:
            computed.problem(None, 'must be a string, or an expression: {from = "…"}')
        expression = _expression(computed, "from")
        computed.finish()
        return expression or ""
    if "type" not in table:
        table.problem("type", 'is required: an event type, or an expression: {from = "…"}')
    constant = table.text("type", pattern=TYPE_PATTERN.pattern, rule="1 to 128 characters of A-Z a-z 0-9 . _ -")
    if constant is not None and (problem := reserved(constant)) is not None:
        table.problem("type", problem)
    return constant or ""


def _expression(table: Table, key: str) -> Expression | None:
    text = table.text(key)
    if text is None:
        return None
    try:
        return Expression(text)
    except ValueError as error:
        table.problem(key, str(error))
        return None


def _identifier(value: object) -> str | None:
    """Return a string, or the digits of an integer; None for anything else: `1.0` and `true` identify nobody."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None
