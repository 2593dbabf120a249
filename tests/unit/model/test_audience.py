"""The audience predicate, live and on replay."""

import pytest
from tidewire.model.audience import Interest
from tidewire.model.event import Event


@pytest.mark.parametrize(
    ("user", "types", "audience", "type", "sees"),
    [
        (None, None, None, "a", True),
        (None, None, ("u1",), "a", False),
        ("u1", None, ("u1",), "a", True),
        ("u1", None, ("u2", "u1"), "a", True),
        ("u1", None, ("u2",), "a", False),
        ("u1", None, ("u11", "u", "U1"), "a", False),
        ("u1", None, None, "a", True),
        ("u1", {"a"}, ("u1",), "b", False),
        ("u1", {"a", "b"}, ("u1",), "b", True),
        (None, {"a"}, None, "b", False),
        (None, set(), None, "a", False),
        ("", None, ("",), "a", True),
    ],
)
def test_an_event_goes_to_its_audience_and_subscribed_types(
    user: str | None, types: set[str] | None, audience: tuple[str, ...] | None, type: str, sees: bool
) -> None:
    interest = Interest(user, None if types is None else frozenset(types))
    assert interest.matches(Event("1", type, b"null", audience)) is sees


def test_equal_interests_are_one_group() -> None:
    assert Interest("u1", frozenset({"a", "b"})) == Interest("u1", frozenset({"b", "a"}))
    assert len({Interest("u1"), Interest("u1"), Interest("u2"), Interest(None)}) == 3
