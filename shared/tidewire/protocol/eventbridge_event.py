"""An event as it travels over EventBridge: into the `detail` of a bus event, and out of it.

    source       REALTIME_EVENT_SOURCE: by it a rule tells ours from the rest
    detail-type  the event's type
    detail       {"id", "type", "userIds", "attributes", "dataText": the data as published, "data": the same as JSON}
                 and, where the publisher is traced, "traceparent" and "tracestate"

The bus reads `detail` as JSON and writes it anew, in its own way, and takes no whole number beyond 64 bits. So the data
travels as a text; the JSON beside it is for the patterns of other rules, and stays out where the bus could refuse it.
An application may put events of its own on the bus, with `data` and without `dataText`.
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
from tidewire.protocol.publish_request import MAX_EVENT_BYTES, STRING, check_all, check_json

MATCHABLE_BYTES = 32 * 1024  # data up to this size travels as JSON too: AWS bills each 64 KB as an event of its own

_MISPLACED = "is no attribute here: write userIds beside attributes"
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
    """What a publisher of ours or an application has put; `userId` for `userIds` would tell everyone."""

    id: str | None = None
    type: str | None = None
    data_text: str | None = None
    data: Any = None
    user_ids: tuple[str, ...] | None = None
    attributes: dict[str, str] = {}
    traceparent: Any = None  # whatever an application writes there: what is not valid is ignored, and no event is lost
    tracestate: Any = None


def to_detail(event: Event) -> str:
    """Return the JSON text of the bus event's `detail`."""
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
    """Return the event in a bus event as EventBridge hands it to a rule's target, parsed.

    An event without an id of its own has the bus event's, which stays the same when EventBridge delivers it again.
    Raises InvalidRequest and ContentTooLarge: then no later delivery will fit either.
    """
    try:
        detail = msgspec.convert(payload.get("detail"), _Incoming)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"detail is not an event of ours: {error}") from None
    type = detail.type if detail.type is not None else str(payload.get("detail-type"))
    id = detail.id if detail.id is not None else str(payload.get("id"))
    check_all(
        [
            ("/detail", rules.problems(type, id, detail.user_ids)),
            ("/detail/attributes", attribute_problems(detail.attributes)),
            (
                "/detail/attributes",
                [(f"/{AUDIENCE}", "is userIds, beside attributes")] * (AUDIENCE in detail.attributes),
            ),
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
        raise InvalidRequest("data holds half of a surrogate pair") from None
    if len(data) > MAX_EVENT_BYTES:
        raise ContentTooLarge(
            f"An event may have at most {MAX_EVENT_BYTES // 1024} KiB, and its data {len(data):,} bytes"
        )
    check_json(data)
    return data


def dump(value: object) -> str:
    """Return parsed JSON as text again, numbers of any length included."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
