"""A wrong `realtime.toml` stops the start, and says on which line; every line is found, however it is written."""

import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidewire.errors import SettingsError
from tidewire.ingest.mapping.document import Document, open_document
from tidewire.ingest.mapping.lines import lines_of

from tests.mapping.rules import rules

SHAPES = '''# a comment
top = 1

[sources.github]  # a header
secrets = [
  "A",  # ] not the end
  "B",
]
"quoted key" = """
[sources.github]
top = 2
"""
dotted . key = {inline = {deep = 1}, list = [{x = 1}]}

[[sources.github.events]]
type = 'a'
[sources.github.events.nested]
x = \'\'\'
[[sources.github.events]]\'\'\'
[[ sources . "github" . events ]]
  type = "b"
  [[sources.github.events.parts]]
  y = 1
  [[sources.github.events.parts]]
  y = 2
[other]
'''

PLACES: dict[tuple[str | int, ...], int] = {
    ("top",): 2,
    ("sources",): 4,
    ("sources", "github"): 4,
    ("sources", "github", "secrets"): 5,
    ("sources", "github", "quoted key"): 9,
    ("sources", "github", "dotted", "key"): 13,
    ("sources", "github", "dotted", "key", "inline", "deep"): 13,
    ("sources", "github", "dotted", "key", "list", 0, "x"): 13,
    ("sources", "github", "events", 0): 15,
    ("sources", "github", "events", 0, "type"): 16,
    ("sources", "github", "events", 0, "nested"): 17,
    ("sources", "github", "events", 0, "nested", "x"): 18,
    ("sources", "github", "events", 1): 20,
    ("sources", "github", "events", 1, "type"): 21,
    ("sources", "github", "events", 1, "parts", 0, "y"): 23,
    ("sources", "github", "events", 1, "parts", 1): 24,
    ("sources", "github", "events", 1, "parts", 1, "y"): 25,
    ("other",): 26,
}


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_each_key_is_found_on_its_line(ends: str) -> None:
    found = lines_of(SHAPES.replace("\n", ends))
    assert {path: found.get(path) for path in PLACES} == PLACES


names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=6)
values = st.sampled_from(
    [
        "1",
        '"x"',
        "'#'",
        '"""\na\n[b]\nc = 1\n"""',
        "'''\n[[d]]\n\n'''",
        "[\n1,\n# c ]\n2\n]",
        "{a = [1,\n2]}",
        "1.5e3",
        "true",
    ]
)


@given(st.lists(st.tuples(names, st.lists(st.tuples(names, values), unique_by=lambda pair: pair[0]))), st.data())
@settings(max_examples=40)
def test_lines_are_found_in_any_document(tables: list[tuple[str, list[tuple[str, str]]]], dice: Any) -> None:
    text = ""
    expected: dict[tuple[str | int, ...], int] = {}
    counts: dict[str, int] = {}
    for name, keys in tables:
        text += dice.draw(st.sampled_from(["", "\n", "# [x]\n", "  \t\n# y = 1\n\n"]))
        place = counts[name] = counts.get(name, -1) + 1
        expected[(name, place)] = text.count("\n") + 1
        text += f"[[{name}]]\n"
        for key, value in keys:
            expected[(name, place, key)] = text.count("\n") + 1
            text += f"{key} = {value}\n"
    found = lines_of(text)
    assert {path: found.get(path) for path in expected} == expected


WRONG = [
    ("type = \"t\"\nuserId = 'u'", 3, "events[0].userId is unknown; known here: data, id, type, userIds, when"),
    ("when = 'a'", 1, "events[0].type is required"),
    ("type = 1", 2, "events[0].type must be 1 to 128 characters"),
    ("type = 'two words'", 2, "events[0].type must be 1 to 128 characters"),
    ("type = 'realtime.ready'", 2, "events[0].type must not start with 'realtime.'"),
    ("type = {}", 2, "events[0].type must be a text, or an expression"),
    ("\ntype = {from = 'a', form = 'b'}", 3, "events[0].type.form is unknown; known here: from"),
    ("type = {from = 1}", 2, "events[0].type.from must be a text"),
    ("type = 't'\ndata = ['a']", 3, "events[0].data must be a text"),
    ("type = 't'\nwhen = ''", 3, "events[0].when is not JMESPath: it is empty"),
    ("type = 't'\nwhen = 'a ='", 3, "events[0].when is not JMESPath: "),
    ("type = 't'\nwhen = 'a..b'", 3, "events[0].when is not JMESPath: unexpected '.' at column 3"),
    ("type = 't'\nwhen = 'a[?b'", 3, "events[0].when is not JMESPath: it ends too early"),
    ("type = 't'\nwhen = 'a.%'", 3, "events[0].when is not JMESPath: "),
    ("type = 't'\nwhen = 'nope(a)'", 3, "events[0].when calls an unknown function; known are abs, avg, "),
    ("type = 't'\nwhen = 'a[?b.length()]'", 3, "events[0].when calls length() with 0 arguments: it takes 1"),
    ("type = 't'\nwhen = 'not_null()'", 3, "events[0].when calls not_null() with 0 arguments: it takes at least 1"),
    ("type = 't'\nwhen = 'length(a, b)'", 3, "events[0].when calls length() with 2 arguments: it takes 1"),
    (
        "type = 't'\nwhen = '" + "(" * 3_000 + "a" + ")" * 3_000 + "'",
        3,
        "events[0].when has more than 4,096 characters",
    ),
    ("type = 't'\nwhen = '" + "(" * 2_000 + "a" + ")" * 2_000 + "'", 3, "events[0].when is nested too deeply"),
]


@pytest.mark.parametrize(("keys", "line", "problem"), WRONG)
def test_a_wrong_rule_stops_the_start_with_its_line_and_its_key(keys: str, line: int, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        rules(f"[[events]]\n{keys}\n")
    assert str(caught.value).startswith(f"realtime.toml line {line}: {problem}")
    assert "\n" not in str(caught.value)


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_the_lines() -> None:
    text = "[[events]]\nwhen = 'a b'\ntype = 'x y'\n\n[[events]]\nid = 1\n[evnets]"
    with pytest.raises(SettingsError) as caught:
        rules(text)
    told = re.findall(r"^realtime\.toml line (\d+): (\S+)", str(caught.value), re.MULTILINE)
    assert told == [
        ("2", "events[0].when"),
        ("3", "events[0].type"),
        ("5", "events[1].type"),
        ("6", "events[1].id"),
        ("7", "evnets"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\n[b", 2),
        ("a = 1\na = 2", 2),
        ('a = """\n\n', 3),
        ("a = 1\n\nb = [1,", 3),
        ("\x00", 1),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, line: int) -> None:
    with pytest.raises(SettingsError, match="is not valid TOML: ") as caught:
        Document("realtime.toml", text)
    assert str(caught.value).startswith(f"realtime.toml line {line}: ")


def test_toml_that_is_nested_too_deeply_is_told_and_no_failure_of_ours() -> None:
    with pytest.raises(SettingsError, match=r"realtime\.toml: is not valid TOML: nested too deeply"):
        Document("realtime.toml", "a = " + "[" * 5_000)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("events = 1", "events must be tables: [[events]]"), ("events = [1]", "events must be tables: [[events]]")],
)
def test_rules_that_are_no_tables_are_refused(text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"realtime.toml line 1: {problem}")):
        rules(text)


def test_the_file_is_the_one_that_the_variable_names_and_otherwise_may_be_missing(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("x = 1\n")
    opened = open_document(str(file))
    assert opened is not None
    assert opened.name == "mine.toml"
    assert "x" in opened.root
    assert open_document(None) is None, "this repository has no realtime.toml of its own"
    for wrong in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SettingsError, match=r"REALTIME_CONFIG: names a file that cannot be read"):
            open_document(str(wrong))
    file.write_bytes(b"a = '\xff'")
    with pytest.raises(SettingsError, match=r"REALTIME_CONFIG: names a file that is not UTF-8 \(at byte 5\)"):
        open_document(str(file))
