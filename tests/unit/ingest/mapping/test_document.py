"""A wrong `realtime.toml` stops the start; the error names every wrong key by its path."""

import re
from pathlib import Path

import pytest
from tidewire.errors import SettingsError
from tidewire.ingest.mapping.document import Document, open_document

from tests.unit.ingest.mapping.rules import rules

ARRAY = "events must be an array of tables: [[events]]"
WRONG = [
    ("type = \"t\"\nuserId = 'u'", "events[0].userId is unknown; known keys: data, id, type, userIds, when"),
    ("when = 'a'", "events[0].type is required"),
    ("type = 1", "events[0].type must be 1 to 128 characters"),
    ("type = 'two words'", "events[0].type must be 1 to 128 characters"),
    ("type = 'realtime.ready'", "events[0].type must not start with 'realtime.'"),
    ("type = {}", "events[0].type must be a string, or an expression"),
    ("\ntype = {from = 'a', form = 'b'}", "events[0].type.form is unknown; known keys: from"),
    ("type = {from = 1}", "events[0].type.from must be a string"),
    ("type = 't'\ndata = ['a']", "events[0].data must be a string"),
    ("type = 't'\nwhen = ''", "events[0].when is not JMESPath: it is empty"),
    ("type = 't'\nwhen = 'a ='", "events[0].when is not JMESPath: "),
    ("type = 't'\nwhen = 'a..b'", "events[0].when is not JMESPath: unexpected '.' at column 3"),
    ("type = 't'\nwhen = 'a[?b'", "events[0].when is not JMESPath: it ends too early"),
    ("type = 't'\nwhen = 'a.%'", "events[0].when is not JMESPath: "),
    ("type = 't'\nwhen = 'nope(a)'", "events[0].when calls an unknown function; known are abs, avg, "),
    ("type = 't'\nwhen = 'a[?b.length()]'", "events[0].when calls length() with 0 arguments: it takes 1"),
    ("type = 't'\nwhen = 'not_null()'", "events[0].when calls not_null() with 0 arguments: it takes at least 1"),
    ("type = 't'\nwhen = 'length(a, b)'", "events[0].when calls length() with 2 arguments: it takes 1"),
    (
        "type = 't'\nwhen = '" + "(" * 3_000 + "a" + ")" * 3_000 + "'",
        "events[0].when has more than 4,096 characters",
    ),
    ("type = 't'\nwhen = '" + "(" * 2_000 + "a" + ")" * 2_000 + "'", "events[0].when is nested too deeply"),
]


@pytest.mark.parametrize(("keys", "problem"), WRONG)
def test_a_wrong_rule_is_named_by_the_path_of_its_key(keys: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        rules(f"[[events]]\n{keys}\n")
    assert str(caught.value).startswith(f"realtime.toml: {problem}")
    assert "\n" not in str(caught.value)


def test_every_problem_is_a_line_of_one_error() -> None:
    text = "[[events]]\nwhen = 'a b'\ntype = 'x y'\n\n[[events]]\nid = 1\n[evnets]"
    with pytest.raises(SettingsError) as caught:
        rules(text)
    found = re.findall(r"^realtime\.toml: (\S+)", str(caught.value), re.MULTILINE)
    assert found == ["events[0].when", "events[0].type", "events[1].type", "events[1].id", "evnets"]


def test_one_error_holds_at_most_20_problems() -> None:
    with pytest.raises(SettingsError) as caught:
        rules("".join(f"wrong{number} = 1\n" for number in range(30)))
    assert str(caught.value).count("\n") == 19


def test_a_path_quotes_keys_as_toml_does() -> None:
    document = Document("realtime.toml", '[eventbridge."aws.s3"]\n"a\\nb" = 1\n')
    root = document.root.table("eventbridge")
    assert root is not None
    for _, source in root.members():
        assert source.where == 'realtime.toml: eventbridge."aws.s3"'
        source.finish()
    with pytest.raises(SettingsError, match=re.escape('realtime.toml: eventbridge."aws.s3"."a?b" is unknown')):
        document.finish()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a = 1\n[b", "at end of document"),
        ("a = 1\na = 2", "at end of document"),
        ('a = """\n\n', "at end of document"),
        ("a = 1\n\nb = [1,", "at end of document"),
        ("a = 1\nb = ?", "at line 2, column 5"),
        ("\x00", "at line 1, column 1"),
    ],
)
def test_a_syntax_error_is_named_by_line_and_column(text: str, place: str) -> None:
    with pytest.raises(SettingsError, match=r"^realtime\.toml: is not valid TOML: ") as caught:
        Document("realtime.toml", text)
    assert str(caught.value).endswith(f"({place})")


def test_toml_nested_too_deeply_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"realtime\.toml: is not valid TOML: nested too deeply"):
        Document("realtime.toml", "a = " + "[" * 5_000)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("events = 1", ARRAY), ("events = [1]", ARRAY)],
)
def test_rules_that_are_not_tables_are_refused(text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"realtime.toml: {problem}")):
        rules(text)


def test_finds_the_file_of_the_variable_or_the_default(tmp_path: Path) -> None:
    """Only a file that the variable names must exist."""
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
