"""Bus events of other sources: the ids that their rules give them."""

import pytest
from tidewire.errors import InvalidRequest
from tidewire.ingest.eventbridge_rules import BusRules

from tests.unit.ingest.mapping.rules import rules

TWO = "[[events]]\ntype = 'a'\n[[events]]\ntype = 'b'"


def test_a_bus_event_gives_its_events_its_id() -> None:
    """A repeated delivery has it too."""
    made = BusRules({"s": rules(TWO)}).events({"source": "s", "id": "i"})
    assert [(event.type, event.id, event.attributes) for event in made] == [
        ("a", "i", {"source": "s"}),
        ("b", "i~2", {"source": "s"}),
    ]


@pytest.mark.parametrize("own", ["", "id = 'own'"])
def test_a_bus_event_without_an_id_is_refused(own: str) -> None:
    """An input transformer can leave it out: events that all had the same id would be duplicates of the first."""
    payload = {"source": "s", "own": "x"}
    with pytest.raises(InvalidRequest, match="id: must be 1 to 256 visible ASCII characters"):
        BusRules({"s": rules(TWO.replace("type = 'a'", f"type = 'a'\n{own}"))}).events(payload)
    [event] = BusRules({"s": rules("[[events]]\ntype = 'a'\nid = 'own'")}).events(payload)
    assert event.id == "x"
