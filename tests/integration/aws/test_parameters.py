"""Secrets named in the environment: read at run time, cached, and read again after a rotation."""

import json
import logging
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest
from tidewire.errors import SettingsError
from tidewire.http import local, publish
from tidewire.http.lambda_entry import HttpFunction
from tidewire.primitives import aws_clients
from tidewire.settings import secrets
from tidewire.settings.config import Settings
from tidewire.settings.secrets import EAGER_AGE, MAX_AGE, Environment

from tests.functions.test_signed_rewrites import signature
from tests.support.clocks import Clock
from tests.support.processes import MakeRedis

SECRET = "hunter2" * 5


def put(name: str, value: str) -> None:
    aws_clients.client("ssm").put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)


def keep(name: str, value: str) -> str:
    return str(aws_clients.client("secretsmanager").create_secret(Name=name, SecretString=value)["ARN"])


def test_every_form_of_a_name_is_read_and_all_else_is_as_it_was() -> None:
    put("/tidewire/prod/keys", "first-key")
    put("plain", "https://id.example")
    put("/tidewire/prod/keys", "second-key")
    arn = keep("tidewire/prod", json.dumps({"jwt": SECRET, "other": 1}))
    keep("whole", "redis://:hunter2@h")
    settings = Settings.from_env(
        Environment(
            {
                "REALTIME_PUBLISH_KEYS": "ssm:/tidewire/prod/keys:1",
                "REALTIME_JWT_ISSUER": " ssm:plain ",
                "REALTIME_JWT_SECRET": f"secretsmanager:{arn}#jwt",
                "REDIS_URL": "secretsmanager:whole",
                "REALTIME_TRANSPORT": "redis",
                "REALTIME_PREFIX": "kept",
            }
        ).read()
    )
    assert [key.secret for key in settings.publish_keys] == ["first-key"]
    assert settings.jwt_issuer == "https://id.example"
    assert (settings.jwt_secret, settings.redis_url, settings.prefix) == (SECRET, "redis://:hunter2@h", "kept")


def test_many_parameters_are_read_in_as_few_requests_as_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    client = aws_clients.client("ssm")
    client.meta.events.register("provide-client-params.ssm.GetParameters", lambda params, **_: calls.append(params))
    monkeypatch.setattr(aws_clients, "client", lambda *_: client)
    for n in range(12):
        put(f"/p/{n}", str(n))
    names = {f"V{n}": f"ssm:/p/{n}" for n in range(12)} | {"AGAIN": "ssm:/p/3"}
    assert secrets.resolve(names) == {f"V{n}": str(n) for n in range(12)} | {"AGAIN": "3"}
    assert [len(call["Names"]) for call in calls] == [10, 2]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("ssm:", "must be ssm:/path/name"),
        ("ssm:/two words", "must be ssm:/path/name"),
        ("secretsmanager:", "must be secretsmanager:name-or-arn"),
        ("ssm:?", "must be ssm:/path/name"),
        ("ssm:/not?/there", "must be ssm:/path/name"),
        ("ssm:/not/there", "the parameter /not/there does not exist"),
        ("secretsmanager:not-there", "the secret not-there cannot be read (ResourceNotFoundException"),
        ("secretsmanager:whole#jwt", "not a JSON object with a member jwt"),
        ("secretsmanager:object#number", "the member number of the secret object is not a string"),
        ("secretsmanager:object#missing", "not a JSON object with a member missing"),
    ],
)
def test_a_dangling_reference_stops_the_start(value: str, problem: str) -> None:
    """The error contains names and no value."""
    keep("whole", "hunter2")
    keep("object", json.dumps({"number": 41972, "text": "hunter2"}))
    with pytest.raises(SettingsError) as caught:
        Environment({"REALTIME_JWT_SECRET": value}).read()
    assert str(caught.value).startswith("REALTIME_JWT_SECRET: ")
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "41972" not in str(caught.value)


def test_a_container_resolves_references_at_its_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REALTIME_JWT_SECRET", "ssm:/a-name-that-anybody-could-guess-and-sign-with")
    assert local.main() == 2
    assert capsys.readouterr().err.startswith("tidewire: REALTIME_JWT_SECRET: the parameter /a-name-that-any")


def test_a_rotated_value_is_read_after_its_maximum_age() -> None:
    clock = Clock()
    put("/key", "old")
    environment = Environment({"REALTIME_PUBLISH_KEYS": "ssm:/key"}, clock)
    first = environment.read()
    put("/key", "new")
    clock.now += MAX_AGE - 1
    assert environment.read() is first
    clock.now += 1
    assert environment.read()["REALTIME_PUBLISH_KEYS"] == "new"
    second = environment.read()
    clock.now += MAX_AGE
    assert environment.read() is second, "read again and found the same: nothing is made anew"


def test_a_refused_value_is_read_again_at_a_limited_rate() -> None:
    clock = Clock()
    put("/key", "old")
    environment = Environment({"REALTIME_PUBLISH_KEYS": "ssm:/key"}, clock)
    first = environment.read()
    put("/key", "new")
    environment.request_refresh()
    assert environment.read() is first, "it was read a moment ago"
    clock.now += EAGER_AGE
    environment.request_refresh()
    assert environment.read()["REALTIME_PUBLISH_KEYS"] == "new"


def test_a_store_that_is_unavailable_later_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    put("/key", "hunter2")
    environment = Environment({"REALTIME_PUBLISH_KEYS": "ssm:/key"}, clock)
    first = environment.read()
    aws_clients.client("ssm").delete_parameter(Name="/key")
    clock.now += MAX_AGE
    with caplog.at_level(logging.WARNING):
        assert environment.read() is first
    assert "REALTIME_PUBLISH_KEYS: the parameter /key does not exist" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_warm_function_follows_rotated_secrets(monkeypatch: pytest.MonkeyPatch, make_redis: MakeRedis) -> None:
    old, new = make_redis(aof=False), make_redis(aof=False)
    put("/key", "old-key")
    put("/redis", old.url)
    clock = Clock()
    monkeypatch.setenv("REALTIME_TRANSPORT", "redis")
    monkeypatch.setenv("REALTIME_PUBLISH_KEYS", "ssm:/key")
    monkeypatch.setenv("REDIS_URL", "ssm:/redis")
    with closing(HttpFunction(publish.routes, clock)) as function:
        assert _publish(function, "old-key") == 202
        assert _publish(function, "new-key") == 401
        put("/key", "old-key,new-key")
        clock.now += MAX_AGE
        assert [_publish(function, "new-key"), _publish(function, "old-key")] == [202, 202]
        put("/redis", new.url)
        old.stop()
        clock.now += EAGER_AGE
        assert _publish(function, "new-key") == 503
        assert _publish(function, "new-key") == 202, "a refusal refreshes the secrets for the next call"
        assert new.ask("EXISTS rt:all {rt:all}:meta") != ":0"


def test_an_optional_parameter_is_unset_while_missing() -> None:
    clock = Clock()
    put("/key", "a-key")
    names = {"REALTIME_PUBLISH_KEYS": "ssm:/key", "REALTIME_NETLIFY_SECRET": "ssm:/netlify?"}
    environment = Environment(names, clock)
    settings = Settings.from_env(environment.read())
    assert (settings.netlify_secret, [key.secret for key in settings.publish_keys]) == (None, ["a-key"])
    put("/netlify", SECRET)
    clock.now += MAX_AGE
    assert Settings.from_env(environment.read()).netlify_secret == SECRET
    aws_clients.client("ssm").delete_parameter(Name="/netlify")
    clock.now += MAX_AGE
    assert Settings.from_env(environment.read()).netlify_secret is None
    with pytest.raises(SettingsError, match="REALTIME_PUBLISH_KEYS: the parameter /other does not exist"):
        Environment({**names, "REALTIME_PUBLISH_KEYS": "ssm:/other"}).read()


def test_an_unreadable_optional_parameter_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may exist, and without it a protection would be off."""
    monkeypatch.setattr(aws_clients, "TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match="REALTIME_NETLIFY_SECRET: the parameters /netlify cannot be read"):
        Environment({"REALTIME_NETLIFY_SECRET": "ssm:/netlify?"}).read()


def test_a_new_rewrite_secret_closes_a_warm_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To requests that do not come through the site."""
    clock = Clock()
    monkeypatch.setenv("REALTIME_NETLIFY_SECRET", "ssm:/tidewire/prod/netlify-secret?")
    with closing(HttpFunction(publish.routes, clock)) as function:
        assert _publish(function, "") == 202, "no signature is required while there is no secret"
        put("/tidewire/prod/netlify-secret", SECRET)
        clock.now += MAX_AGE
        assert _publish(function, "") == 403
        assert _publish(function, "", signature(SECRET)) == 202


def _publish(function: HttpFunction, key: str, signature: str = "") -> int:
    event: Mapping[str, Any] = {
        "version": "2.0",
        "rawPath": "/api/publish",
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "authorization": f"Bearer {key}", "x-nf-sign": signature},
        "requestContext": {"http": {"method": "POST", "path": "/api/publish", "sourceIp": "192.0.2.1"}},
        "body": '{"type": "t", "data": 1}',
        "isBase64Encoded": False,
    }
    answer: dict[str, Any] = function(dict(event), None)
    return int(answer["statusCode"])
