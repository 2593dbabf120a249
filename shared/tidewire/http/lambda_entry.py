"""AWS Lambda: the handler of the HTTP functions, and objects that a function keeps between invocations."""

import asyncio
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tidewire.delivery.hub import Hub
from tidewire.http.api import make_api
from tidewire.monitoring.cloudwatch import EmbeddedMetrics
from tidewire.monitoring.logs import configure
from tidewire.protocol.problem import MEDIA_TYPE
from tidewire.settings.config import Settings
from tidewire.settings.secrets import Environment
from tidewire.wiring import make_hub

ROOT = "/api/"  # every path begins with this

Made = TypeVar("Made")


class Warm(Generic[Made]):
    """An object made from the settings once per execution environment, and again after a secret was rotated.

    `make` makes the object, `retire` closes a replaced one. The environment is read at the first use.
    """

    def __init__(
        self, make: Callable[[Settings], Made], retire: Callable[[Made], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._make = make
        self._retire = retire
        self._clock = clock
        self._environment: Environment | None = None
        self._made: tuple[object, Made] | None = None

    def current(self) -> Made:
        """Return the object for the current secrets; blocks while they are read.

        Raises SettingsError if the settings are wrong at the first call.
        """
        if self._environment is None:
            self._environment = Environment(os.environ, self._clock)
        environ = self._environment.read()
        if self._made is not None and self._made[0] is environ:
            return self._made[1]
        old, made = self._made, self._make(Settings.from_env(environ))
        self._made = (environ, made)
        if old is not None:
            self._retire(old[1])
        return made

    def request_refresh(self) -> None:
        """Read the secrets again at the next call: the store may have refused the current ones."""
        if self._environment is not None:
            self._environment.request_refresh()

    def close(self) -> None:
        """Close the object; the next call reads the environment and makes a new one."""
        made, self._made, self._environment = self._made, None, None
        if made is not None:
            self._retire(made[1])


class HttpFunction:
    """The Lambda handler for HTTP events of API Gateway and of function URLs, answered by some routes.

    Mangum runs all invocations on one event loop, so connections stay open between them.
    """

    def __init__(
        self, routes: Callable[[Hub, Settings], Sequence[BaseRoute]], clock: Callable[[], float] = time.time
    ) -> None:
        """Serve `routes`; `clock` returns seconds since 1970 and decides when secrets are read again."""
        self._routes = routes
        self._warm = Warm(self._make, _close, clock)

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer one HTTP request."""
        made = self._warm.current()
        answer: dict[str, Any] = made.mangum(event, context)
        if made.metrics is not None:
            made.metrics.report()
        if made.hub.tracer is not None:
            made.hub.tracer.flush()
        if answer["statusCode"] == 503:  # the store's password may have been rotated
            self._warm.request_refresh()
        return answer

    def close(self) -> None:
        """Close all connections; the next invocation starts as in a new execution environment."""
        self._warm.close()

    def _make(self, settings: Settings) -> "_Made":
        configure_on_lambda(settings)
        hub = make_hub(settings, stateless=True)
        loop = _event_loop()
        mangum = _to_mangum(make_api(self._routes(hub, settings), settings))
        return _Made(loop, hub, mangum, EmbeddedMetrics.from_settings(hub, settings, os.environ))


def configure_on_lambda(settings: Settings) -> None:
    """Configure logging if this process runs on Lambda; elsewhere the process configures it itself."""
    if "AWS_LAMBDA_RUNTIME_API" in os.environ:
        configure(settings.log_level, settings.log_format)


class _Made(msgspec.Struct, frozen=True):
    loop: asyncio.AbstractEventLoop
    hub: Hub
    mangum: Any
    metrics: EmbeddedMetrics | None


def _to_mangum(app: ASGIApp) -> Any:
    from mangum import Mangum
    from mangum.adapter import DEFAULT_TEXT_MIME_TYPES

    # Mangum encodes a body in base64 unless its type is listed. Its lifespan "auto" would run startup and shutdown on
    # every invocation.
    return Mangum(_without_base_path(app), lifespan="off", text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, MEDIA_TYPE])


def _without_base_path(app: ASGIApp) -> Any:
    """Return the app without the prefixes that API Gateway leaves in a path.

    An HTTP API with a named stage has `/prod/api/publish`, and a custom domain with a mapping `/events/api/publish`. A
    REST API has no stage in its path, nor has the stage `$default` (API Gateway developer guide, payload format 2.0).
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        stage = scope["aws.event"].get("requestContext", {}).get("stage")
        if path.startswith(f"/{stage}{ROOT}"):  # the stage may itself be named api
            path = path.removeprefix(f"/{stage}")
        base, root, rest = path.partition(ROOT)
        await app({**scope, "path": root + rest if root else base}, receive, send)

    return serve


def _event_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this thread, which lives as long as the execution environment; make one if needed.

    Mangum would make one implicitly, which Python 3.12 and 3.13 report as deprecated at every cold start.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return asyncio.get_event_loop()
        except (RuntimeError, DeprecationWarning):
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            return loop


def _close(made: _Made) -> None:
    made.loop.run_until_complete(made.hub.aclose())  # between two invocations
