"""AWS Lambda: what a function keeps while its execution environment is warm, and the handler of the HTTP functions."""

import asyncio
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from starlette.routing import BaseRoute

from tidewire.delivery.hub import Hub
from tidewire.http.api import create_app, to_lambda
from tidewire.monitoring.cloudwatch import EmbeddedMetrics
from tidewire.monitoring.logs import configure
from tidewire.settings.config import Settings
from tidewire.settings.secrets import Environment
from tidewire.wiring import make_hub

Made = TypeVar("Made")


class Warm(Generic[Made]):
    """An object that is made from the settings, and made again when a secret in them was rotated.

    `make` makes it; `retire` closes one that is no longer used. The environment is read at the first use.
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
        """Return the object for the secrets as they are now; blocks while they are read.

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
        """Look for rotated secrets at the next call: something has refused those of now."""
        if self._environment is not None:
            self._environment.request_refresh()

    def close(self) -> None:
        """Close what was made; the next call reads the environment and makes it anew."""
        made, self._made, self._environment = self._made, None, None
        if made is not None:
            self._retire(made[1])


class HttpFunction:
    """The handler for events of API Gateway and of function URLs, which these routes answer.

    Mangum runs all invocations on one event loop, so connections stay open between them.
    """

    def __init__(
        self, routes: Callable[[Hub, Settings], Sequence[BaseRoute]], clock: Callable[[], float] = time.time
    ) -> None:
        """Serve `routes`; `clock` returns seconds since 1970, by which secrets are read again."""
        self._routes = routes
        self._warm = Warm(self._make, _close, clock)

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer one HTTP request."""
        made = self._warm.current()
        answer: dict[str, Any] = made.mangum(event, context)
        if made.metrics is not None:
            made.metrics.tell()
        if made.hub.tracer is not None:
            made.hub.tracer.flush()
        if answer["statusCode"] == 503:  # perhaps the store has another password by now
            self._warm.request_refresh()
        return answer

    def close(self) -> None:
        """Close all connections; the next invocation starts as in a new execution environment."""
        self._warm.close()

    def _make(self, settings: Settings) -> "_Made":
        configure_on_lambda(settings)
        hub = make_hub(settings, stateless=True)
        _have_a_loop()
        mangum = to_lambda(create_app(self._routes(hub, settings), settings))
        return _Made(hub, mangum, EmbeddedMetrics.from_settings(hub, settings, os.environ))


def configure_on_lambda(settings: Settings) -> None:
    """Configure logging as the settings say, if this process runs on Lambda; elsewhere the process does it itself."""
    if "AWS_LAMBDA_RUNTIME_API" in os.environ:
        configure(settings.log_level, settings.log_format)


class _Made(NamedTuple):
    hub: Hub
    mangum: Any
    metrics: EmbeddedMetrics | None


def _have_a_loop() -> None:
    """Give this thread an event loop, if it has none, that lives as long as the environment.

    Mangum would get one that is made implicitly: Python 3.12 and 3.13 warn of that at each cold start.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            asyncio.get_event_loop()
        except (RuntimeError, DeprecationWarning):
            asyncio.set_event_loop(asyncio.new_event_loop())


def _close(made: _Made) -> None:
    asyncio.get_event_loop().run_until_complete(made.hub.aclose())  # between two invocations, on Mangum's loop
