"""`tidewire webhook try`: the events that a server would append, without a server and without a secret."""

import json
from pathlib import Path

import pytest

from tests.integration.cli.running import run
from tests.unit.ingest.webhooks.example import CONFIG, PAYLOADS

STATUS = str(PAYLOADS / "github" / "deployment_status.json")
STATUS_EVENT = {
    "type": "deploy-ready",
    "data": {
        "environment": "production",
        "sha": "f95f852bd8fca8fcc58a9a2d6c842781e32a215e",
        "at": "2019-05-15T15:20:55Z",
    },
}


def tried(*arguments: str, text: str = "") -> tuple[int, list[dict[str, object]], str]:
    ran = run("webhook", "try", *arguments, settings={"REALTIME_CONFIG": str(CONFIG)}, text=text)
    return ran.code, [json.loads(line) for line in ran.out.splitlines()], ran.err


def test_it_shows_the_event_with_its_id_and_audience() -> None:
    code, events, problem = tried("stripe", str(PAYLOADS / "stripe" / "payment_intent.succeeded.json"))
    assert (code, problem) == (0, "")
    assert events == [
        {
            "id": "evt_3TdWreTidewire0001aB9xQ2",
            "type": "order-paid",
            "userIds": ["u1"],
            "data": {"order": "1047", "amount": 4999, "currency": "eur"},
        }
    ]


def test_headers_can_be_given_and_a_file_can_be_piped_in() -> None:
    headers = ("--header", "X-GitHub-Event: deployment_status", "-H", "x-github-delivery: d-1")
    assert tried("github", STATUS, *headers) == (0, [{"id": "d-1", **STATUS_EVENT}], "")
    assert tried("github", "-", *headers, text=Path(STATUS).read_text())[1] == [{"id": "d-1", **STATUS_EVENT}]


def test_it_reports_a_delivery_without_a_rule() -> None:
    code, events, problem = tried("github", STATUS)
    assert (code, events) == (0, [])
    assert problem.startswith("No rule matches this delivery")


@pytest.mark.parametrize(
    ("arguments", "text", "code", "problem"),
    [
        (
            ("gitlab", "-"),
            "{}",
            1,
            "tidewire: realtime.toml has no source of this name; its sources: github, ",
        ),
        (("github", "-"), "{", 1, "tidewire: The body is not valid JSON"),
        (("github", "missing.json"), "", 2, "missing.json"),
        (("github", "-", "--header", "X-GitHub-Event"), "{}", 2, "must be written 'Name: value'"),
        (
            ("github", "-", "-H", "X-GitHub-Event: issues"),
            '{"issue": {"assignees": [7]}, "action": "x"}',
            1,
            "tidewire: The payload does not fit realtime.toml: sources.github.events[1].userIds: must not be empty",
        ),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(arguments: tuple[str, ...], text: str, code: int, problem: str) -> None:
    ran, events, error = tried(*arguments, text=text)
    assert (ran, events) == (code, [])
    assert problem in error
    assert "Traceback" not in error


def test_without_a_file_the_error_names_the_variable() -> None:
    ran = run("webhook", "try", "github", STATUS)
    assert (ran.code, ran.out) == (1, "")
    assert "is REALTIME_CONFIG set?" in ran.err
