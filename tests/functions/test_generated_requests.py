"""Requests made from the OpenAPI document, valid and invalid: each response is one that the document lists.

The requests are the same in every run. They reach cases that no list of ours has, because the document is the list.
"""

import itertools
import json
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.result import Ok

from tests.support.api import OPENAPI, Api
from tests.support.tokens import PUBLISH_KEY, user_token

EXAMPLES = 15  # of each kind and operation: about ten seconds in all
DOCUMENT = json.loads(OPENAPI.read_text())
# The valid headers of a publish depend on its body in ways that no schema expresses: see test_cloudevents.py.
del DOCUMENT["paths"]["/api/publish"]["post"]["parameters"]
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CHECKED = [  # they are there once a schema is loaded
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "positive_data_acceptance",
        "negative_data_rejection",
    )
]
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)}
BARE = {label for label in OPERATIONS if label.startswith("GET /api/") and label != "GET /api/events"}
CASES = [
    pytest.param(label, mode, id=f"{label}, {mode.value}")
    for label, mode in itertools.product(OPERATIONS, (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))
    if label not in BARE or mode is GenerationMode.POSITIVE  # an empty request cannot be wrong
]
SUBSCRIBERS = {"GET /api/events", "POST /api/tickets"}
USED = {f"u{number}" for number in range(10)}  # users of other tests

generated = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # a shorter example costs more time than it saves the reader
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_every_answer_is_one_that_the_document_names(guarded: Api, label: str, mode: GenerationMode) -> None:
    operation = OPERATIONS[label]
    headers = {"Authorization": f"Bearer {user_token('u1') if label in SUBSCRIBERS else PUBLISH_KEY}"}
    asked = 0
    with requests.Session() as session:

        @generated
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            nonlocal asked
            sent = {**headers, **settle(label, case)}
            answer = case.call(base_url=guarded.instance.url, session=session, headers=sent)
            case.validate_response(answer, checks=CHECKED, headers=sent)
            asked += 1

        ask()
    assert asked >= (1 if label in BARE else 2)


def settle(label: str, case: Any) -> dict[str, str]:
    """Make a case one that ends, and take from it what a schema cannot say; the headers to add."""
    if (case.media_type or "").startswith("application/cloudevents"):
        # JSON Schema takes 5.0 for a whole number; the JSON format of CloudEvents (section 2.2) does not.
        case.body = [written(one) for one in case.body] if isinstance(case.body, list) else written(case.body)
    if label == "POST /api/revocations" and isinstance(case.body, dict) and case.body.get("userId") in USED:
        case.body["userId"] = "nobody"  # a revocation would end the tokens of tests that share this instance
    if label != "GET /api/events":
        return {}
    wait = (case.query or {}).get("wait")
    if isinstance(wait, int | float) and 0 < wait <= 20:
        case.query["wait"] = 0.01
    return {"Accept": "application/json"}  # a stream has no end


def written(cloudevent: Any) -> Any:
    """A CloudEvent whose whole numbers are written as such."""
    if not isinstance(cloudevent, dict):
        return cloudevent
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() and name != "data" else value
        for name, value in cloudevent.items()
    }
