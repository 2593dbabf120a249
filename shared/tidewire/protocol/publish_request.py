"""The publish request: the body of POST /api/publish, parsed and checked before anything is appended."""

import msgspec

from tidewire.errors import ContentTooLarge, InvalidRequest
from tidewire.model import event as rules
from tidewire.model.event import Event, new_id
from tidewire.protocol.strict_json import check_all, check_json, decode

STRUCTURED, BATCHED = "application/cloudevents+json", "application/cloudevents-batch+json"
"""Content types of CloudEvents; `tidewire.protocol.cloudevents` parses such bodies."""

MAX_EVENTS = 100
MAX_EVENT_BYTES = 256 * 1024
MAX_BODY_BYTES = 1024 * 1024


class _Draft(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """One event of the body. Unknown fields are refused: with `userId` for `userIds` it would go to everyone."""

    type: str
    data: msgspec.Raw
    user_ids: tuple[str, ...] | None = None
    id: str | None = None


_draft = msgspec.json.Decoder(_Draft)
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])


def parse_events(body: bytes, idempotency_key: str | None = None) -> list[Event]:
    """Return the events of an application/json body: one object, or an array of at most `MAX_EVENTS`.

    `idempotency_key` is the header's value: the id of a single event that has none. Raises InvalidRequest with
    pointers to every wrong field, and ContentTooLarge.
    """
    items, single = split(body)
    drafts = [decode(_draft, item, "" if single else f"/{index}") for index, item in enumerate(items)]
    if idempotency_key is not None:
        if not single:
            raise InvalidRequest("Idempotency-Key is for a single event; give each event of an array its own id")
        if drafts[0].id not in (None, idempotency_key):
            raise InvalidRequest("Idempotency-Key and the event's id differ", [("/id", "differs from the header")])
        drafts[0].id = idempotency_key
    check_all(
        ("" if single else f"/{index}", rules.problems(draft.type, draft.id, draft.user_ids))
        for index, draft in enumerate(drafts)
    )
    return [
        Event(
            new_id() if draft.id is None else draft.id,
            draft.type,
            bytes(draft.data),
            None if draft.user_ids is None else tuple(dict.fromkeys(draft.user_ids)),
        )
        for draft in drafts
    ]


def split(body: bytes) -> tuple[list[bytes], bool]:
    """Return the events of a body as JSON texts, and whether it is a single one. Each text passed `check_json`."""
    check_json(body)
    single = not body.lstrip().startswith(b"[")
    items = [body] if single else [bytes(item) for item in _raw_list.decode(body)]
    if not items:
        raise InvalidRequest("The array holds no event", [("", "must hold at least one event")])
    if len(items) > MAX_EVENTS:
        raise InvalidRequest(
            f"At most {MAX_EVENTS} events fit in one request, not {len(items)}: send the rest in another",
            [("", f"must hold at most {MAX_EVENTS} events")],
        )
    for index, item in enumerate(items):
        if len(item) > MAX_EVENT_BYTES:
            where = "" if single else f"/{index}"
            raise ContentTooLarge(
                f"An event may have at most {MAX_EVENT_BYTES // 1024} KiB", [(where, f"has {len(item):,} bytes")]
            )
    return items, single


def idempotency_key(header: str | None) -> str | None:
    """Return the value of the Idempotency-Key header, without the quotes of a structured field (RFC 9651)."""
    if header is not None and len(header) > 1 and header[0] == header[-1] == '"':
        return header[1:-1]
    return header
