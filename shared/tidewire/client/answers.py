"""What the server's answers mean."""

import contextlib
import time
from typing import Literal, NamedTuple

import httpx
import msgspec

from tidewire.client.items import Event
from tidewire.client.retrying import retry_after
from tidewire.errors import Forbidden, InvalidRequest, SubscriptionStopped, TidewireError, Unauthorized

NO_STREAM = 406  # the status of an address that gives JSON pages alone
MAX_DETAIL = 500  # characters of a problem that are told


class End(NamedTuple):
    """How one connection ended, and with that what comes next; `floor` is the wait (s) that the server asked for.

    kind: after `early` the same token is sent again, as it only begins to hold after `floor`.
    """

    kind: Literal["lost", "silent", "closing", "renewed", "again", "refused", "early"]
    reason: str
    detail: str = ""
    floor: float = 0.0


class Refused(Exception):
    """An answer that asking again will not change, with the error that it ends the subscription with."""

    def __init__(self, error: TidewireError) -> None:
        super().__init__(str(error))
        self.error = error


class _Problem(msgspec.Struct):
    title: str = ""
    detail: str = ""


async def check(response: httpx.Response, wanted: str) -> End | None:
    """Return None for an answer of the media type `wanted`, else how to go on. Raises Refused.

    Only 204, 400, 401 and 403 are final: a 404 is a function being deployed, a 200 with HTML a hotel's login page. A
    401 with Retry-After is not: its token begins to hold later, as the clock that made it is ahead.
    """
    status, media_type = response.status_code, response.headers.get("content-type", "")
    if status == 200 and media_type.startswith(wanted):
        return None
    if status == 204:
        raise Refused(SubscriptionStopped("The server answered 204: it asks not to come back"))
    floor = retry_after(response.headers.get("retry-after"), time.time())
    if status == 200:
        return End(
            "refused", "refused", f"The answer is {media_type or 'of no type'}, not {wanted}"[:MAX_DETAIL], floor
        )
    detail = await detail_of(response)
    if status == 401:
        if floor:
            return End("early", "refused", detail, floor)
        raise Refused(Unauthorized(detail))
    if status == 403:
        raise Refused(Forbidden(detail))
    if status == 400:
        raise Refused(InvalidRequest(detail))
    return End("refused", "refused", detail, floor)


async def detail_of(response: httpx.Response) -> str:
    """Return what a problem+json answer says (RFC 9457), or else its status."""
    told = _Problem()
    if "json" in response.headers.get("content-type", ""):
        with contextlib.suppress(msgspec.DecodeError):
            told = msgspec.json.decode(await response.aread(), type=_Problem)
    text = told.detail or told.title or response.reason_phrase
    return f"{response.status_code}: {text}"[:MAX_DETAIL]


class _Config(msgspec.Struct, rename="camel"):
    stream_url: str = ""


async def stream_url(http: httpx.AsyncClient, pages: httpx.URL) -> httpx.URL:
    """Return where streams are, by GET /api/config beside the address of the pages; that address where it does not say.

    Raises httpx.RequestError. A token goes there: from https:// to nothing else.
    """
    response = await http.get(pages.join("config"), headers={"accept": "application/json"})
    with contextlib.suppress(msgspec.DecodeError, httpx.InvalidURL):
        found = pages.join(msgspec.json.decode(response.content, type=_Config).stream_url)
        if response.status_code == 200 and found.host and found.scheme in ("https", pages.scheme):
            return found
    return pages


class _Told(msgspec.Struct):
    """The data of a control event; each has some of these."""

    reason: str = ""
    recovered: bool = True
    replayed: int = 0
    seconds: float = 0.0


class Page(msgspec.Struct):
    """A JSON page, its events as they stand."""

    events: list[msgspec.Raw]
    cursor: str
    gap: _Told | None = None
    complete: bool = True  # False: it took too long, and ends before the log's head


def control(data: str) -> _Told:
    """Return what a control event tells; what cannot be read tells nothing, and breaks nothing."""
    try:
        return msgspec.json.decode(data, type=_Told)
    except msgspec.DecodeError:
        return _Told()


def event_of(text: str | bytes, cursor: str, replayed: bool) -> Event:
    """Return the event in a CloudEvent. Raises msgspec.DecodeError."""
    fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    raw = fields.pop("data", msgspec.Raw(b"null"))
    names = {name: msgspec.json.decode(value, type=str) for name, value in fields.items()}
    names.pop("specversion", None)
    names.pop("datacontenttype", None)
    try:
        id, type = names.pop("id"), names.pop("type")
    except KeyError:
        raise msgspec.ValidationError("a CloudEvent has an id and a type") from None
    time_, source = names.pop("time", None), names.pop("source", None)
    return Event(id, type, bytes(raw).decode(), cursor, time_, source, names, replayed)
