"""publish, history, tail and token against a real server."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.running import run, run_process
from tests.support.api import unique
from tests.support.processes import ROOT, inherited
from tests.support.tokens import SECRET, user_token


def events(text: str) -> list[dict[str, Any]]:
    """The JSON objects of an output, one per line."""
    return [json.loads(line) for line in text.splitlines()]


def test_published_events_reach_their_user_digit_by_digit(at: dict[str, str]) -> None:
    """In the history and in the tail of this user, and of no other one."""
    user, kind = unique("u"), unique("t")
    first = run(
        "publish", kind, ' {"id": 1.0, "big": 123456789012345678901} ', "--user", user, "--id", kind, settings=at
    )
    assert (first.code, first.err) == (0, "")
    again = run("publish", kind, "1", "--user", user, "--id", kind, "--json", settings=at)
    assert events(again.out)[0]["duplicate"] is True
    run("publish", kind, "-", "--user", user, settings=at, text="null")
    run("publish", kind, "not json", "--text", "--user", user, settings=at)
    mine = {**at, "TIDEWIRE_TOKEN": run("token", user, settings=at).out.strip()}
    seen = run("history", "--types", kind, "--json", settings=mine)
    assert '"data":{"id": 1.0, "big": 123456789012345678901}' in seen.out
    assert [event["data"] for event in events(seen.out)][1:] == [None, "not json"]
    tail = run("tail", "--types", kind, "--from", "earliest", "--count", "3", "--json", settings=mine)
    assert tail.code == 0
    assert [event["id"] for event in events(tail.out)] == [event["id"] for event in events(seen.out)]
    after = run("history", "--cursor", events(tail.out)[1]["cursor"], "--types", kind, settings=mine)
    assert after.out.splitlines()[0].endswith(f'{kind}  "not json"')
    other = {**at, "TIDEWIRE_TOKEN": user_token(unique("other"))}
    assert run("history", "--types", kind, "--json", settings=other).out == ""


def test_a_file_is_published_in_batches_without_duplicates(at: dict[str, str], tmp_path: Path) -> None:
    kind = unique("t")
    file = tmp_path / "events.ndjson"
    file.write_text("".join(json.dumps({"type": kind, "data": n, "id": f"{kind}-{n}"}) + "\n\n" for n in range(250)))
    assert run("publish", "--lines", str(file), settings=at).out == "published 250 events, 0 of them duplicates\n"
    again = run("publish", "--lines", str(file), "--json", settings=at)
    assert events(again.out) == [{"published": 250, "duplicates": 250}]
    mine = {**at, "TIDEWIRE_TOKEN": user_token("u1")}
    seen = events(run("history", "--types", kind, "--json", "--limit", "0", settings=mine).out)
    assert [event["data"] for event in seen] == list(range(250))
    assert len(events(run("history", "--types", kind, "--limit", "7", "--json", settings=mine).out)) == 7


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["publish", "t", "{"], "DATA is not JSON"),
        (["publish", "t", '1, "userIds": ["u2"]'], "DATA is not JSON"),
        (["publish", "t"], "give TYPE and DATA"),
        (["publish", "t", "1", "--url", "example.com"], "must be an http:// or https:// address"),
        (["token", "a\nb"], "USER must have"),
        (["token", "u1", "--types", "a b"], "neither an event type nor a prefix"),
        (["history", "--limit", "-1"], "Invalid value for '--limit'"),
    ],
)
def test_wrong_usage_is_code_2_without_a_request(arguments: list[str], problem: str) -> None:
    ran = run(*arguments, settings={"TIDEWIRE_URL": "http://127.0.0.1:9", "REALTIME_JWT_SECRET": SECRET})
    assert ran.code == 2
    assert problem in ran.err


def test_a_refusal_is_code_1_and_no_response_code_3(at: dict[str, str]) -> None:
    """And no secret is shown."""
    wrong = {**at, "TIDEWIRE_KEY": "hunter2", "TIDEWIRE_TOKEN": "hunter2"}
    for arguments in (["publish", "t", "1"], ["history"], ["tail"]):
        ran = run(*arguments, settings=wrong)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.splitlines()[-1].startswith("tidewire: 401: ")
        assert "hunter2" not in ran.err
    gone = run("publish", "t", "1", settings={**wrong, "TIDEWIRE_URL": "http://127.0.0.1:9"})
    assert (gone.code, gone.err) == (3, "tidewire: http://127.0.0.1:9: no response (ConnectError)\n")
    unset = run("token", "u1")
    assert unset.code == 2
    assert unset.err.startswith("tidewire: REALTIME_JWT_SECRET: is not set")


def test_the_deployment_makes_a_token_that_it_accepts(at: dict[str, str]) -> None:
    answer = events(run("token", "--remote", "u1", "--ttl", "60", "--json", settings=at).out)[0]
    assert answer["expiresIn"] == 60
    assert run("history", settings={**at, "TIDEWIRE_TOKEN": answer["token"]}).code == 0


def test_no_event_can_break_out_of_the_terminal_table(at: dict[str, str]) -> None:
    kind = unique("t")
    run("publish", kind, "evil \x9b2J\u202e end", "--text", settings=at)
    main, child = pty.openpty()
    command = [sys.executable, "-m", "tidewire", "tail", "--types", kind, "--from", "earliest", "--count", "1"]
    settings = {
        **inherited(),
        **at,
        "TIDEWIRE_TOKEN": user_token("u1"),
        "COLUMNS": "100",
        "LINES": "20",
        "TERM": "xterm",
    }
    process = subprocess.Popen(command, cwd=ROOT, env=settings, stdin=child, stdout=child, stderr=child)
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(main, 65_536):
            shown += chunk
    except OSError:  # Linux: the other end is closed
        pass
    finally:
        os.close(main)
    assert process.wait(10) == 0, shown
    text = shown.decode()
    assert "time (UTC)" in text
    assert "evil" in text
    assert "\x9b" not in text
    assert "\u202e" not in text


def test_completion_offers_commands_and_options_in_every_shell() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_TIDEWIRE_COMPLETE" in run_process("completion", shell).out
    words = {"_TIDEWIRE_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    assert run_process(settings={**words, "COMP_WORDS": "tidewire his"}).out == "plain,history\n"
    offered = run_process(settings={**words, "COMP_WORDS": "tidewire tail --t", "COMP_CWORD": "2"}).out
    assert set(offered.split()) == {"plain,--types", "plain,--token"}
