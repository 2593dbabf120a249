"""What `tidewire.http` (connection, server, accepting) uses of uvicorn and httptools that neither promises.

An update that changes one of these names must not pass unseen: without them a limit would silently not hold.
"""

import inspect

import httptools
import pytest
import uvicorn
from tidewire.http.connection import Connection
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

CALLED_BY_THE_LOOP = {"connection_made", "data_received", "connection_lost"}
CALLED_BY_THE_PARSER = {"on_message_begin", "on_header", "on_headers_complete", "on_body", "on_message_complete"}
CALLED_BY_UVICORN = {"_start_asgi_task", "on_response_complete", "shutdown"}
USED = {
    *("_unset_keepalive_if_required", "on_url", "pause_writing", "resume_writing"),
    *CALLED_BY_THE_LOOP,
    *CALLED_BY_THE_PARSER,
    *CALLED_BY_UVICORN,
}


def names_in(function: object) -> set[str]:
    """The attributes that a function's code names."""
    code = inspect.unwrap(function).__code__  # type: ignore[arg-type]
    return {*code.co_names, *code.co_varnames}


def test_the_protocol_has_what_is_called_and_overridden() -> None:
    own = {name for name, value in vars(Connection).items() if inspect.isfunction(value)}
    inherited = {name for name, value in vars(HttpToolsProtocol).items() if inspect.isfunction(value)}
    assert inherited >= USED
    assert own & inherited == {"__init__", *CALLED_BY_THE_LOOP, *CALLED_BY_THE_PARSER, *CALLED_BY_UVICORN}


def test_the_protocol_has_the_attributes_that_are_used() -> None:
    used = {
        *("app", "cycle", "flow", "headers", "loop", "parser", "pipeline", "scope", "server_state"),
        *("timeout_keep_alive_task", "transport"),
    }
    assert "self.url = " in inspect.getsource(HttpToolsProtocol.on_message_begin)
    assert names_in(HttpToolsProtocol.__init__) >= used
    assert {"appendleft"} <= names_in(HttpToolsProtocol.on_headers_complete)
    assert {"_start_asgi_task", "pause_reading"} <= names_in(HttpToolsProtocol.on_headers_complete)


def test_an_answer_has_the_attributes_that_are_used() -> None:
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


def test_flow_control_has_what_is_used() -> None:
    assert {"drain", "pause_reading", "resume_reading", "pause_writing", "resume_writing"} <= vars(FlowControl).keys()
    assert {"read_paused", "write_paused"} <= names_in(FlowControl.__init__)
    assert "FlowControl(transport)" in inspect.getsource(HttpToolsProtocol.connection_made)


def test_the_server_has_what_is_overridden() -> None:
    assert {"startup", "shutdown", "capture_signals", "handle_exit"} <= vars(uvicorn.Server).keys()
    assert {"server_state", "started", "should_exit"} <= names_in(uvicorn.Server.__init__)
    assert {"connections", "tasks", "total_requests", "default_headers"} <= names_in(ServerState.__init__)
    assert "for server in self.servers:" in inspect.getsource(uvicorn.Server.shutdown)


def test_the_parser_does_what_is_relied_on() -> None:
    """An error of a callback is the cause of the parser's; the error of an upgrade has the place after its head."""

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
