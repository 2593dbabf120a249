"""The server's responses: the final statuses, and the content of pages, control events and events."""

import contextlib
import time
from typing import Literal, NamedTuple

import httpx
import msgspec

from tidewire.client.items import Event
from tidewire.client.retry import retry_after
from tidewire.errors import Forbidden, InvalidRequest, SubscriptionStopped, TidewireError, Unauthorized

NO_STREAM = 406  # the status of an address that serves JSON pages only
MAX_DETAIL = 500  # characters of a problem in an error


class End(NamedTuple):
    """How one connection ended, which decides the next step; `floor` is the delay (s) that the server requested.

    After kind `early` the same token is sent again: it becomes valid after `floor`.
    """

    kind: Literal["lost", "silent", "closing", "renewed", "again", "refused", "early"]
    reason: str
    detail: str = ""
    floor: float = 0.0


class Refused(Exception):
    """A final response: it ends the subscription with `error`."""

    def __init__(self, error: TidewireError) -> None:
        super().__init__(str(error))
        self.error = error


class _Problem(msgspec.Struct):
    title: str = ""
    detail: str = ""


async def check(response: httpx.Response, wanted: str) -> End | None:
    """Return None for a response of the media type `wanted`, else how the connection ended. Raises Refused.

    Only 204, 400, 401 and 403 are final: a 404 may be a function during its deployment, a 200 with HTML a captive
    portal. A 401 with Retry-After is not final: the token becomes valid later, because its issuer's clock is ahead.
    """
    status, media_type = response.status_code, response.headers.get("content-type", "")
    if status == 200 and media_type.startswith(wanted):
        return None
    if status == 204:
        raise Refused(SubscriptionStopped("The server answered 204, which ends the subscription"))
    floor = retry_after(response.headers.get("retry-after"), time.time())
    if status == 200:
        return End(
            "refused", "refused", f"The response is {media_type or 'of no type'}, not {wanted}"[:MAX_DETAIL], floor
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
    """Return the status and the detail of a problem+json response (RFC 9457), or the status and its phrase."""
    problem = _Problem()
    if "json" in response.headers.get("content-type", ""):
        with contextlib.suppress(msgspec.DecodeError):
            problem = msgspec.json.decode(await response.aread(), type=_Problem)
    text = problem.detail or problem.title or response.reason_phrase
    return f"{response.status_code}: {text}"[:MAX_DETAIL]


class _Config(msgspec.Struct, rename="camel"):
    stream_url: str = ""


async def stream_url(http: httpx.AsyncClient, pages: httpx.URL) -> httpx.URL:
    """Return the stream URL from GET /api/config next to the address of the pages, or that address if it names none.

    The token is sent there, so an https:// address never leads to http://. Raises httpx.RequestError.
    """
    response = await http.get(pages.join("config"), headers={"accept": "application/json"})
    with contextlib.suppress(msgspec.DecodeError, httpx.InvalidURL):
        found = pages.join(msgspec.json.decode(response.content, type=_Config).stream_url)
        if response.status_code == 200 and found.host and found.scheme in ("https", pages.scheme):
            return found
    return pages


class Control(msgspec.Struct):
    """The data of a control event; each type has some of these fields."""

    reason: str = ""
    recovered: bool = True
    replayed: int = 0
    seconds: float = 0.0


class Page(msgspec.Struct):
    """A JSON page with undecoded events."""

    events: list[msgspec.Raw]
    cursor: str
    gap: Control | None = None
    complete: bool = True  # False: the server's time limit ended it before the head of the log


def control(data: str) -> Control:
    """Return the data of a control event; malformed data returns the defaults."""
    try:
        return msgspec.json.decode(data, type=Control)
    except msgspec.DecodeError:
        return Control()


def event_of(text: str | bytes, cursor: str, replayed: bool) -> Event:
    """Return the event of a CloudEvent's JSON text. Raises msgspec.DecodeError."""
    fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    raw = fields.pop("data", msgspec.Raw(b"null"))
    names = {name: msgspec.json.decode(value, type=str) for name, value in fields.items()}
    names.pop("specversion", None)
    names.pop("datacontenttype", None)
    try:
        id, type = names.pop("id"), names.pop("type")
    except KeyError:
        raise msgspec.ValidationError("a CloudEvent needs an id and a type") from None
    time_, source = names.pop("time", None), names.pop("source", None)
    return Event(id, type, bytes(raw).decode(), cursor, time_, source, names, replayed)
