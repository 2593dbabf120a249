"""Rules in the syntax of `realtime.toml`, for tests of the events that they make."""

from collections.abc import Mapping

from tidewire.ingest.mapping.document import Document
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.mapping.rules import Rule, map_payload, read_rules
from tidewire.model.event import Event

ID = "delivery-1"


def rules(text: str) -> tuple[Rule, ...]:
    """The rules of these `[[events]]` tables."""
    document = Document("realtime.toml", text)
    read = read_rules(document.root.tables("events"))
    document.root.finish()
    document.finish()
    return read


def events(keys: str, body: str | bytes, headers: Mapping[str, str] | None = None, id: str = ID) -> list[Event]:
    """The events that a rule with these keys makes of a body."""
    payload = Payload(body.encode() if isinstance(body, str) else body, headers)
    return map_payload(rules(f"[[events]]\n{keys}"), payload, id, {})


def event(keys: str, body: str | bytes, headers: Mapping[str, str] | None = None) -> Event:
    """The one event that it makes."""
    [made] = events(keys, body, headers)
    return made


def data(expression: str, body: str) -> str:
    """The data that this expression selects."""
    return event(f'type = "t"\ndata = """{expression}"""', body).data.decode()
