"""The start fails closed: a wrong setting stops it with one line, and no default disables authentication."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.support.api import Api, problem_of
from tests.support.processes import ROOT, MakeInstance, inherited
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token

REDIS = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": "redis://127.0.0.1:9"}
WRONG: dict[str, tuple[dict[str, str], str]] = {
    "redis without any key": (REDIS, "REALTIME_AUTH"),
    "redis with empty keys": ({**REDIS, "REALTIME_PUBLISH_KEYS": " , ", "REALTIME_JWT_SECRET": " "}, "REALTIME_AUTH"),
    "required without any key": ({"REALTIME_AUTH": "required"}, "REALTIME_AUTH"),
    "a word that is no choice": ({"REALTIME_AUTH": "off hunter2"}, "REALTIME_AUTH"),
    "an unknown transport": ({"REALTIME_TRANSPORT": "hunter2"}, "REALTIME_TRANSPORT"),
    "redis without its URL": ({"REALTIME_TRANSPORT": "redis", "REALTIME_AUTH": "none"}, "REDIS_URL"),
    "a URL of something else": ({**REDIS, "REALTIME_AUTH": "none", "REDIS_URL": "ftp://u:hunter2@h"}, "REDIS_URL"),
    "a key set over plain http": ({"REALTIME_JWKS_URL": "http://u:hunter2@example.com/jwks"}, "REALTIME_JWKS_URL"),
    "any origin": ({"REALTIME_ALLOWED_ORIGINS": "*"}, "REALTIME_ALLOWED_ORIGINS"),
    "an origin with a path": ({"REALTIME_ALLOWED_ORIGINS": "https://a.example/hunter2"}, "REALTIME_ALLOWED_ORIGINS"),
    "a duration that is none": ({"REALTIME_HEARTBEAT": "hunter2"}, "REALTIME_HEARTBEAT"),
    "a port that is none": ({"PORT": "hunter2"}, "PORT"),
}


def start(settings: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    environment = {**inherited(), "PORT": "0", **settings}
    command = [sys.executable, "-m", "functions.local"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(("settings", "variable"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_setting_stops_the_start_with_one_line(settings: dict[str, str], variable: str) -> None:
    ended = start(settings)
    assert ended.returncode == 2
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"tidewire: {variable}: ")
    assert "hunter2" not in line


def test_a_publish_key_alone_shuts_the_streams_too(make_instance: MakeInstance) -> None:
    instance = make_instance(REALTIME_PUBLISH_KEYS=PUBLISH_KEY)
    api = Api(instance).acting(key=PUBLISH_KEY, token=user_token("u1"))
    api.publish({"type": "t", "data": 1})
    problem_of(api.get(), 401)
    problem_of(api.acting().get(params={"userId": "u1"}), 401)
    problem_of(api.acting().post(b'{"type": "t", "data": 1}'), 401)
    assert "nobody can subscribe" in instance.log()
    api.close()


def test_a_token_secret_alone_shuts_publishing_too(make_instance: MakeInstance) -> None:
    instance = make_instance(REALTIME_JWT_SECRET=SECRET)
    api = Api(instance).acting(key=SECRET, token=user_token("u1"))
    api.page()
    problem_of(api.post(b'{"type": "t", "data": 1}'), 401)
    problem_of(api.acting().get(), 401)
    assert "nobody can publish" in instance.log()
    api.close()


def test_redis_is_open_only_with_an_explicit_auth_none(redis_api: Api) -> None:
    assert redis_api.post(b'{"type": "t", "data": 1}').status_code == 202
    assert "authentication: off" in redis_api.instance.log_file.read_text()


def test_an_inherited_environment_is_all_that_a_start_needs() -> None:
    assert not [name for name in inherited() if name.startswith("REALTIME_")], os.environ
