"""The deployment under test: its address, the credentials, and the results that later checks use."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from tidewire.client.responses import Page, detail_of
from tidewire.settings.endpoints import LOCAL
from tidewire.tools.doctor.findings import Decided, fail, skip, unreachable, warn
from tidewire.tools.doctor.streams import Stream

TYPE = "tidewire.doctor"
"""The type of the doctor's events, and the prefix of its user id."""

CONNECT_SECONDS = 5.0  # a host that drops packets must not delay the first check for the whole time-out


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits, in seconds."""

    answer: float = 10.0  # for one response or one frame
    heartbeat: float = 15.0  # the deployment's REALTIME_HEARTBEAT
    held_back: float = 2.0  # a stream that is slower than this, although the log is not, is buffered
    samples: int = 20  # events of the latency check

    @property
    def check(self) -> float:
        """The time limit of one check."""
        return 4 * self.answer + 2 * self.heartbeat


@dataclass(slots=True)
class Deployment:
    """The deployment, and the results of earlier checks.

    `token` is the given token, `subscriber` the one that streams use; `user` is the audience of the doctor's events.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    origin: str | None = None
    limits: Limits = field(default_factory=Limits)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    url_given: bool = True

    run: str = field(default_factory=lambda: token_hex(8))
    user: str = ""
    auth_required: bool = True
    can_publish: bool = False
    subscriber: str | None = field(default=None, repr=False)
    gives_tickets: bool = False
    stream_url: str = ""
    alive_path: str = "/api/health/live"
    polls: bool = False  # an event arrived by long poll
    held_back: bool = False  # not even the headers of a stream arrived
    live: Stream | None = None
    secrets: set[str] = field(default_factory=set, repr=False)  # that no finding may contain
    _http: httpx.AsyncClient | None = field(default=None, repr=False)
    _published: int = 0

    def __post_init__(self) -> None:
        self.user = f"{TYPE}-{self.run}"
        self.stream_url = f"{self.url}/api/events"
        self.secrets |= {secret for secret in (self.key, self.token) if secret}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.close_stream()
        if self._http is not None:
            await self._http.aclose()

    @property
    def http(self) -> httpx.AsyncClient:
        """The HTTP client, created on first use because it reads a file of certificates."""
        if self._http is None:
            self._http = httpx.AsyncClient(base_url=self.url, headers={"accept-encoding": "identity"})
        return self._http

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine or in a neighbouring container, and so is not public."""
        host = httpx.URL(self.url).host
        return host in LOCAL or "." not in host

    async def request(
        self, method: str, url: str, credential: str | None = None, *, seconds: float = 0.0, **options: Any
    ) -> httpx.Response:
        """Return the response, whatever its status; `seconds` is added to the time-out. Raises Decided."""
        headers = {**options.pop("headers", {}), **bearer(credential)}
        timeout = httpx.Timeout(self.limits.answer + seconds, connect=min(CONNECT_SECONDS, self.limits.answer))
        request = self.http.build_request(method, url, headers=headers, timeout=timeout, **options)
        try:
            return await self.http.send(request)
        except httpx.RequestError as error:
            raise Decided(unreachable(request.url, error)) from None

    async def send_event(self, credential: str | None) -> tuple[int, httpx.Response]:
        """Publish one event for our user, and return its number and the response. Raises Decided."""
        self._published += 1
        number = self._published
        event = {
            "type": TYPE,
            "data": {"run": self.run, "number": number},
            "userIds": [self.user],
            "id": f"{self.user}-{number}",
        }
        return number, await self.request("POST", "/api/publish", credential, json=event)

    async def publish(self) -> int:
        """Publish one event, and return its number. Raises Decided if it is not accepted."""
        if not self.can_publish:
            raise Decided(skip("publishing does not work: see the checks above", "Use --key (TIDEWIRE_KEY)"))
        number, response = await self.send_event(self.key)
        if response.status_code == 429:
            advice = "Try again later, or with a key of a higher REALTIME_PUBLISH_RATE"
            raise Decided(warn("cut short by the rate limit of the key: 429", advice))
        if response.status_code != 202:
            raise Decided(
                fail(f"publishing failed: {await detail_of(response)}", "See the log of the publish function")
            )
        return number

    async def page(self, cursor: str = "", wait: float = 0.0) -> Page:
        """Return a JSON page of our events after the cursor, from the URL that clients poll. Raises Decided."""
        self.need_subscriber()
        query = {**self.subscription(), "wait": f"{wait:g}", **({"last_event_id": cursor} if cursor else {})}
        headers = {"accept": "application/json"}
        response = await self.request(
            "GET", "/api/events", self.subscriber, seconds=wait, params=query, headers=headers
        )
        if response.status_code != 200:
            raise Decided(fail(f"no page: {await detail_of(response)}", refused(response.status_code)))
        try:
            return msgspec.json.decode(response.content, type=Page)
        except msgspec.DecodeError:
            advice = "Route /api/ to the functions: another server responds here"
            raise Decided(fail("the response is not a page of events", advice)) from None

    def subscription(self) -> dict[str, str]:
        """Return the query for our events."""
        return {"types": TYPE} if self.auth_required else {"types": TYPE, "userId": self.user}

    def need_subscriber(self) -> None:
        """Raise Decided if the stream URL or the token is missing."""
        if not self.stream_url:
            raise Decided(skip("the stream URL does not work: see `ticket`"))
        if self.auth_required and self.subscriber is None:
            raise Decided(skip("there is no subscriber token: see `token`"))

    def need_live(self) -> Stream:
        """Return the open stream. Raises Decided if there is none."""
        if self.live is None:
            raise Decided(skip("no readable stream is open: see `stream` and `buffering`"))
        return self.live

    async def close_stream(self) -> None:
        """Close the open stream, if there is one."""
        if self.live is not None:
            live, self.live = self.live, None
            await live.aclose()

    def numbers(self, page: Page) -> list[int]:
        """Return the numbers of our events in a page."""
        return [number for event in page.events if (number := self.number_of(_data_of(event))) is not None]

    def number_of(self, data: bytes | str | None) -> int | None:
        """Return the number of an event of this run from its data, None for any other event."""
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
    """Return the advice for an error status of a subscription."""
    known = {
        401: "Every function needs the same REALTIME_JWT_SECRET, _ISSUER and _AUDIENCE; see `clock` too",
        403: f"Use a token that allows the type {TYPE}, or a key that may make one (key:realtime.tokens)",
        503: "Check the store: it does not respond (docs/operate/README.md)",
    }
    other = (
        "Check that the proxy in front routes /api/events to the stream function, with query and headers; see its log"
    )
    return known.get(status, other)


def bearer(credential: str | None) -> dict[str, str]:
    """Return the Authorization header of a credential, empty without one."""
    return {"authorization": f"Bearer {credential}"} if credential else {}
