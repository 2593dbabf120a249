"""Lambda's Runtime API on 127.0.0.1, which passes on each byte of a streamed response as it comes.

AWS's own emulator speaks the same protocol but keeps a response until it is complete. The protocol: Lambda developer
guide, "Using the Lambda runtime API", "response streaming with custom runtimes"; Extensions API, as far as an adapter
uses it.
"""

import contextlib
import http.server
import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Self

from tests.support.sse_decoder import SseDecoder, SseEvent

WAIT_SECONDS = 20.0  # only a failing test waits so long
PRELUDE_END = b"\0" * 8


class Invocation:
    """One invocation: its answer as it comes."""

    def __init__(self, event: dict[str, Any], seconds: float) -> None:
        self.id = str(uuid.uuid4())
        self.event = event
        self.deadline = time.time() + seconds
        self.headers: dict[str, str] = {}
        self.ended_at = 0.0
        self.failed = False  # the handler raised, or its process ended before its answer did
        self.chunks: queue.Queue[bytes | None] = queue.Queue()
        self.when_ended: Callable[[], None] = lambda: None
        self._decoder = SseDecoder()
        self._left = b""

    def prelude(self) -> dict[str, Any]:
        """The status and the headers of the answer."""
        text = b""
        while PRELUDE_END not in text:
            chunk = self.chunks.get(timeout=WAIT_SECONDS)
            assert chunk is not None, f"ended in its prelude: {text!r}"
            text += chunk
        head, _, self._left = text.partition(PRELUDE_END)
        answer: dict[str, Any] = json.loads(head)
        return answer

    def events(self) -> Iterator[SseEvent]:
        """The events of the stream, each as soon as it arrives."""
        chunk: bytes | None = self._left
        while chunk is not None:
            yield from self._decoder.feed(chunk)
            chunk = self.chunks.get(timeout=WAIT_SECONDS)

    def body(self) -> bytes:
        """The rest of the answer."""
        return self._left + b"".join(iter(lambda: self.chunks.get(timeout=WAIT_SECONDS) or b"", b""))

    def end(self, *, failed: bool) -> None:
        """The answer has ended, or broken off."""
        self.failed = self.failed or failed
        self.ended_at = time.time()
        self.chunks.put(None)
        self.when_ended()

    @property
    def cursor(self) -> str:
        return self._decoder.last_event_id


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a function that was killed leaves its connections so."""


class RuntimeApi:
    """The server; `invoke` gives the runtime something to do."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Invocation] = queue.Queue()
        self._running: dict[str, Invocation] = {}
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def invoke(self, event: dict[str, Any], seconds: float = 900.0) -> Invocation:
        """Pass the event to the runtime, with a deadline in seconds."""
        invocation = Invocation(event, seconds)
        self._running[invocation.id] = invocation
        self._waiting.put(invocation)
        return invocation

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                if "/extension/" in self.path:  # the next event would be the shutdown
                    threading.Event().wait()
                assert self.path == "/2018-06-01/runtime/invocation/next", self.path
                invocation = api._waiting.get()
                body = json.dumps(invocation.event).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Lambda-Runtime-Aws-Request-Id", invocation.id)
                self.send_header("Lambda-Runtime-Deadline-Ms", str(int(invocation.deadline * 1000)))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:x:123456789012:function:stream")
                self.send_header("Lambda-Runtime-Trace-Id", "Root=1-00000000-000000000000000000000000;Sampled=0")
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                if self.path.endswith("/extension/register"):
                    self._body()
                    self.send_response(200)
                    self.send_header("Lambda-Extension-Identifier", str(uuid.uuid4()))
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")
                    return
                _, _, id, what = self.path.rsplit("/", 3)
                assert what in ("response", "error"), self.path
                invocation = api._running[id]
                invocation.headers = {name.lower(): value for name, value in self.headers.items()}
                failed = what == "error"
                try:
                    for chunk in self._body():
                        invocation.chunks.put(chunk)
                except (OSError, ValueError):  # the process that answers was killed
                    failed = True
                invocation.end(failed=failed)
                with contextlib.suppress(OSError):
                    self.send_response(202)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def _body(self) -> Iterator[bytes]:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    return
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass  # trailers

        return Handler
