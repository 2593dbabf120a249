"""AWS's own APIs for the functions: every request is passed to moto, which answers it in memory. A program.

In a process of its own: other tests of the same worker empty moto's account of theirs.
"""

import http.server
import re
import sys

import requests
from moto import mock_aws

from tests.support.processes import HOST

HOP_BY_HOP = {"host", "connection", "content-length", "accept-encoding", "transfer-encoding", "content-encoding"}


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends each request on to the address at which AWS has the service, where moto waits for it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Say that it runs."""
        self._answer(200, {}, b"")

    def do_POST(self) -> None:
        """Ask moto."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        signed_for = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", self.headers.get("authorization", ""))
        if signed_for is None:
            self._answer(403, {}, b"")
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        region, service = signed_for.groups()
        url = f"https://{service}.{region}.amazonaws.com{self.path}"
        answer = requests.post(url, data=body, headers=headers, timeout=10)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        self._answer(answer.status_code, kept, answer.content)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with mock_aws():
        http.server.ThreadingHTTPServer((HOST, int(sys.argv[1])), Handler).serve_forever()
