"""One deployment as a run of the doctor has come to know it: where it is, who asks, what can be done there."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from tidewire.client.answers import Page, detail_of
from tidewire.settings.endpoints import LOCAL
from tidewire.tools.doctor.faults import unreachable
from tidewire.tools.doctor.findings import Decided, fail, skip, warn
from tidewire.tools.doctor.streams import Stream

TYPE = "tidewire.doctor"
"""The type of every event of ours, and the beginning of the user's name that they are for."""

CONNECT_SECONDS = 5.0  # a host that drops packets would else hold up the first check for longer than anyone looks


@dataclass(frozen=True, slots=True)
class Limits:
    """How long is waited, and what counts as slow; seconds."""

    answer: float = 10.0  # one answer, one frame
    heartbeat: float = 15.0  # the deployment's REALTIME_HEARTBEAT
    held_back: float = 2.0  # an event that takes longer, where the log is quicker, waited in somebody's buffer
    samples: int = 20  # events of the latency check

    @property
    def check(self) -> float:
        """The most that one check may take."""
        return 4 * self.answer + 2 * self.heartbeat


@dataclass(slots=True)
class Deployment:
    """What is asked, and what the checks have found out for those after them.

    `token` is the one that was given, `subscriber` the one that streams are opened with; `user` is whom events are for.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    origin: str | None = None
    limits: Limits = field(default_factory=Limits)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    url_given: bool = True

    run: str = field(default_factory=lambda: secrets.token_hex(8))
    user: str = ""
    auth_required: bool = True
    can_publish: bool = False
    subscriber: str | None = field(default=None, repr=False)
    gives_tickets: bool = False
    stream_url: str = ""
    alive_path: str = "/api/health/live"
    polls: bool = False  # an event came by long poll
    held_back: bool = False  # of a stream's answer nothing came
    live: Stream | None = None
    hidden: set[str] = field(default_factory=set, repr=False)  # secrets, which no finding may repeat
    _http: httpx.AsyncClient | None = field(default=None, repr=False)
    _published: int = 0

    def __post_init__(self) -> None:
        self.user = f"{TYPE}-{self.run}"
        self.stream_url = f"{self.url}/api/events"
        self.hidden |= {secret for secret in (self.key, self.token) if secret}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.close_stream()
        if self._http is not None:
            await self._http.aclose()

    @property
    def http(self) -> httpx.AsyncClient:
        """The client; made when something is sent, for it reads a file of certificates."""
        if self._http is None:
            self._http = httpx.AsyncClient(base_url=self.url, headers={"accept-encoding": "identity"})
        return self._http

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, or in a container beside: what is open there is open to nobody else."""
        host = httpx.URL(self.url).host
        return host in LOCAL or "." not in host

    async def ask(
        self, method: str, url: str, credential: str | None = None, *, seconds: float = 0.0, **options: Any
    ) -> httpx.Response:
        """Return the answer, whatever its status; `seconds` is how long it was asked to wait. Raises Decided."""
        headers = {**options.pop("headers", {}), **bearer(credential)}
        timeout = httpx.Timeout(self.limits.answer + seconds, connect=min(CONNECT_SECONDS, self.limits.answer))
        request = self.http.build_request(method, url, headers=headers, timeout=timeout, **options)
        try:
            return await self.http.send(request)
        except httpx.RequestError as error:
            raise Decided(unreachable(request.url, error)) from None

    async def send_event(self, credential: str | None) -> tuple[int, httpx.Response]:
        """Publish one event for our user, and return its number and the answer. Raises Decided."""
        self._published += 1
        number = self._published
        event = {
            "type": TYPE,
            "data": {"run": self.run, "number": number},
            "userIds": [self.user],
            "id": f"{self.user}-{number}",
        }
        return number, await self.ask("POST", "/api/publish", credential, json=event)

    async def publish(self) -> int:
        """Publish one event, and return its number. Raises Decided where it is not accepted."""
        if not self.can_publish:
            raise Decided(skip("nothing can be published: see the checks above", "Give --key (TIDEWIRE_KEY)"))
        number, response = await self.send_event(self.key)
        if response.status_code == 429:
            advice = "Ask again later, or with a key of a higher REALTIME_PUBLISH_RATE"
            raise Decided(warn("cut short by the limit of this key: 429", advice))
        if response.status_code != 202:
            raise Decided(
                fail(f"publishing failed: {await detail_of(response)}", "See the log of the publish function")
            )
        return number

    async def page(self, cursor: str = "", wait: float = 0.0) -> Page:
        """Return a JSON page of our events after the cursor, from where clients poll. Raises Decided."""
        self.need_subscriber()
        query = {**self.subscription(), "wait": f"{wait:g}", **({"last_event_id": cursor} if cursor else {})}
        headers = {"accept": "application/json"}
        response = await self.ask("GET", "/api/events", self.subscriber, seconds=wait, params=query, headers=headers)
        if response.status_code != 200:
            raise Decided(fail(f"no page: {await detail_of(response)}", refused(response.status_code)))
        try:
            return msgspec.json.decode(response.content, type=Page)
        except msgspec.DecodeError:
            advice = "Let /api/ through to the functions: what answers here is something else"
            raise Decided(fail("the answer is no page of events", advice)) from None

    def subscription(self) -> dict[str, str]:
        """Return the query that asks for our events."""
        return {"types": TYPE} if self.auth_required else {"types": TYPE, "userId": self.user}

    def need_subscriber(self) -> None:
        """Raise Decided where no stream can be opened, for want of its address or of a token."""
        if not self.stream_url:
            raise Decided(skip("the address of the streams leads nowhere: see `ticket`"))
        if self.auth_required and self.subscriber is None:
            raise Decided(skip("there is no subscriber token: see `token`"))

    def need_live(self) -> Stream:
        """Return the open stream. Raises Decided where there is none."""
        if self.live is None:
            raise Decided(skip("no stream is open that can be read: see `stream` and `buffering`"))
        return self.live

    async def close_stream(self) -> None:
        """End the open stream, where there is one."""
        if self.live is not None:
            live, self.live = self.live, None
            await live.aclose()

    def numbers(self, page: Page) -> list[int]:
        """Return which of our events a page holds."""
        return [number for event in page.events if (number := self.number_of(_data_of(event))) is not None]

    def number_of(self, data: bytes | str | None) -> int | None:
        """Return the number of an event of this run by its data, None where it is none."""
        try:
            mark = msgspec.json.decode(data or "", type=_Mark)
        except msgspec.DecodeError:
            return None
        return mark.number if mark.run == self.run else None


class _Mark(msgspec.Struct):
    run: str
    number: int


class _Stored(msgspec.Struct):
    data: msgspec.Raw


def _data_of(event: msgspec.Raw) -> msgspec.Raw:
    try:
        return msgspec.json.decode(event, type=_Stored).data
    except msgspec.DecodeError:
        return msgspec.Raw(b"null")


def refused(status: int) -> str:
    """Return what to do about an answer without events, by its status."""
    known = {
        401: "Every function needs the same REALTIME_JWT_SECRET, _ISSUER and _AUDIENCE; see `clock` too",
        403: f"Give a token that allows the type {TYPE}, or a key that may make one (key:realtime.tokens)",
        503: "See the store: it does not answer (docs/operate/README.md)",
    }
    lost = "See that what is in front leads /api/events to the stream function, with query and headers, and its log"
    return known.get(status, lost)


def bearer(credential: str | None) -> dict[str, str]:
    """Return the header that carries it."""
    return {"authorization": f"Bearer {credential}"} if credential else {}
