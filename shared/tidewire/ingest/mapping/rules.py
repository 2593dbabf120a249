"""The rules of `realtime.toml`: which payloads count, and what event each becomes."""

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

MAX_OWN_ID = 240  # characters of a delivery's id that the ids of its further events begin with

_Found = TypeVar("_Found")


class Rule(NamedTuple):
    """One table of `events`: an expression that is None stands for what its field is without one.

    when: every payload. user_ids: everyone. data: the whole payload. id: the delivery's own.
    """

    where: str  # "realtime.toml line 12", for the error of a payload that does not fit
    when: Expression | None
    type: str | Expression
    user_ids: Expression | None
    data: Expression | None
    id: Expression | None

    def event(self, payload: Payload, id: str, attributes: Mapping[str, str]) -> Event | None:
        """Return the event of a payload, None where it does not count. Raises MappingError.

        `id` and `attributes` are the event's where the rule does not say otherwise.
        """
        if self.when is not None and not self._ask("when", self.when.holds, payload):
            return None
        event = Event(
            id if self.id is None else self._text("id", self.id, payload),
            self.type if isinstance(self.type, str) else self._text("type", self.type, payload),
            payload.body if self.data is None else self._found("data", self._ask("data", self.data.json, payload)),
            None if self.user_ids is None else self._users(self.user_ids, payload),
            attributes,
        )
        for pointer, problem in event_rules.problems(event.type, event.id, event.user_ids):
            raise self._error(pointer.split("/")[1], problem)
        if len(event.data) > MAX_EVENT_BYTES:
            raise self._error(
                "data", f"has more than the {MAX_EVENT_BYTES // 1024} KiB of an event: let `data` select less"
            )
        return event

    def _users(self, expression: Expression, payload: Payload) -> tuple[str, ...]:
        """Return the audience; nothing found is an error: an event that was meant for one would tell everyone."""
        found = self._found("userIds", self._ask("userIds", expression.search, payload))
        users = found if isinstance(found, list) else [found]
        texts = dict.fromkeys(_identifier(user) for user in users)
        if None in texts:
            raise self._error("userIds", "must find a user id or a list of them: texts or whole numbers")
        return tuple(text for text in texts if text is not None)

    def _text(self, key: str, expression: Expression, payload: Payload) -> str:
        text = _identifier(self._found(key, self._ask(key, expression.search, payload)))
        if text is None:
            raise self._error(key, "must find a text or a whole number")
        return text

    def _found(self, key: str, value: _Found | None) -> _Found:
        if value is None:
            raise self._error(key, "finds nothing in the payload")
        return value

    def _ask(self, key: str, question: Callable[[Payload], _Found], payload: Payload) -> _Found:
        try:
            return question(payload)
        except MappingError as error:
            raise self._error(key, error.detail) from None

    def _error(self, key: str, problem: str) -> MappingError:
        return MappingError(f"The payload does not fit {self.where}: {key} {problem}")


def read_rules(tables: Sequence[Table]) -> tuple[Rule, ...]:
    """Return the rules of these tables, in order; what is wrong is noted in their document, whose `finish` raises."""
    rules = []
    for table in tables:
        rules.append(
            Rule(
                where=f"{table.document.name} line {table.line}",
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
    """Return an event for each rule that the payload counts for, in the order of the rules; none where it does not.

    `id` is the delivery's own: the first event has it, and the n-th `<id>~n`, so that a retry finds all of them again.
    Raises MappingError where a rule does not fit, and then there is no event at all.
    """
    events: list[Event] = []
    for rule in rules:
        event = rule.event(payload, derived_id(id, len(events)), attributes)
        if event is None:
            continue
        if any(event.id == other.id for other in events):
            # Appended once, the second would be lost in silence.
            raise MappingError(f"The payload does not fit {rule.where}: id finds the id of another of its events")
        events.append(event)
    return events


def derived_id(id: str, place: int) -> str:
    """Return the id of a delivery's event at this place (from 0) where the rule names none."""
    if place == 0:
        return id
    own = id if len(id) <= MAX_OWN_ID else hashlib.sha256(id.encode()).hexdigest()
    return f"{own}~{place + 1}"


def _type(table: Table) -> str | Expression:
    """Read `type = "task-updated"`, or `type = {from = "<expression>"}`."""
    if isinstance(table.value("type"), dict):
        computed = table.table("type")
        assert computed is not None
        if "from" not in computed:
            computed.problem(None, 'must be a text, or an expression: {from = "…"}')
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
    """Return a text, or a whole number's digits, None for anything else: `1.0` and `true` name nobody."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None
