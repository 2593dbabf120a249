"""For any payload an expression returns a value, nothing, or a MappingError: it never fails otherwise."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tidewire.errors import MappingError
from tidewire.ingest.mapping.expression import Expression, function_class
from tidewire.ingest.mapping.payload import Payload
from tidewire.model.event import problems
from tidewire.protocol.strict_json import check_json

from tests.unit.ingest.mapping.rules import events

numbers = st.sampled_from(
    ["0", "-0", "1.0", "1e400", "-1e400", "9" * 5_000, "1e-400", "123456789012345678901234567890"]
)
leaves = (
    st.sampled_from(["null", "true", "false", '""', '"a"', '"10"', '"nan"', "[]", "{}", '"2"', '[[1], "a"]']) | numbers
)
texts = st.lists(leaves, min_size=4, max_size=4).map(lambda parts: '{{"a": {}, "b": {}, "c": [{}, {}]}}'.format(*parts))

CALLS = {1: "(a) (c) (c[0]) (@)", 2: "(a, b) (b, c) (c, a) (c, &@) (&@, c) (a, c[0])"}


def expressions() -> list[str]:
    """Each function of JMESPath with valid and invalid arguments, and each operator."""
    calls = []
    for name, table in sorted(function_class().FUNCTION_TABLE.items()):
        arity = len(table["signature"])
        calls += [f"{name}({part.strip('()')})" for part in CALLS[arity].replace(") (", ")|(").split("|")]
    operators = [f"a {operator} b" for operator in ("==", "!=", "<", "<=", ">", ">=", "&&", "||", "|")]
    return [*calls, *operators, "!a", "a.b.c", "c[]", "c[*].a", "*", "c[?a > b]", "c[::2]", "c[::-1]", "{x: a, y: c}"]


EXPRESSIONS = [Expression(text) for text in expressions()]


@given(text=texts)
@settings(max_examples=40)
def test_no_expression_fails_on_any_payload(text: str) -> None:
    payload = Payload(text.encode())
    for expression in EXPRESSIONS:
        for search in (expression.search, expression.holds, expression.json):
            try:
                found: Any = search(payload)
            except MappingError:
                continue
            if search == expression.json and found is not None:
                check_json(found)


@given(text=texts, parts=st.lists(st.sampled_from(expressions()), min_size=4, max_size=4))
@settings(max_examples=100)
def test_a_rule_makes_only_valid_events(text: str, parts: list[str]) -> None:
    keys = 'type = {{from = "{}"}}\nuserIds = "{}"\ndata = "{}"\nid = "{}"'.format(*parts)
    try:
        made = events(keys, text)
    except MappingError:
        return
    for event in made:
        assert list(problems(event.type, event.id, event.user_ids)) == []
        assert event.user_ids
        check_json(event.data)
