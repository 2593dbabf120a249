"""The environment: every variable read as documented, or refused in one line that names it."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import pytest
import tidewire.settings.config
import tidewire.settings.endpoints
import tidewire.settings.variables
from tidewire.errors import SettingsError
from tidewire.model.audience import Interest
from tidewire.model.cursor import MAX_LENGTH, MAX_OFFSET, Cursor, Position
from tidewire.model.permissions import TOKENS, AllowedTypes, PublishKey
from tidewire.settings.config import MAX_PARTITION_NAMES, MAX_PARTITION_TYPES, MAX_USER_SHARDS, Settings
from tidewire.settings.variables import NAMES, Rate
from tidewire.wiring import make_hub, make_partitions

from tests.support.processes import ROOT

REDIS = {"REALTIME_TRANSPORT": "redis", "REALTIME_AUTH": "none", "REDIS_URL": "redis://h:6379"}
REST = {"REALTIME_TRANSPORT": "redis", "REALTIME_AUTH": "none"}
UPSTASH = {**REST, "UPSTASH_REDIS_REST_URL": "https://h.example", "UPSTASH_REDIS_REST_TOKEN": "tok"}
KEYS = {"REALTIME_PUBLISH_KEYS": "k"}
LIMITED = (
    PublishKey("a", AllowedTypes(frozenset({"v"}), ("t-",)), frozenset()),
    PublishKey("b:c", AllowedTypes(frozenset({"u"})), frozenset()),
)
MINTING = PublishKey("a", AllowedTypes(), frozenset({TOKENS}))
BUS = {"REALTIME_TRANSPORT": "eventbridge", "REALTIME_AUTH": "none", "AWS_REGION": "eu-west-1"}
BUS_ARN = "arn:aws:events:us-east-2:123456789012:event-bus/events"
OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/dead"

Env = Mapping[str, str]

GOOD: list[tuple[str, str, Env, str, Any]] = [
    # variable, its value, what else is set, the setting, its value
    ("REALTIME_TRANSPORT", "memory", {}, "transport", "memory"),
    ("REALTIME_TRANSPORT", " redis ", REDIS, "transport", "redis"),
    ("REALTIME_TRANSPORT", "redis-pubsub", REDIS, "transport", "redis-pubsub"),
    ("REDIS_URL", "rediss://u:p@h:1/2", REDIS, "redis_url", "rediss://u:p@h:1/2"),
    ("REDIS_URL", "unix:///tmp/redis.sock", REDIS, "redis_url", "unix:///tmp/redis.sock"),
    ("REDIS_URL", "redis+sentinel://a,b/m", REDIS, "redis_url", "redis+sentinel://a,b/m"),
    ("REDIS_URL", "rediss+cluster://a,b", REDIS, "redis_url", "rediss+cluster://a,b"),
    ("REDIS_URL", "https://h.example", {**REST, "REDIS_TOKEN": "t"}, "rest_url", "https://h.example"),
    ("REDIS_TOKEN", "tok", {**REST, "REDIS_URL": "https://h.example"}, "rest_token", "tok"),
    ("UPSTASH_REDIS_REST_URL", "https://h.example/", UPSTASH, "rest_url", "https://h.example"),
    ("UPSTASH_REDIS_REST_URL", "http://127.0.0.1:8080", UPSTASH, "rest_url", "http://127.0.0.1:8080"),
    ("UPSTASH_REDIS_REST_TOKEN", "tok", UPSTASH, "rest_token", "tok"),
    ("REALTIME_TRANSPORT", "eventbridge", BUS, "event_bus", "default"),
    ("REALTIME_EVENT_BUS", "app-events", BUS, "event_bus", "app-events"),
    ("REALTIME_EVENT_BUS", BUS_ARN, BUS, "event_bus", BUS_ARN),
    ("REALTIME_EVENT_BUS", BUS_ARN, BUS, "aws_region", "us-east-2"),
    ("REALTIME_EVENT_SOURCE", "my.app", {}, "event_source", "my.app"),
    ("REALTIME_DEAD_LETTER_QUEUE", QUEUE, {}, "dead_letter_queue", QUEUE),
    ("AWS_REGION", "eu-west-1", {"AWS_DEFAULT_REGION": "us-east-1"}, "aws_region", "eu-west-1"),
    ("AWS_DEFAULT_REGION", "us-east-1", {}, "aws_region", "us-east-1"),
    ("REALTIME_POLL_MIN", "500ms", {}, "poll_min", 0.5),
    ("REALTIME_POLL_MAX", "10s", {}, "poll_max", 10.0),
    (
        "REALTIME_SLEEP_AFTER",
        "5m",
        {"REALTIME_TRANSPORT": "postgres", "DATABASE_URL": "postgres://h/d", "REALTIME_AUTH": "none"},
        "sleep_after",
        300.0,
    ),
    ("REALTIME_WAKE_EVERY", "12h", {}, "wake_every", 43_200.0),
    ("REALTIME_PREFIX", "app.v2-x_y", {}, "prefix", "app.v2-x_y"),
    ("REALTIME_AUTH", "none", KEYS, "auth_required", False),
    ("REALTIME_AUTH", "required", KEYS, "auth_required", True),
    ("REALTIME_PUBLISH_KEYS", "a, b ,,c", {}, "publish_keys", tuple(map(PublishKey, "abc"))),
    ("REALTIME_PUBLISH_KEYS", "a:t-*,b:c:u,a:v", {}, "publish_keys", LIMITED),
    ("REALTIME_PUBLISH_KEYS", "a:realtime.tokens", {}, "publish_keys", (MINTING,)),
    ("REALTIME_PUBLISH_KEYS", "a", {}, "auth_required", True),
    ("REALTIME_JWT_SECRET", "s" * 32, {}, "jwt_secret", "s" * 32),
    ("REALTIME_JWT_SECRET", "s" * 32, {}, "auth_required", True),
    ("REALTIME_JWKS_URL", "https://id.example/jwks", {}, "jwks_url", "https://id.example/jwks"),
    ("REALTIME_JWKS_URL", "http://localhost:1/jwks", {}, "jwks_url", "http://localhost:1/jwks"),
    ("REALTIME_JWT_ISSUER", "https://id.example", {}, "jwt_issuer", "https://id.example"),
    ("REALTIME_JWT_AUDIENCE", "app", {}, "jwt_audience", "app"),
    ("REALTIME_JWT_LEEWAY", "30s", {}, "jwt_leeway", 30.0),
    ("REALTIME_RETENTION", "7d", {}, "retention", 604_800.0),
    ("REALTIME_RETENTION", "1.5h", {}, "retention", 5_400.0),
    ("REALTIME_RETENTION", "90", {}, "retention", 90.0),
    ("REALTIME_MAX_EVENTS", "1_000", {}, "max_events", 1_000),
    ("REALTIME_MEMORY_MIB", "16", {}, "memory_mib", 16),
    ("REALTIME_IDEMPOTENCY_WINDOW", "10m", {}, "idempotency_window", 600.0),
    ("REALTIME_HEARTBEAT", "500ms", {}, "heartbeat", 0.5),
    ("REALTIME_PUBLISH_RATE", "100/1s", {}, "publish_rate", Rate(100, 1.0)),
    ("REALTIME_PUBLISH_RATE", "6_000 / 1m", {}, "publish_rate", Rate(6_000, 60.0)),
    ("REALTIME_MAX_CONNECTIONS", "10_000", {}, "max_connections", 10_000),
    ("REALTIME_MAX_USER_CONNECTIONS", "20", {}, "max_user_connections", 20),
    ("REALTIME_HEAD_SECONDS", "5s", {}, "head_seconds", 5.0),
    ("REALTIME_BODY_SECONDS", "2m", {}, "body_seconds", 120.0),
    ("REALTIME_KEEP_ALIVE", "620s", {}, "keep_alive", 620.0),
    ("REALTIME_STALL_SECONDS", "30s", {}, "stall_seconds", 30.0),
    ("REALTIME_STREAM_URL", "https://fn.example/api/events", {}, "stream_url", "https://fn.example/api/events"),
    ("REALTIME_STREAM_URL", "http://localhost:8787/api/events", {}, "stream_url", "http://localhost:8787/api/events"),
    ("REALTIME_STREAM_SECONDS", "60", {}, "stream_seconds", 60.0),
    ("REALTIME_STREAM_SECONDS", "unlimited", {"AWS_LAMBDA_FUNCTION_NAME": "f"}, "stream_seconds", None),
    ("AWS_LAMBDA_FUNCTION_NAME", "f", {}, "stream_seconds", 300.0),
    ("REALTIME_RETRY", "0s", {}, "retry", 0.0),
    (
        "REALTIME_ALLOWED_ORIGINS",
        "https://a.example, http://localhost:3000",
        {},
        "allowed_origins",
        frozenset({"https://a.example", "http://localhost:3000"}),
    ),
    (
        "REALTIME_ALLOWED_ORIGINS",
        "HTTPS://App.Example.com:443,http://A.example:80,http://a.example,https://b.example:0443,http://[::1]:3000",
        {},
        "allowed_origins",
        frozenset({"https://app.example.com", "http://a.example", "https://b.example", "http://[::1]:3000"}),
    ),
    ("REALTIME_ALLOWED_ORIGINS", "http://a.example:443", {}, "allowed_origins", frozenset({"http://a.example:443"})),
    ("REALTIME_NETLIFY_SECRET", "hunter2", {}, "netlify_secret", "hunter2"),
    ("REALTIME_PARTITIONS", "task-updated,a.b", {}, "partitions", frozenset({"task-updated", "a.b"})),
    ("REALTIME_FALLBACK", "memory", REDIS, "fallback", True),
    ("REALTIME_FALLBACK", "memory", UPSTASH, "fallback", True),
    ("REALTIME_FALLBACK", "none", {}, "fallback", False),
    ("REALTIME_METRICS_NAMESPACE", "App/Tidewire", {}, "metrics_namespace", "App/Tidewire"),
    ("OTEL_TRACES_EXPORTER", "otlp", {}, "trace_exporters", ("otlp",)),
    ("OTEL_TRACES_EXPORTER", "console, otlp", {}, "trace_exporters", ("otlp", "console")),
    ("OTEL_TRACES_EXPORTER", "none", OTLP, "trace_exporters", ()),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318", {}, "trace_exporters", ("otlp",)),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c.example/v1/traces?k=1", {}, "trace_exporters", ("otlp",)),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", OTLP, "trace_exporters", ("otlp",)),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf", OTLP, "trace_exporters", ("otlp",)),
    ("OTEL_SDK_DISABLED", "true", OTLP, "trace_exporters", ()),
    ("OTEL_SDK_DISABLED", "True", OTLP, "trace_exporters", ()),
    ("OTEL_SDK_DISABLED", "false", OTLP, "trace_exporters", ("otlp",)),
    ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio", OTLP, "trace_exporters", ("otlp",)),
    ("OTEL_TRACES_SAMPLER_ARG", "0.01", {**OTLP, "OTEL_TRACES_SAMPLER": "traceidratio"}, "trace_exporters", ("otlp",)),
    ("REALTIME_USER_SHARDS", "64", {}, "user_shards", 64),
    ("REALTIME_USER_SHARDS", "0", {}, "user_shards", 0),
    ("REALTIME_CONFIG", "deploy/realtime.toml", {}, "config_file", "deploy/realtime.toml"),
    ("REALTIME_LOG_LEVEL", "warning", {}, "log_level", "warning"),
    ("REALTIME_LOG_FORMAT", "json", {}, "log_format", "json"),
    ("HOST", "0.0.0.0", {}, "host", "0.0.0.0"),  # noqa: S104 — only read
    ("PORT", "0", {}, "port", 0),
]

BAD: list[tuple[str, str, Env]] = [
    ("REALTIME_TRANSPORT", "kafka", {}),
    ("REALTIME_TRANSPORT", "Redis", {}),
    ("REDIS_URL", "", REDIS),
    ("REDIS_URL", "", {**REDIS, "REALTIME_TRANSPORT": "redis-pubsub"}),
    ("REDIS_URL", "https://h.example", {**REDIS, "REALTIME_TRANSPORT": "redis-pubsub"}),
    ("REDIS_URL", "hunter2.example:6379", REDIS),
    ("REDIS_URL", "http://hunter2.example", {**REDIS, "REDIS_TOKEN": "t"}),
    ("REDIS_URL", "https://user:hunter2@h.example", {**REDIS, "REDIS_TOKEN": "t"}),
    ("REDIS_URL", "https://[hunter2", {**REDIS, "REDIS_TOKEN": "t"}),
    ("REDIS_URL", "redis://[hunter2", REDIS),
    ("REDIS_URL", "redis://h:hunter2", REDIS),
    ("REDIS_URL", "redis+sentinel://:hunter2@h", REDIS),
    ("REDIS_URL", "redis+sentinel://:hunter2@h/m", {**REDIS, "REALTIME_TRANSPORT": "redis-pubsub"}),
    ("REDIS_URL", "redis+cluster://:hunter2@h", {**REDIS, "REALTIME_TRANSPORT": "redis-pubsub"}),
    ("REDIS_TOKEN", "", {**REDIS, "REDIS_URL": "https://h.example"}),
    ("REDIS_TOKEN", "hunter2 \x01", {**REDIS, "REDIS_URL": "https://h.example"}),
    ("UPSTASH_REDIS_REST_URL", "http://hunter2.example", UPSTASH),
    ("UPSTASH_REDIS_REST_TOKEN", "", UPSTASH),
    ("REALTIME_EVENT_BUS", "hunter2:bus", BUS),
    ("REALTIME_EVENT_SOURCE", "aws.hunter2", {}),
    ("REALTIME_EVENT_SOURCE", "two words", {}),
    ("REALTIME_DEAD_LETTER_QUEUE", "hunter2", {}),
    ("AWS_REGION", "", BUS),
    ("AWS_REGION", "hunter2!", BUS),
    ("AWS_DEFAULT_REGION", "hunter2!", {}),
    ("REALTIME_POLL_MIN", "0", {}),
    ("REALTIME_POLL_MAX", "100ms", {}),
    ("REALTIME_SLEEP_AFTER", "5m", {}),
    ("REALTIME_WAKE_EVERY", "13h", {}),
    ("REALTIME_PREFIX", "a:b", {}),
    ("REALTIME_PREFIX", "{rt}", {}),
    ("REALTIME_AUTH", "off", {}),
    ("REALTIME_AUTH", "required", {}),
    ("REALTIME_AUTH", "", {"REALTIME_TRANSPORT": "redis", "REDIS_URL": "redis://h"}),
    ("REALTIME_PUBLISH_KEYS", "hunter2 x", {}),
    ("REALTIME_PUBLISH_KEYS", "hunter2:a*b", {}),
    ("REALTIME_PUBLISH_KEYS", "hunter2:", {}),
    ("REALTIME_PUBLISH_KEYS", ":hunter2", {}),
    ("REALTIME_PUBLISH_KEYS", "hunter2:realtime.token", {}),
    ("REALTIME_PUBLISH_KEYS", "hunter2,hunter2:a", {}),
    ("REALTIME_PUBLISH_RATE", "hunter2", {}),
    ("REALTIME_PUBLISH_RATE", "100", {}),
    ("REALTIME_PUBLISH_RATE", "/1s", {}),
    ("REALTIME_PUBLISH_RATE", "100/", {}),
    ("REALTIME_PUBLISH_RATE", "0/1s", {}),
    ("REALTIME_PUBLISH_RATE", "100/1ms", {}),
    ("REALTIME_MAX_CONNECTIONS", "0", {}),
    ("REALTIME_MAX_USER_CONNECTIONS", "many", {}),
    ("REALTIME_HEAD_SECONDS", "0s", {}),
    ("REALTIME_BODY_SECONDS", "2h", {}),
    ("REALTIME_KEEP_ALIVE", "unlimited", {}),
    ("REALTIME_STALL_SECONDS", "2m", {}),
    ("REALTIME_STREAM_URL", "http://hunter2.example/api/events", {}),
    ("REALTIME_STREAM_URL", "/hunter2", {}),
    ("REALTIME_STREAM_URL", "https://hunter2@h.example", {}),
    ("REALTIME_STREAM_URL", "https://h.example/?hunter2=", {}),
    ("REALTIME_STREAM_URL", "https://[hunter2", {}),
    ("REALTIME_JWKS_URL", "http://hunter2.example/jwks", {}),
    ("REALTIME_JWKS_URL", "file:///etc/hunter2", {}),
    ("REALTIME_JWKS_URL", "https://[hunter2", {}),
    ("REALTIME_JWT_LEEWAY", "-1s", {}),
    ("REALTIME_JWT_LEEWAY", "1h", {}),
    ("REALTIME_RETENTION", "a day", {}),
    ("REALTIME_RETENTION", "0", {}),
    ("REALTIME_RETENTION", "9" * 400 + "d", {}),
    ("REALTIME_MAX_EVENTS", "0", {}),
    ("REALTIME_MEMORY_MIB", "0", {}),
    ("REALTIME_MAX_EVENTS", "1e6", {}),
    ("REALTIME_MAX_EVENTS", "٣", {}),
    ("REALTIME_MAX_EVENTS", "9" * 5_000, {}),
    ("REALTIME_IDEMPOTENCY_WINDOW", "1w", {}),
    ("REALTIME_HEARTBEAT", "0s", {}),
    ("REALTIME_HEARTBEAT", "5m", {}),
    ("REALTIME_STREAM_SECONDS", "never", {}),
    ("REALTIME_RETRY", "1h", {}),
    ("REALTIME_ALLOWED_ORIGINS", "*", {}),
    ("REALTIME_ALLOWED_ORIGINS", "https://a.example/", {}),
    ("REALTIME_ALLOWED_ORIGINS", "https://ok.example,a.example", {}),
    ("REALTIME_ALLOWED_ORIGINS", "https://[hunter2", {}),
    ("REALTIME_ALLOWED_ORIGINS", "null", {}),
    ("REALTIME_ALLOWED_ORIGINS", "https://bücher.example", {}),
    ("REALTIME_ALLOWED_ORIGINS", "https://user@a.example", {}),
    ("REALTIME_ALLOWED_ORIGINS", "https://*.a.example", {}),
    ("REALTIME_ALLOWED_ORIGINS", "https://a.example:", {}),
    ("REALTIME_ALLOWED_ORIGINS", "https://a.example:99999", {}),
    ("REALTIME_ALLOWED_ORIGINS", "https://a.example?", {}),
    ("REALTIME_ALLOWED_ORIGINS", "chrome-extension://abc", {}),
    ("REALTIME_PARTITIONS", "all", {}),
    ("REALTIME_PARTITIONS", "realtime.ready", {}),
    ("REALTIME_PARTITIONS", "a b", {}),
    ("REALTIME_PARTITIONS", ",".join(f"t{n}" for n in range(MAX_PARTITION_TYPES + 1)), {}),
    ("REALTIME_PARTITIONS", ",".join(f"{n:x}" * 128 for n in range(10)), {}),
    ("REALTIME_FALLBACK", "yes", REDIS),
    ("REALTIME_METRICS_NAMESPACE", "AWS/hunter2", {}),
    ("REALTIME_METRICS_NAMESPACE", "hunter2 hunter2", {}),
    ("OTEL_TRACES_EXPORTER", "hunter2", {}),
    ("OTEL_TRACES_EXPORTER", "none,otlp", {}),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "hunter2:4318", {}),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[hunter2", {}),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https:///hunter2", {}),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", OTLP),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", OTLP),
    ("OTEL_SDK_DISABLED", "yes", OTLP),
    ("OTEL_TRACES_SAMPLER", "hunter2", OTLP),
    ("OTEL_TRACES_SAMPLER_ARG", "1.5", {**OTLP, "OTEL_TRACES_SAMPLER": "traceidratio"}),
    ("OTEL_TRACES_SAMPLER_ARG", "a tenth", {**OTLP, "OTEL_TRACES_SAMPLER": "traceidratio"}),
    ("REALTIME_FALLBACK", "memory", {}),
    ("REALTIME_FALLBACK", "memory", {**REDIS, "REALTIME_TRANSPORT": "redis-pubsub"}),
    ("REALTIME_FALLBACK", "memory", BUS),
    ("REALTIME_FALLBACK", "memory", {**REDIS, "AWS_LAMBDA_FUNCTION_NAME": "f"}),
    ("REALTIME_USER_SHARDS", "4097", {}),
    ("REALTIME_USER_SHARDS", "-1", {}),
    ("REALTIME_LOG_LEVEL", "loud", {}),
    ("REALTIME_LOG_FORMAT", "xml", {}),
    ("PORT", "http", {}),
    ("PORT", "65536", {}),
]


@pytest.mark.parametrize(("name", "value", "others", "setting", "expected"), GOOD)
def test_a_good_value_is_read(name: str, value: str, others: Env, setting: str, expected: object) -> None:
    settings = Settings.from_env({**others, name: value})
    assert getattr(settings, setting) == expected


@pytest.mark.parametrize(("name", "value", "others"), BAD)
def test_a_bad_value_is_an_error_that_hides_the_value(name: str, value: str, others: Env) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**others, name: value})
    assert caught.value.variable == name
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_every_variable_is_tested_here() -> None:
    modules = (tidewire.settings.config, tidewire.settings.endpoints, tidewire.settings.variables)
    source = "".join(inspect.getsource(module) for module in modules)
    read = set(re.findall(r'"((?:REALTIME|REDIS|UPSTASH|AWS|OTEL)_[A-Z_]+|HOST|PORT)"', source))
    read.remove("REALTIME_SECRETS_MAX_AGE")  # read by shared/tidewire/settings/secrets
    assert {name for name, *_ in GOOD} == read
    # Free text, known by its presence, or read later: no value of these is wrong here.
    anything = {
        "REALTIME_CONFIG",
        "REALTIME_JWT_SECRET",
        "REALTIME_JWT_ISSUER",
        "REALTIME_JWT_AUDIENCE",
        "REALTIME_NETLIFY_SECRET",
    }
    assert {name for name, *_ in BAD} == read - anything - {"AWS_LAMBDA_FUNCTION_NAME", "HOST"}


def test_an_empty_environment_is_local_memory_mode() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings().host == "127.0.0.1"
    assert not Settings().auth_required


@pytest.mark.parametrize("name", ["REALTIME_PREFIX", "PORT", "REALTIME_PUBLISH_KEYS", "REALTIME_AUTH"])
def test_an_empty_value_is_one_that_is_not_set(name: str) -> None:
    assert Settings.from_env({name: " "}) == Settings()


def test_outside_memory_mode_a_start_without_keys_is_refused() -> None:
    with pytest.raises(SettingsError, match="REALTIME_AUTH"):
        Settings.from_env({"REALTIME_TRANSPORT": "redis", "REDIS_URL": "redis://h"})


def test_a_key_that_is_set_closes_memory_mode_too() -> None:
    assert Settings.from_env(KEYS).auth_required
    assert not Settings.from_env({**KEYS, "REALTIME_AUTH": "none"}).auth_required


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]  # frozen: the type checker knows it too


def test_no_secret_is_in_the_text_of_settings() -> None:
    text = repr(
        Settings.from_env(
            {
                **REDIS,
                "REDIS_URL": "redis://:hunter2@h",
                "REALTIME_AUTH": "required",
                "REALTIME_PUBLISH_KEYS": "hunter2",
                "REALTIME_JWT_SECRET": "hunter2" * 5,
                "UPSTASH_REDIS_REST_URL": "https://hunter2.example",
                "UPSTASH_REDIS_REST_TOKEN": "hunter2",
            }
        )
    )
    assert "hunter2" not in text


def test_the_longest_possible_cursor_is_readable() -> None:
    length = MAX_PARTITION_NAMES // MAX_PARTITION_TYPES
    names = [f"{n:02}" + "x" * (length - 2) for n in range(MAX_PARTITION_TYPES)]
    settings = Settings.from_env({"REALTIME_PARTITIONS": ",".join(names), "REALTIME_USER_SHARDS": str(MAX_USER_SHARDS)})
    needed = make_partitions(settings).partitions_for(Interest("u1"))
    assert len(needed) == 2 * (MAX_PARTITION_TYPES + 1)
    place = Position(2**48 - 1, MAX_OFFSET, "ffffffff", 2**48 - 1)
    text = Cursor(dict.fromkeys(needed, place)).encode()
    assert len(text) <= MAX_LENGTH
    assert Cursor.parse(text) == Cursor(dict.fromkeys(needed, place))


def test_the_known_variables_are_those_of_the_document() -> None:
    """A variable that no document names cannot be found; one that is only documented does nothing."""
    documented = set(re.findall(r"`(REALTIME_[A-Z_]+)`", (ROOT / "docs" / "configuration.md").read_text()))
    sources = [path.read_text() for folder in ("shared", "functions") for path in (ROOT / folder).rglob("*.py")]
    read = {name for source in sources for name in re.findall(r"[\"'](REALTIME_[A-Z_]+)[\"']", source)}
    assert NAMES == documented == read


def test_unused_keys_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each role logs it, also a function that only publishes; a rotated secret does not log it again."""
    for key in ("hunter2", "hunter3"):
        settings = {"REALTIME_AUTH": "none", "REALTIME_PUBLISH_KEYS": key}
        make_hub(Settings.from_env(settings), stateless=True)
    [message] = caplog.messages
    assert message.startswith("REALTIME_AUTH=none: everyone can publish, also without a key of REALTIME_PUBLISH_KEYS")


@pytest.mark.parametrize(
    ("name", "hint"), [("REALTIME_HEARTBEATS", "REALTIME_HEARTBEAT?"), ("REALTIME_ZZZ", "docs/configuration.md")]
)
def test_an_unknown_setting_is_warned_of(name: str, hint: str, caplog: pytest.LogCaptureFixture) -> None:
    """A typing error in a name would keep the default without a warning."""
    make_hub(Settings.from_env({name: "hunter2", "REALTIME_RETRY": "1s"}))
    [record] = caplog.records
    assert (record.levelname, "hunter2" in record.message) == ("WARNING", False)
    assert record.message.startswith(f"{name} is unknown")
    assert hint in record.message
