"""All functions and the console page in one process: `python -m functions.local`, `netlify dev`, containers."""

import logging
import os
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidewire.delivery.hub import Hub
from tidewire.errors import SettingsError
from tidewire.http import ops, publish, stream, tokens, webhooks
from tidewire.http.api import create_app
from tidewire.http.server import serve
from tidewire.settings.config import Settings
from tidewire.settings.secrets import Environment
from tidewire.wiring import make_hub, prepare

SITE = Path(__file__).with_name("site")

_POLICY = "default-src 'self'{streams}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_SITE_HEADERS = [
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
]


def app(hub: Hub, settings: Settings) -> ASGIApp:
    """Return the one app: the stream as raw ASGI, everything else as Starlette routes. Raises SettingsError."""
    streams = stream.StreamApp(hub, settings)
    routes = [*publish.routes(hub, settings), *webhooks.routes(hub, settings)]
    api = create_app([*routes, *tokens.routes(hub, settings), *ops.routes(hub, settings)], settings)
    files = _with_headers(StaticFiles(directory=SITE, html=True), _policy(settings))
    site = create_app([Mount("/", files)], Settings())

    def dispatch(scope: Any, receive: Any, send: Any) -> Awaitable[None]:  # not async: no frame for each stream
        path = scope["path"]
        rest = api if path.startswith("/api/") else site  # the site would answer 404 or 405 for what the API has
        return (streams if path == stream.PATH else rest)(scope, receive, send)

    return dispatch


def main() -> int:
    """Serve what the environment says until SIGINT or SIGTERM."""
    try:
        settings = Settings.from_env(Environment(os.environ).read())
        prepare(settings)
        hub = make_hub(settings)
        served = app(hub, settings)
        _warn(settings)
        authentication = "required" if settings.auth_required else "off"
        banner = f"Tidewire on {{url}} (transport: {settings.transport}, authentication: {authentication})"
        serve(served, settings, hub.drain, hub.aclose, banner, begin=hub.check_transport)
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
    """Return the console's Content-Security-Policy, which lets it open streams on a host of their own."""
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


if __name__ == "__main__":
    sys.exit(main())
