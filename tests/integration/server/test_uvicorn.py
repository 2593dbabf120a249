"""The parts of uvicorn and httptools that `tidewire.http.uvicorn_private` uses and that neither promises.

An update that changes one of these names must not pass unseen: a limit would silently be disabled.
"""

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import httptools
import pytest
import uvicorn
from tidewire.http.uvicorn_private import HttpConnection, HttpServer
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tests.support.processes import ROOT

CALLED_BY_THE_LOOP = {"connection_lost"}
CALLED_BY_THE_PARSER = {"on_message_begin", "on_header", "on_headers_complete", "on_body", "on_message_complete"}
CALLED_BY_UVICORN = {"_start_asgi_task", "on_response_complete", "shutdown"}
USED = {
    *("_unset_keepalive_if_required", "on_url", "pause_writing", "resume_writing", "connection_made"),
    *CALLED_BY_THE_LOOP,
    *CALLED_BY_THE_PARSER,
    *CALLED_BY_UVICORN,
}
PRIVATE = Path("shared/tidewire/http/uvicorn_private.py")


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


def names_in(function: Callable[..., object]) -> set[str]:
    """The attributes that a function's code names."""
    code = inspect.unwrap(function).__code__
    return {*code.co_names, *code.co_varnames}


def test_one_file_uses_private_parts() -> None:
    users = {
        path.relative_to(ROOT)
        for path in (ROOT / "shared/tidewire/http").rglob("*.py")
        if any(name == "httptools" or name.startswith("uvicorn.") for name in imported(path))
    }
    assert users == {PRIVATE}


def test_the_connection_overrides_known_methods() -> None:
    own = {name for name, value in vars(HttpConnection).items() if inspect.isfunction(value)}
    inherited = {name for name, value in vars(HttpToolsProtocol).items() if inspect.isfunction(value)}
    assert inherited >= USED
    assert own & inherited == {"__init__", *CALLED_BY_THE_LOOP, *CALLED_BY_THE_PARSER, *CALLED_BY_UVICORN}


def test_the_protocol_has_the_used_attributes() -> None:
    used = {
        *("app", "cycle", "flow", "headers", "loop", "parser", "pipeline", "scope", "server_state"),
        *("timeout_keep_alive_task", "transport"),
    }
    assert "self.url = " in inspect.getsource(HttpToolsProtocol.on_message_begin)
    assert names_in(HttpToolsProtocol.__init__) >= used
    assert {"appendleft"} <= names_in(HttpToolsProtocol.on_headers_complete)
    assert {"_start_asgi_task", "pause_reading"} <= names_in(HttpToolsProtocol.on_headers_complete)


def test_a_request_cycle_has_the_used_attributes() -> None:
    used = {
        *("body", "chunked_encoding", "disconnected", "expected_content_length", "keep_alive", "message_event"),
        *("on_response", "response_complete", "response_started", "scope", "transport"),
    }
    assert names_in(RequestResponseCycle.__init__) >= used
    sent = inspect.getsource(RequestResponseCycle.send)
    for line in (
        "if self.flow.write_paused and not self.disconnected:",
        "if self.chunked_encoding is None and self.scope",
        "self.expected_content_length -= num_bytes",
        "self.on_response()",
    ):
        assert line in sent
    assert "self.disconnected or self.response_complete" in inspect.getsource(RequestResponseCycle.receive)


def test_flow_control_has_the_used_parts() -> None:
    assert {"drain", "pause_reading", "resume_reading", "pause_writing", "resume_writing"} <= vars(FlowControl).keys()
    assert {"read_paused", "write_paused"} <= names_in(FlowControl.__init__)
    assert "FlowControl(transport)" in inspect.getsource(HttpToolsProtocol.connection_made)


def test_the_server_overrides_known_methods() -> None:
    overridden = vars(HttpServer).keys() & vars(uvicorn.Server).keys() - {"__module__", "__doc__"}
    assert {"startup", "shutdown", "capture_signals"} <= overridden
    assert "handle_exit" in vars(uvicorn.Server)
    assert {"server_state", "started", "should_exit"} <= names_in(uvicorn.Server.__init__)
    assert {"connections", "tasks", "total_requests", "default_headers"} <= names_in(ServerState.__init__)
    assert "for server in self.servers:" in inspect.getsource(uvicorn.Server.shutdown)


def test_the_parser_reports_errors_and_upgrades_as_relied_on() -> None:
    """An error of a callback is the cause of the parser's; an upgrade's error holds the offset after the head."""

    class Refusing:
        def on_message_begin(self) -> None:
            raise ValueError

    with pytest.raises(httptools.HttpParserError) as failed:
        httptools.HttpRequestParser(Refusing()).feed_data(b"GET / HTTP/1.1\r\n\r\n")
    assert isinstance(failed.value.__context__, ValueError)
    parser = httptools.HttpRequestParser(object())
    head = b"POST / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 4\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as offered:
        parser.feed_data(head + b"body")
    assert offered.value.args == (len(head),)
    assert parser.should_upgrade()
