"""Server-sent events, decoded by the rules of the HTML Living Standard, 9.2.6 "Interpreting an event stream".

Pure: bytes in, frames out. Other client libraries report a frame with only an id as an event, or drop it; here it
moves the cursor.
"""

import codecs
import re
from typing import NamedTuple

MAX_FRAME = 8 * 1024 * 1024
"""Characters of one frame, 32 times the largest event: a frame without an end must not fill the memory."""

_LINE_END = re.compile("\r\n|\n|\r")


class Frame(NamedTuple):
    """A frame; `data` is None if it has no data field, and then only the cursor moves."""

    type: str
    data: str | None
    last_event_id: str


class FrameTooLarge(ValueError):
    """A frame is longer than `MAX_FRAME`."""


class Decoder:
    """Decodes one response body, in chunks of any size. Each connection needs a new decoder: half a frame is dropped.

    `retry` is the reconnection delay that the server set, in milliseconds; None if it set none.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.retry: int | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._after_cr = False  # an LF that follows belongs to the same line end
        self._line: list[str] = []  # the parts of an unfinished line, joined once, so that decoding stays linear
        self._partial = 0  # characters of these parts
        self._size = 0  # characters of the frame's lines so far
        self._id = last_event_id
        self._moved = False
        self._type = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that these bytes complete. Raises FrameTooLarge."""
        text = self._utf8.decode(chunk)
        if not text:
            return []
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if text and self._after_cr:
            text = text.removeprefix("\n")
            self._after_cr = False
        if not text:
            return []
        self._after_cr = text.endswith("\r")
        first, *rest = _LINE_END.split(text)
        self._extend(first)
        frames = []
        for part in rest:
            frame = self._end_line()
            if frame is not None:
                frames.append(frame)
            self._extend(part)
        if self._size + self._partial > MAX_FRAME:
            raise FrameTooLarge("The stream's frame is too large")
        return frames

    def _extend(self, part: str) -> None:
        self._line.append(part)
        self._partial += len(part)

    def _end_line(self) -> Frame | None:
        line = "".join(self._line)
        self._line.clear()
        self._partial = 0
        if not line:
            return self._end_frame()
        self._size += len(line)
        name, _, value = line.partition(":")  # a comment has no name
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id, self._moved = value, True
        elif name == "retry" and re.fullmatch("[0-9]{1,15}", value):
            self.retry = int(value)
        return None

    def _end_frame(self) -> Frame | None:
        frame = None
        if self._data:
            frame = Frame(self._type or "message", "\n".join(self._data), self._id)
        elif self._moved:
            frame = Frame(self._type or "message", None, self._id)
        self._type, self._moved, self._size = "", False, 0
        self._data.clear()
        return frame
