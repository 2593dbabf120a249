"""Decodes an event stream as a browser does, because client libraries do not: not id-only frames.

The rules: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import codecs
import re
from dataclasses import dataclass

_LINE_END = re.compile("\r\n|\n|\r")
_DIGITS = re.compile("[0-9]+")


@dataclass(frozen=True, slots=True)
class SseEvent:
    """What an EventSource dispatches: the fields of a MessageEvent."""

    type: str
    data: str
    last_event_id: str


class SseDecoder:
    """Turns one connection's bytes, cut anywhere, into the events that a browser would dispatch.

    A frame that the end of the connection leaves unfinished is dropped: begin a new connection with
    a new decoder, and with the `last_event_id` of the old one.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id  # what a reconnect sends; a frame with only an id moves it too
        self.retry_ms: int | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._after_cr = False  # the last line ended with a CR that may yet turn out to be half of a CRLF
        self._line = ""  # begun, and not ended yet
        self._id = last_event_id
        self._type = ""
        self._data = ""

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that this chunk completes, in order."""
        text = self._utf8.decode(chunk)
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if text and self._after_cr:
            self._after_cr = False
            text = text.removeprefix("\n")
        if not text:
            return []
        self._after_cr = text.endswith("\r")
        first, *rest = _LINE_END.split(text)
        lines = [self._line + first, *rest]
        self._line = lines.pop()
        return [event for line in lines if (event := self._interpret(line)) is not None]

    def _interpret(self, line: str) -> SseEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")  # a comment has the empty field name, and no case below
        value = value.removeprefix(" ")
        match field:
            case "event":
                self._type = value
            case "data":
                self._data += value + "\n"
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if _DIGITS.fullmatch(value):
                self.retry_ms = int(value)
        return None

    def _dispatch(self) -> SseEvent | None:
        self.last_event_id = self._id
        event_type, data = self._type, self._data
        self._type = self._data = ""
        if not data:
            return None
        return SseEvent(event_type or "message", data.removesuffix("\n"), self.last_event_id)
