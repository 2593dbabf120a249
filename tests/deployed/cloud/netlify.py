"""Netlify, as far as a site's build decides: its files, the rules of `_redirects`, the headers of netlify.toml.

Read in Netlify's documentation: "Redirect options", "Rewrites and proxies", "Signed proxy redirects", "Custom headers".
"""

import asyncio
import copy
import mimetypes
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import jwt

from tests.deployed.cloud.web import Hosts, Receive, Scope, Send, Whole, body_of, call, headers_of, plain

REWRITE_SECONDS = 26.0
SIGNATURE = "x-nf-sign"
SIGNED_SECONDS = 300


class Rule(NamedTuple):
    """One line of `_redirects`."""

    path: str
    target: str
    status: int
    forced: bool
    signed: str | None

    def target_of(self, path: str) -> str | None:
        """The rule's target for this path, or None if the rule does not match."""
        start = self.path.removesuffix("*")
        if self.path.endswith("*"):
            return self.target.replace(":splat", path.removeprefix(start)) if path.startswith(start) else None
        return self.target if path == self.path else None


class Site:
    """The app of one deploy: a folder, and the variables that the site has at Netlify."""

    def __init__(self, url: str, folder: Path, configuration: Path, variables: Mapping[str, str], hosts: Hosts) -> None:
        self.url = url
        self._folder = folder
        self._rules = list(rules(folder / "_redirects"))
        self.headers = tomllib.loads(configuration.read_text()).get("headers", [])
        self._variables = variables
        self._hosts = hosts

    def with_headers(self, headers: Mapping[str, str]) -> "Site":
        """The same deploy, with other headers for every file."""
        other = copy.copy(self)
        other.headers = [{"for": "/*", "values": dict(headers)}]
        return other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self._answer(scope, await body_of(receive))).send(send)

    async def _answer(self, scope: Scope, body: bytes) -> Whole:
        path = scope["path"]
        found = next(((rule, target) for rule in self._rules if (target := rule.target_of(path)) is not None), None)
        file = self._file(path)
        if found is None or (file is not None and not found[0].forced):
            return self._file_answer(file, 200)
        rule, target = found
        if target.startswith("https://"):
            return await self._rewrite(rule, target, scope, body)
        return self._file_answer(self._file(target), rule.status)

    def _file(self, path: str) -> Path | None:
        named = (self._folder / path.lstrip("/")).resolve()
        if named.is_dir():
            named /= "index.html"
        inside = named.is_relative_to(self._folder.resolve()) and named.name != "_redirects"
        return named if inside and named.is_file() else None

    def _file_answer(self, file: Path | None, status: int) -> Whole:
        if file is None:
            return plain(404, "Page not found\n", "text/plain")
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        headers = [("content-type", kind), ("cache-control", "public,max-age=0,must-revalidate")]
        path = "/" + file.relative_to(self._folder.resolve()).as_posix()
        for rule in self.headers:
            if rule["for"] == "/*" or rule["for"] == path:
                headers += [(name.lower(), " ".join(value.split())) for name, value in rule["values"].items()]
        return Whole(status, headers, file.read_bytes())

    async def _rewrite(self, rule: Rule, target: str, scope: Scope, body: bytes) -> Whole:
        parts = urlsplit(target)
        app = self._hosts.apps.get(parts.netloc)
        if app is None:
            return plain(502, f"{parts.netloc} cannot be reached\n", "text/plain")
        headers = {**headers_of(scope), "host": parts.netloc, "x-forwarded-host": urlsplit(self.url).netloc}
        headers.pop(SIGNATURE, None)
        if rule.signed is not None:
            claims = {"iss": "netlify", "exp": int(time.time()) + SIGNED_SECONDS, "deploy_context": "production"}
            secret = self._variables[rule.signed]
            headers[SIGNATURE] = jwt.encode({**claims, "site_url": self.url}, secret, "HS256")
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        asked = {**scope, "path": parts.path, "raw_path": parts.path.encode(), "headers": encoded}
        try:
            async with asyncio.timeout(REWRITE_SECONDS):
                return await call(app, asked, body)
        except TimeoutError:
            return plain(504, "Inactivity Timeout\n", "text/plain")


def rules(file: Path) -> Iterator[Rule]:
    """The lines of a `_redirects` file: `/from to 200! signed=NAME`."""
    for line in file.read_text().splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        path, target, status, *more = words
        options = dict(option.split("=", 1) for option in more)
        yield Rule(path, target, int(status.rstrip("!")), status.endswith("!"), options.get("signed"))
