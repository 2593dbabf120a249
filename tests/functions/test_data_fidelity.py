"""Data arrives character by character as published, and stays data whatever it contains."""

import json
import re

import pytest

from tests.support.api import Api, unique
from tests.support.sse_decoder import SseEvent

THIRTY_DIGITS = "123456789012345678901234567890"

TEXTS = {
    "a fraction that is whole": "1.0",
    "an exponent": "1e5",
    "an exponent with a plus": "1E+05",
    "a fraction with zeros at its end": "0.10000",
    "a negative zero": "-0",
    "thirty digits": THIRTY_DIGITS,
    "thirty decimals": f"0.{THIRTY_DIGITS}",
    "more than a double holds": "1e400",
    "five thousand digits": "9" * 5_000,
    "null": "null",
    "an empty text": '""',
    "escapes that need not be": r'"\u0041\/\u00e9\u00E9"',
    "every short escape": r'"\"\\\/\b\f\n\r\t"',
    "a surrogate pair as escapes": r'"\ud83d\ude00"',
    "the same as UTF-8": '"😀é\u202e"',
    "a NUL as an escape": r'"a\u0000b"',
    "line separators of JavaScript": '"a\u2028b\u2029c\x85d"',
    "a byte order mark within": '"\ufeff"',
    "keys in their order": '{"b": 1, "a": 2, "": 3}',
    "spaces": '{ "a"\t:  [ ] , "b" : { } }',
    "lines of LF": '{\n  "a": [\n    1,\n    2\n  ]\n}',
    "lines of CR": '{\r  "a": 1\r}',
    "lines of CRLF": '{\r\n  "a": 1\r\n}',
    "all line ends mixed": '[\n\r1\r\r\n,\n\n2\r\n\r\n]',
    "blank lines, as between frames": '[\n\n1\n\n,\r\r2\r\r,\r\n\r\n3\n\n]',
    "a frame within a text": r'"\n\nid: 1\nevent: realtime.gap\ndata: {\"reason\": \"trimmed\"}\n\n"',
    "fields of a frame as keys": '{\n"id": "x",\r"event": "realtime.closing",\r\n"retry": 1,\n"data": ":"\n}',
    "a colon at a line's start": '{"a"\n: 1,\n"b"\r:\r\n2}',
    "as deep as it may be": "[" * 99 + "]" * 99,
    "brackets in a text": json.dumps("[{" * 500),
    "as long as it may be": json.dumps("x" * 260_000),
}  # fmt: skip


def as_received(text: str) -> str:
    """The text after an event stream: line ends of any kind are line feeds there."""
    return re.sub(r"\r\n|\r", "\n", text)


def body(kind: str, text: str) -> bytes:
    return f'{{"type": "{kind}", "data": {text}}}'.encode()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_data_is_delivered_unchanged(any_api: Api, text: str) -> None:
    """The same bytes live, on replay and on a page."""
    kind = unique()
    with any_api.stream(types=kind) as live, any_api.stream(types=kind, format="cloudevents") as cloudevents:
        live.ready()
        cloudevents.ready()
        assert any_api.post(body(kind, text)).status_code == 202
        event = live.next()
        assert (event.type, event.data) == (kind, as_received(text))
        message = cloudevents.next()
        assert message.type == "message"
        assert message.data.endswith(f',"data":{as_received(text)}}}')
    for format in ("data", "cloudevents"):
        with any_api.stream(types=kind, from_="earliest", format=format) as replayed:
            [again] = replayed.ready()
            assert again.data == {"data": event, "cloudevents": message}[format].data
        page = any_api.get(params={"types": kind, "from": "earliest", "format": format})
        assert f',"data":{text}}}]'.encode() in page.content


def test_no_data_makes_a_frame_of_its_own(api: Api) -> None:
    kind = unique()
    with api.stream(types=kind) as stream:
        stream.ready()
        for text in TEXTS.values():
            api.post(body(kind, text))
        arrived = [stream.next() for _ in TEXTS]
    assert {event.type for event in arrived} == {kind}
    cursors = [event.last_event_id for event in arrived]
    assert len(set(cursors)) == len(cursors)
    pages = [api.page(types="none", last_event_id=cursor) for cursor in cursors]
    assert [page["gap"] for page in pages] == [None] * len(pages), "an id that is no cursor of ours was forged"


def test_the_body_of_a_binary_cloudevent_is_unchanged(api: Api) -> None:
    kind = unique()
    headers = {"ce-specversion": "1.0", "ce-id": unique(), "ce-source": "/s", "ce-type": kind}
    text = '  {"a": 1.0,\r\n"b": 1e5}\n'
    with api.stream(types=kind) as stream:
        stream.ready()
        assert api.post(text.encode(), headers=headers).status_code == 202
        event: SseEvent = stream.next()
    assert json.loads(event.data) == {"a": 1.0, "b": 1e5}
    assert event.data.strip() == as_received(text).strip()


def test_data_of_structured_cloudevents_keeps_its_digits(api: Api) -> None:
    kind = unique()
    event = f'{{"data": {{"n": {THIRTY_DIGITS}, "x": 1.0}}, "specversion": "1.0", "id": "1", "source": "/{kind}", '
    whole = event + f'"type": "{kind}"}}'
    with api.stream(types=kind) as stream:
        stream.ready()
        assert api.post(whole.encode(), "application/cloudevents+json").status_code == 202
        assert stream.next().data == f'{{"n": {THIRTY_DIGITS}, "x": 1.0}}'
