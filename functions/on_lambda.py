"""The short HTTP functions on AWS Lambda, by way of Mangum."""

import asyncio
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from starlette.routing import BaseRoute

from functions.warm import Warm, configure_on_lambda
from functions.web import create_app, to_lambda
from shared.config import Settings
from shared.embedded_metrics import EmbeddedMetrics
from shared.hub import Hub
from shared.wiring import make_hub


class HttpFunction:
    """The handler for API Gateway's and function URLs' events, by way of these routes.

    Mangum runs each invocation on one and the same event loop, so that connections stay open from one to the next.
    """

    def __init__(self, routes: Callable[[Hub, Settings], Sequence[BaseRoute]]) -> None:
        self._routes = routes
        self._warm = Warm(self._make, _close)

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer one HTTP request."""
        made = self._warm.current()
        answer: dict[str, Any] = made.mangum(event, context)
        if made.metrics is not None:
            made.metrics.tell()
        if made.hub.tracer is not None:
            made.hub.tracer.flush()
        if answer["statusCode"] == 503:  # perhaps the store has another password by now
            self._warm.doubt()
        return answer

    def _make(self, settings: Settings) -> "_Made":
        configure_on_lambda(settings)
        hub = make_hub(settings, stateless=True)
        _have_a_loop()
        mangum = to_lambda(create_app(self._routes(hub, settings), settings))
        return _Made(hub, mangum, EmbeddedMetrics.from_settings(hub, settings, os.environ))


class _Made(NamedTuple):
    hub: Hub
    mangum: Any
    metrics: EmbeddedMetrics | None


def _have_a_loop() -> None:
    """Give this thread an event loop, if it has none, that lives as long as the environment.

    Mangum would ask for one that is made on the way: Python 3.12 and 3.13 warn of that at each cold start.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            asyncio.get_event_loop()
        except (RuntimeError, DeprecationWarning):
            asyncio.set_event_loop(asyncio.new_event_loop())


def _close(made: _Made) -> None:
    asyncio.get_event_loop().run_until_complete(made.hub.aclose())  # between two invocations, on Mangum's loop
