"""The stream alone, as a process: `python -m functions.stream_server`, behind the Lambda Web Adapter.

Lambda's own Python runtime cannot stream an answer. The adapter, a layer of AWS's, starts this process, waits until
/api/health/live answers, and then passes each invocation on as a plain HTTP request.
"""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from functions.serving import serve
from functions.sinks import Message, Send
from functions.stream import PATH, StreamApp
from shared.config import Settings
from shared.errors import SettingsError
from shared.hub import Hub
from shared.logs import configure
from shared.parameters import Environment
from shared.problem import problem
from shared.wiring import check, make_hub

logger = logging.getLogger(__name__)

LIVE = "/api/health/live"
LOOK_SECONDS = 1.0  # how exactly a lag is known
REPORT_SECONDS = 60.0


class StreamServer:
    """Serves streams on one hub at a time: a new one where a secret was rotated, and the old one is drained."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read the settings; raises SettingsError."""
        self._environment = Environment(environ)
        self._known = self._environment.read()
        self.settings = Settings.from_env(self._known)
        self.hub = make_hub(self.settings)
        self._app = StreamApp(self.hub, self.settings)
        self._reading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._reporting: asyncio.Task[None] | None = None

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Send) -> None:
        if scope["path"] == LIVE:
            await _answer(send, 200, {"content-type": "application/json"}, b'{"status":"live"}')
        elif scope["path"] != PATH:
            missing = problem(404, "There is nothing at this path")
            await _answer(send, missing.status, missing.headers, missing.body)
        else:
            if self._reporting is None:
                self._reporting = asyncio.create_task(self._report())
            await self._follow_rotation()
            await self._app(scope, receive, send)

    def drain(self) -> None:
        """Send every subscriber away."""
        self.hub.drain()

    async def aclose(self) -> None:
        """Close every connection."""
        if self._reporting is not None:
            self._reporting.cancel()
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
        try:
            settings = Settings.from_env(found)
        except SettingsError as error:
            logger.warning("keeping the settings of before: %s", error)
            return
        old, self._known, self.settings, self.hub = self.hub, found, settings, make_hub(settings)
        self._app = StreamApp(self.hub, settings)
        retiring = asyncio.create_task(old.aclose())  # its clients are told, and resume on the new one
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def _report(self) -> None:
        """Print the tail's lag for CloudWatch (embedded metric format), once a minute in which there are streams."""
        if "AWS_LAMBDA_FUNCTION_NAME" not in self._known:
            return
        worst, seen, looks = 0.0, dict[str, int](), 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            looks += 1
            worst = max(worst, lag(self.hub, seen), 0.0 if self.hub.tail_running else looks * LOOK_SECONDS)
            if looks * LOOK_SECONDS >= REPORT_SECONDS:
                if self.hub.subscribers:
                    print(metric_line("TailLag", worst, self._known["AWS_LAMBDA_FUNCTION_NAME"]), flush=True)
                worst, looks = 0.0, 0


def lag(hub: Hub, seen: dict[str, int]) -> float:
    """Return how long ago (s) the newest record was appended that the tail has brought since the last look.

    `seen` keeps the offsets of the last look; what was there at the first one says nothing about the tail.
    """
    worst = 0.0
    for name, position in hub.fanout.positions.items():
        if seen.get(name, position.offset) != position.offset and position.time:
            worst = max(worst, time.time() - position.time / 1000)
        seen[name] = position.offset
    return worst


def metric_line(name: str, seconds: float, function: str) -> str:
    """Return a log line that CloudWatch reads as a metric (specification: embedded metric format)."""
    metric = {"Namespace": "Tidemark", "Dimensions": [["FunctionName"]], "Metrics": [{"Name": name, "Unit": "Seconds"}]}
    told = {"_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [metric]}}
    return json.dumps({**told, "FunctionName": function, name: round(seconds, 3)})


async def _answer(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    told = [(name.encode(), value.encode()) for name, value in headers.items()]
    start: Message = {"type": "http.response.start", "status": status, "headers": told}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def main() -> int:
    """Serve what the environment says until SIGTERM."""
    try:
        server = StreamServer(os.environ)
        configure(server.settings.log_level, server.settings.log_format)
        asyncio.run(check(server.settings))
    except SettingsError as error:
        print(f"tidemark: {error}", file=sys.stderr)
        return 2
    host, port = server.settings.host, server.settings.port
    banner = "Tidemark's streams on {url}" + PATH
    serve(server, host, port, server.drain, server.aclose, banner, begin=server.hub.look)
    return 0


if __name__ == "__main__":
    sys.exit(main())
