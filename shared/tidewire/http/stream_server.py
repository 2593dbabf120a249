"""The streams alone, as a process: `python -m functions.stream`, behind the Lambda Web Adapter.

Lambda's own Python runtime cannot stream a response. The adapter, a Lambda layer of AWS, starts this process, waits
until /api/health/live answers, and then forwards each invocation as a plain HTTP request.
"""

import asyncio
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tidewire import __version__
from tidewire.errors import SettingsError
from tidewire.http.answers import Answer, respond
from tidewire.http.server import serve
from tidewire.http.sinks import Send
from tidewire.http.stream import PATH, StreamApp
from tidewire.monitoring.cloudwatch import EmbeddedMetrics, Sample, write
from tidewire.monitoring.logs import REQUEST_ID, request_id
from tidewire.protocol.headers import SECURITY, combined
from tidewire.protocol.problem import problem
from tidewire.settings.config import Settings
from tidewire.settings.secrets import Environment
from tidewire.wiring import make_hub, prepare

logger = logging.getLogger(__name__)

LIVE = "/api/health/live"
CHECK_SECONDS = 1.0  # between two checks of the tail: the precision of TailLag while the tail does not run
CHECKS_PER_REPORT = 60
INVOKE_MODE, BUFFERED = "AWS_LWA_INVOKE_MODE", "buffered"  # the adapter's mode for callers that cannot stream
LAG_NAMESPACE = "Tidewire"  # where deploy/alarms.yml expects TailLag


class StreamServer:
    """An ASGI app that serves streams from one hub, and replaces and drains that hub after a secret was rotated."""

    def __init__(
        self,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.time,
        begin: Callable[[Settings], None] | None = None,
    ) -> None:
        """Read the settings, call `begin` with them, and make the first hub. Raises SettingsError, as `begin` may."""
        self._environment = Environment(environ, clock)
        self._known = self._environment.read()
        settings = Settings.from_env(self._known)
        if begin is not None:
            begin(settings)
        self._use(settings)
        self._reading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Send) -> None:
        if not scope["path"].endswith(PATH):  # the API mapping of a custom domain may be a prefix
            await _answer_others(scope, send)
            return
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        await self._follow_rotation()
        await self._app(scope, receive, send)

    def drain(self) -> None:
        """Close every stream, and refuse new ones."""
        self.hub.drain()

    async def aclose(self) -> None:
        """Close every stream and every connection to the store."""
        if self._watching is not None:
            self._watching.cancel()
        await self.hub.aclose()
        await asyncio.gather(*self._retiring)

    async def _follow_rotation(self) -> None:
        """Replace the hub if a secret has changed. One request waits while secrets are read; others proceed."""
        if not self._environment.is_due or self._reading.locked():
            return
        async with self._reading:
            found = await asyncio.to_thread(self._environment.read)
        if found is self._known:
            return
        self._known = found
        try:
            settings = Settings.from_env(found)
        except SettingsError as error:
            logger.warning("keeping the previous settings: %s", error)
            return
        old = self.hub
        self._use(settings)
        retiring = asyncio.create_task(old.aclose())  # closes its streams; their clients resume on the new hub
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    def _use(self, settings: Settings) -> None:
        self.settings = settings
        self.hub = make_hub(settings)
        # A buffering adapter sends a response when it is complete, so the client of a stream would receive nothing.
        streams = self._known.get(INVOKE_MODE) != BUFFERED
        self._app = StreamApp(self.hub, settings, self._environment.request_refresh, streams=streams)
        self._metrics = EmbeddedMetrics.from_settings(self.hub, settings, self._known)

    async def _watch(self) -> None:
        """Follow rotated secrets between requests, and report to CloudWatch once a minute while there are streams."""
        function = self._known.get("AWS_LAMBDA_FUNCTION_NAME")
        worst = silent = 0.0
        for check in itertools.count(1):
            await asyncio.sleep(CHECK_SECONDS)
            silent = 0.0 if self.hub.tail_running else silent + CHECK_SECONDS
            if silent:  # the store's password may have been rotated, and open streams send no request that would fail
                self._environment.request_refresh()
            await self._follow_rotation()
            worst = max(worst, silent, self.hub.fanout.tail_lag.take_worst())
            if check % CHECKS_PER_REPORT == 0:
                if function is not None and self.hub.subscribers:
                    await self._report(function, worst)
                worst = 0.0

    async def _report(self, function: str, lag: float) -> None:
        """Write the tail's lag in seconds, for the alarm, and the metrics, if REALTIME_METRICS_NAMESPACE is set."""
        # In a thread: the first call imports aws-lambda-powertools, which would delay the streams.
        await asyncio.to_thread(write, LAG_NAMESPACE, function, [Sample("TailLag", "Seconds", round(lag, 3))])
        if self._metrics is not None and self.settings.metrics_namespace is not None:
            await asyncio.to_thread(write, self.settings.metrics_namespace, function, self._metrics.take())


async def _answer_others(scope: Mapping[str, Any], send: Send) -> None:
    """Answer the adapter's health check, and 404 to any other path."""
    headers = combined(scope["headers"])
    live = scope["path"] == LIVE
    answer = Answer(send, request_id(headers.get(REQUEST_ID)), scope["method"], LIVE if live else "-")
    missing = problem(404, "There is nothing at this path")
    try:
        if live:
            await respond(answer, 200, _LIVE_HEADERS, _LIVE)
        else:
            await respond(answer, missing.status, missing.headers, missing.body)
    finally:
        answer.note(logging.DEBUG if live else logging.INFO)


_LIVE = b'{"status":"live","version":"%b"}' % __version__.encode()
_LIVE_HEADERS = {"content-type": "application/json", "cache-control": "no-store", **SECURITY}


def main() -> int:
    """Serve the streams of this process's environment until SIGTERM; return the exit status."""
    try:
        server = StreamServer(os.environ, begin=prepare)
        banner = "Tidewire's streams on {url}" + PATH
        serve(server, server.settings, server.drain, server.aclose, banner, begin=server.hub.check_transport)
    except SettingsError as error:
        print(f"tidewire: {error}", file=sys.stderr)
        return 2
    return 0
