"""The whole app, API, streams and console, in one process: `create_app`, and `python -m functions.local`."""

import logging
import os
import sys
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidewire.delivery.hub import Hub
from tidewire.errors import SettingsError, TidewireError
from tidewire.http import ops, publish, stream, tokens, webhooks
from tidewire.http.api import make_api
from tidewire.http.server import serve
from tidewire.settings.config import Settings
from tidewire.settings.secrets import Environment
from tidewire.wiring import check_store, make_hub, prepare

SITE = Path(__file__).with_name("site")

_POLICY = "default-src 'self'{streams}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_SITE_HEADERS = [
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
]


class App:
    """The ASGI app of one hub, which it makes; the lifespan protocol opens and closes the connections to the store.

    A server waits for open responses before it runs the lifespan's shutdown, and a stream never ends by itself: give
    the server a time limit for that (uvicorn: `timeout_graceful_shutdown`), or call `drain` when it is asked to stop.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hub = make_hub(settings)
        self.dispatch = app(self.hub, settings)
        _warn(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self.dispatch(scope, receive, send)
            case "lifespan":
                await self._run_lifespan(receive, send)
            case _:
                await send({"type": "websocket.close"})  # before it is accepted: a 403

    def drain(self) -> None:
        """Close every stream, and refuse new ones; the clients reconnect elsewhere."""
        self.hub.drain()

    async def aclose(self) -> None:
        """Close every stream and every connection to the store."""
        await self.hub.aclose()

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await check_store(self.settings)
            await self.hub.check_transport()
        except TidewireError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def create_app(environ: Mapping[str, str] | None = None) -> App:
    """Return the whole app for an environment (default: that of this process); `uvicorn --factory tidewire:create_app`.

    docs/configuration.md lists the variables. Values that name a secret are read from AWS, which blocks. Logging is
    not configured. Raises SettingsError.
    """
    return App(Settings.from_env(Environment(os.environ if environ is None else environ).read()))


def app(hub: Hub, settings: Settings) -> ASGIApp:
    """Return the app over a hub: the stream as raw ASGI, everything else as Starlette routes. Raises SettingsError."""
    streams = stream.StreamApp(hub, settings)
    routes = [*publish.routes(hub, settings), *webhooks.routes(hub, settings)]
    api = make_api([*routes, *tokens.routes(hub, settings), *ops.routes(hub, settings)], settings)
    files = _with_headers(StaticFiles(directory=SITE, html=True), _policy(settings))
    site = make_api([Mount("/", files)], Settings())

    def dispatch(scope: Any, receive: Any, send: Any) -> Awaitable[None]:  # not async: it would cost a frame per stream
        path = scope["path"]
        rest = api if path.startswith("/api/") else site  # the site would answer 404 and 405 for paths of the API
        return (streams if path == stream.PATH else rest)(scope, receive, send)

    return dispatch


def main() -> int:
    """Serve the app of this process's environment until SIGINT or SIGTERM; return the exit status."""
    try:
        settings = Settings.from_env(Environment(os.environ).read())
        prepare(settings)
        app = App(settings)
        authentication = "required" if settings.auth_required else "off"
        banner = f"Tidewire on {{url}} (transport: {settings.transport}, authentication: {authentication})"
        serve(app.dispatch, settings, app.drain, app.aclose, banner, begin=app.hub.check_transport)
    except SettingsError as error:
        print(f"tidewire: {error}", file=sys.stderr)
        return 2
    return 0


def _warn(settings: Settings) -> None:
    logger = logging.getLogger("tidewire")
    if settings.auth_required:
        if not settings.publish_keys:
            logger.warning("REALTIME_PUBLISH_KEYS is not set: nobody can publish over HTTP")
        if settings.jwt_secret is None and settings.jwks_url is None:
            logger.warning("neither REALTIME_JWT_SECRET nor REALTIME_JWKS_URL is set: nobody can subscribe")
    elif settings.host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("authentication is off and HOST is not local: everyone who reaches this port reads every event")


def _policy(settings: Settings) -> str:
    """Return the console's Content-Security-Policy, which allows streams from the host of REALTIME_STREAM_URL."""
    parts = urlsplit(settings.stream_url)
    return _POLICY.format(streams=f"; connect-src 'self' {parts.scheme}://{parts.netloc}" if parts.netloc else "")


def _with_headers(files: ASGIApp, policy: str) -> ASGIApp:
    headers = [(b"content-security-policy", policy.encode()), *_SITE_HEADERS]

    async def serve_file(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await files(scope, receive, send_with_headers)

    return serve_file


if __name__ == "__main__":  # for an installed package, which has no functions/
    sys.exit(main())
