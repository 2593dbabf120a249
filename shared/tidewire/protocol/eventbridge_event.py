"""Events on an EventBridge bus: to and from the `detail` of a bus event.

    source       REALTIME_EVENT_SOURCE, which the rule for `receive` matches
    detail-type  the event's type
    detail       {"id", "type", "userIds", "attributes", "dataText": the data as published, "data": the same as JSON}
                 and, if the publisher is traced, "traceparent" and "tracestate"

The bus parses `detail`, formats it anew, and refuses integers beyond 64 bits. So `dataText` carries the data as a
string; `data` is for the patterns of other rules, and is left out if the bus could refuse it. An application may put
its own events on the bus, with `data` and without `dataText`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tidewire.errors import ContentTooLarge, InvalidRequest
from tidewire.model import event as rules
from tidewire.model.event import Event
from tidewire.protocol.cloudevents import AUDIENCE, attribute_problems
from tidewire.protocol.publish_request import MAX_EVENT_BYTES
from tidewire.protocol.strict_json import STRING, check_all, check_json

MATCHABLE_BYTES = 32 * 1024  # larger data is sent as `dataText` alone: AWS bills each 64 KB as one event

_UNUSUAL = re.compile(rb"[0-9]{19}|[0-9][.eE]")  # 18 digits fit 64 bits


class _Outgoing(msgspec.Struct, omit_defaults=True, rename="camel"):
    id: str
    type: str
    data_text: str
    user_ids: tuple[str, ...] | None = None
    attributes: dict[str, str] = {}
    data: msgspec.Raw | None = None
    traceparent: str | None = None
    tracestate: str | None = None


class _Incoming(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The detail from a Tidewire publisher or an application. With `userId` for `userIds` it would go to everyone."""

    id: str | None = None
    type: str | None = None
    data_text: str | None = None
    data: Any = None
    user_ids: tuple[str, ...] | None = None
    attributes: dict[str, str] = {}
    traceparent: Any = None  # of any type: an invalid trace context is ignored, and loses no event
    tracestate: Any = None


class _BusEvent(msgspec.Struct):
    """The bus event around it. An input transformer may leave fields out: an empty text is no valid id or type."""

    detail: _Incoming
    id: str = ""
    detail_type: str = msgspec.field(name="detail-type", default="")


def to_detail(event: Event) -> str:
    """Return the event as the JSON text of `detail`."""
    plain = len(event.data) <= MATCHABLE_BYTES and not _UNUSUAL.search(STRING.sub(b"", event.data))
    detail = _Outgoing(
        event.id,
        event.type,
        event.data.decode(),
        event.user_ids,
        dict(event.attributes),
        msgspec.Raw(event.data) if plain else None,
        event.traceparent,
        event.tracestate,
    )
    return msgspec.json.encode(detail).decode()


def from_payload(payload: Mapping[str, Any]) -> Event:
    """Return the event of a parsed bus event.

    Without an id of its own it has the bus event's, which a repeated delivery has too. Raises InvalidRequest and
    ContentTooLarge; a repeated delivery would fail in the same way.
    """
    try:
        around = msgspec.convert(payload, _BusEvent)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"This is not a Tidewire event: {error}") from None
    detail = around.detail
    type = around.detail_type if detail.type is None else detail.type
    id = around.id if detail.id is None else detail.id
    misplaced = [(f"/{AUDIENCE}", "must be userIds, beside attributes")] if AUDIENCE in detail.attributes else []
    check_all(
        [
            ("/detail", rules.problems(type, id, detail.user_ids)),
            ("/detail/attributes", attribute_problems(detail.attributes)),
            ("/detail/attributes", misplaced),
        ]
    )
    users = None if detail.user_ids is None else tuple(dict.fromkeys(detail.user_ids))
    trace = rules.trace_context(detail.traceparent, detail.tracestate)
    return Event(id, type, _data(detail), users, detail.attributes, *trace)


def _data(detail: _Incoming) -> bytes:
    try:
        text = detail.data_text
        data = (dump(detail.data) if text is None else text).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("data holds a lone surrogate") from None
    if len(data) > MAX_EVENT_BYTES:
        raise ContentTooLarge(
            f"An event may have at most {MAX_EVENT_BYTES // 1024} KiB; this one has {len(data):,} bytes"
        )
    check_json(data)
    return data


def dump(value: object) -> str:
    """Return parsed JSON as text; integers may have any length."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
