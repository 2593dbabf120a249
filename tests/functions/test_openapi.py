"""shared/tidewire/http/openapi.json is valid, complete, and agrees with the running app."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import validate
from starlette.routing import Route
from tidewire import __version__
from tidewire.delivery.hub import Hub
from tidewire.http import ops, publish, stream, tokens, webhooks
from tidewire.monitoring.logs import request_id
from tidewire.protocol.headers import EXPOSED_HEADERS
from tidewire.protocol.subscribe_request import RESUME
from tidewire.settings.config import Settings
from tidewire.transports.memory import MemoryLog

from tests.support.api import OPENAPI, Api, check, problem_of

DOCUMENT: dict[str, Any] = json.loads(OPENAPI.read_text())
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
OPERATIONS = {
    (path, method.upper()) for path, item in DOCUMENT["paths"].items() for method in item if method in METHODS
}


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a node is, or what its `$ref` names."""
    while "$ref" in node:
        target: Any = DOCUMENT
        for name in node["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        node = target
    return node


def validator(schema: dict[str, Any]) -> OAS31Validator:
    root = {**schema, "components": DOCUMENT["components"]}
    return OAS31Validator(root, format_checker=oas31_format_checker)


def test_the_document_is_valid_openapi() -> None:
    validate(DOCUMENT)


def test_the_document_has_the_version_of_the_package() -> None:
    assert DOCUMENT["info"]["version"] == __version__


def test_the_document_that_is_served_is_this_one(api: Api) -> None:
    response = api.http.get("/api/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == DOCUMENT


def test_routes_and_documented_operations_are_the_same() -> None:
    hub, settings = Hub(MemoryLog()), Settings()
    routes = [
        route
        for route in [
            *publish.routes(hub, settings),
            *webhooks.routes(hub, settings),
            *tokens.routes(hub, settings),
            *ops.routes(hub, settings),
        ]
        if isinstance(route, Route)
    ]
    served = {(route.path, method) for route in routes for method in route.methods or () if method != "HEAD"}
    assert served | {(stream.PATH, "GET")} == OPERATIONS


@pytest.mark.parametrize(("path", "method"), sorted(OPERATIONS))
def test_operations_answer_with_documented_statuses(api: Api, path: str, method: str) -> None:
    """And every other method is a 405."""
    with api.http.stream(method, path) as response:
        assert str(response.status_code) in DOCUMENT["paths"][path][method.lower()]["responses"]
    for other in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {m for p, m in OPERATIONS if p == path}:
        problem_of(api.http.request(other, path), 405)


def examples(node: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every example in the document, with the schema that it stands beside."""
    if isinstance(node, dict):
        if "schema" in node:
            named = [example["value"] for example in node.get("examples", {}).values()]
            for value in [*named, *([node["example"]] if "example" in node else [])]:
                yield node["schema"], value
        for value in node.values():
            yield from examples(value)
    elif isinstance(node, list):
        for value in node:
            yield from examples(value)


def test_every_example_matches_its_schema() -> None:
    found = list(examples(DOCUMENT))
    assert len(found) >= 5
    for schema, value in found:
        validator(schema).validate(value)


def test_every_error_is_a_problem_and_every_operation_can_fail() -> None:
    for path, method in OPERATIONS:
        responses = DOCUMENT["paths"][path][method.lower()]["responses"]
        assert "500" in responses
        for status, response in responses.items():
            if int(status) >= 400:
                content = resolved(response)["content"]
                assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def test_every_answer_has_a_readable_request_id() -> None:
    """CORS exposes it to pages of other origins."""
    for path, method in OPERATIONS:
        for status, response in DOCUMENT["paths"][path][method.lower()]["responses"].items():
            header = resolved(resolved(response)["headers"]["X-Request-Id"])
            assert header["required"], (path, status)
            assert re.fullmatch(header["schema"]["pattern"], request_id(None))
    assert "X-Request-Id" in EXPOSED_HEADERS.split(", ")


BODIES: list[Any] = [
    {"type": "t", "data": None},
    {"type": "t" * 128, "data": 1},
    {"type": "t" * 129, "data": 1},
    {"type": "", "data": 1},
    {"type": "realtime.x", "data": 1},
    {"type": "realtimes", "data": 1},
    {"type": "error", "data": 1},
    {"type": "open", "data": 1},
    {"type": "Open", "data": 1},
    {"type": "errors", "data": 1},
    {"type": "message", "data": 1},
    {"type": "a b", "data": 1},
    {"type": "t"},
    {"data": 1},
    {"type": 1, "data": 1},
    {"type": "t", "data": 1, "x": 1},
    {"type": "t", "data": 1, "id": None},
    {"type": "t", "data": 1, "id": "i" * 256},
    {"type": "t", "data": 1, "id": "i" * 257},
    {"type": "t", "data": 1, "id": ""},
    {"type": "t", "data": 1, "id": "a b"},
    {"type": "t", "data": 1, "id": "é"},
    {"type": "t", "data": 1, "userIds": None},
    {"type": "t", "data": 1, "userIds": []},
    {"type": "t", "data": 1, "userIds": ["ü😀 u"]},
    {"type": "t", "data": 1, "userIds": ["😀" * 256]},
    {"type": "t", "data": 1, "userIds": ["u" * 257]},
    {"type": "t", "data": 1, "userIds": ["a\nb"]},
    {"type": "t", "data": 1, "userIds": ["a\x7f"]},
    {"type": "t", "data": 1, "userIds": ["a\u2028"]},
    {"type": "t", "data": 1, "userIds": [""]},
    {"type": "t", "data": 1, "userIds": [1]},
    {"type": "t", "data": 1, "userIds": ["u"] * 1_000},
    {"type": "t", "data": 1, "userIds": ["u"] * 1_001},
    [],
    [{"type": "t", "data": 1}],
    [{"type": "t", "data": 1}] * 100,
    [{"type": "t", "data": 1}] * 101,
    5,
]
EVENT_IN = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
CLOUDEVENTS: list[Any] = [
    EVENT_IN,
    {**EVENT_IN, "data": {"a": 1}, "subject": "s", "time": "2026-11-23T10:00:00Z", "userids": "u1, u2"},
    {**EVENT_IN, "specversion": "0.3"},
    {**EVENT_IN, "source": ""},
    {**EVENT_IN, "id": None},
    {**EVENT_IN, "subject": None, "x": None, "userids": None},
    {**EVENT_IN, "datacontenttype": "application/vnd.x+json; charset=utf-8"},
    {**EVENT_IN, "datacontenttype": "text/plain"},
    {**EVENT_IN, "time": "yesterday"},
    {**EVENT_IN, "userids": ""},
    {**EVENT_IN, "userids": " , "},
    {**EVENT_IN, "userids": ["u1"]},
    {**EVENT_IN, "userids": 5},
    {**EVENT_IN, "data_base64": "AA=="},
    {**EVENT_IN, "userIds": "u1"},
    {**EVENT_IN, "x": 5},
    {**EVENT_IN, "x": 2**31},
    {**EVENT_IN, "x": 1.5},
    {**EVENT_IN, "x": True},
    {**EVENT_IN, "x": "a\nb"},
    {**EVENT_IN, "x": "a" * 1_025},
    {**EVENT_IN, **{f"x{n}": "" for n in range(28)}},
    {**EVENT_IN, **{f"x{n}": "" for n in range(30)}},
]


@pytest.mark.parametrize(
    ("content_type", "bodies"),
    [
        ("application/json", BODIES),
        ("application/cloudevents+json", CLOUDEVENTS),
        ("application/cloudevents-batch+json", [[body] for body in CLOUDEVENTS]),
    ],
    ids=["json", "structured", "batched"],
)
def test_the_server_accepts_what_the_schema_accepts(api: Api, content_type: str, bodies: list[Any]) -> None:
    schema = DOCUMENT["paths"]["/api/publish"]["post"]["requestBody"]["content"][content_type]["schema"]
    by_schema = [validator(schema).is_valid(body) for body in bodies]
    responses = [api.post(json.dumps(body).encode(), content_type) for body in bodies]
    for response in responses:
        check(response.json(), "Receipts" if response.status_code == 202 else "Problem")
    taken = [response.status_code == 202 for response in responses]
    assert [body for body, ours, theirs in zip(bodies, taken, by_schema, strict=True) if ours != theirs] == []
    assert True in taken
    assert False in taken


def test_every_parameter_is_documented() -> None:
    source = (OPENAPI.parents[1] / "protocol" / "subscribe_request.py").read_text()
    read = {*re.findall(r'query\.get\("([A-Za-z_]+)"', source), RESUME[0], "types"}
    operation = DOCUMENT["paths"]["/api/events"]["get"]
    assert read == {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
