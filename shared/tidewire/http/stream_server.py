"""The stream alone, as a process: `python -m functions.stream`, behind the Lambda Web Adapter.

Lambda's own Python runtime cannot stream an answer. The adapter, a layer of AWS's, starts this process, waits until
/api/health/live answers, and then passes each invocation on as a plain HTTP request.
"""

import asyncio
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

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
LOOK_SECONDS = 1.0  # how exactly it is known for how long the tail has been away
LOOKS_A_REPORT = 60
INVOKE_MODE, BUFFERED = "AWS_LWA_INVOKE_MODE", "buffered"  # the adapter's, for what cannot be streamed in front of it
LAG_NAMESPACE = "Tidewire"  # in which deploy/alarms.yml looks for TailLag


class StreamServer:
    """Serves streams on one hub at a time: a new one where a secret was rotated, and the old one is drained."""

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
        if not scope["path"].endswith(PATH):  # a custom domain's API mapping may stand before it
            await _answer_others(scope, send)
            return
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        await self._follow_rotation()
        await self._app(scope, receive, send)

    def drain(self) -> None:
        """Send every subscriber away."""
        self.hub.drain()

    async def aclose(self) -> None:
        """Close every connection."""
        if self._watching is not None:
            self._watching.cancel()
        await self.hub.aclose()
        await asyncio.gather(*self._retiring)

    async def _follow_rotation(self) -> None:
        """Take a new hub where a secret has changed; one request waits for the reading, the others go on."""
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
            logger.warning("keeping the settings of before: %s", error)
            return
        old = self.hub
        self._use(settings)
        retiring = asyncio.create_task(old.aclose())  # its clients are told, and resume on the new one
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    def _use(self, settings: Settings) -> None:
        self.settings = settings
        self.hub = make_hub(settings)
        # Where the adapter buffers, an answer that never ends would never begin: a client would wait in vain.
        streams = self._known.get(INVOKE_MODE) != BUFFERED
        self._app = StreamApp(self.hub, settings, self._environment.request_refresh, streams=streams)
        self._metrics = EmbeddedMetrics.from_settings(self.hub, settings, self._known)

    async def _watch(self) -> None:
        """Follow rotated secrets while nobody asks, and tell CloudWatch once a minute in which there are streams."""
        function = self._known.get("AWS_LAMBDA_FUNCTION_NAME")
        worst = away = 0.0
        for look in itertools.count(1):
            await asyncio.sleep(LOOK_SECONDS)
            away = 0.0 if self.hub.tail_running else away + LOOK_SECONDS
            if away:  # perhaps the store has another password by now, and those who are connected only wait
                self._environment.request_refresh()
            await self._follow_rotation()
            worst = max(worst, away, self.hub.fanout.tail_lag.take_worst())
            if look % LOOKS_A_REPORT == 0:
                if function is not None and self.hub.subscribers:
                    await self._report(function, worst)
                worst = 0.0

    async def _report(self, function: str, lag: float) -> None:
        """Print the tail's lag, for the alarm, and what has been counted, where that is asked for."""
        # In a thread: what knows the format takes long to import, and streams must not wait for it.
        await asyncio.to_thread(write, LAG_NAMESPACE, function, [Sample("TailLag", "Seconds", round(lag, 3))])
        if self._metrics is not None and self.settings.metrics_namespace is not None:
            await asyncio.to_thread(write, self.settings.metrics_namespace, function, self._metrics.take())


async def _answer_others(scope: Mapping[str, Any], send: Send) -> None:
    """Answer what is no stream: the adapter asks whether the process lives, and a stranger for what is not here."""
    headers = combined(scope["headers"])
    live = scope["path"] == LIVE
    answer = Answer(send, request_id(headers.get(REQUEST_ID)), scope["method"], LIVE if live else "-")
    missing = problem(404, "There is nothing at this path")
    try:
        if live:
            await respond(answer, 200, _LIVE_HEADERS, b'{"status":"live"}')
        else:
            await respond(answer, missing.status, missing.headers, missing.body)
    finally:
        answer.note(logging.DEBUG if live else logging.INFO)


_LIVE_HEADERS = {"content-type": "application/json", "cache-control": "no-store", **SECURITY}


def main() -> int:
    """Serve what the environment says until SIGTERM."""
    try:
        server = StreamServer(os.environ, begin=prepare)
        banner = "Tidewire's streams on {url}" + PATH
        serve(server, server.settings, server.drain, server.aclose, banner, begin=server.hub.check_transport)
    except SettingsError as error:
        print(f"tidewire: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
